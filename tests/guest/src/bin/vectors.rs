// SPDX-License-Identifier: GPL-2.0

//! More vectors than the system has interrupts: each can be used, and one costs an interrupt only
//! while somebody listens to it.

use std::fs;

use guest::abi::*;
use guest::dev::{Device, LONG, SHORT};
use guest::pci::{Bar, Pci};
use guest::task::until;
use guest::{cases, guests, host, vectors};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

/// Vectors that QEMU can be told to ring by the register.
const RING_VECTORS: u32 = 256;

/// The vectors that have a line in `/proc/interrupts`.
fn requested() -> Vec<u32> {
    let text = fs::read_to_string("/proc/interrupts").expect("procfs");
    let names = text
        .lines()
        .filter_map(|line| line.split_whitespace().last());
    let vectors = names.filter_map(|name| name.strip_prefix("ivshmem0-"));
    vectors
        .map(|vector| vector.parse().expect("a vector"))
        .collect()
}

/// The vectors that the device may interrupt by: those whose entry in the MSI-X table is not masked.
fn unmasked(table: &Bar) -> Vec<u32> {
    const ENTRY: usize = 16;
    const CONTROL: usize = 12;
    (0..vectors())
        .filter(|vector| table.read(*vector as usize * ENTRY + CONTROL) & 1 == 0)
        .collect()
}

/// The numbers of the interrupts of a vector, one for each processor, and that of its interrupt.
fn handled(vector: u32) -> (u32, Vec<u64>) {
    let text = fs::read_to_string("/proc/interrupts").expect("procfs");
    let name = format!("ivshmem0-{vector}");
    let line = text
        .lines()
        .find(|line| line.split_whitespace().last() == Some(&name))
        .expect("a line");
    let (interrupt, rest) = line.split_once(':').expect("a number");
    let numbers = rest.split_whitespace().map_while(|word| word.parse().ok());
    (
        interrupt.trim().parse().expect("a number"),
        numbers.collect(),
    )
}

/// Has a vector rung, by the peer on the host if this guest cannot.
fn ring(device: &Device, vector: u32) {
    if vector < RING_VECTORS {
        device.ring_self(vector);
    } else {
        host::peer(&format!("ring {} {vector}", device.info().ivposition));
    }
}

fn all_of_them_are_there() {
    let info = Device::open().info();
    assert_eq!(info.vectors, vectors());
    assert_eq!(info.ring_vectors, RING_VECTORS);
    assert_eq!(guests(), 1);
    assert!(requested().is_empty(), "nobody listens yet");
    host::peer("join");
}

/// To be unmasked is to be listened to: under KVM, QEMU aborts when a guest unmasks a vector for
/// which the server has sent no eventfd.
fn what_nobody_listens_to_is_masked() {
    let table = Bar::new(&Pci::of("ivshmem0"), 1);
    assert_eq!(unmasked(&table), [], "the module was loaded, and no more");
    let device = Device::open();
    device.info();
    assert_eq!(unmasked(&table), [], "nor is an open file a listener");
    for vector in [0, 1, 255, 256, 2047] {
        device.count(vector);
        assert_eq!(unmasked(&table), [vector]);
        device.unsubscribe(&[vector]).expect("SUBSCRIBE");
        assert_eq!(unmasked(&table), []);
    }
    device.subscribe(&[3, 1000]).expect("SUBSCRIBE");
    assert_eq!(unmasked(&table), [3, 1000]);
    drop(device);
    assert_eq!(unmasked(&table), []);
}

fn works(vectors: impl Iterator<Item = u32>) {
    let device = Device::open();
    for vector in vectors {
        let seen = device.count(vector);
        ring(&device, vector);
        let count = device.wait(vector, seen, LONG);
        assert_eq!(count, Ok(seen + 1), "vector {vector}");
        device.unsubscribe(&[vector]).expect("SUBSCRIBE");
    }
}

fn each_of_them_works() {
    works(0..vectors());
    let device = Device::open();
    for vector in [2048, 2049] {
        assert_eq!(device.wait(vector, 0, 0), Err(Errno::INVAL));
    }
    assert_eq!(
        device.ring(0, RING_VECTORS),
        Err(Errno::INVAL),
        "it would ring another"
    );
}

fn who_listens_can_be_seen() {
    let device = Device::open();
    assert!(requested().is_empty());
    device.count(5);
    assert_eq!(requested(), [5]);
    device.subscribe(&[2000, 7]).expect("SUBSCRIBE");
    let fd = eventfd(0, EventfdFlags::CLOEXEC).expect("eventfd");
    device.attach(9, &fd).expect("EVENTFD");
    let sorted = || {
        let mut vectors = requested();
        vectors.sort();
        vectors
    };
    assert_eq!(sorted(), [5, 7, 9, 2000]);
    // Another listener is another reason for the same interrupt.
    let other = Device::open();
    other.count(5);
    device.unsubscribe(&[5, 2000]).expect("SUBSCRIBE");
    assert_eq!(sorted(), [5, 7, 9]);
    drop(other);
    assert_eq!(sorted(), [7, 9]);
    device.detach(9, &fd).expect("EVENTFD");
    assert_eq!(requested(), [7]);
    // Listening twice and ending it once is to listen.
    device.count(7);
    device.attach(7, &fd).expect("EVENTFD");
    device.detach(7, &fd).expect("EVENTFD");
    assert_eq!(requested(), [7]);
    drop(device);
    assert!(
        requested().is_empty(),
        "with the last user the last one goes"
    );
}

fn waiting_in_a_loop_requests_nothing_anew() {
    let device = Device::open();
    let seen = device.settle(3);
    let before = handled(3);
    for _ in 0..100 {
        assert_eq!(device.wait(3, seen, 1), Err(Errno::TIMEDOUT));
    }
    assert_eq!(handled(3), before);
    assert_eq!(requested(), [3]);
}

/// Rings that come while nobody listens must not hurt; who listens afterwards hears what comes.
fn rings_that_nobody_hears_do_no_harm() {
    let device = Device::open();
    for vector in [0, 11, 255] {
        device.ring_self(vector);
        device.ring_self(vector);
        let seen = device.settle(vector);
        device.ring_self(vector);
        device.moved(vector, seen);
    }
}

/// Where a vector interrupts is for the user to say.
fn a_processor_can_be_chosen() {
    const RINGS: u64 = 5;
    let device = Device::open();
    let vector = 6;
    let mut seen = device.settle(vector);
    let mut ring = || {
        device.ring_self(vector);
        seen = device.moved(vector, seen);
    };
    let (interrupt, processors) = handled(vector);
    assert_eq!(processors.len(), 2);
    for chosen in [1, 0, 1] {
        let path = format!("/proc/irq/{interrupt}/smp_affinity_list");
        fs::write(&path, format!("{chosen}\n")).expect("it is the user's");
        let text = fs::read_to_string(&path).expect("procfs");
        assert_eq!(text.trim(), chosen.to_string());
        // The kernel moves it at one of the next interrupts.
        let before = handled(vector).1[chosen];
        until("it interrupts there", || {
            ring();
            handled(vector).1[chosen] > before
        });
        let (_, mut expected) = handled(vector);
        for _ in 0..RINGS {
            ring();
        }
        expected[chosen] += RINGS;
        assert_eq!(handled(vector), (interrupt, expected), "to {chosen}");
    }
}

fn a_hundred_and_fifty_at_once_work() {
    let device = Device::open();
    let listened: Vec<u32> = (0..150).collect();
    device.subscribe(&listened).expect("SUBSCRIBE");
    assert_eq!(requested().len(), 150);
    let rings: Vec<_> = listened
        .iter()
        .map(|vector| ivshmem_doorbell {
            peer: device.info().ivposition as u32,
            vector: *vector,
        })
        .collect();
    assert_eq!(device.ring_many(&rings), Ok(150));
    let mut heard = Vec::new();
    while heard.len() < 150 {
        let readable = device.ready_within(LONG).expect("poll");
        assert!(!readable.is_empty(), "{} were heard", heard.len());
        heard.extend(
            device
                .read(64)
                .expect("read")
                .iter()
                .map(|event| event.vector),
        );
    }
    heard.sort();
    assert_eq!(heard, listened);
}

/// The one too many is refused, and only it: the others go on, and when one leaves there is room.
fn the_one_too_many_is_refused() {
    let device = Device::open();
    let other = Device::open();
    let before = other.settle(0);
    let mut listened = 0;
    let refused = loop {
        match device.wait(listened, u64::MAX, 0) {
            Ok(_) => listened += 1,
            Err(error) => break error,
        }
        assert!(listened < vectors(), "the system has interrupts for all");
    };
    assert_eq!(refused, Errno::NOSPC);
    assert!(listened > 150, "{listened}");
    let fd = eventfd(0, EventfdFlags::CLOEXEC).expect("eventfd");
    let last = vectors() - 1;
    for attempt in 0..2 {
        assert_eq!(device.wait(last, 0, LONG), Err(Errno::NOSPC), "{attempt}");
        assert_eq!(other.subscribe(&[last]), Err(Errno::NOSPC));
        assert_eq!(other.attach(last, &fd), Err(Errno::NOSPC));
        // Though there is something to tell of the first.
        let mut set = [0, last].map(|vector| ivshmem_event {
            vector,
            reserved: 0,
            count: u64::MAX,
        });
        assert_eq!(other.waits(&mut set, LONG), Err(Errno::NOSPC));
        assert_eq!(set[0].count, u64::MAX);
        assert_eq!(other.waits(&mut set[1..], 0), Err(Errno::NOSPC));
    }
    // All of a call or nothing: the first of the set is listened to by others already.
    assert_eq!(other.subscribe(&[1, last]), Err(Errno::NOSPC));
    assert_eq!(other.read(1), Err(Errno::INVAL), "nothing is subscribed to");
    for vector in [0, 1, listened / 2, (listened - 1).min(RING_VECTORS - 1)] {
        let seen = device.count(vector);
        device.ring_self(vector);
        assert_eq!(device.moved(vector, seen), seen + 1, "vector {vector}");
    }
    assert_eq!(other.moved(0, before), before + 1);
    device.unsubscribe(&[3]).expect("SUBSCRIBE");
    assert_eq!(other.subscribe(&[last]), Ok(()));
    assert!(other.ready_within(SHORT).expect("poll").is_empty());
    host::peer(&format!("ring {} {last}", device.info().ivposition));
    assert!(!other.ready_within(LONG).expect("poll").is_empty());
    assert_eq!(other.read(1).expect("read")[0].vector, last);
    drop((device, other));
    until("all of them are free", || requested().is_empty());
}

fn afterwards_all_is_as_before() {
    what_nobody_listens_to_is_masked();
    works((0..vectors()).step_by(50));
    host::peer("leave");
}

fn main() {
    guest::run(cases![
        all_of_them_are_there,
        what_nobody_listens_to_is_masked,
        each_of_them_works,
        who_listens_can_be_seen,
        waiting_in_a_loop_requests_nothing_anew,
        rings_that_nobody_hears_do_no_harm,
        a_processor_can_be_chosen,
        a_hundred_and_fifty_at_once_work,
        the_one_too_many_is_refused,
        afterwards_all_is_as_before,
    ])
}
