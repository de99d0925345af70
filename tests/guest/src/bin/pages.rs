// SPDX-License-Identifier: GPL-2.0

//! Memory with pages, `pages=1`: the rest of the kernel can do I/O on it, and its end waits for
//! that. Memory that cannot have them is as it is without.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use guest::abi::*;
use guest::dev::{Device, Map, PAGE};
use guest::model::{names, new_device, open};
use guest::pci::{self, Line, Pci};
use guest::task::{DIES, Ended, LIVES, Worker, core_of, fork, spawn, touch, until};
use guest::{cases, host, scaled, scenario, size, skip};
use io_uring::{IoUring, opcode, squeue, types};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mm::{MprotectFlags, MremapFlags, mremap, munmap};
use rustix::pipe::pipe;

const DISK: &str = "/dev/vda";

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// What a huge leaf maps.
const PART: usize = 2 * MIB;

/// Memory that is too small; the scenario "below" has it beside its own.
const SMALL: [u64; 2] = [PAGE as u64, MIB as u64];

/// What the log says of memory that is to have pages but cannot,
const WITHOUT: &str = "the memory cannot have pages: ";

/// of pages that somebody holds on to for long,
const HELD: &str = "in use for I/O";

/// and when that is over.
const LET_GO: &str = "nobody uses the memory any more";

fn of_size(size: u64) -> Pci {
    let mut devices = pci::devices().into_iter();
    devices
        .find(|pci| pci.bar_size(2) == size)
        .expect("a device of each size")
}

fn has_pages(device: &Device) -> bool {
    device.info().features & u64::from(IVSHMEM_FEATURE_PAGES) != 0
}

/// A value that tells each word from all others.
fn mark(index: usize, round: u64) -> u64 {
    (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ round
}

fn fill(map: &Map, bytes: Range<usize>, round: u64) {
    let words = &map.words()[bytes.start / 8..bytes.end / 8];
    for (index, word) in words.iter().enumerate() {
        word.store(mark(index, round), SeqCst);
    }
}

#[track_caller]
fn check(map: &Map, bytes: Range<usize>, round: u64) {
    let words = &map.words()[bytes.start / 8..bytes.end / 8];
    for (index, word) in words.iter().enumerate() {
        assert_eq!(word.load(SeqCst), mark(index, round), "word {index}");
    }
}

#[track_caller]
fn check_copy(copy: &[u8], round: u64) {
    for (index, word) in copy.chunks(8).enumerate() {
        assert_eq!(word, mark(index, round).to_ne_bytes(), "word {index}");
    }
}

fn result(returned: isize) -> Result<usize, Errno> {
    usize::try_from(returned).map_err(|_| {
        let error = io::Error::last_os_error();
        Errno::from_io_error(&error).expect("an error of a system call")
    })
}

/// A part of the memory for a system call.
fn part(map: &Map, offset: usize, len: usize) -> libc::iovec {
    assert!(offset + len <= map.len());
    libc::iovec {
        iov_base: ptr::without_provenance_mut(map.address() + offset),
        iov_len: len,
    }
}

/// The disk, without the page cache.
fn disk() -> OwnedFd {
    if !Path::new(DISK).exists() {
        if !pci::load_of_debian("virtio_blk") {
            skip("this kernel has no driver for the disk");
        }
        until("the disk is there", || Path::new(DISK).exists());
    }
    let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
    rustix::fs::open(DISK, flags, Mode::empty()).expect(DISK)
}

fn write_out(disk: &OwnedFd, from: libc::iovec, offset: usize) -> Result<usize, Errno> {
    let (fd, offset) = (disk.as_raw_fd(), offset as libc::off_t);
    // SAFETY: The kernel checks the address.
    result(unsafe { libc::pwrite(fd, from.iov_base, from.iov_len, offset) })
}

fn read_in(disk: &OwnedFd, to: libc::iovec, offset: usize) -> Result<usize, Errno> {
    let (fd, offset) = (disk.as_raw_fd(), offset as libc::off_t);
    // SAFETY: The kernel checks the address; a mapping is there, that everybody accesses
    // atomically.
    result(unsafe { libc::pread(fd, to.iov_base, to.iov_len, offset) })
}

/// Reads the memory of a process through its pages, as debuggers do.
fn peek(from: libc::iovec) -> Result<Vec<u8>, Errno> {
    let mut copy = vec![0; from.iov_len];
    let to = libc::iovec {
        iov_base: copy.as_mut_ptr().cast(),
        iov_len: copy.len(),
    };
    let me = process::id() as i32;
    // SAFETY: The kernel writes to no more than the whole of `copy`, and checks the other address.
    let read = result(unsafe { libc::process_vm_readv(me, &to, 1, &from, 1, 0) })?;
    copy.truncate(read);
    Ok(copy)
}

fn poke(bytes: &[u8], to: libc::iovec) -> Result<usize, Errno> {
    let from = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let me = process::id() as i32;
    // SAFETY: The kernel checks the address; a mapping is there, that everybody accesses
    // atomically.
    result(unsafe { libc::process_vm_writev(me, &from, 1, &to, 1, 0) })
}

/// Puts the pages themselves into a pipe.
fn splice(pipe: &OwnedFd, from: libc::iovec) -> Result<usize, Errno> {
    // SAFETY: The kernel checks the address.
    result(unsafe { libc::vmsplice(pipe.as_raw_fd(), &from, 1, 0) })
}

/// Registers buffers, which pins their pages.
fn register(ring: &IoUring, buffers: &[libc::iovec]) -> Result<(), Errno> {
    // SAFETY: The kernel checks the addresses, and holds on to what is there.
    let registered = unsafe { ring.submitter().register_buffers(buffers) };
    registered.map_err(|error| Errno::from_io_error(&error).expect("an error of a system call"))
}

fn unregister(ring: &IoUring) {
    ring.submitter().unregister_buffers().expect("unregister");
}

#[track_caller]
fn perform(ring: &mut IoUring, entry: &squeue::Entry) -> i32 {
    // SAFETY: The buffers are registered, and everybody accesses them atomically.
    unsafe { ring.submission().push(entry) }.expect("room");
    ring.submit_and_wait(1).expect("submit");
    ring.completion().next().expect("a completion").result()
}

/// No part of the kernel gets at the memory by its pages, for want of them.
#[track_caller]
fn no_io(map: &Map, len: usize) {
    map.words()[0].store(1, SeqCst);
    let all = || part(map, 0, len);
    assert_eq!(peek(all()), Err(Errno::FAULT));
    assert_eq!(poke(&[2; 8], part(map, 0, 8)), Err(Errno::FAULT));
    let (_out, into) = pipe().expect("pipe");
    assert_eq!(splice(&into, all()), Err(Errno::FAULT));
    let ring = IoUring::new(4).expect("io_uring");
    assert_eq!(register(&ring, &[all()]), Err(Errno::FAULT));
    assert_eq!(map.words()[0].load(SeqCst), 1);
}

/// Lines of the kernel's log that have this in them.
fn said(what: &str) -> Vec<Line> {
    let mut lines = pci::log();
    lines.retain(|line| line.text.contains(what));
    lines
}

/// The module with other parameters, until this is dropped. Make it before files are opened, which must be
/// closed by then.
struct Reloaded;

fn reload(parameters: &str) -> Reloaded {
    pci::unload().expect("nobody uses it");
    pci::load(parameters).expect("it loads");
    Reloaded
}

impl Drop for Reloaded {
    fn drop(&mut self) {
        pci::unload().expect("nobody uses it any more");
        pci::load_again();
    }
}

fn it_says_that_it_has_pages() {
    let device = Device::open();
    assert!(has_pages(&device));
    let info = device.info();
    assert_eq!(info.size, size());
    assert_eq!(info.page_size, PART as u64);
    assert_eq!(info.memory_type, IVSHMEM_MEMORY_WB);
    assert_eq!(info.mapped_by, IVSHMEM_MAPPED_BY_PAGE);
    let below = of_size(size()).bar_address(2) < 1 << 32;
    assert_eq!(below, scenario() == "below");
}

fn leaves_are_huge_where_they_can_be() {
    let device = Device::open();
    let leaf = |address| {
        let mapping = device.mapping(address).expect("MAPPING");
        (mapping.page_size, mapping.offset, mapping.memory_type)
    };
    let map = device.map(0, size() as usize);
    let last = size() as usize - PAGE;
    for offset in [0, PART + PAGE, last] {
        let address = map.address() + offset;
        assert_eq!(leaf(address), (0, offset as u64, IVSHMEM_MEMORY_NONE));
        map.words()[offset / 8].store(offset as u64, SeqCst);
        let huge = (PART as u64, offset as u64, IVSHMEM_MEMORY_WB);
        assert_eq!(leaf(address), huge);
    }
    map.words()[PAGE / 8].store(11, SeqCst);
    // Less than a part, and all that is not where a huge leaf can be.
    for (offset, len) in [(last, PAGE), (PAGE, PART)] {
        let other = device.map(offset as u64, len);
        let word = map.words()[offset / 8].load(SeqCst);
        assert_eq!(other.words()[0].load(SeqCst), word);
        let small = (PAGE as u64, offset as u64, IVSHMEM_MEMORY_WB);
        assert_eq!(leaf(other.address()), small);
    }
}

fn mappings_are_as_others_are() {
    let device = Device::open();
    let whole = device.map(0, size() as usize);
    fill(&whole, 0..2 * PART, 1);
    let map = device.map(0, 2 * PART);
    check(&map, 0..2 * PART, 1);
    // This splits huge leaves.
    map.unmap_part(PART - PAGE, 2 * PAGE).expect("munmap");
    check(&map, 0..PART - PAGE, 1);
    let child = fork(|| {
        check(&whole, 0..PART, 1);
        whole.words()[0].store(5, SeqCst);
    });
    assert_eq!(child.wait(), LIVES);
    assert_eq!(map.words()[0].load(SeqCst), 5);
    whole.protect(MprotectFlags::READ).expect("mprotect");
    assert_eq!(whole.words()[0].load(SeqCst), 5);

    let len = PART - PAGE;
    let moved = device.map(0, PART);
    moved.words()[1].store(6, SeqCst);
    let old = ptr::without_provenance_mut(moved.leak());
    // SAFETY: Nobody refers to the mapping.
    let new = unsafe { mremap(old, PART, len, MremapFlags::MAYMOVE) }.expect("mremap");
    let word = new.wrapping_byte_add(8).cast::<u64>();
    // SAFETY: It is in the mapping, and aligned.
    assert_eq!(unsafe { ptr::read_volatile(word) }, 6);
    // SAFETY: Nobody refers to the mapping.
    unsafe { munmap(new, len) }.expect("munmap");
}

fn a_disk_writes_from_it_and_reads_into_it() {
    let disk = disk();
    let device = Device::open();
    let map = device.map(0, 8 * MIB);
    // From across the border of two parts.
    let (from, to, len) = (PART - 512 * KIB, 2 * PART + 64 * KIB, MIB);
    fill(&map, from..from + len, 1);
    assert_eq!(write_out(&disk, part(&map, from, len), 0), Ok(len));
    let mut copy = vec![0; len];
    let cached = File::open(DISK).expect(DISK);
    cached.read_exact_at(&mut copy, 0).expect("read");
    check_copy(&copy, 1);
    assert_eq!(read_in(&disk, part(&map, to, len), 0), Ok(len));
    check(&map, to..to + len, 1);

    // By leaves of one page.
    let small = device.map(PAGE as u64, 64 * KIB);
    fill(&small, 0..64 * KIB, 2);
    let all = part(&small, 0, 64 * KIB);
    assert_eq!(write_out(&disk, all, len), Ok(64 * KIB));
    assert_eq!(read_in(&disk, part(&map, to, 64 * KIB), len), Ok(64 * KIB));
    check(&map, to..to + 64 * KIB, 2);
}

fn io_uring_has_buffers_in_it() {
    let disk = disk();
    let mut ring = IoUring::new(4).expect("io_uring");
    let fd = types::Fd(disk.as_raw_fd());
    let map = Device::open().map(0, 8 * MIB);
    let address = |offset| ptr::without_provenance_mut(map.address() + offset);
    // One buffer of several parts, and one of less.
    let (from, to, len) = (PART - 256 * KIB, 6 * MIB, 512 * KIB);
    let buffers = [part(&map, 0, 5 * MIB), part(&map, to, len)];
    register(&ring, &buffers).expect("buffers");
    fill(&map, from..from + len, 3);
    let write = opcode::WriteFixed::new(fd, address(from), len as u32, 0).build();
    assert_eq!(perform(&mut ring, &write), len as i32);
    let read = opcode::ReadFixed::new(fd, address(to), len as u32, 1).build();
    assert_eq!(perform(&mut ring, &read), len as i32);
    check(&map, to..to + len, 3);
    unregister(&ring);
}

fn debuggers_reach_it() {
    let map = Device::open().map(0, 2 * PART);
    let (at, len) = (PART - PAGE, 2 * PAGE);
    fill(&map, at..at + len, 3);
    let copy = peek(part(&map, at, len)).expect("process_vm_readv");
    assert_eq!(copy.len(), len);
    check_copy(&copy, 3);
    assert_eq!(poke(&copy, part(&map, 0, len)), Ok(len));
    check(&map, 0..len, 3);
}

fn a_core_dump_is_without_it() {
    let map = Device::open().map(0, 2 * PART);
    let (ended, core) = core_of(|| {
        fill(&map, 0..2 * PART, 4);
        // SAFETY: The child is to die of it.
        let _ = unsafe { ptr::read_volatile(PAGE as *const u8) };
    });
    assert_eq!(ended, Ended::Signal(libc::SIGSEGV));
    assert_eq!(core.mapping(map.address()), (2 * PART, 0));
}

fn a_pipe_takes_the_pages_themselves() {
    let map = Device::open().map(0, PART);
    let (out, into) = pipe().expect("pipe");
    assert_eq!(splice(&into, part(&map, PAGE, PAGE)), Ok(PAGE));
    // What is written now is in the pipe as well, since nothing was copied.
    fill(&map, PAGE..2 * PAGE, 4);
    let mut copy = [0; PAGE];
    assert_eq!(rustix::io::read(&out, &mut copy), Ok(PAGE));
    check_copy(&copy, 4);
}

fn without_users_the_end_waits_for_nobody() {
    let pci = of_size(size());
    let device = Device::open();
    let map = device.map(0, 2 * PART);
    map.words()[0].store(1, SeqCst);
    let before = said(HELD).len();
    pci.unbind();
    assert_eq!(said(HELD).len(), before);
    assert_eq!(touch(map.address()), DIES);
    assert_eq!(touch(map.address() + PART), DIES);
    assert_eq!(peek(part(&map, 0, PAGE)), Err(Errno::FAULT));
    drop((device, map));
    pci.bind();
    assert!(has_pages(&Device::open()));
}

/// Another process ends the device, and waits until pages are let go: in so many parts, from an
/// offset on.
#[track_caller]
fn the_end_waits(
    device: Device,
    map: Map,
    end: impl FnOnce(),
    parts: usize,
    first: usize,
    let_go: impl FnOnce(),
) {
    let waiting = format!(
        "{parts} of {} parts of 2 MiB are in use for I/O, the first at {first:#x}; \
         waiting for their users to let go (opened by processes: {})",
        size() / PART as u64,
        process::id()
    );
    let (before, before_over) = (said(&waiting).len(), said(LET_GO).len());
    let (done, doing) = pipe().expect("pipe");
    let child = fork(|| {
        end();
        rustix::io::write(&doing, &[1]).expect("write");
    });
    let is_done = || {
        let mut fds = [PollFd::new(&done, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).expect("poll") == 1
    };
    until("the log says who is waited for", || {
        said(&waiting).len() > before
    });
    assert_eq!(device.try_info(), Err(Errno::NODEV), "yet it has ended");
    assert_eq!(touch(map.address()), DIES);
    assert!(!is_done());
    assert_eq!(said(LET_GO).len(), before_over);
    let_go();
    assert_eq!(child.wait(), LIVES);
    assert!(is_done());
    let mut lines = said(&waiting).split_off(before);
    lines.extend(said(LET_GO).split_off(before_over));
    assert_eq!(lines.len(), 2, "each is said once");
    assert!(lines.iter().all(|line| line.level == 5), "they are notices");
}

/// A buffer of io_uring is in the memory when the device ends.
#[track_caller]
fn a_buffer_holds_up(end: impl FnOnce()) {
    let device = Device::open();
    let map = device.map(0, size() as usize);
    let mut ring = IoUring::new(4).expect("io_uring");
    let (at, len) = (2 * PART + 64 * KIB, 64 * KIB);
    register(&ring, &[part(&map, at, len)]).expect("buffers");
    fill(&map, at..at + len, 7);
    let address = ptr::without_provenance(map.address() + at);
    the_end_waits(device, map, end, 1, 2 * PART, || {
        // The pages are there as long as they are held.
        let (out, into) = pipe().expect("pipe");
        let fd = types::Fd(into.as_raw_fd());
        let write = opcode::WriteFixed::new(fd, address, PAGE as u32, 0).build();
        assert_eq!(perform(&mut ring, &write), PAGE as i32);
        let mut copy = [0; PAGE];
        assert_eq!(rustix::io::read(&out, &mut copy), Ok(PAGE));
        check_copy(&copy, 7);
        unregister(&ring);
    });
}

fn a_buffer_of_io_uring_holds_up_the_end() {
    let pci = of_size(size());
    a_buffer_holds_up(|| pci.unbind());
    pci.bind();
    assert!(has_pages(&Device::open()));
}

/// The host takes the device away, and gets it no sooner than that.
fn a_buffer_of_io_uring_holds_up_an_unplug() {
    for _ in 0..2 {
        let pci = of_size(size());
        assert!(has_pages(&Device::open()));
        a_buffer_holds_up(|| host::unplug_plain("ivshmem0"));
        assert!(!pci.path("").exists());
        let before = names();
        host::plug_plain("ivshmem0", "rp0");
        let pci = new_device(&before);
        until("the driver binds", || pci.node().is_some());
        assert!(has_pages(&open(&pci)));
    }
}

fn pages_in_a_pipe_hold_up_the_end() {
    let device = Device::open();
    let map = device.map(0, size() as usize);
    let (out, into) = pipe().expect("pipe");
    let at = size() as usize / 2 - PAGE;
    let pci = of_size(size());
    fill(&map, at..at + 2 * PAGE, 8);
    assert_eq!(splice(&into, part(&map, at, 2 * PAGE)), Ok(2 * PAGE));
    let end = || pci.unbind();
    the_end_waits(device, map, end, 2, at + PAGE - PART, || {
        let mut copy = [0; 2 * PAGE];
        assert_eq!(rustix::io::read(&out, &mut copy), Ok(2 * PAGE));
        check_copy(&copy, 8);
    });
    pci.bind();
    assert!(has_pages(&Device::open()));
}

/// Pages are taken and let go all the time, while the driver comes and goes.
fn it_may_come_and_go_under_io() {
    let pci = of_size(size());
    for _ in 0..scaled(20).max(5) {
        let map = Arc::new(Device::open().map(0, 2 * PART));
        let over = Arc::new(AtomicBool::new(false));
        let at_work: Arc<[AtomicBool; 3]> = Arc::default();
        let workers: Vec<Worker<()>> = (0..3)
            .map(|way| {
                let (map, over, at_work) = (map.clone(), over.clone(), at_work.clone());
                spawn(move || {
                    let (out, into) = pipe().expect("pipe");
                    let ring = IoUring::new(4).expect("io_uring");
                    let mut buffer = [0; 2 * PAGE];
                    while !over.load(SeqCst) {
                        let place = part(&map, PART - PAGE, 2 * PAGE);
                        let done = match way {
                            0 => peek(place).map(|copy| copy.len()),
                            1 => splice(&into, place).inspect(|len| {
                                let read = rustix::io::read(&out, &mut buffer[..*len]);
                                assert_eq!(read, Ok(*len));
                            }),
                            _ => register(&ring, &[place]).map(|()| {
                                unregister(&ring);
                                2 * PAGE
                            }),
                        };
                        match done {
                            Ok(len) => {
                                assert!(len == 2 * PAGE || len == PAGE);
                                at_work[way].store(true, SeqCst);
                            }
                            Err(error) => assert_eq!(error, Errno::FAULT),
                        }
                    }
                })
            })
            .collect();
        until("all are at work", || {
            at_work.iter().all(|works| works.load(SeqCst))
        });
        pci.unbind();
        over.store(true, SeqCst);
        workers.into_iter().for_each(Worker::join);
        drop(map);
        pci.bind();
    }
    assert!(has_pages(&Device::open()));
}

fn memory_that_is_too_small_goes_without() {
    let before = said(WITHOUT).len();
    let _reloaded = reload("pages=1");
    let lines = said(WITHOUT).split_off(before);
    assert_eq!(lines.len(), SMALL.len(), "a line for each");
    for size in SMALL {
        let pci = of_size(size);
        let mut of_it = lines.iter().filter(|line| line.text.contains(&pci.name));
        let line = of_it.next().expect("a line for each");
        assert!(line.text.contains("not made of whole parts of 2 MiB"));
        assert_eq!(line.level, 5, "it is a notice");
        let device = open(&pci);
        assert!(!has_pages(&device));
        assert_eq!(device.info().memory_type, IVSHMEM_MEMORY_WB);
        let map = device.map(0, size as usize);
        fill(&map, 0..size as usize, 9);
        check(&device.map(0, size as usize), 0..size as usize, 9);
        no_io(&map, PAGE);
    }
}

fn other_memory_types_go_without() {
    for (name, memory_type) in [("wc", IVSHMEM_MEMORY_WC), ("uc", IVSHMEM_MEMORY_UC)] {
        let before = said(WITHOUT).len();
        let _reloaded = reload(&format!("memory={name} pages=1"));
        let lines = said(WITHOUT).split_off(before);
        assert_eq!(lines.len(), pci::devices().len(), "a line for each");
        for line in lines {
            assert!(line.text.contains("asks for other than write-back"));
            assert_eq!(line.level, 5, "it is a notice");
        }
        let device = Device::open();
        assert!(!has_pages(&device));
        assert_eq!(device.info().memory_type, memory_type);
        let map = device.map(0, 2 * PART);
        fill(&map, 0..4 * PAGE, 10);
        check(&map, 0..4 * PAGE, 10);
        let mapping = device.mapping(map.address()).expect("MAPPING");
        assert_eq!(mapping.memory_type, memory_type);
        no_io(&map, 2 * PAGE);
    }
}

fn nobody_has_pages_who_did_not_ask() {
    let before = said(WITHOUT).len();
    let _reloaded = reload("");
    assert_eq!(said(WITHOUT).len(), before);
    let device = Device::open();
    assert!(!has_pages(&device));
    no_io(&device.map(0, 2 * PART), 2 * PAGE);
}

fn a_disk_needs_pages() {
    let disk = disk();
    let _reloaded = reload("pages=0");
    let map = Device::open().map(0, PART);
    let place = || part(&map, 0, PAGE);
    assert_eq!(write_out(&disk, place(), 0), Err(Errno::FAULT));
    assert_eq!(read_in(&disk, place(), 0), Err(Errno::FAULT));
}

fn main() {
    if scenario() == "hotplug" {
        guest::run(cases![a_buffer_of_io_uring_holds_up_an_unplug]);
    }
    let all = cases![
        it_says_that_it_has_pages,
        leaves_are_huge_where_they_can_be,
        mappings_are_as_others_are,
        a_disk_writes_from_it_and_reads_into_it,
        io_uring_has_buffers_in_it,
        debuggers_reach_it,
        a_core_dump_is_without_it,
        a_pipe_takes_the_pages_themselves,
        without_users_the_end_waits_for_nobody,
        a_buffer_of_io_uring_holds_up_the_end,
        pages_in_a_pipe_hold_up_the_end,
        it_may_come_and_go_under_io,
        other_memory_types_go_without,
        nobody_has_pages_who_did_not_ask,
        a_disk_needs_pages,
        // In the scenario that has such.
        memory_that_is_too_small_goes_without,
    ];
    let number = all.len() - usize::from(scenario() != "below");
    guest::run(&all[..number])
}
