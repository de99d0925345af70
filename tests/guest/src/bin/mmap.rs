// SPDX-License-Identifier: GPL-2.0

//! Mappings of the shared memory: which there are, and what is in them.

use std::ptr;
use std::sync::atomic::Ordering::SeqCst;

use guest::dev::{Device, NODE, PAGE, READ, WRITE};
use guest::task::{Ended, LIVES, fork, touch, write_to};
use guest::{cases, guest, host, scenario, size};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags};

const FAULT: Ended = Ended::Signal(libc::SIGSEGV);

/// A value that tells each word from all others.
fn mark(index: u64, round: u64) -> u64 {
    (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ round
}

fn the_whole_is_mapped() {
    let device = Device::open();
    let whole = device.map(0, size() as usize);
    let step = PAGE / 8;
    for (index, word) in whole.words().iter().enumerate().step_by(step) {
        word.store(mark(index as u64, 1), SeqCst);
    }
    for (index, word) in whole.words().iter().enumerate().step_by(step) {
        assert_eq!(word.load(SeqCst), mark(index as u64, 1), "at {index}");
    }
}

fn two_mappings_are_of_one_memory() {
    let (one, other) = (Device::open(), Device::open());
    let (one, other) = (one.map(0, size() as usize), other.map(0, size() as usize));
    for page in [0, 1, 511, 512, size() as usize / PAGE - 1] {
        let word = page * PAGE / 8 + page % 512;
        one.words()[word].store(mark(word as u64, 2), SeqCst);
        assert_eq!(other.words()[word].load(SeqCst), mark(word as u64, 2));
    }
}

fn a_part_begins_at_its_offset() {
    let device = Device::open();
    let whole = device.map(0, size() as usize);
    let parts = [
        (0, PAGE),
        (PAGE, PAGE),
        (PAGE, 4 * PAGE),
        ((2 << 20) - PAGE, 2 * PAGE),
        (2 << 20, 2 << 20),
        ((2 << 20) + PAGE, (4 << 20) + PAGE),
        (size() as usize - PAGE, PAGE),
    ];
    for (offset, len) in parts {
        let part = device.map(offset as u64, len);
        for page in 0..len / PAGE {
            let value = mark(page as u64, offset as u64);
            part.words()[page * PAGE / 8 + 7].store(value, SeqCst);
            let place = (offset + page * PAGE) / 8 + 7;
            assert_eq!(
                whole.words()[place].load(SeqCst),
                value,
                "{offset} {len} {page}"
            );
        }
    }
}

fn mappings_stay_when_the_file_is_closed() {
    let device = Device::open();
    let map = device.map(0, PAGE);
    drop(device);
    map.words()[3].store(33, SeqCst);
    assert_eq!(Device::open().map(0, PAGE).words()[3].load(SeqCst), 33);
}

fn what_is_beyond_the_end_is_refused() {
    let device = Device::open();
    let size = size() as usize;
    let page = PAGE as u64;
    let refused =
        |offset: u64, len: usize| match device.map_as(offset, len, WRITE, MapFlags::SHARED) {
            Ok(_) => panic!("{len} at {offset} were mapped"),
            Err(error) => error,
        };
    assert_eq!(refused(0, size + PAGE), Errno::INVAL);
    assert_eq!(refused(page, size), Errno::INVAL);
    assert_eq!(refused(size as u64, PAGE), Errno::INVAL);
    assert_eq!(refused(size as u64 - page, 2 * PAGE), Errno::INVAL);
    assert_eq!(refused(1 << 40, PAGE), Errno::INVAL);
    assert_eq!(refused((1 << 63) - page, 2 * PAGE), Errno::INVAL);
    assert_eq!(refused(u64::MAX - page + 1, PAGE), Errno::OVERFLOW);
    assert_eq!(refused(u64::MAX - page + 1, 2 * PAGE), Errno::OVERFLOW);
}

fn odd_offsets_and_no_length_are_refused() {
    let device = Device::open();
    for offset in [1, 8, 512, PAGE as u64 - 1, PAGE as u64 + 1] {
        let refused = device.map_as(offset, PAGE, WRITE, MapFlags::SHARED);
        assert_eq!(refused.err(), Some(Errno::INVAL), "{offset}");
    }
    let refused = device.map_as(0, 0, WRITE, MapFlags::SHARED);
    assert_eq!(refused.err(), Some(Errno::INVAL));
}

/// The memory is made of pages, whatever the length: a part of a page is the whole of it.
fn an_odd_length_is_rounded_up() {
    let device = Device::open();
    let map = device.map(0, PAGE + 1);
    map.words()[0].store(1, SeqCst);
    assert_eq!(touch(map.address() + 2 * PAGE - 1), LIVES);
}

fn a_private_writable_mapping_is_refused() {
    let device = Device::open();
    let refused = device.map_as(0, PAGE, WRITE, MapFlags::PRIVATE);
    assert_eq!(refused.err(), Some(Errno::INVAL));
}

fn a_private_read_only_mapping_stays_read_only() {
    let device = Device::open();
    let shared = device.map(0, PAGE);
    let private = device
        .map_as(0, PAGE, READ, MapFlags::PRIVATE)
        .expect("mmap");
    shared.words()[0].store(0x1234, SeqCst);
    assert_eq!(private.words()[0].load(SeqCst), 0x1234);
    shared.words()[0].store(0x5678, SeqCst);
    assert_eq!(private.words()[0].load(SeqCst), 0x5678, "it is no copy");
    let writable = MprotectFlags::READ | MprotectFlags::WRITE;
    assert_eq!(private.protect(writable), Err(Errno::ACCESS));
    assert_eq!(write_to(private.address(), 1), FAULT);
    assert_eq!(shared.words()[0].load(SeqCst), 0x5678);
}

fn who_may_only_read_maps_nothing_writable() {
    let device = Device::open();
    let reader = Device::open_as(NODE, OFlags::RDONLY).expect("a read-only open");
    let refused = reader.map_as(0, PAGE, WRITE, MapFlags::SHARED);
    assert_eq!(refused.err(), Some(Errno::ACCESS));
    let map = reader
        .map_as(0, PAGE, READ, MapFlags::SHARED)
        .expect("mmap");
    device.map(0, PAGE).words()[1].store(0x4321, SeqCst);
    assert_eq!(map.words()[1].load(SeqCst), 0x4321);
    let writable = MprotectFlags::READ | MprotectFlags::WRITE;
    assert_eq!(map.protect(writable), Err(Errno::ACCESS));
    assert_eq!(write_to(map.address(), 1), FAULT);
}

fn who_may_only_write_maps_nothing() {
    let writer = Device::open_as(NODE, OFlags::WRONLY).expect("a write-only open");
    let refused = writer.map_as(0, PAGE, WRITE, MapFlags::SHARED);
    assert_eq!(refused.err(), Some(Errno::ACCESS));
}

fn protection_can_be_changed_and_changed_back() {
    let device = Device::open();
    let map = device.map(0, 4 * PAGE);
    map.words()[0].store(5, SeqCst);
    map.protect(MprotectFlags::READ).expect("mprotect");
    assert_eq!(map.words()[0].load(SeqCst), 5);
    assert_eq!(write_to(map.address(), 1), FAULT);
    map.protect(MprotectFlags::empty()).expect("mprotect");
    assert_eq!(touch(map.address()), FAULT);
    map.protect(MprotectFlags::READ | MprotectFlags::WRITE)
        .expect("mprotect");
    assert_eq!(write_to(map.address(), 6), LIVES);
    assert_eq!(map.words()[0].load(SeqCst), 6);
}

fn a_mapping_may_lose_its_middle() {
    let device = Device::open();
    let map = device.map(0, 4 << 20);
    for word in map.words().iter().step_by(PAGE / 8) {
        word.store(9, SeqCst);
    }
    map.unmap_part((2 << 20) - PAGE, 2 * PAGE).expect("munmap");
    assert_eq!(touch(map.address() + (2 << 20)), FAULT);
    assert_eq!(touch(map.address() + (2 << 20) - PAGE - 1), LIVES);
    assert_eq!(touch(map.address() + (2 << 20) + PAGE), LIVES);
    assert_eq!(map.words()[0].load(SeqCst), 9);
}

fn a_mapping_moves_but_does_not_grow() {
    let device = Device::open();
    let map = device.map(0, 4 * PAGE);
    map.words()[2 * PAGE / 8].store(0xabc, SeqCst);
    let (old, len) = (map.leak() as *mut _, 4 * PAGE);
    let moves = rustix::mm::MremapFlags::MAYMOVE;
    // SAFETY: Nobody refers to the mapping.
    let grown = unsafe { rustix::mm::mremap(old, len, 2 * len, moves) };
    assert_eq!(grown.err(), Some(Errno::FAULT));
    // SAFETY: As above.
    let new = unsafe { rustix::mm::mremap(old, len, 3 * PAGE, moves) }.expect("it may shrink");
    let word = new.wrapping_byte_add(2 * PAGE).cast::<u64>();
    // SAFETY: It is in the mapping, and aligned.
    assert_eq!(unsafe { ptr::read_volatile(word) }, 0xabc);
    // SAFETY: Nobody refers to the mapping.
    unsafe { rustix::mm::munmap(new, 3 * PAGE) }.expect("munmap");
}

fn two_processes_see_each_other() {
    let device = Device::open();
    let map = device.map(0, PAGE);
    let [there, back] = [&map.words()[10], &map.words()[11]];
    there.store(1, SeqCst);
    let seen = device.settle(0);
    let child = fork(|| {
        // With a mapping of its own as well as with the one that it has from its parent.
        let own = Device::open();
        let mine = own.map(0, PAGE);
        assert_eq!(mine.words()[10].load(SeqCst), 1);
        assert_eq!(there.load(SeqCst), 1);
        back.store(2, SeqCst);
        mine.words()[12].store(3, SeqCst);
        own.ring_self(0);
    });
    device.moved(0, seen);
    assert_eq!(back.load(SeqCst), 2);
    assert_eq!(map.words()[12].load(SeqCst), 3);
    assert_eq!(child.wait(), LIVES);
}

fn the_kernel_reads_and_writes_it() {
    let device = Device::open();
    let map = device.map(0, PAGE);
    let (input, output) = rustix::pipe::pipe().expect("pipe");
    for (index, byte) in map.bytes().iter().enumerate() {
        byte.store(index as u8 ^ 0x3c, SeqCst);
    }
    // SAFETY: The mapping is that long; what others write to it meanwhile does not matter here.
    let bytes = unsafe { std::slice::from_raw_parts(map.address() as *const u8, PAGE) };
    assert_eq!(rustix::io::write(&output, bytes), Ok(PAGE));
    let mut copy = [0; PAGE];
    assert_eq!(rustix::io::read(&input, &mut copy), Ok(PAGE));
    assert!(
        copy.iter()
            .enumerate()
            .all(|(index, byte)| *byte == index as u8 ^ 0x3c)
    );
}

/// The first megabyte, from one guest to the other and back.
fn two_guests_share_a_megabyte() {
    let device = Device::open();
    let map = device.map(0, 1 << 20);
    for (round, writer) in (0..).zip([0, 1]) {
        if guest() == writer {
            for (index, word) in (0..).zip(map.words()) {
                word.store(mark(index, round), SeqCst);
            }
        }
        host::barrier(&format!("written by {writer}"));
        for (index, word) in (0..).zip(map.words()) {
            assert_eq!(word.load(SeqCst), mark(index, round), "word {index}");
        }
        host::barrier(&format!("read by all from {writer}"));
    }
}

/// Which stretch of the memory a byte is in. Each is as long as all that come before it, so that
/// what belongs near the beginning is told apart by the byte.
fn stretch(offset: usize) -> u8 {
    (usize::BITS - offset.leading_zeros()) as u8
}

/// All of it, in words: both see what the host writes, and the host what one of them writes.
fn the_host_has_the_same_memory() {
    let device = Device::open();
    let size = size() as usize;
    let map = device.map(0, size);
    if guest() == 0 {
        host::peer("join");
        host::peer(&format!("fill 0 {size} {}", 0x42));
    }
    host::barrier("written by the host");
    for (index, word) in map.words().iter().enumerate() {
        let seen = word.load(SeqCst).to_ne_bytes();
        assert_eq!(seen, [0x42; 8], "word {index}");
    }
    host::barrier("read by both");
    if guest() == 0 {
        for (index, word) in map.words().iter().enumerate() {
            let bytes = std::array::from_fn(|byte| stretch(8 * index + byte));
            word.store(u64::from_ne_bytes(bytes), SeqCst);
        }
        host::peer(&format!("check 0 1 {}", stretch(0)));
        for start in (0..size.ilog2()).map(|bit| 1 << bit) {
            host::peer(&format!("check {start} {start} {}", stretch(start)));
        }
        host::peer("leave");
    }
    host::barrier("read by the host");
}

/// What one writes before a ring the other reads after it, without any barrier of ours.
fn a_ring_is_a_barrier() {
    let device = Device::open();
    let map = device.map(0, PAGE);
    let [data, back] = [&map.words()[0], &map.words()[64]];
    let peer = 1 - guest() as u32;
    let mut seen = device.settle(0);
    host::barrier("both listen");
    for round in 1..=guest::scaled(200) {
        if guest() == 0 {
            data.store(mark(round, 0), SeqCst);
            device.ring(peer, 0).expect("DOORBELL");
            seen = device.moved(0, seen);
            assert_eq!(back.load(SeqCst), mark(round, 1), "round {round}");
        } else {
            seen = device.moved(0, seen);
            assert_eq!(data.load(SeqCst), mark(round, 0), "round {round}");
            back.store(mark(round, 1), SeqCst);
            device.ring(peer, 0).expect("DOORBELL");
        }
    }
    host::barrier("done");
}

fn main() {
    match scenario().as_str() {
        "pair" => guest::run(cases![
            two_guests_share_a_megabyte,
            the_host_has_the_same_memory,
            a_ring_is_a_barrier,
        ]),
        _ => guest::run(cases![
            the_whole_is_mapped,
            two_mappings_are_of_one_memory,
            a_part_begins_at_its_offset,
            mappings_stay_when_the_file_is_closed,
            what_is_beyond_the_end_is_refused,
            odd_offsets_and_no_length_are_refused,
            an_odd_length_is_rounded_up,
            a_private_writable_mapping_is_refused,
            a_private_read_only_mapping_stays_read_only,
            who_may_only_read_maps_nothing_writable,
            who_may_only_write_maps_nothing,
            protection_can_be_changed_and_changed_back,
            a_mapping_may_lose_its_middle,
            a_mapping_moves_but_does_not_grow,
            two_processes_see_each_other,
            the_kernel_reads_and_writes_it,
        ]),
    }
}
