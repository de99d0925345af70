// SPDX-License-Identifier: GPL-2.0

//! Devices of revision 0 that are not ready at first: their ID reads -1, and their memory is not
//! there yet.

use std::sync::atomic::Ordering::SeqCst;

use guest::abi::*;
use guest::cases;
use guest::dev::{Device, LONG, SHORT, WRITE};
use guest::model::{Model, open, open_as};
use guest::pci::Pci;
use guest::task::{Child, LIVES, SIGNALS, fork, handle, spawn, touch, until};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mm::MapFlags;

const STATE: u32 = IVSHMEM_VECTOR_STATE;

/// A device that waits to be told that it is ready.
fn early() -> (Model, Pci) {
    let model = Model::start("early", "--not-ready --position 5");
    let pci = model.plug("rp0");
    (model, pci)
}

fn nonblocking(pci: &Pci) -> Device {
    open_as(pci, OFlags::RDWR | OFlags::NONBLOCK)
}

fn is_ready(info: &ivshmem_info) -> bool {
    info.features & u64::from(IVSHMEM_FEATURE_READY) != 0
}

fn not_ready_is_a_state() {
    let (model, pci) = early();
    let device = open(&pci);
    let info = device.info();
    assert_eq!(info.revision, 0);
    assert_eq!(info.ivposition, -1);
    assert_eq!(device.ivposition(), Ok(-1));
    assert!(!is_ready(&info));
    assert_eq!(info.generation, 0);
    assert_eq!(info.memory_type, IVSHMEM_MEMORY_NONE);
    assert_eq!(info.mapped_by, IVSHMEM_MAPPED_BY_NONE);
    assert_eq!(info.interrupt, IVSHMEM_INTERRUPT_INTX);
    assert_eq!(info.vectors, 1);
    assert_eq!(device.count(STATE), 0);
    model.tell("ready");
    assert_eq!(device.moved(STATE, 0), 1);
    let info = device.info();
    assert!(is_ready(&info));
    assert_eq!(info.ivposition, 5);
    assert_eq!(info.generation, 1);
    assert_eq!(info.size, 1 << 20);
    assert_eq!(info.memory_type, IVSHMEM_MEMORY_WB);
    let map = device.map(0, 4096);
    map.words()[0].store(1, SeqCst);
    assert_eq!(map.words()[0].load(SeqCst), 1);
    device.settle(0);
}

fn what_needs_it_is_told_to_try_again() {
    let (model, pci) = early();
    let device = nonblocking(&pci);
    assert_eq!(device.ring(5, 0), Err(Errno::AGAIN));
    let rings = [ivshmem_doorbell { peer: 5, vector: 0 }];
    assert_eq!(device.ring_many(&rings), Err(Errno::AGAIN));
    let map = device.map_as(0, 4096, WRITE, MapFlags::SHARED);
    assert_eq!(map.err(), Some(Errno::AGAIN));
    // What is wrong anyway is not worth waiting for.
    assert_eq!(device.ring(5, 256), Err(Errno::INVAL));
    assert_eq!(model.tell("rings"), "");
    model.tell("ready");
    device.moved(STATE, 0);
    assert_eq!(device.ring(5, 0), Ok(()));
    device.map(0, 4096);
}

/// Processes in each of the calls that wait until the device is ready, and what they are to get.
fn sleepers(pci: &Pci, expected: Result<(), Errno>) -> [Child; 3] {
    let device = || open(pci);
    let sleepers = [
        fork(|| assert_eq!(device().ring(5, 0), expected)),
        fork(|| {
            let rings = [ivshmem_doorbell { peer: 5, vector: 0 }];
            assert_eq!(device().ring_many(&rings).map(drop), expected);
        }),
        fork(|| {
            // A mapping is not waited for in the call, which would hold up the whole process.
            let device = device();
            let map = device.map_as(0, 4096, WRITE, MapFlags::SHARED);
            assert_eq!(map.err(), Some(Errno::AGAIN));
            assert_eq!(device.wait(STATE, 0, LONG).map(drop), expected);
            if expected.is_ok() {
                device.map(0, 4096).words()[8].store(8, SeqCst);
            }
        }),
    ];
    sleepers.iter().for_each(Child::asleep);
    sleepers
}

fn what_needs_it_waits_for_it() {
    let (model, pci) = early();
    let sleepers = sleepers(&pci, Ok(()));
    assert_eq!(model.tell("rings"), "");
    model.tell("ready");
    for sleeper in sleepers {
        assert_eq!(sleeper.wait(), LIVES);
    }
    let device = open(&pci);
    assert_eq!(device.map(0, 4096).words()[8].load(SeqCst), 8);
    assert_eq!(model.tell("rings"), "5:0 5:0");
}

fn who_waits_for_it_hears_signals() {
    type Call = fn(&Device) -> Result<(), Errno>;
    let (model, pci) = early();
    let calls: [Call; 2] = [
        |device| device.ring(5, 0),
        |device| {
            let rings = [ivshmem_doorbell { peer: 5, vector: 0 }];
            device.ring_many(&rings).map(drop)
        },
    ];
    let sleep = |call: Call| {
        let device = open(&pci);
        let sleeper = spawn(move || call(&device));
        sleeper.asleep();
        sleeper
    };
    handle(libc::SIGUSR1, 0);
    for call in calls {
        let sleeper = sleep(call);
        sleeper.signal(libc::SIGUSR1);
        assert_eq!(sleeper.join(), Err(Errno::INTR));
    }
    handle(libc::SIGUSR1, libc::SA_RESTART);
    let sleepers = calls.map(sleep);
    for sleeper in &sleepers {
        let before = SIGNALS.load(SeqCst);
        sleeper.signal(libc::SIGUSR1);
        until("the signal is handled", || SIGNALS.load(SeqCst) > before);
        sleeper.asleep();
    }
    assert_eq!(model.tell("rings"), "", "not yet, and none for a signal");
    model.tell("ready");
    for sleeper in sleepers {
        assert_eq!(sleeper.join(), Ok(()));
    }
    assert_eq!(model.tell("rings"), "5:0 5:0");
}

fn who_waits_for_it_hears_of_the_end() {
    let (model, pci) = early();
    let sleepers = sleepers(&pci, Err(Errno::NODEV));
    let state = {
        let device = open(&pci);
        spawn(move || device.wait(STATE, 0, LONG))
    };
    state.asleep();
    pci.unbind();
    for sleeper in sleepers {
        assert_eq!(sleeper.wait(), LIVES);
    }
    assert_eq!(state.join(), Err(Errno::NODEV));
    assert_eq!(model.tell("rings"), "");
}

fn readiness_is_an_event() {
    let (model, pci) = early();
    let waits = {
        let device = open(&pci);
        spawn(move || device.wait(STATE, 0, LONG))
    };
    let reads = open(&pci);
    reads.subscribe(&[STATE]).expect("SUBSCRIBE");
    let reader = {
        let device = open(&pci);
        device.subscribe(&[STATE]).expect("SUBSCRIBE");
        spawn(move || device.read(4))
    };
    let fd = eventfd(0, EventfdFlags::NONBLOCK).expect("eventfd");
    let attached = open(&pci);
    attached.attach(STATE, &fd).expect("EVENTFD");
    let no_time = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut polled = [PollFd::new(&reads, PollFlags::IN)];
    assert_eq!(poll(&mut polled, Some(&no_time)), Ok(0));
    waits.asleep();
    reader.asleep();
    assert_eq!(open(&pci).wait(STATE, 0, SHORT), Err(Errno::TIMEDOUT));

    model.tell("ready");
    assert_eq!(waits.join(), Ok(1));
    let events = reader.join().expect("read");
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].vector, events[0].count), (STATE, 1));
    let time = Timespec {
        tv_sec: 30,
        tv_nsec: 0,
    };
    assert_eq!(poll(&mut polled, Some(&time)), Ok(1));
    assert_eq!(polled[0].revents(), PollFlags::IN);
    // Others may have been woken before it is signalled.
    assert_eq!(
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&time)),
        Ok(1)
    );
    let mut signals = [0; 8];
    rustix::io::read(&fd, &mut signals).expect("it was signalled");
    assert_eq!(u64::from_ne_bytes(signals), 1);
}

/// Waiting for a vector has nothing to do with being ready.
fn listening_does_not_wait() {
    let (model, pci) = early();
    let device = nonblocking(&pci);
    let seen = device.count(0);
    assert_eq!(model.state("mask"), u32::MAX);
    model.tell("interrupt");
    device.moved(0, seen);
    assert_eq!(device.ivposition(), Ok(-1));
}

fn some_are_ready_soon() {
    let model = Model::start("soon", "--ready-after 3 --position 6");
    let pci = model.plug("rp0");
    let device = open(&pci);
    assert_eq!(device.ring(6, 0), Ok(()));
    assert_eq!(device.info().ivposition, 6);
    let map = device.map(0, 4096);
    assert_eq!(touch(map.address()), LIVES);
    until("the ring arrives", || model.state("status") == 1);
}

fn one_that_is_ready_was_it_from_the_start() {
    let model = Model::start("ready", "--position 65535");
    let device = open(&model.plug("rp0"));
    let info = device.info();
    assert_eq!(info.generation, 1);
    assert_eq!(info.ivposition, 65535);
    assert!(is_ready(&info));
}

fn main() {
    guest::run(cases![
        not_ready_is_a_state,
        what_needs_it_is_told_to_try_again,
        what_needs_it_waits_for_it,
        who_waits_for_it_hears_signals,
        who_waits_for_it_hears_of_the_end,
        readiness_is_an_event,
        listening_does_not_wait,
        some_are_ready_soon,
        one_that_is_ready_was_it_from_the_start,
    ])
}
