// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The library on a real device: `/dev/ivshmem0` of a guest, which is to be an ivshmem-doorbell
//! with two vectors or more. Run them there with `--include-ignored`, one at a time, as the suite
//! `user` does.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::atomic::Ordering::SeqCst,
    thread,
    time::Duration,
};

use ivshmem::{
    Access, Device, Doorbell, Error, Event, Interrupt, MemoryType, OpenOptions, Timeout,
    VECTOR_ANY, VECTOR_STATE,
};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    time::{ClockId, clock_gettime},
};

const PATH: &str = "/dev/ivshmem0";
const LONG: Timeout = Timeout::After(Duration::from_secs(30));
const SHORT: Timeout = Timeout::After(Duration::from_millis(20));

fn open() -> (Device, u32) {
    let device = Device::open(PATH).unwrap();
    let own = device
        .ivposition()
        .unwrap()
        .expect("a device that is ready");
    (device, own.into())
}

fn readable(fd: impl AsFd) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&now)).unwrap() > 0
}

fn drain(eventfd: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    rustix::io::read(eventfd, &mut count)
        .map(|_| u64::from_ne_bytes(count))
        .unwrap_or(0)
}

#[test]
#[ignore = "needs a device"]
fn info_agrees_with_itself() {
    let (device, own) = open();
    let info = device.info().unwrap();
    assert!(info.ready && info.size >= 4096 && info.vectors >= 2);
    assert_eq!(info.interrupt, Interrupt::Msix);
    assert_eq!(info.ivposition.map(u32::from), Some(own));
    assert_eq!(device.count(VECTOR_STATE).unwrap(), info.generation);
    assert!(ivshmem::devices().unwrap().contains(&PATH.into()));
}

#[test]
#[ignore = "needs a device"]
fn a_ring_wakes_who_waits() {
    let (device, own) = open();
    let seen = device.count(1).unwrap();
    assert_eq!(device.wait(1, seen, SHORT).unwrap(), seen);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| device.wait(1, seen, LONG).unwrap());
        device.ring(own, 1).unwrap();
        assert_eq!(waiter.join().unwrap(), seen + 1);
    });
    // Whoever looks later still learns of it.
    assert_eq!(device.wait(1, seen, Timeout::Never).unwrap(), seen + 1);
}

#[test]
#[ignore = "needs a device"]
fn times_of_the_clock() {
    let (device, _) = open();
    let seen = device.count(0).unwrap();
    let now = || Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap();
    let end = now() + Duration::from_millis(50);
    assert_eq!(device.wait(0, seen, Timeout::Until(end)).unwrap(), seen);
    assert!(now() >= end);
    assert_eq!(device.wait(0, seen, Timeout::Until(end)).unwrap(), seen);
}

#[test]
#[ignore = "needs a device"]
fn one_of_several() {
    let (device, own) = open();
    let count = |vector| Event::new(vector, device.count(vector).unwrap());
    let before = [count(0), count(1), count(VECTOR_STATE)];
    let mut events = before;
    assert_eq!(device.wait_any_of(&mut events, SHORT).unwrap(), 0);
    let doorbells = [Doorbell {
        peer: own,
        vector: 1,
    }];
    assert_eq!(device.ring_many(&doorbells).unwrap(), 1);
    assert_eq!(device.wait_any_of(&mut events, LONG).unwrap(), 1);
    assert_eq!(
        events,
        [before[0], Event::new(1, before[1].count() + 1), before[2]]
    );
}

#[test]
#[ignore = "needs a device"]
fn subscriptions_are_polled_and_read() {
    let device = OpenOptions::new().nonblocking(true).open(PATH).unwrap();
    let own = device.ivposition().unwrap().unwrap().into();
    let mut events = [Event::default(); 4];
    assert!(matches!(
        device.read_events(&mut events),
        Err(Error::Invalid(_))
    ));
    device.subscribe(&[0, 1]).unwrap();
    assert_eq!(device.read_events(&mut events).unwrap(), 0);
    assert!(!readable(&device));
    let seen = device.count(VECTOR_ANY).unwrap();
    device.ring(own, 1).unwrap();
    assert_eq!(device.wait(VECTOR_ANY, seen, LONG).unwrap(), seen + 1);
    assert!(readable(&device));
    assert_eq!(device.read_events(&mut events).unwrap(), 1);
    assert_eq!(events[0], Event::new(1, device.count(1).unwrap()));
    assert!(!readable(&device));
    device.unsubscribe(&[]).unwrap();
    assert!(matches!(
        device.read_events(&mut events),
        Err(Error::Invalid(_))
    ));
}

#[test]
#[ignore = "needs a device"]
fn eventfds_are_signalled() {
    let (device, own) = open();
    let signal = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    device.attach_eventfd(0, &signal).unwrap();
    assert!(matches!(
        device.attach_eventfd(0, &signal),
        Err(Error::Io(..))
    ));
    let seen = device.count(0).unwrap();
    device.ring(own, 0).unwrap();
    device.wait(0, seen, LONG).unwrap();
    poll(&mut [PollFd::new(&signal, PollFlags::IN)], None).unwrap();
    assert_eq!(drain(&signal), 1);
    device.detach_eventfd(0, &signal).unwrap();
    assert!(matches!(
        device.detach_eventfd(0, &signal),
        Err(Error::Io(..))
    ));
    let seen = device.count(0).unwrap();
    device.ring(own, 0).unwrap();
    device.wait(0, seen, LONG).unwrap();
    assert_eq!(drain(&signal), 0);
}

#[test]
#[ignore = "needs a device"]
fn mappings_show_the_same_memory() {
    let (device, _) = open();
    let size = device.info().unwrap().size;
    let all = device.map_all(Access::ReadWrite).unwrap();
    assert_eq!(all.len() as u64, size);
    let last = device.map(size - 4096, 4096, Access::Read).unwrap();
    all.atomic_u32(all.len() - 4)
        .unwrap()
        .store(0x1234_5678, SeqCst);
    let mut bytes = [0; 4];
    last.read(4092, &mut bytes).unwrap();
    assert_eq!(u32::from_ne_bytes(bytes), 0x1234_5678);

    let description = device.describe(&last, 4000).unwrap();
    assert_eq!(description.offset, size - 4096);
    assert!(description.page_size.is_some_and(|size| size >= 4096));
    assert_ne!(description.memory_type, MemoryType::None);
    let untouched = device.map(0, 4096, Access::Read).unwrap();
    assert_eq!(device.describe(&untouched, 0).unwrap().page_size, None);
    assert!(matches!(
        device.map(size, 4096, Access::Read),
        Err(Error::Invalid(_))
    ));
}

#[test]
#[ignore = "needs a device"]
fn who_only_looks_cannot_change() {
    let device = OpenOptions::new().read_only(true).open(PATH).unwrap();
    assert!(matches!(device.ring(0, 0), Err(Error::ReadOnly)));
    assert!(matches!(
        device.map_all(Access::ReadWrite),
        Err(Error::ReadOnly)
    ));
    device.map_all(Access::Read).unwrap();
}

#[test]
#[ignore = "needs a device"]
fn exclusive_means_alone() {
    let exclusive = OpenOptions::new().exclusive(true).open(PATH).unwrap();
    let error = Device::open(PATH).unwrap_err().to_string();
    assert!(error.contains("exclusive"), "{error}");
    drop(exclusive);
    Device::open(PATH).unwrap();
}

#[test]
#[ignore = "needs a device"]
fn what_is_not_there_is_refused() {
    let (device, own) = open();
    let vectors = device.info().unwrap().vectors;
    assert!(matches!(
        device.wait(vectors, 0, Timeout::Look),
        Err(Error::Invalid(_))
    ));
    assert!(matches!(device.ring(65536, 0), Err(Error::Invalid(_))));
    assert!(matches!(device.ring(own, 256), Err(Error::Invalid(_))));
    assert!(matches!(device.ring_many(&[]), Err(Error::Invalid(_))));
    let many = vec![
        Doorbell {
            peer: own,
            vector: 0
        };
        ivshmem::MAX_ARRAY + 1
    ];
    assert!(matches!(device.ring_many(&many), Err(Error::Invalid(_))));
    assert!(matches!(
        device.subscribe(&[vectors]),
        Err(Error::Invalid(_))
    ));
}
