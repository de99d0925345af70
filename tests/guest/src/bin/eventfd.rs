// SPDX-License-Identifier: GPL-2.0

//! Eventfds: each is signalled for each interrupt of the vectors it is attached to.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use guest::abi::*;
use guest::dev::{Device, LONG, NODE, SHORT};
use guest::task::{LIVES, fork, spawn};
use guest::{cases, vectors};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Resource, Rlimit, setrlimit};

fn new() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("eventfd")
}

/// Takes the value of an eventfd, 0 if there is none within these nanoseconds.
fn take(fd: impl AsFd, timeout: i64) -> u64 {
    let timeout = Timespec {
        tv_sec: timeout / 1_000_000_000,
        tv_nsec: timeout % 1_000_000_000,
    };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).expect("poll");
    let mut value = [0; 8];
    match rustix::io::read(fd, &mut value) {
        Ok(8) => u64::from_ne_bytes(value),
        Err(Errno::AGAIN) => 0,
        other => panic!("{other:?}"),
    }
}

/// Rings a vector and waits until that is delivered to all.
///
/// That its count has moved is not enough: eventfds are signalled after that, one by one. To detach
/// one that was signalled waits until all the others are.
#[track_caller]
fn deliver(device: &Device, vector: u32) {
    let witness = new();
    device.attach(vector, &witness).expect("EVENTFD");
    device.ring_self(vector);
    assert_eq!(take(&witness, LONG), 1);
    device.detach(vector, &witness).expect("EVENTFD");
}

fn settled() -> Device {
    let device = Device::open();
    for vector in 0..vectors() {
        device.settle(vector);
    }
    device
}

fn a_ring_is_a_signal() {
    let device = settled();
    let fd = new();
    assert_eq!(device.attach(1, &fd), Ok(()));
    assert_eq!(take(&fd, 0), 0);
    for _ in 0..3 {
        device.ring_self(1);
        assert_eq!(take(&fd, LONG), 1);
    }
    deliver(&device, 1);
    deliver(&device, 1);
    assert_eq!(take(&fd, 0), 2, "they add up");
    deliver(&device, 0);
    assert_eq!(take(&fd, 0), 0, "another vector");
    assert_eq!(device.detach(1, &fd), Ok(()));
    deliver(&device, 1);
    assert_eq!(take(&fd, SHORT), 0, "it is detached");
}

fn a_sleeper_on_an_eventfd_wakes() {
    let device = settled();
    let fd = Arc::new(new());
    device.attach(0, &*fd).expect("EVENTFD");
    let shared = fd.clone();
    let sleeper = spawn(move || take(&*shared, LONG));
    sleeper.asleep();
    device.ring_self(0);
    assert_eq!(sleeper.join(), 1);
}

/// To be attached is to listen: nobody else needs to.
fn an_eventfd_alone_hears() {
    let device = Device::open();
    let fd = new();
    device.attach(3, &fd).expect("EVENTFD");
    device.ring_self(3);
    assert!(take(&fd, LONG) > 0);
}

fn many_on_one_and_one_on_many() {
    let device = settled();
    let fds: Vec<OwnedFd> = (0..5).map(|_| new()).collect();
    for fd in &fds {
        device.attach(0, fd).expect("EVENTFD");
    }
    for vector in 1..vectors() {
        device.attach(vector, &fds[0]).expect("EVENTFD");
    }
    deliver(&device, 0);
    assert!(fds.iter().all(|fd| take(fd, 0) == 1));
    for vector in 1..vectors() {
        deliver(&device, vector);
    }
    assert_eq!(take(&fds[0], 0), u64::from(vectors()) - 1);
    assert!(fds[1..].iter().all(|fd| take(fd, 0) == 0));
}

fn the_same_twice_is_refused() {
    let device = settled();
    let fd = new();
    device.attach(0, &fd).expect("EVENTFD");
    assert_eq!(device.attach(0, &fd), Err(Errno::EXIST));
    let second = rustix::io::dup(&fd).expect("dup");
    assert_eq!(
        device.attach(0, &second),
        Err(Errno::EXIST),
        "by another name"
    );
    assert_eq!(device.attach(1, &fd), Ok(()), "to another vector");
    let other = Device::open();
    assert_eq!(other.attach(0, &fd), Ok(()), "by another file");
    deliver(&device, 0);
    assert_eq!(take(&fd, 0), 2, "for each of the two files");
    assert_eq!(device.detach(0, &second), Ok(()), "by any name");
    assert_eq!(device.attach(0, &fd), Ok(()));
}

fn what_is_not_attached_cannot_be_detached() {
    let device = settled();
    let (fd, other) = (new(), new());
    assert_eq!(device.detach(0, &fd), Err(Errno::NOENT));
    device.attach(0, &fd).expect("EVENTFD");
    assert_eq!(device.detach(1, &fd), Err(Errno::NOENT), "another vector");
    assert_eq!(
        device.detach(0, &other),
        Err(Errno::NOENT),
        "another eventfd"
    );
    assert_eq!(
        Device::open().detach(0, &fd),
        Err(Errno::NOENT),
        "another file"
    );
    assert_eq!(device.detach(0, &fd), Ok(()));
    assert_eq!(device.detach(0, &fd), Err(Errno::NOENT), "twice");
}

fn other_descriptors_are_refused() {
    let device = Device::open();
    let closed = new().as_raw_fd();
    for flags in [0, IVSHMEM_EVENTFD_DETACH] {
        for bad in [-1, closed, i32::MAX, i32::MIN] {
            assert_eq!(device.eventfd(0, bad, flags), Err(Errno::BADF), "{bad}");
        }
        let (input, output) = rustix::pipe::pipe().expect("pipe");
        let own = device.as_fd().as_raw_fd();
        for other in [input.as_raw_fd(), output.as_raw_fd(), own] {
            assert_eq!(device.eventfd(0, other, flags), Err(Errno::INVAL));
        }
    }
}

fn who_may_only_read_may_attach() {
    let reader = Device::open_as(NODE, OFlags::RDONLY).expect("open");
    let device = settled();
    let fd = new();
    assert_eq!(reader.attach(0, &fd), Ok(()));
    deliver(&device, 0);
    assert_eq!(take(&fd, 0), 1);
}

fn a_full_counter_is_no_error() {
    let device = settled();
    let (full, other) = (new(), new());
    rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).expect("write");
    device.attach(0, &full).expect("EVENTFD");
    device.attach(0, &other).expect("EVENTFD");
    for count in 1..=3 {
        deliver(&device, 0);
        assert_eq!(take(&other, 0), 1, "round {count}");
    }
    assert!(take(&full, 0) >= u64::MAX - 1);
    deliver(&device, 0);
    assert_eq!(take(&full, 0), 1, "it goes on from there");
}

fn closing_the_eventfd_does_not_detach_it() {
    let device = settled();
    let fd = new();
    let second = rustix::io::dup(&fd).expect("dup");
    device.attach(0, &fd).expect("EVENTFD");
    drop(fd);
    deliver(&device, 0);
    assert_eq!(take(&second, 0), 1);
    drop(second);
    deliver(&device, 0);
}

fn closing_the_file_does() {
    let device = settled();
    let fd = new();
    let other = Device::open();
    other.attach(0, &fd).expect("EVENTFD");
    let copy = rustix::io::dup(&other).expect("dup");
    drop(other);
    deliver(&device, 0);
    assert_eq!(take(&fd, 0), 1, "it is open yet");
    drop(copy);
    deliver(&device, 0);
    assert_eq!(take(&fd, SHORT), 0);
}

/// An eventfd is signalled for interrupts, not for what other files are told.
fn other_files_do_not_signal_it() {
    let device = settled();
    let fd = new();
    for vector in 0..vectors() {
        device.attach(vector, &fd).expect("EVENTFD");
    }
    let other = Device::open();
    let all: Vec<u32> = (0..vectors()).collect();
    for vectors in [&all[..], &[0], &[]] {
        assert_eq!(other.subscribe(&all), Ok(()));
        assert_eq!(other.unsubscribe(vectors), Ok(()));
        assert_eq!(take(&fd, SHORT), 0, "unsubscribing from {vectors:?}");
    }
    other.count(1);
    assert_eq!(other.unsubscribe(&[]), Ok(()));
    drop(other);
    assert_eq!(take(&fd, SHORT), 0, "nor for its end");
    // Nor is one's own file different.
    assert_eq!(device.subscribe(&all), Ok(()));
    assert_eq!(device.unsubscribe(&[]), Ok(()));
    assert_eq!(take(&fd, SHORT), 0, "by the same file");
    deliver(&device, 2);
    assert_eq!(take(&fd, 0), 1, "a ring is a signal");
}

fn there_may_be_thousands() {
    const NUMBER: usize = 4000;
    let limit = Some(10_000);
    let limit = Rlimit {
        current: limit,
        maximum: limit,
    };
    setrlimit(Resource::Nofile, limit).expect("setrlimit");
    let device = settled();
    let fds: Vec<OwnedFd> = (0..NUMBER).map(|_| new()).collect();
    for (index, fd) in fds.iter().enumerate() {
        device
            .attach(index as u32 % vectors(), fd)
            .expect("EVENTFD");
    }
    for vector in 0..vectors() {
        deliver(&device, vector);
    }
    assert!(fds.iter().all(|fd| take(fd, 0) == 1));
    for (index, fd) in fds.iter().enumerate().filter(|(index, _)| index % 2 == 1) {
        device
            .detach(index as u32 % vectors(), fd)
            .expect("EVENTFD");
    }
    for vector in 0..vectors() {
        deliver(&device, vector);
    }
    for (index, fd) in fds.iter().enumerate() {
        assert_eq!(take(fd, 0), u64::from(index % 2 == 0));
    }
}

fn a_child_has_it_too() {
    let device = settled();
    let fd = new();
    device.attach(0, &fd).expect("EVENTFD");
    let child = fork(|| assert_eq!(take(&fd, LONG), 1));
    child.asleep();
    device.ring_self(0);
    assert_eq!(child.wait(), LIVES);
    // What a child attaches, to the file that it has from its parent, remains.
    let child = fork(|| device.attach(1, &fd).expect("EVENTFD"));
    assert_eq!(child.wait(), LIVES);
    deliver(&device, 1);
    assert_eq!(take(&fd, 0), 1);
    assert_eq!(device.detach(1, &fd), Ok(()));
}

/// A process that has no business with the device gets the events by an eventfd.
fn it_can_be_sent_to_others() {
    let device = settled();
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .expect("socketpair");
    let fd = new();
    device.attach(2, &fd).expect("EVENTFD");
    let child = fork(|| {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        recvmsg(
            &theirs,
            &mut [IoSliceMut::new(&mut byte)],
            &mut control,
            RecvFlags::empty(),
        )
        .expect("recvmsg");
        let fds: Vec<OwnedFd> = control
            .drain()
            .flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
                _ => Vec::new(),
            })
            .collect();
        let [eventfd, file] = <[OwnedFd; 2]>::try_from(fds).expect("two descriptors");
        assert_eq!(take(&eventfd, LONG), 1);
        // And the file itself works where it was sent to.
        let file = Device::from(file);
        let seen = file.count(3);
        file.ring_self(3);
        file.moved(3, seen);
    });
    let rights = [fd.as_fd(), device.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&rights)));
    sendmsg(
        &ours,
        &[IoSlice::new(&[1])],
        &mut control,
        SendFlags::empty(),
    )
    .expect("sendmsg");
    child.asleep();
    device.ring_self(2);
    assert_eq!(child.wait(), LIVES);
}

fn main() {
    guest::run(cases![
        a_ring_is_a_signal,
        a_sleeper_on_an_eventfd_wakes,
        an_eventfd_alone_hears,
        many_on_one_and_one_on_many,
        the_same_twice_is_refused,
        what_is_not_attached_cannot_be_detached,
        other_descriptors_are_refused,
        who_may_only_read_may_attach,
        a_full_counter_is_no_error,
        closing_the_eventfd_does_not_detach_it,
        closing_the_file_does,
        other_files_do_not_signal_it,
        there_may_be_thousands,
        a_child_has_it_too,
        it_can_be_sent_to_others,
    ])
}
