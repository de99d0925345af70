// SPDX-License-Identifier: GPL-2.0

//! The driver leaves a device that is in use: sleepers wake, mappings end, nothing blocks, and it
//! comes back.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use guest::abi::*;
use guest::dev::{Device, INFINITE, LONG, PAGE, WRITE};
use guest::pci::Pci;
use guest::task::{DIES, Ended, LIVES, Worker, fork, spawn, touch, until, write_to};
use guest::{cases, scaled, vectors};
use io_uring::{IoUring, opcode, types};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mm::MapFlags;
use rustix::pipe::pipe;

fn pci() -> Pci {
    Pci::of("ivshmem0")
}

/// Unbinds the device of a test, which holds files open, and binds it again when dropped: those
/// files must be closed then for it to be `ivshmem0` again.
struct Unbound(Pci);

fn unbind() -> Unbound {
    let pci = pci();
    pci.unbind();
    Unbound(pci)
}

impl Drop for Unbound {
    fn drop(&mut self) {
        self.0.bind();
    }
}

fn gone(flags: PollFlags) -> bool {
    flags.contains(PollFlags::ERR | PollFlags::HUP)
}

fn every_call_says_so() {
    let device = Device::open();
    let fd = eventfd(0, EventfdFlags::CLOEXEC).expect("eventfd");
    device.subscribe(&[0]).expect("SUBSCRIBE");
    device.attach(1, &fd).expect("EVENTFD");
    let map = device.map(0, PAGE);
    let unbound = unbind();
    let no = Errno::NODEV;
    assert_eq!(device.try_info(), Err(no));
    assert_eq!(device.ivposition(), Err(no));
    assert_eq!(device.ring(0, 0), Err(no));
    assert_eq!(device.ring_many(&[ivshmem_doorbell::default()]), Err(no));
    for vector in [0, IVSHMEM_VECTOR_ANY, IVSHMEM_VECTOR_STATE] {
        for (seen, timeout) in [(0, 0), (u64::MAX, 0), (u64::MAX, INFINITE)] {
            assert_eq!(device.wait(vector, seen, timeout), Err(no));
        }
    }
    assert_eq!(
        device.waits(&mut [ivshmem_event::default()], INFINITE),
        Err(no)
    );
    assert_eq!(device.subscribe(&[1]), Err(no));
    assert_eq!(device.unsubscribe(&[]), Err(no));
    assert_eq!(device.attach(0, &fd), Err(no));
    assert_eq!(device.mapping(map.address()), Err(no));
    assert_eq!(device.read(1), Err(no));
    let refused = device.map_as(0, PAGE, WRITE, MapFlags::SHARED);
    assert_eq!(refused.err(), Some(no));
    assert!(gone(device.ready()));
    drop((device, map));
    drop(unbound);
}

fn the_node_goes_at_once() {
    let device = Device::open();
    let unbound = unbind();
    assert!(!Path::new("/dev/ivshmem0").exists());
    assert!(!Path::new("/sys/class/misc/ivshmem0").exists());
    let refused = Device::open_as("/dev/ivshmem0", OFlags::RDWR);
    assert_eq!(refused.err(), Some(Errno::NOENT));
    drop(device);
    drop(unbound);
}

fn sleepers_wake() {
    let device = Arc::new(Device::open());
    device
        .subscribe(&[0, IVSHMEM_VECTOR_STATE])
        .expect("SUBSCRIBE");
    let counts: Vec<u64> = (0..vectors()).map(|vector| device.settle(vector)).collect();
    while device.read(8).is_ok_and(|events| events.len() == 8) {}
    let sleep = |work: fn(&Device, &[u64]) -> Result<u64, Errno>| {
        let (device, counts) = (device.clone(), counts.clone());
        spawn(move || work(&device, &counts))
    };
    let any = device.count(IVSHMEM_VECTOR_ANY);
    let any_waiter = {
        let device = device.clone();
        spawn(move || device.wait(IVSHMEM_VECTOR_ANY, any, INFINITE))
    };
    let sleepers = [
        any_waiter,
        sleep(|device, counts| device.wait(0, counts[0], INFINITE)),
        sleep(|device, counts| device.wait(1, counts[1], LONG)),
        sleep(|device, _| {
            let generation = device.count(IVSHMEM_VECTOR_STATE);
            device.wait(IVSHMEM_VECTOR_STATE, generation, INFINITE)
        }),
        sleep(|device, counts| {
            let mut set = [0, 1].map(|vector| ivshmem_event {
                vector,
                reserved: 0,
                count: counts[vector as usize],
            });
            device.waits(&mut set, INFINITE).map(u64::from)
        }),
        sleep(|device, _| device.read(1).map(|_| 0)),
    ];
    let poller = {
        let device = device.clone();
        spawn(move || {
            let mut fds = [PollFd::new(&*device, PollFlags::empty())];
            poll(&mut fds, None).expect("poll");
            fds[0].revents()
        })
    };
    sleepers.iter().for_each(Worker::asleep);
    poller.asleep();
    let unbound = unbind();
    for sleeper in sleepers {
        assert_eq!(sleeper.join(), Err(Errno::NODEV));
    }
    assert!(gone(poller.join()));
    drop(device);
    drop(unbound);
}

/// A file whose vector 0 has nothing to tell.
fn subscribed() -> Device {
    let device = Device::open();
    device.settle(0);
    device.subscribe(&[0]).expect("SUBSCRIBE");
    device
}

fn sleepers_in_epoll_wake() {
    let device = subscribed();
    let sleepers = [EventFlags::empty(), EventFlags::ET].map(|how| {
        let set = epoll::create(CreateFlags::CLOEXEC).expect("epoll");
        epoll::add(&set, &device, EventData::new_u64(0), EventFlags::IN | how).expect("epoll");
        spawn(move || {
            let mut events = [MaybeUninit::uninit(); 2];
            let (events, _) = epoll::wait(&set, &mut events, None).expect("epoll");
            assert_eq!(events.len(), 1);
            events[0].flags
        })
    });
    sleepers.iter().for_each(Worker::asleep);
    let unbound = unbind();
    for sleeper in sleepers {
        let flags = sleeper.join();
        assert!(
            flags.contains(EventFlags::ERR | EventFlags::HUP),
            "{flags:?}"
        );
    }
    drop(device);
    drop(unbound);
}

fn requests_of_io_uring_end() {
    const POLL: u64 = 1;
    const READ: u64 = 2;
    let device = subscribed();
    let mut ring = IoUring::new(4).expect("io_uring");
    let mut event = ivshmem_event::default();
    let fd = types::Fd(device.as_fd().as_raw_fd());
    let poll = opcode::PollAdd::new(fd, libc::POLLIN as u32).build();
    let len = size_of::<ivshmem_event>() as u32;
    let read = opcode::Read::new(fd, (&raw mut event).cast(), len)
        .offset(u64::MAX)
        .build();
    for entry in [poll.user_data(POLL), read.user_data(READ)] {
        // SAFETY: A poll refers to no memory, and the event outlives the read, which is waited for.
        unsafe { ring.submission().push(&entry) }.expect("room");
    }
    ring.submit().expect("submit");
    assert_eq!(ring.completion().len(), 0, "nothing yet");
    let unbound = unbind();
    ring.submit_and_wait(2).expect("wait");
    for done in ring.completion() {
        match done.user_data() {
            POLL => {
                let flags = done.result();
                let gone = i32::from(libc::POLLHUP | libc::POLLERR);
                assert_eq!(flags & gone, gone, "{flags:#x}");
            }
            _ => assert_eq!(done.result(), -libc::ENODEV),
        }
    }
    drop((device, ring));
    drop(unbound);
}

fn eventfds_are_signalled_once() {
    let device = Device::open();
    let fds: Vec<_> = (0..vectors())
        .map(|vector| {
            let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("eventfd");
            device.attach(vector, &fd).expect("EVENTFD");
            fd
        })
        .collect();
    let state = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("eventfd");
    device
        .attach(IVSHMEM_VECTOR_STATE, &state)
        .expect("EVENTFD");
    for vector in 0..vectors() {
        device.settle(vector);
    }
    let mut value = [0; 8];
    for fd in &fds {
        // It follows upon the count that was waited for.
        poll(&mut [PollFd::new(fd, PollFlags::IN)], None).expect("poll");
        rustix::io::read(fd, &mut value).expect("it was rung");
    }
    let unbound = unbind();
    for fd in fds.iter().chain([&state]) {
        assert_eq!(rustix::io::read(fd, &mut value), Ok(8));
        assert_eq!(u64::from_ne_bytes(value), 1);
        assert_eq!(rustix::io::read(fd, &mut value), Err(Errno::AGAIN));
    }
    drop(device);
    drop(unbound);
}

fn mappings_end_in_every_process() {
    let device = Device::open();
    let map = device.map(0, 4 << 20);
    let fresh = device.map(0, PAGE);
    map.words()[0].store(1, SeqCst);
    map.words()[(2 << 20) / 8].store(1, SeqCst);
    assert_eq!(touch(map.address()), LIVES);
    let [read_end, write_end] = <[_; 2]>::from(pipe().expect("pipe"));
    let child = fork(|| {
        // It has touched the memory before, and does so again after that.
        assert_eq!(map.words()[0].load(SeqCst), 1);
        rustix::io::read(&read_end, &mut [0; 1]).expect("a byte");
        map.words()[0].store(2, SeqCst);
    });
    child.asleep();
    let unbound = unbind();
    rustix::io::write(&write_end, &[1]).expect("write");
    assert_eq!(child.wait(), DIES);
    for offset in [0, 8, 2 << 20, (4 << 20) - 1] {
        assert_eq!(touch(map.address() + offset), DIES, "{offset:#x}");
        assert_eq!(write_to(map.address() + offset, 1), DIES, "{offset:#x}");
    }
    assert_eq!(
        touch(fresh.address()),
        DIES,
        "one that was not touched before"
    );
    // The kernel gets an error in the place of a signal.
    // SAFETY: It is for the kernel to say whether there is something.
    let bytes = unsafe { std::slice::from_raw_parts(map.address() as *const u8, 8) };
    assert_eq!(rustix::io::write(&write_end, bytes), Err(Errno::FAULT));
    drop((device, map, fresh));
    drop(unbound);
}

/// A mapping holds the file, and so the name, though its descriptor is closed.
fn a_mapping_is_a_user() {
    let map = Device::open().map(0, PAGE);
    let pci = pci();
    pci.unbind();
    assert_eq!(touch(map.address()), DIES);
    pci.bind();
    assert_eq!(pci.node().as_deref(), Some("ivshmem1"));
    drop(map);
    pci.unbind();
    pci.bind();
    assert_eq!(pci.node().as_deref(), Some("ivshmem0"));
}

fn an_old_name_is_not_used_while_somebody_means_it() {
    let pci = pci();
    let mut old = Vec::new();
    for number in 0..4 {
        let node = format!("/dev/ivshmem{number}");
        assert_eq!(pci.node(), Some(format!("ivshmem{number}")));
        old.push(Device::open_as(&node, OFlags::RDWR).expect("the new one works"));
        assert_eq!(old[number].info().vectors, vectors());
        pci.unbind();
        pci.bind();
    }
    assert_eq!(pci.node().as_deref(), Some("ivshmem4"));
    // The lowest one that is free.
    old.remove(2);
    pci.unbind();
    pci.bind();
    assert_eq!(pci.node().as_deref(), Some("ivshmem2"));
    assert!(
        old.iter()
            .all(|device| device.try_info() == Err(Errno::NODEV))
    );
    drop(old);
    pci.unbind();
    pci.bind();
    assert_eq!(pci.node().as_deref(), Some("ivshmem0"));
}

fn all_works_again() {
    let old = Device::open();
    let old_map = old.map(0, PAGE);
    old_map.words()[5].store(77, SeqCst);
    let pci = pci();
    pci.unbind();
    pci.bind();
    let node = format!("/dev/{}", pci.node().expect("a node"));
    let new = Device::open_as(&node, OFlags::RDWR).expect("open");
    assert_eq!(
        new.map(0, PAGE).words()[5].load(SeqCst),
        77,
        "the memory is the host's"
    );
    let seen = new.settle(3);
    new.ring_self(3);
    assert_eq!(new.moved(3, seen), seen + 1);
    assert_eq!(touch(old_map.address()), DIES);
    assert_eq!(old.try_info(), Err(Errno::NODEV));
    drop((old, old_map, new));
    pci.unbind();
    pci.bind();
    assert_eq!(pci.node().as_deref(), Some("ivshmem0"));
}

/// Calls of all kinds, in many threads, while the driver comes and goes.
fn it_may_come_and_go_under_load() {
    let pci = pci();
    for _ in 0..scaled(20).max(5) {
        let node = format!("/dev/{}", pci.node().expect("a node"));
        let device = Arc::new(Device::open_as(&node, OFlags::RDWR).expect("open"));
        let workers: Vec<Worker<Errno>> = (0..4)
            .map(|number| {
                let device = device.clone();
                spawn(move || {
                    let fd = eventfd(0, EventfdFlags::CLOEXEC).expect("eventfd");
                    let work = || -> Result<(), Errno> {
                        loop {
                            device.ring(0, number)?;
                            device.wait(number, 0, 0)?;
                            device.attach(number, &fd)?;
                            device.subscribe(&[number])?;
                            drop(device.map_as(0, PAGE, WRITE, MapFlags::SHARED)?);
                            device.detach(number, &fd)?;
                            device.unsubscribe(&[number])?;
                        }
                    };
                    loop {
                        match work() {
                            // The count is still 0: that is no error here.
                            Err(Errno::TIMEDOUT) => {
                                device.ring(0, number).ok();
                                device.detach(number, &fd).ok();
                            }
                            Err(error) => return error,
                            Ok(()) => unreachable!("it has no end"),
                        }
                    }
                })
            })
            .collect();
        until("all of them are at work", || {
            (0..4).all(|vector| device.wait(vector, 0, 0).is_ok())
        });
        pci.unbind();
        for worker in workers {
            assert_eq!(worker.join(), Errno::NODEV);
        }
        drop(device);
        pci.bind();
    }
    assert_eq!(pci.node().as_deref(), Some("ivshmem0"));
}

fn a_child_that_holds_the_file_is_told_as_well() {
    let device = Device::open();
    let seen = device.settle(0);
    let child = fork(|| {
        assert_eq!(device.wait(0, seen, INFINITE), Err(Errno::NODEV));
    });
    child.asleep();
    let unbound = unbind();
    assert_eq!(child.wait(), Ended::Exit(0));
    drop(device);
    drop(unbound);
}

fn main() {
    guest::run(cases![
        every_call_says_so,
        the_node_goes_at_once,
        sleepers_wake,
        sleepers_in_epoll_wake,
        requests_of_io_uring_end,
        eventfds_are_signalled_once,
        mappings_end_in_every_process,
        a_mapping_is_a_user,
        an_old_name_is_not_used_while_somebody_means_it,
        all_works_again,
        it_may_come_and_go_under_load,
        a_child_that_holds_the_file_is_told_as_well,
    ])
}
