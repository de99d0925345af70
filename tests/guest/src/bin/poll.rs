// SPDX-License-Identifier: GPL-2.0

//! poll, select, epoll and io_uring: readable is a file while something it has subscribed to is
//! past its cursor.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;

use guest::abi::*;
use guest::cases;
use guest::dev::{Device, LONG, NODE, SHORT};
use guest::task::{self, spawn};
use io_uring::{IoUring, opcode, types};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::Errno;

const READABLE: PollFlags = PollFlags::IN.union(PollFlags::RDNORM);
const SECOND: i64 = 1_000_000_000;

/// A file that is subscribed to vectors, has read all there was, and their counts.
fn subscribed(vectors: &[u32]) -> (Device, Vec<u64>) {
    let device = Device::open();
    let counts = vectors
        .iter()
        .map(|vector| device.settle(*vector))
        .collect();
    device.subscribe(vectors).expect("SUBSCRIBE");
    assert!(device.ready().is_empty(), "what was before is no event");
    (device, counts)
}

/// Rings a vector and waits until that is delivered, without the file of the test.
fn deliver(vector: u32) {
    let other = Device::open();
    let seen = other.count(vector);
    other.ring_self(vector);
    other.moved(vector, seen);
}

fn without_a_subscription_nothing_is_readable() {
    let device = Device::open();
    let seen = device.settle(0);
    device.ring_self(0);
    device.moved(0, seen);
    assert!(device.ready().is_empty());
    assert!(device.ready_within(SHORT).expect("poll").is_empty());
}

fn a_ring_makes_it_readable_until_it_is_read() {
    let (device, counts) = subscribed(&[1]);
    deliver(1);
    assert_eq!(device.ready(), READABLE);
    assert_eq!(device.ready(), READABLE, "a look changes nothing");
    assert_eq!(device.wait(1, counts[0], 0), Ok(counts[0] + 1));
    assert_eq!(device.ready(), READABLE, "nor does a wait");
    assert_eq!(device.read(1).expect("read")[0].count, counts[0] + 1);
    assert!(device.ready().is_empty());
}

fn other_vectors_do_not() {
    let (device, _) = subscribed(&[0, 2]);
    deliver(1);
    deliver(3);
    assert!(device.ready().is_empty());
    deliver(2);
    assert_eq!(device.ready(), READABLE);
    device.read(1).expect("read");
    device.unsubscribe(&[0]).expect("SUBSCRIBE");
    deliver(0);
    assert!(device.ready().is_empty(), "not any more");
    device.subscribe(&[1]).expect("SUBSCRIBE");
    deliver(1);
    assert_eq!(device.ready(), READABLE);
}

fn subscribing_begins_now_and_again_changes_nothing() {
    let (device, _) = subscribed(&[0]);
    deliver(0);
    deliver(1);
    device.subscribe(&[0, 1]).expect("SUBSCRIBE");
    let events = device.read(4).expect("read");
    assert_eq!(events.len(), 1, "of vector 1 nothing since");
    assert_eq!(events[0].vector, 0, "of vector 0 it was there before");
    deliver(0);
    device.unsubscribe(&[]).expect("SUBSCRIBE");
    assert!(device.ready().is_empty());
    device.subscribe(&[0]).expect("SUBSCRIBE");
    assert!(device.ready().is_empty(), "a subscription anew begins anew");
}

fn files_are_independent() {
    let (one, _) = subscribed(&[0]);
    let (other, _) = subscribed(&[0, 1]);
    deliver(0);
    assert_eq!([one.ready(), other.ready()], [READABLE; 2]);
    one.read(1).expect("read");
    assert!(one.ready().is_empty());
    assert_eq!(other.ready(), READABLE);
    deliver(1);
    assert!(one.ready().is_empty());
    assert_eq!(other.read(4).expect("read").len(), 2);
}

fn the_state_can_be_subscribed_to() {
    let device = Device::open();
    device
        .subscribe(&[IVSHMEM_VECTOR_STATE])
        .expect("SUBSCRIBE");
    assert!(device.ready().is_empty(), "it has not changed since");
    deliver(0);
    assert!(device.ready().is_empty());
}

fn a_sleeper_in_poll_wakes() {
    let (device, _) = subscribed(&[3]);
    let device = Arc::new(device);
    let shared = device.clone();
    let sleeper = spawn(move || shared.ready_within(LONG));
    sleeper.asleep();
    deliver(2);
    sleeper.asleep();
    deliver(3);
    assert_eq!(sleeper.join(), Ok(READABLE));
}

fn poll_times_out_and_is_interrupted() {
    let (device, _) = subscribed(&[0]);
    let start = task::now();
    assert_eq!(device.ready_within(SHORT), Ok(PollFlags::empty()));
    assert!(task::now() - start >= SHORT);
    task::handle(libc::SIGUSR1, libc::SA_RESTART);
    let sleeper = spawn(move || device.ready_within(LONG));
    sleeper.asleep();
    sleeper.signal(libc::SIGUSR1);
    assert_eq!(sleeper.join(), Err(Errno::INTR));
}

/// Which of the files are readable, by select.
fn select(files: &[&Device], seconds: i64) -> Vec<bool> {
    let mut set = MaybeUninit::<libc::fd_set>::zeroed();
    let mut last = 0;
    for file in files {
        let fd = file.as_fd().as_raw_fd();
        last = last.max(fd);
        // SAFETY: The set is empty at first, and the descriptor small.
        unsafe { libc::FD_SET(fd, set.as_mut_ptr()) };
    }
    let mut timeout = libc::timeval {
        tv_sec: seconds,
        tv_usec: 0,
    };
    let none = ptr::null_mut();
    // SAFETY: The set has room for all descriptors below `last + 1`.
    let found = unsafe { libc::select(last + 1, set.as_mut_ptr(), none, none, &raw mut timeout) };
    assert!(found >= 0, "select");
    files
        .iter()
        // SAFETY: As above.
        .map(|file| unsafe { libc::FD_ISSET(file.as_fd().as_raw_fd(), set.as_ptr()) })
        .collect()
}

fn select_works_alike() {
    let ((one, _), (other, _)) = (subscribed(&[0]), subscribed(&[1]));
    assert_eq!(select(&[&one, &other], 0), [false, false]);
    deliver(1);
    assert_eq!(select(&[&one, &other], 30), [false, true]);
    deliver(0);
    other.read(1).expect("read");
    assert_eq!(select(&[&one, &other], 30), [true, false]);
}

struct Epoll(OwnedFd);

impl Epoll {
    fn new(device: &Device, flags: EventFlags) -> Epoll {
        let epoll = epoll::create(CreateFlags::CLOEXEC).expect("epoll");
        epoll::add(&epoll, device, EventData::new_u64(7), flags).expect("epoll");
        Epoll(epoll)
    }

    /// What happens within these nanoseconds.
    fn wait(&self, timeout: i64) -> Option<EventFlags> {
        let timeout = Timespec {
            tv_sec: timeout / SECOND,
            tv_nsec: timeout % SECOND,
        };
        let mut events = [MaybeUninit::uninit(); 4];
        let (events, _) = epoll::wait(&self.0, &mut events, Some(&timeout)).expect("epoll");
        assert!(events.len() <= 1);
        events.first().map(|event| event.flags)
    }
}

const IN: Option<EventFlags> = Some(EventFlags::IN);

fn epoll_tells_as_long_as_it_is_so() {
    let (device, _) = subscribed(&[0]);
    let epoll = Epoll::new(&device, EventFlags::IN);
    assert_eq!(epoll.wait(0), None);
    deliver(0);
    assert_eq!([epoll.wait(LONG), epoll.wait(LONG)], [IN; 2]);
    device.read(1).expect("read");
    assert_eq!(epoll.wait(0), None);
}

fn epoll_tells_each_edge_once() {
    let (device, _) = subscribed(&[0, 1]);
    let epoll = Epoll::new(&device, EventFlags::IN | EventFlags::ET);
    assert_eq!(epoll.wait(0), None);
    for _ in 0..3 {
        deliver(0);
        assert_eq!(epoll.wait(LONG), IN);
        assert_eq!(epoll.wait(SHORT), None, "told already");
    }
    // An edge is an edge though nothing was read.
    deliver(1);
    assert_eq!(epoll.wait(LONG), IN);
    assert_eq!(device.read(4).expect("read").len(), 2);
    assert_eq!(epoll.wait(SHORT), None);
}

fn epoll_tells_once_if_asked_to() {
    let (device, _) = subscribed(&[0]);
    let flags = EventFlags::IN | EventFlags::ONESHOT;
    let epoll = Epoll::new(&device, flags);
    deliver(0);
    assert_eq!(epoll.wait(LONG), IN);
    deliver(0);
    assert_eq!(epoll.wait(SHORT), None);
    epoll::modify(&epoll.0, &device, EventData::new_u64(7), flags).expect("epoll");
    assert_eq!(epoll.wait(LONG), IN);
}

fn a_sleeper_in_epoll_wakes() {
    for flags in [EventFlags::IN, EventFlags::IN | EventFlags::ET] {
        let (device, _) = subscribed(&[2]);
        let epoll = Epoll::new(&device, flags);
        let sleeper = spawn(move || epoll.wait(LONG));
        sleeper.asleep();
        deliver(2);
        assert_eq!(sleeper.join(), IN);
    }
}

fn a_subscription_that_changes_is_seen_by_sleepers() {
    let (device, _) = subscribed(&[0]);
    let device = Arc::new(device);
    let shared = device.clone();
    let sleeper = spawn(move || shared.ready_within(LONG));
    sleeper.asleep();
    device.subscribe(&[1]).expect("SUBSCRIBE");
    device.unsubscribe(&[0]).expect("SUBSCRIBE");
    deliver(0);
    sleeper.asleep();
    deliver(1);
    assert_eq!(sleeper.join(), Ok(READABLE));
}

fn io_uring_polls() {
    let (device, _) = subscribed(&[0]);
    let mut ring = IoUring::new(4).expect("io_uring");
    let fd = types::Fd(device.as_fd().as_raw_fd());
    let poll = opcode::PollAdd::new(fd, libc::POLLIN as u32).build();
    for round in 0..3 {
        let entry = poll.clone().user_data(round);
        // SAFETY: A poll refers to no memory.
        unsafe { ring.submission().push(&entry) }.expect("room");
        ring.submit().expect("submit");
        assert_eq!(ring.completion().len(), 0, "nothing yet");
        deliver(0);
        ring.submit_and_wait(1).expect("wait");
        let done = ring.completion().next().expect("a completion");
        assert_eq!(done.user_data(), round);
        assert_eq!(done.result() & i32::from(libc::POLLIN), libc::POLLIN.into());
        device.read(1).expect("read");
    }
}

fn io_uring_polls_on_and_on() {
    let (device, _) = subscribed(&[0]);
    let mut ring = IoUring::new(4).expect("io_uring");
    let fd = types::Fd(device.as_fd().as_raw_fd());
    let entry = opcode::PollAdd::new(fd, libc::POLLIN as u32)
        .multi(true)
        .build();
    // SAFETY: A poll refers to no memory.
    unsafe { ring.submission().push(&entry) }.expect("room");
    ring.submit().expect("submit");
    for _ in 0..5 {
        deliver(0);
        ring.submit_and_wait(1).expect("wait");
        let done = ring.completion().next().expect("a completion");
        assert_eq!(done.result() & i32::from(libc::POLLIN), libc::POLLIN.into());
        assert!(io_uring::cqueue::more(done.flags()), "it goes on");
        device.read(1).expect("read");
    }
}

fn it_does_not_matter_how_a_file_was_opened() {
    let device = Device::open_as(NODE, OFlags::RDONLY | OFlags::NONBLOCK).expect("open");
    let listener = Device::open();
    listener.settle(0);
    device.subscribe(&[0]).expect("SUBSCRIBE");
    assert!(device.ready().is_empty());
    deliver(0);
    assert_eq!(device.ready(), READABLE);
}

fn main() {
    guest::run(cases![
        without_a_subscription_nothing_is_readable,
        a_ring_makes_it_readable_until_it_is_read,
        other_vectors_do_not,
        subscribing_begins_now_and_again_changes_nothing,
        files_are_independent,
        the_state_can_be_subscribed_to,
        a_sleeper_in_poll_wakes,
        poll_times_out_and_is_interrupted,
        select_works_alike,
        epoll_tells_as_long_as_it_is_so,
        epoll_tells_each_edge_once,
        epoll_tells_once_if_asked_to,
        a_sleeper_in_epoll_wakes,
        a_subscription_that_changes_is_seen_by_sleepers,
        io_uring_polls,
        io_uring_polls_on_and_on,
        it_does_not_matter_how_a_file_was_opened,
    ])
}
