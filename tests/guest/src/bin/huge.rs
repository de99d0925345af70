// SPDX-License-Identifier: GPL-2.0

//! Large memory: large leaves where they can be, few faults, and no surprise for whoever cuts a
//! mapping to pieces.

use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;
use std::ptr;
use std::sync::atomic::Ordering::SeqCst;

use guest::dev::{Device, Map, PAGE, READ, WRITE};
use guest::pci::Pci;
use guest::task::{Debugged, Ended, LIVES, core_of, fork, status, touch, write_to};
use guest::{Case, cases, scenario, size};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

const HUGE: usize = 2 << 20;
const GIB: u64 = 1 << 30;

fn len() -> usize {
    size() as usize
}

/// The size of the leaves of a mapping where they can be large.
fn leaf() -> usize {
    if scenario().starts_with("above") {
        HUGE
    } else {
        PAGE
    }
}

/// The page faults of this process until now.
fn faults() -> i64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: There is room for what the call writes.
    let done = unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
    assert_eq!(done, 0);
    // SAFETY: All zeroes are a valid value, and so is what the call has written.
    unsafe { usage.assume_init() }.ru_minflt
}

#[track_caller]
fn leaf_at(device: &Device, address: usize) -> usize {
    device.mapping(address).expect("MAPPING").page_size as usize
}

/// Writes to each page.
fn touch_all(map: &Map) {
    for word in map.words().iter().step_by(PAGE / 8) {
        word.store(1, SeqCst);
    }
}

fn touching_all_of_it_is_cheap() {
    let device = Device::open();
    // The program's own pages, and what its own faults are without those.
    touch_all(&device.map(0, PAGE));
    let before = faults();
    touch_all(&device.map(0, PAGE));
    assert_eq!(faults() - before, 1);
    let map = device.map(0, len());
    let (tables, resident, before) = (status("VmPTE"), status("VmRSS"), faults());
    touch_all(&map);
    let touched = faults();
    touch_all(&map);
    let again = faults() - touched;
    // One for each 2 MiB.
    assert_eq!(touched - before, (len() / HUGE) as i64);
    assert_eq!(again, 0);
    let (tables, resident) = (status("VmPTE") - tables, status("VmRSS") - resident);
    if leaf() == HUGE {
        // One table for each GiB.
        assert!(
            tables <= 4 + 4 * size().div_ceil(GIB),
            "{tables} KiB of page tables"
        );
    }
    assert!(
        resident < 1024,
        "it is no memory of this process: {resident} KiB"
    );
    for address in [
        map.address(),
        map.address() + len() / 2,
        map.address() + len() - 1,
    ] {
        assert_eq!(leaf_at(&device, address), leaf());
    }
}

fn reading_first_does_not_make_leaves_small() {
    let device = Device::open();
    let map = device.map(0, 2 * HUGE);
    assert_eq!(map.words()[0].load(SeqCst), 1);
    map.words()[0].store(1, SeqCst);
    assert_eq!(leaf_at(&device, map.address()), leaf());
    assert_eq!(leaf_at(&device, map.address() + HUGE), 0, "not touched yet");
}

#[track_caller]
fn mark(map: &Map) {
    for (index, word) in map.words().iter().enumerate().step_by(PAGE / 8) {
        word.store(index as u64, SeqCst);
    }
}

/// A leaf of 1 GiB, which processors have, does not survive what the kernel does to it here.
fn a_gib_is_never_one_leaf() {
    let device = Device::open();
    let gib = GIB as usize;
    // SAFETY: The kernel chooses an address where nothing is.
    let space = unsafe {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        mmap_anonymous(ptr::null_mut(), 4 * gib, ProtFlags::empty(), flags)
    };
    let space = space.expect("mmap") as usize;
    let [first, second] = [1, 2].map(|number| space.next_multiple_of(gib) + (number - 1) * gib);
    let pci = Pci::of("ivshmem0");
    // The last of the memory, which may be the first as well.
    let offset = size() - GIB;
    assert_eq!((pci.bar_address(2) + offset) % GIB, 0);
    // The program's own pages.
    mark(&device.map(0, PAGE));
    // SAFETY: Nobody refers to this space.
    let map = unsafe { device.map_at(first, offset, gib) };
    let leaves = |from: usize, expected: usize| {
        for place in [0, HUGE - 1, gib / 2 - 1, gib - HUGE, gib - 1] {
            assert_eq!(leaf_at(&device, from + place), expected, "{place:#x}");
        }
    };
    let before = faults();
    mark(&map);
    assert_eq!(faults() - before, (gib / HUGE) as i64);
    leaves(first, HUGE);

    // SAFETY: Nobody refers to this space.
    let map = unsafe { map.move_to(second) };
    assert_eq!(touch(first), Ended::Signal(libc::SIGSEGV));
    check_marks(&map, 0);
    leaves(second, HUGE);

    let page = second + gib / 2 + 7 * PAGE;
    let protect = |flags: MprotectFlags| {
        let page = ptr::without_provenance_mut(page);
        // SAFETY: Only children touch this page while it is protected.
        unsafe { mprotect(page, PAGE, flags) }.expect("mprotect")
    };
    protect(MprotectFlags::READ);
    assert_eq!(write_to(page, 1), Ended::Signal(libc::SIGSEGV));
    assert_eq!(touch(page), LIVES);
    protect(MprotectFlags::READ | MprotectFlags::WRITE);
    check_marks(&map, 0);
    assert_eq!(leaf_at(&device, page), PAGE);
    leaves(second, HUGE);

    drop(map);
    assert_eq!(touch(second), Ended::Signal(libc::SIGSEGV));
    // SAFETY: Nobody refers to it.
    unsafe { munmap(ptr::without_provenance_mut(space), 4 * gib) }.expect("munmap");
}

/// Whether a mapping, from this offset of the memory on, shows what was marked there.
#[track_caller]
fn check_marks(map: &Map, offset: usize) {
    for (index, word) in map.words().iter().enumerate().step_by(PAGE / 8) {
        let expected = (offset / 8 + index) as u64;
        assert_eq!(
            word.load(SeqCst),
            expected,
            "{offset:#x} + {index:#x} words"
        );
    }
}

fn any_offset_shows_its_part() {
    let device = Device::open();
    mark(&device.map(0, 8 * HUGE));
    for (offset, len) in [
        (PAGE, 4 * HUGE),
        (HUGE - PAGE, 2 * HUGE),
        (HUGE, HUGE),
        (HUGE + PAGE, HUGE - PAGE),
        (3 * PAGE, HUGE),
    ] {
        check_marks(&device.map(offset as u64, len), offset);
    }
}

/// An address that does not suit the offset has small leaves.
fn an_odd_address_falls_back() {
    let device = Device::open();
    mark(&device.map(0, 4 * HUGE));
    let space = device.map(0, 8 * HUGE);
    let start = space.address().next_multiple_of(HUGE) + PAGE;
    // SAFETY: It replaces a part of a mapping that nobody refers to.
    unsafe { device.map_at(start, 0, 4 * HUGE) }.leak();
    for page in 0..4 * HUGE / PAGE {
        let word = (start + page * PAGE) as *const u64;
        // SAFETY: It is in the mapping, and aligned.
        let value = unsafe { ptr::read_volatile(word) };
        assert_eq!(value, (page * PAGE / 8) as u64, "page {page}");
        assert_eq!(leaf_at(&device, word as usize), PAGE);
    }
}

fn a_page_in_the_middle_may_be_protected() {
    let device = Device::open();
    let map = device.map(0, 4 * HUGE);
    mark(&map);
    let page = map.address() + HUGE + 5 * PAGE;
    let protect = |flags: MprotectFlags| {
        // SAFETY: Only children touch this page while it is protected.
        unsafe { rustix::mm::mprotect(page as *mut _, PAGE, flags) }.expect("mprotect")
    };
    protect(MprotectFlags::empty());
    assert_eq!(touch(page), Ended::Signal(libc::SIGSEGV));
    assert_eq!(touch(page - 1), LIVES);
    assert_eq!(touch(page + PAGE), LIVES);
    protect(MprotectFlags::READ | MprotectFlags::WRITE);
    check_marks(&map, 0);
    assert_eq!(
        leaf_at(&device, map.address()),
        leaf(),
        "the others are as they were"
    );
    assert_eq!(leaf_at(&device, page), PAGE);
}

fn a_part_of_a_leaf_may_be_unmapped() {
    let device = Device::open();
    let map = device.map(0, 4 * HUGE);
    mark(&map);
    map.unmap_part(HUGE + PAGE, PAGE).expect("munmap");
    assert_eq!(
        touch(map.address() + HUGE + PAGE),
        Ended::Signal(libc::SIGSEGV)
    );
    for offset in [0, HUGE, HUGE + 2 * PAGE, 2 * HUGE, 4 * HUGE - 8] {
        assert_eq!(touch(map.address() + offset), LIVES, "{offset:#x}");
    }
    assert_eq!(map.words()[HUGE / 8].load(SeqCst), (HUGE / 8) as u64);
}

fn a_mapping_may_move() {
    let device = Device::open();
    for shift in [0, PAGE] {
        let map = device.map(0, 4 * HUGE);
        mark(&map);
        let space = device.map(0, 8 * HUGE);
        let target = space.address().next_multiple_of(HUGE) + shift;
        let old = map.address();
        // SAFETY: Nobody refers to either mapping.
        unsafe { map.move_to(target) }.leak();
        for page in 0..4 * HUGE / PAGE {
            let word = (target + page * PAGE) as *const u64;
            // SAFETY: It is in the mapping, and aligned.
            let value = unsafe { ptr::read_volatile(word) };
            assert_eq!(value, (page * PAGE / 8) as u64);
        }
        assert_eq!(touch(old), Ended::Signal(libc::SIGSEGV));
    }
}

fn a_child_sees_and_changes_the_same() {
    let device = Device::open();
    let map = device.map(0, 4 * HUGE);
    mark(&map);
    let child = fork(|| {
        check_marks(&map, 0);
        map.words()[HUGE / 8].store(42, SeqCst);
        map.unmap_part(0, HUGE).expect("munmap");
    });
    assert_eq!(child.wait(), LIVES);
    assert_eq!(map.words()[HUGE / 8].load(SeqCst), 42);
    map.words()[HUGE / 8].store((HUGE / 8) as u64, SeqCst);
    check_marks(&map, 0);
}

fn advice_is_taken_or_refused_as_for_any_device() {
    let device = Device::open();
    let map = device.map(0, 4 * HUGE);
    mark(&map);
    let advise = |advice| {
        // SAFETY: The mapping is of shared memory: no advice changes what is in it.
        unsafe { rustix::mm::madvise(map.address() as *mut _, 4 * HUGE, advice) }
    };
    assert_eq!(advise(Advice::LinuxDontNeed), Err(Errno::INVAL));
    // There are no pages that the kernel could look at.
    assert_eq!(advise(Advice::LinuxPopulateRead), Err(Errno::INVAL));
    assert_eq!(advise(Advice::LinuxPopulateWrite), Err(Errno::INVAL));
    // It is taken, and changes nothing.
    assert_eq!(advise(Advice::LinuxHugepage), Ok(()));
    assert_eq!(leaf_at(&device, map.address()), leaf());
    assert_eq!(advise(Advice::LinuxDontFork), Ok(()));
    assert_eq!(advise(Advice::LinuxDontDump), Ok(()));
    assert_eq!(advise(Advice::LinuxDoDump), Err(Errno::INVAL));
    assert_eq!(
        touch(map.address()),
        Ended::Signal(libc::SIGSEGV),
        "a child has it no more"
    );
    check_marks(&map, 0);
    let flags = MapFlags::SHARED | MapFlags::POPULATE;
    let map = device.map_as(0, 4 * HUGE, WRITE, flags).expect("mmap");
    assert_eq!(leaf_at(&device, map.address()), 0, "it is not filled");
    check_marks(&map, 0);
}

/// The process itself has not been where its debugger goes.
fn a_debugger_reads_and_writes_it() {
    let device = Device::open();
    let own = device.map(0, 2 * HUGE);
    mark(&own);
    let map = device.map(0, 2 * HUGE);
    let view = device
        .map_as(0, 2 * HUGE, READ, MapFlags::SHARED)
        .expect("mmap");
    let debugged = Debugged::start();
    for offset in [0, PAGE, HUGE, HUGE + 17 * PAGE] {
        let (address, view) = (map.address() + offset, view.address() + offset);
        assert_eq!(debugged.peek(address), Ok((offset / 8) as u64));
        assert_eq!(debugged.poke(address, 7), Ok(()));
        assert_eq!(own.words()[offset / 8].load(SeqCst), 7);
        assert_eq!(debugged.peek(view), Ok(7));
        assert_eq!(debugged.poke(view, 8), Err(Errno::IO));
        assert_eq!(own.words()[offset / 8].load(SeqCst), 7);
    }
    mark(&own);
    let mut copy = [0; 4 * PAGE];
    let place = map.address() + HUGE - 2 * PAGE;
    let memory = debugged.memory();
    memory
        .read_exact_at(&mut copy, place as u64)
        .expect("across two leaves");
    for (page, bytes) in copy.chunks(PAGE).enumerate() {
        let word = (HUGE / PAGE - 2 + page) * PAGE / 8;
        assert_eq!(bytes[..8], word.to_ne_bytes(), "page {page}");
    }
    copy.fill(0x3c);
    memory
        .write_all_at(&copy, place as u64)
        .expect("across two leaves");
    let bytes = &own.bytes()[HUGE - 2 * PAGE..HUGE + 2 * PAGE];
    assert!(bytes.iter().all(|byte| byte.load(SeqCst) == 0x3c));
}

/// It may be large, others use it, and none of it is the process's own.
fn a_core_dump_is_without_it() {
    let device = Device::open();
    let map = device.map(0, 4 * HUGE);
    mark(&map);
    let own = vec![0x5a_u8; 3 * PAGE];
    let (ended, core) = core_of(|| {
        check_marks(&map, 0);
        // SAFETY: The child is to die of it.
        let _ = unsafe { ptr::read_volatile(PAGE as *const u8) };
    });
    assert_eq!(ended, Ended::Signal(libc::SIGSEGV));
    assert_eq!(core.mapping(map.address()), (4 * HUGE, 0));
    assert_eq!(core.memory(own.as_ptr() as usize, own.len()), own);
}

fn offsets_have_more_than_32_bits() {
    let device = Device::open();
    let whole = device.map(0, len());
    let gib = GIB as usize / 8;
    for (number, word) in whole.words().iter().step_by(gib).enumerate() {
        word.store(number as u64 + 1, SeqCst);
    }
    for number in 0..size() / GIB {
        let part = device.map(number * GIB, PAGE);
        assert_eq!(part.words()[0].load(SeqCst), number + 1);
        let described = device.mapping(part.address()).expect("MAPPING");
        assert_eq!(described.offset, number * GIB);
    }
    let refused = device.map_as(size(), PAGE, WRITE, MapFlags::SHARED);
    assert_eq!(refused.err(), Some(Errno::INVAL));
}

const COMMON: &[Case] = cases![
    touching_all_of_it_is_cheap,
    reading_first_does_not_make_leaves_small,
    any_offset_shows_its_part,
    an_odd_address_falls_back,
    a_page_in_the_middle_may_be_protected,
    a_part_of_a_leaf_may_be_unmapped,
    a_mapping_may_move,
    a_child_sees_and_changes_the_same,
    advice_is_taken_or_refused_as_for_any_device,
    a_debugger_reads_and_writes_it,
    a_core_dump_is_without_it,
];

fn main() {
    match scenario().as_str() {
        "above-8G" => guest::run(cases![
            offsets_have_more_than_32_bits,
            a_gib_is_never_one_leaf,
        ]),
        "above-1G" => guest::run(&[COMMON, cases![a_gib_is_never_one_leaf]].concat()),
        _ => guest::run(COMMON),
    }
}
