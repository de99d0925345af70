// SPDX-License-Identifier: GPL-2.0

//! The memory type of mappings, as it is asked for, as it is told, and as the page tables have it.

use std::fs;
use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::Ordering::SeqCst;

use guest::abi::*;
use guest::dev::{Device, Map, PAGE, attribute_of};
use guest::pci;
use guest::{cases, debug, scenario};
use rustix::fs::OFlags;
use rustix::mm::MprotectFlags;

const HUGE: usize = 2 << 20;
const FOUR_GIB: u64 = 1 << 32;

/// A device with its place and size.
struct Memory {
    node: String,
    size: u64,
    above: bool,
}

fn memories() -> Vec<Memory> {
    pci::devices()
        .iter()
        .map(|pci| Memory {
            node: pci.node().expect("a node"),
            size: pci.bar_size(2),
            above: pci.bar_address(2) >= FOUR_GIB,
        })
        .collect()
}

/// The firmware puts all of it above 4 GiB as soon as one does not fit below.
fn memory_of_all_sizes_is_where_it_is_to_be() {
    let scenario = scenario();
    let above = scenario.starts_with("above");
    let mut sizes = Vec::new();
    for memory in memories() {
        assert_eq!(memory.above, above, "{}", memory.node);
        sizes.push(memory.size >> 10);
    }
    sizes.sort();
    let expected: &[u64] = match scenario.as_str() {
        "below" => &[4, 1 << 10, 4 << 10, 64 << 10, 512 << 10],
        "above" => &[4, 1 << 10, 4 << 10, 64 << 10, 1 << 20, 8 << 20],
        _ => &[4 << 10, 64 << 10],
    };
    assert_eq!(sizes, expected);
}

/// A part of the page tables as the kernel prints them.
struct Printed {
    range: Range<usize>,
    level: String,
    flags: Vec<String>,
}

/// This process's part of the page tables. The kernel goes through all of them for that, which takes
/// a second or more: not to be done for each leaf.
fn printed() -> Vec<Printed> {
    // The kernel's are those of the process that looks, user space included.
    let tables = fs::read_to_string("/sys/kernel/debug/page_tables/current_kernel")
        .expect("the page tables of this process");
    let number = |text: &str| usize::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    let parse = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_owned);
        let range = words.next()?;
        let (start, end) = range.split_once('-')?;
        let range = number(start)?..number(end)?;
        let mut flags: Vec<String> = words.skip(1).collect();
        let level = flags.pop()?;
        Some(Printed {
            range,
            level,
            flags,
        })
    };
    tables
        .lines()
        .take_while(|line| !line.contains("Kernel Space"))
        .filter_map(parse)
        .collect()
}

/// A mapping, and the size that its leaves are to have.
struct Mapped {
    device: Rc<Device>,
    map: Map,
    leaf: usize,
}

/// The leaves of all mappings are what they are to be, by what the driver and the kernel say.
#[track_caller]
fn check_leaves(mapped: &[Mapped], memory_type: u32) {
    let printed = debug().then(printed);
    for Mapped { device, map, leaf } in mapped {
        for address in [map.address(), map.address() + map.len() - 1] {
            let mapping = device.mapping(address).expect("MAPPING");
            assert_eq!(mapping.memory_type, memory_type, "type at {address:#x}");
            assert_eq!(mapping.page_size, *leaf as u64, "leaf at {address:#x}");
            let Some(printed) = &printed else { continue };
            let Printed { level, flags, .. } = printed
                .iter()
                .find(|printed| printed.range.contains(&address))
                .expect("a line for the address");
            assert_eq!(level, if *leaf == PAGE { "pte" } else { "pmd" });
            // What Linux has in the PAT: no bit is write-back, one is write-combining, the other
            // uncached.
            let has = |flag: &str| flags.iter().any(|word| word == flag);
            let bits = [has("PAT"), has("PCD"), has("PWT")];
            let expected = match memory_type {
                IVSHMEM_MEMORY_WB => [false, false, false],
                IVSHMEM_MEMORY_WC => [false, false, true],
                _ => [false, true, has("PWT")],
            };
            assert_eq!(bits, expected, "{flags:?}");
        }
    }
}

fn touch(map: &Map) {
    for word in map.words().iter().step_by(PAGE / 8) {
        word.store(word.load(SeqCst) + 1, SeqCst);
    }
}

/// Everything says the same of all memories: INFO, sysfs and each leaf.
#[track_caller]
fn check(memory_type: u32, mapped_by: impl Fn(&Memory) -> u32, is_huge: impl Fn(&Memory) -> bool) {
    let mut mapped = Vec::new();
    for memory in memories() {
        let Memory { node, size, .. } = &memory;
        let len = *size as usize;
        let device = Rc::new(Device::open_as(&format!("/dev/{node}"), OFlags::RDWR).expect(node));
        let info = device.info();
        assert_eq!(info.memory_type, memory_type, "{node}");
        let name = ["none", "wb", "wc", "uc", "other"][memory_type as usize];
        assert_eq!(attribute_of(node, "memory_type").as_deref(), Some(name));
        assert_eq!(info.mapped_by, mapped_by(&memory), "{node}");
        let largest = if is_huge(&memory) { HUGE } else { PAGE };
        assert_eq!(info.page_size, largest as u64, "{node}");

        // The ends and the middle are enough of what is large; and a single page has a small leaf
        // of the same type, wherever it is.
        let part = len.min(2 * HUGE);
        let middle = len / 2 / HUGE * HUGE;
        for (offset, len, leaf) in [
            (0, part, largest),
            (middle, part.min(len - middle), largest),
            (len - part, part, largest),
            (0, PAGE, PAGE),
            (len - PAGE, PAGE, PAGE),
        ] {
            let map = device.map(offset as u64, len);
            touch(&map);
            let device = device.clone();
            mapped.push(Mapped { device, map, leaf });
        }
    }
    check_leaves(&mapped, memory_type);
    // A change of the protection is none of the type.
    for Mapped { map, .. } in &mapped {
        map.protect(MprotectFlags::READ).expect("mprotect");
        assert_ne!(map.words()[0].load(SeqCst), 0);
    }
    check_leaves(&mapped, memory_type);
}

/// The module with another parameter, from now on. (The kernel that checks addresses takes seconds
/// to map GiBs and to unmap them: no more often than must be.)
fn reload(parameter: &str) {
    pci::unload().expect("nobody uses the module");
    pci::load(parameter).expect("the module loads");
}

/// How write-back mappings are made.
fn way(memory: &Memory) -> u32 {
    if memory.above {
        IVSHMEM_MAPPED_BY_RECORD
    } else {
        IVSHMEM_MAPPED_BY_ENTRY
    }
}

fn is_large(memory: &Memory) -> bool {
    memory.size >= HUGE as u64
}

fn it_is_write_back_wherever_it_is() {
    // Where the firmware has made the place uncached, leaves are filled one by one.
    check(IVSHMEM_MEMORY_WB, way, |memory| {
        memory.above && is_large(memory)
    });
}

fn the_log_says_so() {
    let log = pci::log();
    for memory in memories() {
        let (way, largest) = match memory.above {
            true if is_large(&memory) => ("record", HUGE),
            true => ("record", PAGE),
            false => ("entry", PAGE),
        };
        let said = format!(
            " {}: {} bytes wb by {way} in leaves of up to {} KiB, ",
            memory.node,
            memory.size,
            largest >> 10
        );
        let lines = log.iter().filter(|line| line.text.contains(&said));
        assert_eq!(lines.count(), 1, "{said}");
    }
}

fn it_is_write_combining_if_asked_for() {
    reload("memory=wc");
    check(IVSHMEM_MEMORY_WC, |_| IVSHMEM_MAPPED_BY_RECORD, is_large);
}

fn it_is_uncached_if_asked_for() {
    reload("memory=uc");
    check(IVSHMEM_MEMORY_UC, |_| IVSHMEM_MAPPED_BY_RECORD, is_large);
}

fn main() {
    guest::run(cases![
        memory_of_all_sizes_is_where_it_is_to_be,
        it_is_write_back_wherever_it_is,
        the_log_says_so,
        it_is_write_combining_if_asked_for,
        it_is_uncached_if_asked_for,
    ])
}
