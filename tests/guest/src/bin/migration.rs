// SPDX-License-Identifier: GPL-2.0

//! The guest moves to another QEMU, as to another host.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use guest::abi::*;
use guest::dev::{Device, INFINITE, Map, PAGE};
use guest::model::{names, new_device, open};
use guest::task::{DIES, LIVES, fork, spawn, touch, until};
use guest::{cases, host, pci, scenario, size, vectors};
use rustix::io::Errno;

/// The words of the memory that are counted up; the rest is a pattern.
const COUNTERS: usize = 8 * PAGE / size_of::<u64>();

/// Which of them tells everybody to stop.
const STOP: usize = 0;

fn mark(index: usize) -> u64 {
    (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x55aa
}

#[track_caller]
fn fill(map: &Map) {
    for (index, word) in map.words().iter().enumerate().skip(COUNTERS) {
        word.store(mark(index), SeqCst);
    }
}

#[track_caller]
fn is_filled(map: &Map) {
    for (index, word) in map.words().iter().enumerate().skip(COUNTERS) {
        assert_eq!(word.load(SeqCst), mark(index), "word {index}");
    }
}

/// Counts up a word that nobody else writes, each time from what it finds there, until told to stop.
fn count(words: &[AtomicU64], word: usize) {
    let mut added = 0;
    while words[STOP].load(SeqCst) == 0 {
        let found = words[word].fetch_add(1, SeqCst);
        assert_eq!(found, added, "as if it had gone elsewhere");
        added += 1;
    }
}

/// Everything in the memory, while a thread and another process write to it, each to its own page.
fn migrate_in_use(device: &Device) {
    let map = device.map(0, size() as usize);
    map.words()[..COUNTERS]
        .iter()
        .for_each(|word| word.store(0, SeqCst));
    fill(&map);
    let [of_thread, of_process] = [1, 2].map(|page| page * PAGE / size_of::<u64>());
    let counting = device.map(0, 8 * PAGE);
    let thread = spawn(move || count(counting.words(), of_thread));
    let process = fork(|| {
        let device = Device::open();
        count(device.map(0, 8 * PAGE).words(), of_process);
    });
    let both_go_on = |when: &str| {
        for word in [of_thread, of_process] {
            let before = map.words()[word].load(SeqCst);
            until(when, || map.words()[word].load(SeqCst) > before);
        }
    };
    both_go_on("before");
    let mapped = device.mapping(map.address()).expect("MAPPING");
    host::must("migrate");
    both_go_on("after");
    is_filled(&map);
    map.words()[STOP].store(1, SeqCst);
    thread.join();
    assert_eq!(process.wait(), LIVES);
    assert_eq!(device.mapping(map.address()), Ok(mapped));
}

/// Nothing tells of it, because nothing is another: there is no event, and INFO is as before.
fn a_plain_device_comes_along() {
    let device = Device::open();
    let before = device.info();
    migrate_in_use(&device);
    assert_eq!(device.info(), before);
    assert_eq!(device.count(IVSHMEM_VECTOR_STATE), before.generation);
}

/// The first client of the server there, so that the ID is the same as well.
fn a_master_with_interrupts_comes_along() {
    let device = Arc::new(Device::open());
    let before = device.info();
    let seen = device.settle(0);
    let sleeper = {
        let device = device.clone();
        spawn(move || device.wait(0, seen, INFINITE))
    };
    sleeper.asleep();
    host::server("stop");
    host::server("start");
    migrate_in_use(&device);
    assert_eq!(device.info(), before);
    assert_eq!(device.count(IVSHMEM_VECTOR_STATE), before.generation);
    // Those who listened still do, and are reached from there.
    host::peer("join");
    host::peer(&format!("ring {} 0", before.ivposition));
    assert_eq!(sleeper.join(), Ok(seen + 1));
    for vector in 0..vectors() {
        device.settle(vector);
    }
}

/// It would have another ID there and other memory, so it must not be plugged meanwhile.
fn a_plugged_peer_is_not_migrated() {
    let error = host::ask("migrate").expect_err("an error");
    let reason = "Migration is disabled when using feature 'peer mode' in device 'ivshmem'";
    assert!(error.contains(reason), "{error}");
    for pci in pci::devices() {
        let device = open(&pci);
        device.map(0, PAGE).words()[0].store(1, SeqCst);
        if device.info().vectors > 0 {
            device.settle(0);
        }
    }
}

/// The old device is gone for those who had it open; the one there has another ID and other memory.
fn a_doorbell_is_unplugged_and_plugged_there() {
    let old = Arc::new(Device::open());
    let map = old.map(0, PAGE);
    map.words()[0].store(1, SeqCst);
    let seen = old.settle(0);
    let sleeper = {
        let old = old.clone();
        spawn(move || old.wait(0, seen, INFINITE))
    };
    sleeper.asleep();
    let id = old.ivposition().expect("IVPOSITION");
    host::device_del("ivshmem0");
    host::server("stop");
    host::server("start");
    host::must("migrate");
    assert_eq!(sleeper.join(), Err(Errno::NODEV));
    assert_eq!(touch(map.address()), DIES);

    let peer: u32 = host::peer("join").parse().expect("an ID");
    let before = names();
    host::plug_doorbell("rp0");
    let pci = new_device(&before);
    until("the driver binds", || pci.node().is_some());
    let new = open(&pci);
    assert_eq!(old.try_info().err(), Some(Errno::NODEV));
    assert_ne!(new.ivposition(), Ok(id));
    assert_eq!(new.map(0, PAGE).words()[0].load(SeqCst), 0);
    let seen = new.settle(1);
    host::peer(&format!("ring {} 1", new.info().ivposition));
    new.moved(1, seen);
    new.ring(peer, 1).expect("DOORBELL");
    assert_ne!(host::peer("wait 1"), "0");
}

fn main() {
    match scenario().as_str() {
        "plain" => guest::run(cases![a_plain_device_comes_along]),
        "master" => guest::run(cases![a_master_with_interrupts_comes_along]),
        "refused" => guest::run(cases![a_plugged_peer_is_not_migrated]),
        _ => guest::run(cases![a_doorbell_is_unplugged_and_plugged_there]),
    }
}
