// SPDX-License-Identifier: GPL-2.0

//! The memory is taken away while processes do with their mappings whatever can be done.

use std::fs;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;

use guest::abi::*;
use guest::dev::{Device, LONG, Map, PAGE, READ, WRITE};
use guest::model::open;
use guest::pci::Pci;
use guest::task::{Child, DIES, Debugged, LIVES, core_of, fork, now, status, touch, until};
use guest::{cases, host, scenario, size};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mm::{
    MapFlags, MlockAllFlags, MprotectFlags, MremapFlags, mlockall, mmap_anonymous, munlockall,
    munmap,
};

const LEN: usize = 8 << 20;

/// QEMU's name of the device.
const ID: &str = "ivshmem0";

/// How long to go on, in nanoseconds.
const MINUTE: i64 = 60 * 1_000_000_000;

fn read(address: usize) {
    // SAFETY: The mapping is there; that its memory is not is what this is about.
    let _ = unsafe { ptr::read_volatile(address as *const u8) };
}

fn write(address: usize) {
    // SAFETY: As above, and nobody relies on what is in there.
    unsafe { ptr::write_volatile(address as *mut u8, 1) };
}

fn read_all(map: &Map) {
    for offset in (0..LEN).step_by(PAGE) {
        read(map.address() + offset);
    }
}

fn write_all(map: &Map) {
    for offset in (0..LEN).step_by(PAGE) {
        write(map.address() + offset);
    }
}

/// Makes all of this program be there, so that what is counted of it does not change any more.
fn be_there() {
    mlockall(MlockAllFlags::CURRENT).expect("mlockall");
    munlockall().expect("munlockall");
}

/// What is counted of this process's memory, in KiB: files' pages, and tables.
fn counters() -> [u64; 2] {
    ["RssFile", "VmPTE"].map(status)
}

/// A number in a page that children share, and that is not taken away from them.
struct Shared(*mut AtomicU64);

impl Shared {
    fn new() -> Shared {
        // SAFETY: The kernel chooses an address where nothing is.
        let page = unsafe { mmap_anonymous(ptr::null_mut(), PAGE, WRITE, MapFlags::SHARED) };
        Shared(page.expect("mmap").cast())
    }

    fn number(&self) -> &AtomicU64 {
        // SAFETY: The page is aligned, zeroed, and there as long as `self`.
        unsafe { &*self.0 }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: All who knew of it are gone.
        unsafe { munmap(self.0.cast(), PAGE) }.expect("munmap");
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
        if prot == WRITE {
            write(map.address() + PAGE);
            write(map.address() + LEN / 4);
        }
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
    // One that nobody protects from being written.
    let written = device.map(PAGE as u64, LEN);
    thread::scope(|scope| {
        scope.spawn(|| {
            loop {
                read_all(&common);
                at_work.fetch_add(1, SeqCst);
            }
        });
        scope.spawn(|| {
            loop {
                write_all(&written);
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
            let touch = || {
                read(common.address() + LEN / 2);
                write(written.address() + LEN / 2);
            };
            let status = fork(touch).wait();
            assert!(status == LIVES || status == DIES, "{status:?}");
            if status == DIES {
                read(common.address());
            }
        }
    })
}

fn it_may_go_at_any_time() {
    let pci = Pci::of("ivshmem0");
    let start = now();
    let mut rounds = 0;
    be_there();
    let before = counters();
    while now() - start < MINUTE || rounds <= 3 {
        // The driver is unbound, or the device is unplugged where it can be.
        let unplugs = scenario().starts_with("below") && rounds % 2 == 1;
        let device = open(&pci);
        let at_work = [Shared::new(), Shared::new()];
        let start_child = |shared: &Shared| fork(|| work(&device, shared.number()));
        let children: Vec<Child> = at_work.iter().map(start_child).collect();
        until("they are at work", || {
            at_work
                .iter()
                .all(|shared| shared.number().load(SeqCst) > 1)
        });
        if unplugs {
            host::unplug_plain(ID);
        } else {
            pci.unbind();
        }
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
        drop(at_work);
        if unplugs {
            host::plug_plain(ID, "rp0");
            until("the driver binds", || pci.node().is_some());
        } else {
            pci.bind();
        }
        rounds += 1;
        // Nothing is left of it all. (The counters of those that died are checked by the kernel.)
        assert_eq!(counters(), before, "round {rounds}");
    }
    assert_eq!(pci.node().as_deref(), Some("ivshmem0"));
}

/// Maps and touches all of it; returns what is counted before that and with it.
fn take(device: &Device) -> (Map, [[u64; 2]; 2]) {
    let before = counters();
    let map = device.map(0, LEN);
    write_all(&map);
    (map, [before, counters()])
}

/// A process that survives the end of the memory counts none of it any more.
fn survives(device: &Device, wait: impl FnOnce()) {
    be_there();
    let info = device.info();
    let paged = info.features & u64::from(IVSHMEM_FEATURE_PAGES) != 0;
    let (map, [before, with]) = take(device);
    let counted = if paged { LEN as u64 / 1024 } else { 0 };
    assert_eq!(with[0], before[0] + counted);
    wait();
    assert_eq!(device.try_info(), Err(Errno::NODEV));
    let after = counters();
    assert_eq!(after[0], before[0], "the pages");
    drop(map);
    assert_eq!(counters(), before, "and the tables");
}

fn nobody_counts_it_any_more() {
    let pci = Pci::of("ivshmem0");
    for round in 0..10 {
        let device = open(&pci);
        let [ready, revoked] = [Shared::new(), Shared::new()];
        let wait = |device: &Device| {
            let state = device.count(IVSHMEM_VECTOR_STATE);
            assert_eq!(
                device.wait(IVSHMEM_VECTOR_STATE, state, 0),
                Err(Errno::TIMEDOUT)
            );
            assert_eq!(device.info().generation, state);
            ready.number().fetch_add(1, SeqCst);
            let ended = device.wait(IVSHMEM_VECTOR_STATE, state, LONG);
            assert_eq!(ended, Err(Errno::NODEV));
            // The memory has gone by the end of the call that ended the device.
            until("the call returns", || revoked.number().load(SeqCst) == 1);
        };
        let children: Vec<Child> = (0..3)
            .map(|_| fork(|| survives(&device, || wait(&device))))
            .collect();
        until("all have it", || ready.number().load(SeqCst) == 3);
        children.iter().for_each(Child::asleep);
        survives(&device, || {
            pci.unbind();
            revoked.number().store(1, SeqCst);
        });
        for child in children {
            assert_eq!(child.wait(), LIVES, "round {round}");
        }
        drop(device);
        pci.bind();
    }
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
        nobody_counts_it_any_more,
        it_may_go_at_any_time,
    ])
}
