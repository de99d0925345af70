// SPDX-License-Identifier: GPL-2.0

//! The memory is taken away while processes do with their mappings whatever can be done.

use std::fs;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;

use guest::abi::*;
use guest::dev::{Device, Map, PAGE, READ, WRITE};
use guest::pci::Pci;
use guest::task::{Child, DIES, Debugged, LIVES, core_of, fork, now, status, touch, until};
use guest::{cases, size};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, MremapFlags, mmap_anonymous, munmap};

const LEN: usize = 8 << 20;

/// How long to go on, in nanoseconds: a minute on either kernel.
const STRESS: i64 = 60_000_000_000;

fn open(pci: &Pci) -> Device {
    let node = format!("/dev/{}", pci.node().expect("a node"));
    Device::open_as(&node, OFlags::RDWR).expect("open")
}

fn read(address: usize) {
    // SAFETY: The mapping is there; that its memory is not is what this is about.
    let _ = unsafe { ptr::read_volatile(address as *const u8) };
}

fn read_all(map: &Map) {
    for offset in (0..LEN).step_by(PAGE) {
        read(map.address() + offset);
    }
}

/// Maps, cuts, moves, protects and unmaps.
fn cut(device: &Device) -> Result<(), Errno> {
    for (offset, prot) in [
        (0, WRITE),
        (PAGE, READ),
        (LEN, WRITE),
        (LEN + 3 * PAGE, READ),
    ] {
        let map = device.map_as(offset as u64, LEN / 2, prot, MapFlags::SHARED)?;
        read(map.address());
        read(map.address() + LEN / 4);
        map.protect(MprotectFlags::READ).expect("mprotect");
        read(map.address() + LEN / 2 - 1);
        map.unmap_part(PAGE, PAGE).expect("munmap");
        read(map.address() + 2 * PAGE);
        let old = (map.address() + LEN / 4) as *mut _;
        // SAFETY: Nobody refers to this part.
        let moved = unsafe { rustix::mm::mremap(old, LEN / 4, LEN / 4, MremapFlags::MAYMOVE) };
        read(moved.expect("mremap") as usize);
    }
    Ok(())
}

/// What a child does until the device is gone, with all kinds of threads in one address space.
/// It may die of SIGBUS at any time.
fn work(device: &Device, at_work: &AtomicU64) {
    let common = device.map(0, LEN);
    thread::scope(|scope| {
        scope.spawn(|| {
            loop {
                read_all(&common);
                at_work.fetch_add(1, SeqCst);
            }
        });
        scope.spawn(|| {
            loop {
                common.protect(MprotectFlags::READ).expect("mprotect");
                let writable = MprotectFlags::READ | MprotectFlags::WRITE;
                common.protect(writable).expect("mprotect");
            }
        });
        scope.spawn(|| {
            while cut(device).is_ok() {}
            // First nothing new can be mapped, soon after that all is gone.
            loop {
                read_all(&common);
            }
        });
        loop {
            let status = fork(|| read(common.address() + LEN / 2)).wait();
            assert!(status == LIVES || status == DIES, "{status:?}");
            if status == DIES {
                read(common.address());
            }
        }
    })
}

fn it_may_go_at_any_time() {
    let pci = Pci::of("ivshmem0");
    let before = [status("VmRSS"), status("VmPTE")];
    let start = now();
    let mut rounds = 0;
    while now() - start < STRESS {
        let device = open(&pci);
        // Shared with the children, and not taken away from them.
        // SAFETY: The kernel chooses an address where nothing is.
        let page = unsafe { mmap_anonymous(ptr::null_mut(), PAGE, WRITE, MapFlags::SHARED) };
        let page = page.expect("mmap").cast::<[AtomicU64; 2]>();
        // SAFETY: The page is aligned, zeroed, and stays until the end of the round.
        let at_work = unsafe { &*page };
        let start_child = |counter| fork(|| work(&device, counter));
        let children: Vec<Child> = at_work.iter().map(start_child).collect();
        until("they are at work", || {
            at_work.iter().all(|counter| counter.load(SeqCst) > 1)
        });
        pci.unbind();
        for child in children {
            assert_eq!(child.wait(), DIES, "round {rounds}");
        }
        assert_eq!(device.try_info(), Err(Errno::NODEV));
        drop(device);
        // The last children of children may be on their way.
        until("nobody has the device open", || {
            let users = fs::read_to_string("/sys/module/ivshmem/refcnt").expect("sysfs");
            users.trim() == "0"
        });
        // SAFETY: All who knew of it are gone.
        unsafe { munmap(page.cast(), PAGE) }.expect("munmap");
        pci.bind();
        rounds += 1;
    }
    assert!(rounds > 3, "{rounds} rounds");
    // Nothing is left of it all. (The children's counters the kernel checks when they end.)
    let after = [status("VmRSS"), status("VmPTE")];
    for (before, after) in before.into_iter().zip(after) {
        assert!(after < before + 256, "{before} KiB have become {after}");
    }
    assert_eq!(pci.node().as_deref(), Some("ivshmem0"));
}

fn every_process_loses_it_in_the_same_call() {
    let pci = Pci::of("ivshmem0");
    let device = open(&pci);
    let maps: Vec<Map> = (0..8)
        .map(|number| device.map(number * PAGE as u64, LEN))
        .collect();
    maps.iter().for_each(read_all);
    pci.unbind();
    for map in &maps {
        for offset in [0, PAGE, LEN / 2, LEN - 1] {
            assert_eq!(touch(map.address() + offset), DIES);
        }
    }
    let debugged = Debugged::start();
    assert_eq!(debugged.peek(maps[0].address()), Err(Errno::IO));
    assert_eq!(debugged.poke(maps[0].address(), 1), Err(Errno::IO));
    // What is left of a mapping can still be handled.
    maps[0].protect(MprotectFlags::READ).expect("mprotect");
    maps[1].unmap_part(PAGE, PAGE).expect("munmap");
    assert_eq!(touch(maps[0].address()), DIES);
    assert_eq!(touch(maps[1].address()), DIES);
    // A new device is none of theirs.
    pci.bind();
    let new = open(&pci);
    assert_eq!(new.info().size, size());
    new.map(0, PAGE).words()[0].store(1, SeqCst);
    assert_eq!(touch(maps[0].address()), DIES);
    assert_eq!(new.mapping(maps[0].address()), Err(Errno::INVAL));
    drop((debugged, maps, device, new));
    pci.unbind();
    pci.bind();
    assert_eq!(pci.node().as_deref(), Some("ivshmem0"));
}

/// Mappings of the same device by another node of it, as in another `/dev`.
fn it_does_not_matter_by_which_node_it_was_opened() {
    let number = rustix::fs::stat("/dev/ivshmem0").expect("stat").st_rdev;
    rustix::fs::mknodat(
        rustix::fs::CWD,
        "/tmp/another",
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::RWXU,
        number,
    )
    .expect("mknod");
    let device = Device::open_as("/tmp/another", OFlags::RDWR).expect("open");
    let map = device.map(0, LEN);
    read_all(&map);
    let pci = Pci::of("ivshmem0");
    pci.unbind();
    assert_eq!(touch(map.address()), DIES);
    drop((map, device));
    pci.bind();
    fs::remove_file("/tmp/another").expect("rm");
    assert_eq!(Device::open().info().memory_type, IVSHMEM_MEMORY_WB);
}

/// A process that does not know that the memory is gone dies, and leaves what others leave.
fn who_dies_of_it_leaves_a_core() {
    let pci = Pci::of("ivshmem0");
    let device = open(&pci);
    let map = device.map(0, LEN);
    read_all(&map);
    pci.unbind();
    let own = vec![0x5a_u8; 3 * PAGE];
    let (ended, core) = core_of(|| read(map.address() + LEN / 2));
    assert_eq!(ended, DIES);
    assert_eq!(core.mapping(map.address()), (LEN, 0));
    assert_eq!(core.memory(own.as_ptr() as usize, own.len()), own);
    drop((map, device));
    pci.bind();
}

fn main() {
    guest::run(cases![
        every_process_loses_it_in_the_same_call,
        it_does_not_matter_by_which_node_it_was_opened,
        who_dies_of_it_leaves_a_core,
        it_may_go_at_any_time,
    ])
}
