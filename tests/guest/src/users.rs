// SPDX-License-Identifier: GPL-2.0

//! Those who use a device in every way there is, and how they notice that it is gone.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use io_uring::{IoUring, opcode, types};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::mm::MapFlags;

use crate::abi::*;
use crate::dev::{Device, INFINITE, LONG, Map, PAGE, WRITE};
use crate::model::open;
use crate::pci::Pci;
use crate::task::{Child, DIES, Worker, fork, spawn, touch, until};

fn by_poll(device: &Device) -> PollFlags {
    let mut polled = [PollFd::new(device, PollFlags::IN)];
    poll(&mut polled, None).expect("poll");
    polled[0].revents()
}

fn by_epoll(device: &Device) -> PollFlags {
    let epoll = epoll::create(CreateFlags::CLOEXEC).expect("epoll");
    epoll::add(&epoll, device, EventData::new_u64(0), EventFlags::IN).expect("epoll");
    let mut events = [MaybeUninit::uninit()];
    let (events, _) = epoll::wait(&epoll, &mut events, None).expect("epoll");
    let flags = events[0].flags;
    PollFlags::from_bits_retain(flags.bits() as u16)
}

fn by_io_uring(device: &Device) -> PollFlags {
    let mut ring = IoUring::new(1).expect("io_uring");
    let fd = types::Fd(device.as_fd().as_raw_fd());
    let entry = opcode::PollAdd::new(fd, libc::POLLIN as u32).build();
    // SAFETY: A poll refers to no memory.
    unsafe { ring.submission().push(&entry) }.expect("room");
    ring.submit_and_wait(1).expect("wait");
    let done = ring.completion().next().expect("a completion");
    PollFlags::from_bits_retain(done.result() as u16)
}

/// Everybody who may use a device when it goes.
pub struct Users {
    pub device: Arc<Device>,
    pub map: Map,
    sleepers: Vec<Worker<Result<(), Errno>>>,
    pollers: Vec<Worker<PollFlags>>,
    eventfd: rustix::fd::OwnedFd,
    processes: Vec<Child>,
}

impl Users {
    #[track_caller]
    pub fn new(pci: &Pci) -> Users {
        let device = Arc::new(open(pci));
        let vectors = device.info().vectors;
        let vector = vectors.checked_sub(1).unwrap_or(IVSHMEM_VECTOR_STATE);
        let seen = match vectors {
            0 => device.count(vector),
            _ => device.settle(vector),
        };
        device.subscribe(&[vector]).expect("SUBSCRIBE");
        let eventfd = eventfd(0, EventfdFlags::NONBLOCK).expect("eventfd");
        device.attach(vector, &eventfd).expect("EVENTFD");
        let sleeper = |work: fn(&Device, u32, u64) -> Result<(), Errno>| {
            let device = device.clone();
            spawn(move || work(&device, vector, seen))
        };
        let mut sleepers = vec![
            sleeper(|device, vector, seen| device.wait(vector, seen, INFINITE).map(drop)),
            sleeper(|device, vector, seen| device.wait(vector, seen, 10 * LONG).map(drop)),
            sleeper(|device, _, _| {
                let seen = device.count(IVSHMEM_VECTOR_ANY);
                device.wait(IVSHMEM_VECTOR_ANY, seen, INFINITE).map(drop)
            }),
            sleeper(|device, vector, count| {
                let reserved = 0;
                let mut events = [ivshmem_event {
                    vector,
                    reserved,
                    count,
                }];
                device.waits(&mut events, INFINITE).map(drop)
            }),
            sleeper(|device, _, _| device.read(1).map(drop)),
        ];
        let pollers = [by_poll, by_epoll, by_io_uring].map(|wait: fn(&Device) -> PollFlags| {
            let device = device.clone();
            spawn(move || wait(&device))
        });
        sleepers.iter().for_each(Worker::asleep);
        pollers.iter().for_each(Worker::asleep);
        // Calls in flight, one after the other.
        let device_in_use = device.clone();
        sleepers.push(spawn(move || {
            let ring = ivshmem_doorbell {
                peer: 100,
                vector: 0,
            };
            loop {
                match vectors {
                    0 => device_in_use.try_info().map(drop)?,
                    _ => device_in_use.ring_many(&[ring; 64]).map(drop)?,
                }
            }
        }));
        let processes = (0..3)
            .map(|at| {
                fork(|| {
                    let map = open(pci).map(at * PAGE as u64, 4 * PAGE);
                    loop {
                        map.words()[0].fetch_add(1, SeqCst);
                    }
                })
            })
            .collect();
        for at in 0..3 {
            let map = device.map(at * PAGE as u64, PAGE);
            let before = map.words()[0].load(SeqCst);
            until("a process uses the memory", || {
                map.words()[0].load(SeqCst) != before
            });
        }
        let map = device.map(0, PAGE);
        map.words()[0].store(1, SeqCst);
        Users {
            device,
            map,
            sleepers,
            pollers: pollers.into(),
            eventfd,
            processes,
        }
    }

    /// After the death of the device, of which nobody has told yet.
    #[track_caller]
    pub fn cannot_know(&self) {
        assert_eq!(self.device.ring(0, 0), Ok(()));
        assert!(self.sleepers.iter().all(Worker::is_out));
        assert!(self.pollers.iter().all(Worker::is_out));
    }

    /// After the end of the device.
    #[track_caller]
    pub fn have_noticed(self) {
        for sleeper in self.sleepers {
            assert_eq!(sleeper.join(), Err(Errno::NODEV));
        }
        for poller in self.pollers {
            assert!(poller.join().contains(PollFlags::ERR | PollFlags::HUP));
        }
        for process in self.processes {
            assert_eq!(process.wait(), DIES);
        }
        assert_eq!(touch(self.map.address()), DIES);
        let mut signals = [0; 8];
        rustix::io::read(&self.eventfd, &mut signals).expect("a last signal");
        let device = self.device;
        assert_eq!(device.try_info().err(), Some(Errno::NODEV));
        assert_eq!(device.ivposition(), Err(Errno::NODEV));
        assert_eq!(device.ring(0, 0), Err(Errno::NODEV));
        assert_eq!(device.wait(0, 0, INFINITE), Err(Errno::NODEV));
        assert_eq!(device.read(1), Err(Errno::NODEV));
        assert_eq!(device.subscribe(&[0]), Err(Errno::NODEV));
        assert_eq!(device.attach(0, &self.eventfd), Err(Errno::NODEV));
        let map = device.map_as(0, PAGE, WRITE, MapFlags::SHARED);
        assert_eq!(map.err(), Some(Errno::NODEV));
    }
}
