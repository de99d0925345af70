// SPDX-License-Identifier: GPL-2.0

//! Two guests ring each other on eight vectors, by eight threads, while others wait in all four
//! ways, come and go. Nobody sleeps past a ring, counts only grow, and all agree in the end.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;

use guest::abi::*;
use guest::dev::{Device, LONG, Map, delivered};
use guest::task::{Worker, now, spawn};
use guest::{cases, guest, host, scaled, vectors};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Rings of a vector that go out at once.
const BATCH: usize = 125;

/// How often a waiter returns before another takes its place.
const STAY: u64 = 50;

const SECONDS: Timespec = Timespec {
    tv_sec: LONG / 1_000_000_000,
    tv_nsec: 0,
};

/// Batches that a thread rings: with two guests and eight threads in each, a million rings.
fn batches() -> u64 {
    scaled(500)
}

/// The words of the shared memory that say how many batches of a vector a guest was sent, and has
/// taken note of.
struct Progress<'a> {
    sent: &'a AtomicU64,
    taken: &'a AtomicU64,
}

fn progress(map: &Map, to: usize, vector: u32) -> Progress<'_> {
    let at = (to * 64 + vector as usize) * 16;
    Progress {
        sent: &map.words()[at],
        taken: &map.words()[at + 8],
    }
}

/// Sends batches; each but the first only when the one before was heard of. Who sleeps past a ring
/// brings this to a halt.
fn send(device: &Device, map: &Map, vector: u32) {
    let to = 1 - guest();
    let peer = to as u32;
    let rings = [ivshmem_doorbell { peer, vector }; BATCH];
    let progress = progress(map, to, vector);
    for batch in 1..=batches() {
        progress.sent.store(batch, SeqCst);
        assert_eq!(device.ring_many(&rings), Ok(BATCH as u32));
        let start = now();
        while progress.taken.load(SeqCst) < batch {
            assert!(now() - start < LONG, "vector {vector}, batch {batch}");
            thread::yield_now();
        }
    }
}

/// One of the four ways to wait. Each call returns the count after an event that comes after the
/// one before.
trait Wait {
    fn begin(vector: u32) -> Self;
    fn next(&mut self) -> u64;
}

struct ByWait(Device, u32, u64);

impl Wait for ByWait {
    fn begin(vector: u32) -> Self {
        let device = Device::open();
        let seen = device.count(vector);
        ByWait(device, vector, seen)
    }

    fn next(&mut self) -> u64 {
        self.2 = self.0.moved(self.1, self.2);
        self.2
    }
}

fn subscribed(vector: u32) -> Device {
    let device = Device::open();
    device.subscribe(&[vector]).expect("SUBSCRIBE");
    device
}

fn read(device: &Device, vector: u32) -> u64 {
    let events = device.read(2).expect("read");
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].vector, vector);
    events[0].count
}

struct ByPoll(Device, u32);

impl Wait for ByPoll {
    fn begin(vector: u32) -> Self {
        ByPoll(subscribed(vector), vector)
    }

    fn next(&mut self) -> u64 {
        let ready = self.0.ready_within(LONG).expect("poll");
        assert!(!ready.is_empty(), "poll sleeps past a ring");
        read(&self.0, self.1)
    }
}

struct ByEpoll(Device, u32, OwnedFd);

impl Wait for ByEpoll {
    fn begin(vector: u32) -> Self {
        let device = subscribed(vector);
        let set = epoll::create(CreateFlags::CLOEXEC).expect("epoll");
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(&set, &device, EventData::new_u64(0), flags).expect("epoll");
        ByEpoll(device, vector, set)
    }

    fn next(&mut self) -> u64 {
        // An edge may be told once more for what was read already.
        loop {
            let mut events = [MaybeUninit::uninit(); 1];
            let (events, _) = epoll::wait(&self.2, &mut events, Some(&SECONDS)).expect("epoll");
            assert_eq!(events.len(), 1, "epoll sleeps past a ring");
            if !self.0.ready().is_empty() {
                return read(&self.0, self.1);
            }
        }
    }
}

struct ByEventfd(Device, u32, OwnedFd, u64);

impl Wait for ByEventfd {
    fn begin(vector: u32) -> Self {
        let device = Device::open();
        let fd = eventfd(0, EventfdFlags::CLOEXEC).expect("eventfd");
        device.attach(vector, &fd).expect("EVENTFD");
        let seen = device.count(vector);
        ByEventfd(device, vector, fd, seen)
    }

    fn next(&mut self) -> u64 {
        loop {
            let ready = poll(&mut [PollFd::new(&self.2, PollFlags::IN)], Some(&SECONDS));
            assert_eq!(ready, Ok(1), "an eventfd sleeps past a ring");
            assert_eq!(rustix::io::read(&self.2, &mut [0; 8]), Ok(8));
            let count = self.0.count(self.1);
            // The signal may be of an event that was counted at the last look.
            if count != self.3 {
                self.3 = count;
                return count;
            }
        }
    }
}

/// Waits until it has stayed long enough or all was sent; returns the last count.
fn stay<W: Wait>(map: &Map, vector: u32, mut last: u64) -> u64 {
    let progress = progress(map, guest(), vector);
    let mut waiter = W::begin(vector);
    for _ in 0..STAY {
        // What was sent before this waiter began was not for it to hear.
        let sent = progress.sent.load(SeqCst);
        progress.taken.fetch_max(sent, SeqCst);
        if sent == batches() {
            break;
        }
        let count = waiter.next();
        assert!(count > last, "{count} after {last}");
        last = count;
    }
    last
}

fn receive(map: &Map, vector: u32) -> u64 {
    let progress = progress(map, guest(), vector);
    let mut last = 0;
    let ways = [
        stay::<ByWait>,
        stay::<ByPoll>,
        stay::<ByEpoll>,
        stay::<ByEventfd>,
    ];
    // Each vector begins with another one.
    for way in (vector as usize..).map(|turn| ways[turn % ways.len()]) {
        last = way(map, vector, last);
        if progress.taken.load(SeqCst) == batches() {
            break;
        }
    }
    last
}

fn a_million_rings_lose_nothing() {
    let device = Arc::new(Device::open());
    let map = Arc::new(device.map(0, 16 * 4096));
    for vector in 0..vectors() {
        let progress = progress(&map, guest(), vector);
        progress.sent.store(0, SeqCst);
        progress.taken.store(0, SeqCst);
        // Holds the vector, so that none is freed between two waiters.
        device.settle(vector);
    }
    let before: Vec<u64> = (0..vectors()).map(delivered).collect();
    host::barrier("ready");
    let workers: Vec<(Worker<u64>, Worker<()>)> = (0..vectors())
        .map(|vector| {
            let receiver = map.clone();
            let (file, sender) = (device.clone(), map.clone());
            (
                spawn(move || receive(&receiver, vector)),
                spawn(move || send(&file, &sender, vector)),
            )
        })
        .collect();
    let lasts: Vec<u64> = workers
        .into_iter()
        .map(|(receiver, sender)| {
            sender.join_within(8);
            receiver.join_within(8)
        })
        .collect();
    host::barrier("all was sent");
    for (vector, last) in (0..).zip(lasts) {
        // The last of a batch may be delivered after the first was heard of.
        let count = device.settle(vector);
        assert_eq!(count, delivered(vector));
        assert!(last <= count);
        let came = count - before[vector as usize];
        // One more that settling has rung.
        let most = batches() * BATCH as u64 + 1;
        assert!((1..=most).contains(&came), "{came} of {most} deliveries");
    }
}

fn main() {
    guest::run(cases![a_million_rings_lose_nothing])
}
