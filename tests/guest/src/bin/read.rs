// SPDX-License-Identifier: GPL-2.0

//! read(): records of what has moved past the file's own cursor.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use guest::abi::*;
use guest::cases;
use guest::dev::{Device, NODE, PAGE};
use guest::task::{self, LIVES, SIGNALS, fork, spawn};
use io_uring::{IoUring, opcode, types};
use rustix::fs::OFlags;
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use rustix::mm::{MapFlags, ProtFlags};

const RECORD: usize = size_of::<ivshmem_event>();

fn subscribed(flags: OFlags, vectors: &[u32]) -> (Device, Vec<u64>) {
    let device = Device::open_as(NODE, OFlags::RDWR | flags).expect("open");
    let counts = vectors
        .iter()
        .map(|vector| device.settle(*vector))
        .collect();
    device.subscribe(vectors).expect("SUBSCRIBE");
    (device, counts)
}

fn deliver(vector: u32) {
    let other = Device::open();
    let seen = other.count(vector);
    other.ring_self(vector);
    other.moved(vector, seen);
}

fn event(vector: u32, count: u64) -> ivshmem_event {
    ivshmem_event {
        vector,
        reserved: 0,
        count,
    }
}

fn without_a_subscription_there_is_nothing_to_read() {
    for flags in [OFlags::empty(), OFlags::NONBLOCK] {
        let device = Device::open_as(NODE, OFlags::RDWR | flags).expect("open");
        assert_eq!(device.read(1), Err(Errno::INVAL));
    }
}

fn each_vector_that_has_moved_is_a_record() {
    let (device, counts) = subscribed(OFlags::NONBLOCK, &[0, 1, 2, 3]);
    assert_eq!(device.read(4), Err(Errno::AGAIN));
    deliver(2);
    assert_eq!(device.read(4), Ok(vec![event(2, counts[2] + 1)]));
    assert_eq!(device.read(4), Err(Errno::AGAIN), "once");
    deliver(0);
    deliver(3);
    deliver(0);
    let mut events = device.read(8).expect("read");
    events.sort_by_key(|event| event.vector);
    assert_eq!(events, [event(0, counts[0] + 2), event(3, counts[3] + 1)]);
}

fn each_file_has_a_cursor() {
    let (one, counts) = subscribed(OFlags::NONBLOCK, &[0]);
    let (other, _) = subscribed(OFlags::NONBLOCK, &[0]);
    // Opening the second has rung.
    let counts = one.read(1).map_or(counts[0], |events| events[0].count);
    deliver(0);
    assert_eq!(one.read(1), Ok(vec![event(0, counts + 1)]));
    deliver(0);
    assert_eq!(
        other.read(1),
        Ok(vec![event(0, counts + 2)]),
        "both at once"
    );
    assert_eq!(one.read(1), Ok(vec![event(0, counts + 2)]));
}

/// Descriptors of one open file share it, also across a fork.
fn a_file_has_one_cursor() {
    let (device, counts) = subscribed(OFlags::NONBLOCK, &[0]);
    let second = Device::from(rustix::io::dup(&device).expect("dup"));
    deliver(0);
    let child = fork(|| assert_eq!(device.read(1), Ok(vec![event(0, counts[0] + 1)])));
    assert_eq!(child.wait(), LIVES);
    assert_eq!(device.read(1), Err(Errno::AGAIN));
    assert_eq!(second.read(1), Err(Errno::AGAIN));
}

fn waits_do_not_move_the_cursor() {
    let (device, counts) = subscribed(OFlags::NONBLOCK, &[0]);
    device.ring_self(0);
    assert_eq!(device.moved(0, counts[0]), counts[0] + 1);
    assert_eq!(device.read(1), Ok(vec![event(0, counts[0] + 1)]));
}

#[track_caller]
fn read_bytes(device: &Device, address: usize, len: usize) -> Result<usize, Errno> {
    let fd = device.as_fd().as_raw_fd();
    // SAFETY: The tests give memory of their own, or where nothing can be written.
    let read = unsafe { libc::read(fd, address as *mut _, len) };
    usize::try_from(read)
        .map_err(|_| Errno::from_io_error(&std::io::Error::last_os_error()).expect("an errno"))
}

fn short_buffers_are_refused() {
    let (device, counts) = subscribed(OFlags::NONBLOCK, &[0]);
    let mut buffer = [0_u8; 4 * RECORD];
    let address = buffer.as_mut_ptr() as usize;
    for len in [0, 1, 8, RECORD - 1] {
        let expected = Err(Errno::INVAL);
        assert_eq!(
            read_bytes(&device, address, len),
            expected,
            "{len}, nothing there"
        );
    }
    deliver(0);
    for len in [0, 1, 8, RECORD - 1] {
        let expected = Err(Errno::INVAL);
        assert_eq!(
            read_bytes(&device, address, len),
            expected,
            "{len}, something there"
        );
    }
    assert_eq!(buffer, [0; 4 * RECORD]);
    assert_eq!(
        device.read(1),
        Ok(vec![event(0, counts[0] + 1)]),
        "nothing was lost"
    );
}

fn half_records_are_not_read() {
    let (device, _) = subscribed(OFlags::NONBLOCK, &[0, 1]);
    deliver(0);
    deliver(1);
    let mut buffer = [0xee_u8; 2 * RECORD];
    let read = read_bytes(&device, buffer.as_mut_ptr() as usize, 2 * RECORD - 1);
    assert_eq!(read, Ok(RECORD));
    assert!(
        buffer[RECORD..].iter().all(|byte| *byte == 0xee),
        "the rest is untouched"
    );
    assert_eq!(device.read(4).expect("the other").len(), 1);
}

fn a_bad_pointer_loses_nothing() {
    let (device, counts) = subscribed(OFlags::NONBLOCK, &[0, 1]);
    deliver(0);
    deliver(1);
    let bad = device
        .map_as(0, PAGE, ProtFlags::READ, MapFlags::SHARED)
        .expect("mmap");
    assert_eq!(read_bytes(&device, 8, 4 * RECORD), Err(Errno::FAULT));
    assert_eq!(
        read_bytes(&device, bad.address(), 4 * RECORD),
        Err(Errno::FAULT)
    );
    let mut events = device.read(4).expect("read");
    events.sort_by_key(|event| event.vector);
    assert_eq!(events, [event(0, counts[0] + 1), event(1, counts[1] + 1)]);
}

/// A buffer that ends early: whole records are read, the others are still there.
fn a_pointer_that_gets_bad_loses_nothing() {
    let (device, counts) = subscribed(OFlags::NONBLOCK, &[0, 1, 2, 3]);
    let hole = device.map(0, 2 * PAGE);
    for vector in 0..4 {
        deliver(vector);
    }
    hole.unmap_part(PAGE, PAGE).expect("munmap");
    let end = hole.address() + PAGE;
    let read = read_bytes(&device, end - RECORD - 8, 4 * RECORD).expect("read");
    assert_eq!(read, RECORD, "whole records only");
    let rest = device.read(4).expect("the others");
    assert_eq!(rest.len(), 3);
    for event in rest {
        assert_eq!(event.count, counts[event.vector as usize] + 1);
    }
}

fn it_sleeps_until_there_is_something() {
    let (device, counts) = subscribed(OFlags::empty(), &[0, 1]);
    let device = Arc::new(device);
    let shared = device.clone();
    let sleeper = spawn(move || shared.read(4));
    sleeper.asleep();
    deliver(2);
    sleeper.asleep();
    deliver(1);
    assert_eq!(sleeper.join(), Ok(vec![event(1, counts[1] + 1)]));
}

fn each_event_wakes_all_readers_and_one_gets_it() {
    let (device, _) = subscribed(OFlags::empty(), &[0]);
    let device = Arc::new(device);
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let shared = device.clone();
            spawn(move || shared.read(1).map(|events| events[0].count))
        })
        .collect();
    readers.iter().for_each(|reader| reader.asleep());
    deliver(0);
    task::until("one comes back", || {
        readers.iter().any(|reader| !reader.is_out())
    });
    deliver(0);
    let mut counts = readers
        .into_iter()
        .map(|reader| reader.join().expect("read"));
    assert_ne!(counts.next(), counts.next());
}

/// Nothing could wake it any more.
fn it_ends_with_the_last_subscription() {
    for rest in [&[][..], &[0]] {
        let (device, _) = subscribed(OFlags::empty(), &[0, 1]);
        let device = Arc::new(device);
        let shared = device.clone();
        let sleeper = spawn(move || shared.read(4));
        sleeper.asleep();
        device.unsubscribe(&[1]).expect("SUBSCRIBE");
        sleeper.asleep();
        assert!(sleeper.is_out(), "one is left");
        device.unsubscribe(rest).expect("SUBSCRIBE");
        assert_eq!(sleeper.join(), Err(Errno::INVAL));
    }
}

fn signals_interrupt_it() {
    let (device, counts) = subscribed(OFlags::empty(), &[0]);
    let device = Arc::new(device);
    task::handle(libc::SIGUSR1, 0);
    let shared = device.clone();
    let sleeper = spawn(move || shared.read(1));
    sleeper.asleep();
    sleeper.signal(libc::SIGUSR1);
    assert_eq!(sleeper.join(), Err(Errno::INTR));

    task::handle(libc::SIGUSR1, libc::SA_RESTART);
    let before = SIGNALS.load(SeqCst);
    let shared = device.clone();
    let sleeper = spawn(move || shared.read(1));
    sleeper.asleep();
    sleeper.signal(libc::SIGUSR1);
    task::until("the signal is handled", || SIGNALS.load(SeqCst) > before);
    sleeper.asleep();
    deliver(0);
    assert_eq!(sleeper.join(), Ok(vec![event(0, counts[0] + 1)]));
}

fn one_call_can_be_told_not_to_sleep() {
    let (device, counts) = subscribed(OFlags::empty(), &[0]);
    let read = |flags| {
        let mut buffer = [0_u8; RECORD];
        let read = preadv2(
            &device,
            &mut [IoSliceMut::new(&mut buffer)],
            u64::MAX,
            flags,
        )?;
        assert_eq!(read, RECORD);
        Ok::<u64, Errno>(u64::from_ne_bytes(
            buffer[8..].try_into().expect("eight bytes"),
        ))
    };
    assert_eq!(read(ReadWriteFlags::NOWAIT), Err(Errno::AGAIN));
    deliver(0);
    assert_eq!(read(ReadWriteFlags::NOWAIT), Ok(counts[0] + 1));
    assert_eq!(read(ReadWriteFlags::NOWAIT), Err(Errno::AGAIN));
    deliver(0);
    assert_eq!(read(ReadWriteFlags::empty()), Ok(counts[0] + 2));
}

fn nonblocking_can_be_switched() {
    let (device, counts) = subscribed(OFlags::empty(), &[0]);
    rustix::fs::fcntl_setfl(&device, OFlags::NONBLOCK).expect("fcntl");
    assert_eq!(device.read(1), Err(Errno::AGAIN));
    rustix::fs::fcntl_setfl(&device, OFlags::empty()).expect("fcntl");
    let device = Arc::new(device);
    let shared = device.clone();
    let sleeper = spawn(move || shared.read(1));
    sleeper.asleep();
    deliver(0);
    assert_eq!(sleeper.join(), Ok(vec![event(0, counts[0] + 1)]));
}

/// A vector that never rests does not hide the others, however small the buffer.
fn small_buffers_are_fair() {
    let (device, _) = subscribed(OFlags::NONBLOCK, &[0, 1, 2, 3]);
    for vector in 0..4 {
        deliver(vector);
    }
    let mut seen = [0; 4];
    for _ in 0..4 {
        let events = device.read(1).expect("read");
        seen[events[0].vector as usize] += 1;
        deliver(0);
    }
    assert_eq!(seen, [1; 4], "each in its turn");
    assert_eq!(device.read(1).expect("read")[0].vector, 0);
    assert_eq!(device.read(1), Err(Errno::AGAIN));
}

fn scattered_buffers_are_filled() {
    let (device, _) = subscribed(OFlags::NONBLOCK, &[0, 1, 2]);
    for vector in 0..3 {
        deliver(vector);
    }
    let mut parts = [[0_u8; 8]; 5];
    let mut slices: Vec<_> = parts.iter_mut().map(|part| IoSliceMut::new(part)).collect();
    assert_eq!(rustix::io::readv(&device, &mut slices), Ok(2 * RECORD));
    assert_eq!(device.read(3).expect("the third").len(), 1);
}

/// For io_uring a file that can tell when it is readable is never in the way, O_NONBLOCK or not.
fn io_uring_reads() {
    for flags in [OFlags::empty(), OFlags::NONBLOCK] {
        let (device, counts) = subscribed(flags, &[0]);
        let mut ring = IoUring::new(4).expect("io_uring");
        let mut events = [ivshmem_event::default(); 2];
        let read = |ring: &mut IoUring, events: &mut [ivshmem_event], flags| {
            let fd = types::Fd(device.as_fd().as_raw_fd());
            let len = size_of_val(events) as u32;
            let entry = opcode::Read::new(fd, events.as_mut_ptr().cast(), len)
                .offset(u64::MAX)
                .rw_flags(flags)
                .build();
            // SAFETY: The buffer outlives the request, which is waited for.
            unsafe { ring.submission().push(&entry) }.expect("room");
            ring.submit().expect("submit");
        };
        for round in 1..=3 {
            read(&mut ring, &mut events, 0);
            assert_eq!(ring.completion().len(), 0, "nothing yet");
            deliver(0);
            ring.submit_and_wait(1).expect("wait");
            let done = ring.completion().next().expect("a completion");
            assert_eq!(done.result(), RECORD as i32);
            assert_eq!(events[0], event(0, counts[0] + round));
        }
        read(&mut ring, &mut events, libc::RWF_NOWAIT);
        ring.submit_and_wait(1).expect("wait");
        let done = ring.completion().next().expect("a completion");
        assert_eq!(
            done.result(),
            -libc::EAGAIN,
            "unless it is asked not to wait"
        );
    }
}

fn who_may_only_write_reads_nothing() {
    let writer = Device::open_as(NODE, OFlags::WRONLY).expect("open");
    writer.subscribe(&[0]).expect("SUBSCRIBE");
    assert_eq!(writer.read(1), Err(Errno::BADF));
}

fn nothing_can_be_written() {
    let device = Device::open();
    assert_eq!(rustix::io::write(&device, &[0; 16]), Err(Errno::INVAL));
}

fn main() {
    guest::run(cases![
        without_a_subscription_there_is_nothing_to_read,
        each_vector_that_has_moved_is_a_record,
        each_file_has_a_cursor,
        a_file_has_one_cursor,
        waits_do_not_move_the_cursor,
        short_buffers_are_refused,
        half_records_are_not_read,
        a_bad_pointer_loses_nothing,
        a_pointer_that_gets_bad_loses_nothing,
        it_sleeps_until_there_is_something,
        each_event_wakes_all_readers_and_one_gets_it,
        it_ends_with_the_last_subscription,
        signals_interrupt_it,
        one_call_can_be_told_not_to_sleep,
        nonblocking_can_be_switched,
        small_buffers_are_fair,
        scattered_buffers_are_filled,
        io_uring_reads,
        who_may_only_write_reads_nothing,
        nothing_can_be_written,
    ])
}
