// SPDX-License-Identifier: GPL-2.0

//! Whatever the driver asks the kernel for while it binds, opens a file or serves a call fails once:
//! that is an error of the bind or the call, nothing stays behind, and the next one works.

use std::cell::Cell;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{LazyLock, Once};

use guest::abi::*;
use guest::dev::{Device, NODE, PAGE, WRITE};
use guest::model::{Model, interrupts, open, open_as};
use guest::pci::{self, Pci};
use guest::{cases, scenario};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mm::MapFlags;

/// What the kernel does for a device with an interrupt line when it enables it: it asks the firmware
/// which line that is. ACPI's interpreter does not survive a failure: it never finds the lines any
/// more, and has been seen to use memory that it had freed.
const LINE: &str = "acpi_pci_irq_enable";

/// What it does when an interrupt is requested for the first time: it makes files in `/proc/irq`,
/// and later warns when it does not find one that it could not make.
const PROC: &str = "register_irq_proc";

/// What it does to make pages for memory: it warns of failures in there.
const PAGES: &str = "arch_add_memory";

/// From where to where a function of the kernel goes.
fn function(name: &str) -> Range<u64> {
    static SYMBOLS: LazyLock<Vec<(u64, String)>> = LazyLock::new(|| {
        let text = fs::read_to_string("/proc/kallsyms").expect("/proc/kallsyms");
        let symbols = text.lines().map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let address = u64::from_str_radix(fields[0], 16).expect("an address");
            (address, fields[2].to_owned())
        });
        symbols.collect()
    });
    let start = SYMBOLS.iter().find(|symbol| symbol.1 == name);
    let start = start.expect(name).0;
    let later = SYMBOLS
        .iter()
        .map(|symbol| symbol.0)
        .filter(|at| *at > start);
    start..later.min().expect("it is not the last one")
}

/// What can fail. Each by itself: if the allocator of small pieces needs more pages, and when it does
/// is not ours to say, then the other places would not be where they were before.
const KINDS: [&str; 3] = ["failslab", "fail_page_alloc", "fail_usercopy"];

fn set(attribute: &str, value: &str) {
    fs::write(format!("/sys/kernel/debug/{attribute}"), value).expect(attribute);
}

/// Lets all kinds of allocations fail, once somebody says when.
fn prepare_kernel() {
    set("failslab/ignore-gfp-wait", "N");
    set("fail_page_alloc/ignore-gfp-wait", "N");
    set("fail_page_alloc/ignore-gfp-highmem", "N");
    set("fail_page_alloc/min-order", "0");
    // The one that looks for leaks has its own ways to go on without memory.
    for cache in fs::read_dir("/sys/kernel/slab").expect("the caches") {
        let cache = cache.expect("a cache");
        let fails = !cache.file_name().to_string_lossy().starts_with("kmemleak");
        let value = if fails { "1" } else { "0" };
        fs::write(cache.path().join("failslab"), value).expect("failslab");
    }
    set("failslab/cache-filter", "Y");
}

/// Where the module is.
fn module() -> Range<u64> {
    let modules = fs::read_to_string("/proc/modules").expect("/proc/modules");
    let module = modules.lines().find(|line| line.starts_with("ivshmem "));
    let fields: Vec<&str> = module.expect("it is loaded").split(' ').collect();
    let address = fields[5].strip_prefix("0x").expect("an address");
    let start = u64::from_str_radix(address, 16).expect("an address");
    start..start + fields[1].parse::<u64>().expect("a size")
}

/// Lets the nth place of this thread fail where something of a kind may fail.
///
/// Only what is done in or below the driver has such places: the filter looks for the module in the
/// stack. So nothing fails of what the kernel does for the test itself, such as the answer to how
/// many places are left.
struct Faults(File);

impl Faults {
    /// Nothing fails below the function `spared` of the kernel.
    fn new(kind: &str, spared: &str) -> Faults {
        static PREPARED: Once = Once::new();
        PREPARED.call_once(prepare_kernel);
        let spared = function(spared);
        for known in KINDS {
            let required = if known == kind { module() } else { 0..0 };
            for (attribute, value) in [
                ("require-start", required.start),
                ("require-end", required.end),
                ("reject-start", spared.start),
                ("reject-end", spared.end),
                ("stacktrace-depth", 32),
                ("verbose", 0),
            ] {
                set(&format!("{known}/{attribute}"), &value.to_string());
            }
        }
        let file = File::options()
            .read(true)
            .write(true)
            .open("/proc/thread-self/fail-nth");
        Faults(file.expect("fail-nth"))
    }

    fn set(&self, nth: u32) {
        let nth = nth.to_string();
        self.0.write_all_at(nth.as_bytes(), 0).expect("fail-nth");
    }

    /// Does something with a failure at the nth place. Returns whether there are so many.
    fn at<T>(&self, nth: u32, work: impl FnOnce() -> T) -> (T, bool) {
        self.set(nth);
        let result = work();
        let mut left = [0; 16];
        let length = self.0.read_at(&mut left, 0).expect("fail-nth");
        self.set(0);
        (result, &left[..length] == b"0\n")
    }
}

/// What comes of failures: of memory, of copies to and from user space; and what the kernel makes of
/// the former, when it cannot note who has a BAR or when it sets up interrupts.
const ERRORS: [Errno; 5] = [
    Errno::NOMEM,
    Errno::FAULT,
    Errno::BUSY,
    Errno::NODEV,
    Errno::NOSPC,
];

/// Does `work` once for each of its places, with a failure there, and then without one. Each time it
/// is given what `prepare` makes, and `after` finds out how it went. The function `spared` of the
/// kernel has no places.
#[track_caller]
fn each_place<S, T>(
    spared: &str,
    mut prepare: impl FnMut() -> S,
    mut work: impl FnMut(&S) -> Result<T, Errno>,
    mut after: impl FnMut(S, Option<T>),
) {
    let (mut places, mut refused) = (0, 0);
    for kind in KINDS {
        let faults = Faults::new(kind, spared);
        for nth in 1.. {
            let subject = prepare();
            let (result, failed) = faults.at(nth, || work(&subject));
            match result {
                // Not all that can fail must be there.
                Ok(done) => after(subject, Some(done)),
                Err(error) => {
                    assert!(failed, "nothing failed, but: {error}");
                    assert!(ERRORS.contains(&error), "{kind}, place {nth}: {error}");
                    refused += 1;
                    after(subject, None);
                }
            }
            if !failed {
                break;
            }
            places += 1;
            assert!(nth < 10_000, "there is an end to it");
        }
    }
    println!("# {refused} of {places} failures were errors");
    assert!(places > 0, "nothing can fail there");
}

/// What drivers have, and give back when they leave a device.
fn held() -> Vec<String> {
    let mut held = interrupts("ivshmem");
    for (path, part) in [
        ("/proc/iomem", "ivshmem"),
        ("/proc/vmallocinfo", "ioremap"),
        ("/sys/kernel/debug/x86/pat_memtype_list", ""),
    ] {
        let text = fs::read_to_string(path).expect(path);
        let lines = text.lines().filter(|line| line.contains(part));
        held.extend(lines.map(|line| format!("{path}: {line}")));
    }
    held
}

fn error(error: io::Error) -> Errno {
    Errno::from_io_error(&error).expect("an error of a system call")
}

/// Binds. All of these must come to be said as the reason why the driver could not.
#[track_caller]
fn binds(pci: &Pci, spared: &str, reasons: &[&str]) {
    let file = File::options()
        .write(true)
        .open("/sys/bus/pci/drivers/ivshmem/bind")
        .expect("bind");
    let node = pci.node();
    assert!(node.is_some());
    pci.unbind();
    let before = held();
    let mark = format!("ivshmem {}: ", pci.name);
    for round in 1.. {
        each_place(
            spared,
            || (),
            |()| file.write_at(pci.name.as_bytes(), 0).map_err(error),
            |(), bound| {
                assert_eq!(pci.node(), bound.and_then(|_| node.clone()));
                if bound.is_some() {
                    pci.unbind();
                }
                assert_eq!(pci.attribute("enable"), "0");
                assert_eq!(held(), before);
            },
        );
        let log = pci::log();
        let said = |reason: &str| {
            let said = |line: &pci::Line| line.text.strip_prefix(&mark) == Some(reason);
            log.iter().any(said)
        };
        let Some(missing) = reasons.iter().find(|reason| !said(reason)) else {
            break;
        };
        // The allocator still has needs of its own now and then, and a place may be passed over.
        assert!(round < 5, "never said: {missing}");
    }
    pci.bind();
}

const NO_BAR0: &str = "cannot map BAR0";
const NO_BAR2: &str = "cannot claim BAR2";

/// The device works, and nobody has it open.
#[track_caller]
fn works(pci: &Pci) {
    let device = open_as(pci, OFlags::RDWR | OFlags::EXCL);
    let map = device.map(0, PAGE);
    map.words()[0].fetch_add(1, SeqCst);
    if device.info().vectors > 0 {
        device.settle(0);
    }
}

fn a_doorbell_is_bound() {
    let pci = &pci::devices()[0];
    binds(pci, LINE, &[NO_BAR0, "cannot enable MSI-X", NO_BAR2]);
    works(pci);
}

fn a_plain_device_is_bound() {
    let pci = &pci::devices()[1];
    binds(pci, LINE, &[NO_BAR0, NO_BAR2]);
    works(pci);
}

/// One that is not ready yet.
fn a_device_with_a_line_is_bound() {
    let model = Model::start("line", "--not-ready");
    let pci = model.plug("rp0");
    binds(&pci, LINE, &[NO_BAR0, "cannot use INTx", NO_BAR2]);
    model.tell("ready");
    // Its register says so at once, but the driver looks only now and then.
    open(&pci).moved(IVSHMEM_VECTOR_STATE, 0);
    works(&pci);
    listens(&pci, 0);
}

fn a_device_with_pages_is_bound() {
    let pci = Pci::of("ivshmem0");
    let without = "the memory cannot have pages: the kernel could not make them";
    binds(
        &pci,
        PAGES,
        &[NO_BAR0, "cannot enable MSI-X", NO_BAR2, without],
    );
    works(&pci);
    let features = open(&pci).info().features;
    assert_ne!(features & u64::from(IVSHMEM_FEATURE_PAGES), 0);
}

/// The vectors of a device that have an interrupt.
fn requested(node: &str) -> usize {
    interrupts(&format!("{node}-")).len()
}

/// A call makes a file listen to so many vectors, or to none. It can be repeated.
#[track_caller]
fn listens_by<T>(pci: &Pci, count: usize, call: impl Fn(&Device) -> Result<T, Errno>) {
    let node = pci.node().expect("it is bound");
    each_place(
        PROC,
        || open(pci),
        &call,
        |device, done| {
            // A failure to say how it went does not undo it.
            let heard = requested(&node);
            assert!(heard == count || (heard == 0 && done.is_none()), "{heard}");
            call(&device).expect("it works the next time");
            assert_eq!(requested(&node), count);
            drop(device);
            assert_eq!(requested(&node), 0);
        },
    );
}

#[track_caller]
fn listens(pci: &Pci, vector: u32) {
    listens_by(pci, 1, |device| device.wait(vector, u64::MAX, 0));
}

fn a_file_is_opened() {
    let pci = Pci::of("ivshmem0");
    each_place(
        PROC,
        || (),
        |()| Device::open_as(NODE, OFlags::RDWR),
        |(), opened| {
            drop(opened);
            works(&pci);
        },
    );
}

fn a_vector_is_listened_to() {
    let pci = Pci::of("ivshmem0");
    listens(&pci, 0);
    // The first has been allocated all the time.
    listens(&pci, 1);
    works(&pci);
}

fn a_set_of_vectors_is_waited_for() {
    let set = || {
        [0, 1, 2].map(|vector| ivshmem_event {
            vector,
            reserved: 0,
            count: u64::MAX,
        })
    };
    listens_by(&Pci::of("ivshmem0"), 3, |device| {
        device.waits(&mut set(), 0)
    });
}

fn vectors_are_subscribed_to() {
    let vectors = [0, 1, IVSHMEM_VECTOR_STATE];
    listens_by(&Pci::of("ivshmem0"), 2, |device| device.subscribe(&vectors));
}

fn an_eventfd_is_attached() {
    let pci = Pci::of("ivshmem0");
    let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("eventfd");
    let mut value = [0; 8];
    each_place(
        PROC,
        || open(&pci),
        |device| device.attach(1, &fd),
        |device, attached| {
            if attached.is_none() {
                assert_eq!(device.detach(1, &fd), Err(Errno::NOENT));
                assert_eq!(requested("ivshmem0"), 0);
                device.attach(1, &fd).expect("it works the next time");
            }
            device.settle(1);
            // It follows upon the count that was waited for.
            poll(&mut [PollFd::new(&fd, PollFlags::IN)], None).expect("poll");
            rustix::io::read(&fd, &mut value).expect("it is signalled");
        },
    );
}

fn many_are_rung() {
    let device = Device::open();
    let me = device.ivposition().expect("IVPOSITION") as u32;
    let rings = [ivshmem_doorbell {
        peer: me,
        vector: 0,
    }; 64];
    let seen = Cell::new(device.settle(0));
    each_place(
        PROC,
        || (),
        |()| device.ring_many(&rings),
        |(), rung| {
            if rung.is_some() {
                device.moved(0, seen.get());
            }
            // Nothing is rung by a call that fails.
            let now = device.settle(0);
            if rung.is_none() {
                assert_eq!(now, seen.get() + 1);
            }
            seen.set(now);
        },
    );
}

/// An event that could not be copied out is not lost.
fn events_are_read() {
    each_place(
        PROC,
        || {
            let device = Device::open();
            device.subscribe(&[0, 1]).expect("SUBSCRIBE");
            device.settle(0);
            device.settle(1);
            device
        },
        |device| device.read(8),
        |device, events| {
            let events = match events {
                Some(events) => events,
                None => device.read(8).expect("they are still there"),
            };
            let vectors: Vec<u32> = events.iter().map(|event| event.vector).collect();
            assert_eq!(vectors, [0, 1]);
        },
    );
}

fn memory_is_mapped() {
    let pci = Pci::of("ivshmem0");
    let part = 2 << 20;
    each_place(
        PROC,
        || open(&pci),
        |device| {
            let map = device.map_as(0, 2 * part, WRITE, MapFlags::SHARED)?;
            // The kernel tries again until a touched page is there.
            for offset in [0, PAGE, part] {
                map.words()[offset / 8].fetch_add(1, SeqCst);
            }
            device.mapping(map.address())?;
            Ok(map)
        },
        |device, map| {
            let map = map.unwrap_or_else(|| device.map(0, 2 * part));
            let page_size = device.mapping(map.address()).expect("MAPPING").page_size;
            assert!(page_size >= PAGE as u64, "{page_size}");
        },
    );
}

fn main() {
    match scenario().as_str() {
        "bind" => guest::run(cases![a_doorbell_is_bound, a_plain_device_is_bound]),
        "line" => guest::run(cases![a_device_with_a_line_is_bound]),
        "pages" => guest::run(cases![a_device_with_pages_is_bound]),
        _ => guest::run(cases![
            a_file_is_opened,
            a_vector_is_listened_to,
            a_set_of_vectors_is_waited_for,
            vectors_are_subscribed_to,
            an_eventfd_is_attached,
            many_are_rung,
            events_are_read,
            memory_is_mapped,
        ]),
    }
}
