// SPDX-License-Identifier: GPL-2.0

//! Two guests and one memory: the same data in every page, and atomic operations that are.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use guest::dev::{Device, Map, PAGE};
use guest::{cases, guest, host, scaled, size};

const WORDS: usize = PAGE / 8;

/// Three words of each page: the first, the last, and one in between that moves.
fn places(map: &Map) -> impl Iterator<Item = (usize, &AtomicU64)> {
    let words = map.words();
    (0..words.len() / WORDS).flat_map(move |page| {
        let between = 1 + page % (WORDS - 2);
        [0, between, WORDS - 1]
            .map(|word| page * WORDS + word)
            .map(|at| (at, &words[at]))
    })
}

fn value(at: usize, writer: u64) -> u64 {
    (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ writer
}

fn every_page_is_the_same() {
    let device = Device::open();
    let map = device.map(0, size() as usize);
    for writer in 0..2 {
        if guest() == writer {
            for (at, word) in places(&map) {
                word.store(value(at, writer as u64), SeqCst);
            }
        }
        host::barrier(&format!("written by {writer}"));
        if guest() != writer {
            for (at, word) in places(&map) {
                assert_eq!(word.load(SeqCst), value(at, writer as u64), "word {at}");
            }
        }
        host::barrier(&format!("read after {writer}"));
    }
}

fn additions_add_up() {
    let device = Device::open();
    let map = device.map(0, PAGE);
    let sum = &map.words()[0];
    let number = scaled(1_000_000);
    if guest() == 0 {
        sum.store(0, SeqCst);
    }
    host::barrier("zero");
    let mut last = None;
    for _ in 0..number {
        let before = sum.fetch_add(1, SeqCst);
        assert!(last.is_none_or(|last| before > last), "it only grows");
        last = Some(before);
    }
    host::barrier("added");
    assert_eq!(sum.load(SeqCst), 2 * number);
    host::barrier("seen");
}

fn exchanges_are_of_one_at_a_time() {
    let device = Device::open();
    let map = device.map(size() - PAGE as u64, PAGE);
    let [lock, protected] = [&map.words()[0], &map.words()[64]];
    let number = scaled(200_000);
    if guest() == 0 {
        lock.store(0, SeqCst);
        protected.store(0, SeqCst);
    }
    host::barrier("zero");
    for _ in 0..number {
        while lock.compare_exchange_weak(0, 1, SeqCst, SeqCst).is_err() {
            std::hint::spin_loop();
        }
        // Not one operation: only the lock makes it so.
        let now = protected.load(SeqCst);
        protected.store(now + 1, SeqCst);
        lock.store(0, SeqCst);
    }
    host::barrier("counted");
    assert_eq!(protected.load(SeqCst), 2 * number);
    host::barrier("seen");
}

fn main() {
    guest::run(cases![
        every_page_is_the_same,
        additions_add_up,
        exchanges_are_of_one_at_a_time,
    ])
}
