// SPDX-License-Identifier: GPL-2.0

//! Two guests ring each other on eight vectors, by eight threads, while others wait in all four
//! ways, come and go. Nobody sleeps past a ring, counts only grow, and all agree in the end.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;

use guest::abi::*;
use guest::dev::{Device, INFINITE, LONG, Map, PAGE, delivered};
use guest::model::interrupts;
use guest::task::{Worker, now, spawn};
use guest::{cases, guest, host, vectors};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Rings of a vector that go out at once.
const BATCH: usize = 125;

/// Batches that a thread rings: with two guests and eight threads in each, a million rings.
const BATCHES: u64 = 500;

/// How many batches a waiter hears of before another takes its place.
const STAY: u64 = 40;

/// The whole of it, as a multiple of the time that anything else must come in.
const STORM: u32 = 30;

/// The words of the shared memory that say how many batches of a vector a guest was sent, and how
/// many of them each of its waiters has taken note of.
struct Progress<'a> {
    sent: &'a AtomicU64,
    taken: [&'a AtomicU64; WAYS.len()],
}

fn progress(map: &Map, to: usize, vector: u32) -> Progress<'_> {
    // A cache line each.
    let word = |line| &map.words()[((to * vectors() as usize + vector as usize) * 8 + line) * 8];
    Progress {
        sent: word(0),
        taken: [1, 2, 3, 4].map(word),
    }
}

/// Sends batches; each but the first only when all waiters have heard of the one before. Who sleeps
/// past a ring brings this to a halt.
fn send(device: &Device, map: &Map, vector: u32) {
    let to = 1 - guest();
    let peer = to as u32;
    let rings = [ivshmem_doorbell { peer, vector }; BATCH];
    let progress = progress(map, to, vector);
    for batch in 1..=BATCHES {
        progress.sent.store(batch, SeqCst);
        assert_eq!(device.ring_many(&rings), Ok(BATCH as u32));
        let start = now();
        let taken = || progress.taken.map(|taken| taken.load(SeqCst));
        while taken().iter().any(|taken| *taken < batch) {
            let late = now() - start > LONG;
            assert!(!late, "vector {vector}, batch {batch}: {:?}", taken());
            thread::yield_now();
        }
    }
}

/// One of the four ways to wait. Each call returns the count after an event that comes after the
/// one before. It sleeps without limit: if that is too long, the sender says so.
trait Wait: Sized {
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
        self.2 = self.0.wait(self.1, self.2, INFINITE).expect("WAIT");
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
        let ready = poll(&mut [PollFd::new(&self.0, PollFlags::IN)], None);
        assert_eq!(ready, Ok(1));
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
            let (events, _) = epoll::wait(&self.2, &mut events, None).expect("epoll");
            assert_eq!(events.len(), 1);
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

/// What waiters have in common that take each other's place: one vector, one way.
struct Place {
    map: Arc<Map>,
    vector: u32,
    way: usize,
    /// The batch after which the next one takes the place.
    until: u64,
    /// Where the waiters of a vector meet to which nobody else listens. None if somebody does.
    gap: Option<Arc<Barrier>>,
    /// The count that the vector ends with, once that is known.
    end: Arc<AtomicU64>,
}

/// What becomes of a waiter.
enum After {
    /// Another took its place.
    Next(Worker<After>),
    /// It was the last one, and has seen this count.
    End(u64),
}

/// Starts a waiter, `last` being the count that was seen in its place. When this returns it
/// listens.
fn enter<W: Wait>(place: Place, last: u64) -> Worker<After> {
    let (begun, begin) = mpsc::channel();
    let worker = spawn(move || {
        let waiter = W::begin(place.vector);
        begun.send(()).expect("somebody waits for it");
        stay(place, waiter, last)
    });
    begin.recv().expect("it begins");
    worker
}

fn stay<W: Wait>(place: Place, mut waiter: W, mut last: u64) -> After {
    let map = place.map.clone();
    let progress = progress(&map, guest(), place.vector);
    loop {
        // What was sent before this waiter began was not for it to hear.
        let sent = progress.sent.load(SeqCst);
        progress.taken[place.way].store(sent, SeqCst);
        if last == place.end.load(SeqCst) {
            return After::End(last);
        }
        if sent >= place.until && sent < BATCHES {
            return After::Next(leave(place, waiter, last));
        }
        let count = waiter.next();
        assert!(count > last, "{count} after {last}");
        last = count;
    }
}

/// Lets another waiter take the place.
fn leave<W: Wait>(place: Place, waiter: W, last: u64) -> Worker<After> {
    if let Some(gap) = &place.gap {
        // All four go before the next ones come: the interrupt is freed and requested anew.
        drop(waiter);
        if gap.wait().is_leader() {
            let name = format!("ivshmem0-{}", place.vector);
            assert!(interrupts(&name).is_empty(), "nobody listens");
        }
        gap.wait();
        return enter::<W>(next(place), last);
    }
    let successor = enter::<W>(next(place), last);
    drop(waiter);
    successor
}

fn next(place: Place) -> Place {
    let until = place.until + STAY;
    Place { until, ..place }
}

type Way = fn(Place, u64) -> Worker<After>;

const WAYS: [Way; 4] = [
    enter::<ByWait>,
    enter::<ByPoll>,
    enter::<ByEpoll>,
    enter::<ByEventfd>,
];

/// A waiter of each way. Those of every second vector are its only listeners.
fn receive(map: &Arc<Map>, vector: u32, end: &Arc<AtomicU64>) -> [Worker<After>; WAYS.len()] {
    let alone = vector % 2 == 1;
    let gap = alone.then(|| Arc::new(Barrier::new(WAYS.len())));
    [0, 1, 2, 3].map(|way| {
        let place = Place {
            map: map.clone(),
            vector,
            way,
            // Where they need not meet they do not go at the same time.
            until: STAY + if alone { 0 } else { STAY / 4 * way as u64 },
            gap: gap.clone(),
            end: end.clone(),
        };
        WAYS[way](place, 0)
    })
}

/// The count that the last one in a place has seen.
fn last_of(mut waiter: Worker<After>) -> u64 {
    loop {
        match waiter.join() {
            After::Next(successor) => waiter = successor,
            After::End(last) => return last,
        }
    }
}

/// Lets each processor handle the interrupts that are pending: it does before it goes on with this
/// thread.
fn handle_what_is_pending() {
    let all = sched_getaffinity(None).expect("sched_getaffinity");
    for processor in (0..CpuSet::MAX_CPU).filter(|processor| all.is_set(*processor)) {
        let mut one = CpuSet::new();
        one.set(processor);
        sched_setaffinity(None, &one).expect("sched_setaffinity");
    }
    sched_setaffinity(None, &all).expect("sched_setaffinity");
}

fn a_million_rings_lose_nothing() {
    let device = Arc::new(Device::open());
    let map = Arc::new(device.map(0, 2 * PAGE));
    for vector in 0..vectors() {
        let progress = progress(&map, guest(), vector);
        progress.sent.store(0, SeqCst);
        progress
            .taken
            .iter()
            .for_each(|taken| taken.store(0, SeqCst));
        // Listens to every second vector for good.
        match vector % 2 {
            0 => device.settle(vector),
            _ => Device::open().settle(vector),
        };
    }
    let before: Vec<u64> = (0..vectors()).map(delivered).collect();
    let ends: Vec<_> = (0..vectors())
        .map(|_| Arc::new(AtomicU64::new(u64::MAX)))
        .collect();
    let waiters: Vec<_> = (0..)
        .zip(&ends)
        .map(|(vector, end)| receive(&map, vector, end))
        .collect();
    host::barrier("all listen");
    let senders: Vec<Worker<()>> = (0..vectors())
        .map(|vector| {
            let (file, map) = (device.clone(), map.clone());
            spawn(move || send(&file, &map, vector))
        })
        .collect();
    for sender in senders {
        sender.join_within(STORM);
    }
    // A batch may have been heard of before its last ring came. All rings are on their way at the
    // first of these, and QEMU has passed them on, as it does in turn, before it answers the other.
    host::barrier("all was sent");
    host::barrier("all was passed on");
    handle_what_is_pending();
    // One more ring is one more event, and then all must have seen as many as there were.
    for (vector, end) in (0..).zip(&ends) {
        end.store(delivered(vector) + 1, SeqCst);
        device.ring_self(vector);
    }
    for ((vector, waiters), before) in (0..).zip(waiters).zip(before) {
        let lasts = waiters.map(last_of);
        let count = delivered(vector);
        assert_eq!(lasts, [count; WAYS.len()], "vector {vector}");
        let came = count - before;
        let most = BATCHES * BATCH as u64 + 1;
        assert!((2..=most).contains(&came), "{came} of {most} deliveries");
    }
}

fn main() {
    guest::run(cases![a_million_rings_lose_nothing])
}
