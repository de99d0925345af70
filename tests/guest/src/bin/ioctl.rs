// SPDX-License-Identifier: GPL-2.0

//! Every way to call an ioctl wrongly, and the error it gets.

use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering::SeqCst;

use guest::abi::*;
use guest::dev::{Device, PAGE};
use guest::{cases, vectors};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};

const IN: u32 = 1;
const OUT: u32 = 2;

/// All there are.
const CALLS: [u32; 9] = [
    IVSHMEM_IOC_INFO,
    IVSHMEM_IOC_IVPOSITION,
    IVSHMEM_IOC_DOORBELL,
    IVSHMEM_IOC_DOORBELLS,
    IVSHMEM_IOC_WAIT,
    IVSHMEM_IOC_WAITS,
    IVSHMEM_IOC_SUBSCRIBE,
    IVSHMEM_IOC_EVENTFD,
    IVSHMEM_IOC_MAPPING,
];

fn number(direction: u32, kind: u32, which: u32, size: usize) -> u32 {
    (direction << 30) | ((size as u32) << 16) | (kind << 8) | which
}

fn open(node: &str) -> Device {
    Device::open_as(&format!("/dev/{node}"), OFlags::RDWR).expect(node)
}

fn doorbell() -> Device {
    open("ivshmem0")
}

fn plain() -> Device {
    open("ivshmem1")
}

fn numbers_are_as_the_header_has_them() {
    use IVSHMEM_IOC_TYPE as TYPE;
    let expected = [
        number(OUT, TYPE, 0, size_of::<ivshmem_info>()),
        number(OUT, TYPE, 1, 4),
        number(IN, TYPE, 2, size_of::<ivshmem_doorbell>()),
        number(IN, TYPE, 3, size_of::<ivshmem_doorbells>()),
        number(IN | OUT, TYPE, 4, size_of::<ivshmem_wait>()),
        number(IN | OUT, TYPE, 5, size_of::<ivshmem_waits>()),
        number(IN, TYPE, 6, size_of::<ivshmem_subscribe>()),
        number(IN, TYPE, 7, size_of::<ivshmem_eventfd>()),
        number(IN | OUT, TYPE, 8, size_of::<ivshmem_mapping>()),
    ];
    assert_eq!(CALLS, expected);
}

#[track_caller]
fn unknown(device: &Device, number: u32) {
    let mut buffer = [0_u8; 1 << 14];
    // SAFETY: The buffer is as large as any ioctl's argument.
    let result = unsafe { device.ioctl_at(number, buffer.as_mut_ptr() as usize) };
    assert_eq!(result, Err(Errno::NOTTY), "{number:#x}");
    assert!(buffer.iter().all(|byte| *byte == 0), "{number:#x} writes");
}

fn unknown_calls_are_not_ours() {
    for device in [doorbell(), plain()] {
        for which in (9..256).step_by(5).chain([255]) {
            for direction in [0, IN, OUT, IN | OUT] {
                unknown(&device, number(direction, IVSHMEM_IOC_TYPE, which, 8));
            }
        }
        unknown(&device, 0);
        unknown(&device, u32::MAX);
    }
}

fn other_sizes_directions_and_types_are_not_ours() {
    let device = doorbell();
    for call in CALLS {
        let size = (call >> 16) & 0x3fff;
        for other in [0, 1, size - 1, size + 1, size + 8, 2 * size, 0x3fff] {
            unknown(&device, (call & !(0x3fff << 16)) | (other << 16));
        }
        let direction = call >> 30;
        for other in (0..4).filter(|other| *other != direction) {
            unknown(&device, (call & !(3 << 30)) | (other << 30));
        }
        for kind in [0, 0xba, 0xbc, 0xff] {
            unknown(&device, (call & !(0xff << 8)) | (kind << 8));
        }
    }
}

/// Addresses that are bad: nothing there, or only to be read, or of the kernel.
fn bad_addresses(device: &Device) -> Vec<(usize, &'static str)> {
    let nowhere = device.map(0, PAGE);
    let address = nowhere.address();
    drop(nowhere);
    vec![
        (0, "null"),
        (8, "near null"),
        (address, "unmapped"),
        (usize::MAX - 7, "the end"),
        (0xffff_8880_0000_1000, "the kernel's"),
        (0x0000_8000_0000_0000, "in no half"),
    ]
}

fn bad_pointers_are_faults() {
    let device = doorbell();
    for (address, what) in bad_addresses(&device) {
        for call in CALLS {
            // SAFETY: Nothing can be written there.
            let result = unsafe { device.ioctl_at(call, address) };
            assert_eq!(result, Err(Errno::FAULT), "{call:#x}, {what}");
        }
    }
}

/// An argument that begins well but goes on where nothing is.
fn half_a_structure_is_a_fault() {
    let device = doorbell();
    let page = device
        .map_as(
            0,
            2 * PAGE,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
        )
        .expect("mmap");
    page.unmap_part(PAGE, PAGE).expect("munmap");
    let end = page.address() + PAGE;
    for word in page.words()[..PAGE / 8].iter() {
        word.store(0, SeqCst);
    }
    for call in CALLS {
        let size = ((call >> 16) & 0x3fff) as usize;
        // SAFETY: What can be written there is the shared memory, which nobody else uses.
        let result = unsafe { device.ioctl_at(call, end - size / 2) };
        assert_eq!(result, Err(Errno::FAULT), "{call:#x}");
    }
}

fn bad_pointers_in_arguments_are_faults() {
    let device = doorbell();
    for (address, what) in bad_addresses(&device) {
        let address = address as u64;
        let mut rings = ivshmem_doorbells {
            doorbells: address,
            nr: 1,
            reserved: 0,
        };
        let result = device.ioctl(IVSHMEM_IOC_DOORBELLS, &mut rings);
        assert_eq!(result, Err(Errno::FAULT), "DOORBELLS, {what}");
        let mut waits = ivshmem_waits {
            events: address,
            nr: 1,
            flags: 0,
            timeout: 0,
        };
        let result = device.ioctl(IVSHMEM_IOC_WAITS, &mut waits);
        assert_eq!(result, Err(Errno::FAULT), "WAITS, {what}");
        for flags in [0, IVSHMEM_UNSUBSCRIBE] {
            let mut subscribe = ivshmem_subscribe {
                vectors: address,
                nr: 1,
                flags,
            };
            let result = device.ioctl(IVSHMEM_IOC_SUBSCRIBE, &mut subscribe);
            assert_eq!(result, Err(Errno::FAULT), "SUBSCRIBE, {what}");
        }
    }
}

/// The kernel reads the argument but cannot write the answer.
fn an_answer_needs_a_place() {
    let device = doorbell();
    let map = device.map(0, PAGE);
    let start = map.address();
    map.words()[..32]
        .iter()
        .for_each(|word| word.store(0, SeqCst));
    let seen = device.settle(0);
    // Vector 0 at the beginning, and its count; an event; and an address that MAPPING is asked for.
    let [wait, event, mapping] = [0, 8, 16];
    map.words()[wait + 1].store(seen - 1, SeqCst);
    map.words()[event + 1].store(seen - 1, SeqCst);
    map.words()[mapping].store(start as u64, SeqCst);
    map.protect(MprotectFlags::READ).expect("mprotect");
    for (call, word) in [
        (IVSHMEM_IOC_INFO, wait),
        (IVSHMEM_IOC_IVPOSITION, wait),
        (IVSHMEM_IOC_WAIT, wait),
        (IVSHMEM_IOC_MAPPING, mapping),
    ] {
        // SAFETY: Nothing can be written there.
        let result = unsafe { device.ioctl_at(call, start + 8 * word) };
        assert_eq!(result, Err(Errno::FAULT), "{call:#x}");
    }
    let mut waits = ivshmem_waits {
        events: (start + 8 * event) as u64,
        nr: 1,
        flags: 0,
        timeout: 0,
    };
    let result = device.ioctl(IVSHMEM_IOC_WAITS, &mut waits);
    assert_eq!(result, Err(Errno::FAULT));
    // What has moved was not taken away by the attempt.
    assert_eq!(device.wait(0, seen - 1, 0), Ok(seen));
    // Nothing was wrong but the place.
    map.protect(MprotectFlags::READ | MprotectFlags::WRITE)
        .expect("mprotect");
    assert_eq!(device.ioctl(IVSHMEM_IOC_WAITS, &mut waits), Ok(1));
    assert_eq!(map.words()[event + 1].load(SeqCst), seen);
    // SAFETY: What is written there is the shared memory, which nobody else uses.
    let result = unsafe { device.ioctl_at(IVSHMEM_IOC_MAPPING, start + 8 * mapping) };
    assert_eq!(result, Ok(0));
    assert_eq!(map.words()[mapping + 1].load(SeqCst), PAGE as u64);
}

#[track_caller]
fn refused<T>(device: &Device, call: u32, mut argument: T) {
    assert_eq!(device.ioctl(call, &mut argument), Err(Errno::INVAL));
}

fn reserved_fields_must_be_zero() {
    let device = doorbell();
    let me = device.info().ivposition as u32;
    let ring = [ivshmem_doorbell {
        peer: me,
        vector: 0,
    }];
    let counts = device.settle(0);
    for bit in [0, 1, 16, 31] {
        let bit = 1 << bit;
        let call = ivshmem_doorbells {
            doorbells: ring.as_ptr() as u64,
            nr: 1,
            reserved: bit,
        };
        refused(&device, IVSHMEM_IOC_DOORBELLS, call);

        let mut events = [ivshmem_event {
            vector: 0,
            reserved: bit,
            count: 0,
        }];
        assert_eq!(device.waits(&mut events, 0), Err(Errno::INVAL));

        let fd = eventfd(0, EventfdFlags::CLOEXEC).expect("eventfd");
        let call = ivshmem_eventfd {
            vector: 0,
            fd: fd.as_raw_fd(),
            flags: 0,
            reserved: bit,
        };
        refused(&device, IVSHMEM_IOC_EVENTFD, call);
        assert_eq!(
            device.detach(0, &fd),
            Err(Errno::NOENT),
            "nothing was attached"
        );

        let map = device.map(0, PAGE);
        let good = ivshmem_mapping {
            addr: map.address() as u64,
            ..Default::default()
        };
        refused(
            &device,
            IVSHMEM_IOC_MAPPING,
            ivshmem_mapping {
                reserved: bit,
                ..good
            },
        );
        assert!(device.mapping(map.address()).is_ok());
    }
    assert_eq!(device.count(0), counts, "nothing was rung");
}

fn undefined_flags_must_be_zero() {
    let device = doorbell();
    let fd = eventfd(0, EventfdFlags::CLOEXEC).expect("eventfd");
    let raw = fd.as_raw_fd();
    for bit in 1..32 {
        let flags = 1 << bit;
        for flags in [flags, flags | 1] {
            let wait = ivshmem_wait {
                vector: 0,
                flags,
                count: u64::MAX,
                timeout: 0,
            };
            refused(&device, IVSHMEM_IOC_WAIT, wait);
            let mut event = ivshmem_event {
                vector: 0,
                reserved: 0,
                count: u64::MAX,
            };
            let waits = ivshmem_waits {
                events: &raw mut event as u64,
                nr: 1,
                flags,
                timeout: 0,
            };
            refused(&device, IVSHMEM_IOC_WAITS, waits);
            let vector = 0_u32;
            let subscribe = ivshmem_subscribe {
                vectors: &raw const vector as u64,
                nr: 1,
                flags,
            };
            refused(&device, IVSHMEM_IOC_SUBSCRIBE, subscribe);
            assert_eq!(device.eventfd(0, raw, flags), Err(Errno::INVAL));
        }
    }
    assert!(device.ready().is_empty(), "nothing was subscribed to");
}

fn absent_vectors_are_refused() {
    let device = doorbell();
    let fd = eventfd(0, EventfdFlags::CLOEXEC).expect("eventfd");
    let absent = [
        vectors(),
        vectors() + 1,
        2047,
        2048,
        65536,
        1 << 31,
        u32::MAX - 2,
    ];
    for vector in absent {
        assert_eq!(device.wait(vector, 0, 0), Err(Errno::INVAL), "{vector}");
        let mut set = [0, vector].map(|vector| ivshmem_event {
            vector,
            reserved: 0,
            count: u64::MAX,
        });
        assert_eq!(device.waits(&mut set, 0), Err(Errno::INVAL), "{vector}");
        assert_eq!(device.subscribe(&[vector]), Err(Errno::INVAL), "{vector}");
        assert_eq!(
            device.subscribe(&[0, vector]),
            Err(Errno::INVAL),
            "{vector}"
        );
        assert_eq!(device.unsubscribe(&[vector]), Err(Errno::INVAL), "{vector}");
        assert_eq!(device.attach(vector, &fd), Err(Errno::INVAL), "{vector}");
        assert_eq!(device.detach(vector, &fd), Err(Errno::INVAL), "{vector}");
    }
    assert_eq!(
        device.read(1),
        Err(Errno::INVAL),
        "nothing of it was subscribed to"
    );
    // Where "any" has no meaning it is no vector.
    assert_eq!(device.subscribe(&[IVSHMEM_VECTOR_ANY]), Err(Errno::INVAL));
    assert_eq!(device.attach(IVSHMEM_VECTOR_ANY, &fd), Err(Errno::INVAL));
}

fn negative_timeouts_are_refused() {
    let device = doorbell();
    for timeout in [-2, -1000, i64::MIN] {
        for flags in [0, IVSHMEM_WAIT_ABSOLUTE] {
            let wait = ivshmem_wait {
                vector: 0,
                flags,
                count: u64::MAX,
                timeout,
            };
            refused(&device, IVSHMEM_IOC_WAIT, wait);
            let mut event = ivshmem_event {
                vector: 0,
                reserved: 0,
                count: u64::MAX,
            };
            let waits = ivshmem_waits {
                events: &raw mut event as u64,
                nr: 1,
                flags,
                timeout,
            };
            refused(&device, IVSHMEM_IOC_WAITS, waits);
        }
    }
}

fn arrays_have_a_size() {
    let device = doorbell();
    let most = IVSHMEM_MAX_ARRAY as usize;
    let event = ivshmem_event {
        vector: 0,
        reserved: 0,
        count: u64::MAX,
    };
    assert_eq!(device.waits(&mut [], 0), Err(Errno::INVAL));
    assert_eq!(
        device.waits(&mut vec![event; most + 1], 0),
        Err(Errno::INVAL)
    );
    assert_eq!(
        device.waits(&mut vec![event; most], 0),
        Ok(IVSHMEM_MAX_ARRAY)
    );
    assert_eq!(device.subscribe(&[]), Err(Errno::INVAL));
    assert_eq!(device.subscribe(&vec![0; most + 1]), Err(Errno::INVAL));
    assert_eq!(device.unsubscribe(&vec![0; most + 1]), Err(Errno::INVAL));
    assert_eq!(
        device.read(1),
        Err(Errno::INVAL),
        "nothing is subscribed to"
    );
    assert_eq!(device.subscribe(&vec![0; most]), Ok(()));
    assert_eq!(device.unsubscribe(&[]), Ok(()));
    for nr in [1 << 16, 1 << 28, u32::MAX] {
        let call = ivshmem_doorbells {
            doorbells: &raw const event as u64,
            nr,
            reserved: 0,
        };
        refused(&device, IVSHMEM_IOC_DOORBELLS, call);
    }
}

fn mappings_of_others_are_refused() {
    let (device, other) = (doorbell(), plain());
    let (ours, theirs) = (device.map(PAGE as u64, 2 * PAGE), other.map(0, PAGE));
    let described = device.mapping(ours.address() + PAGE + 5).expect("MAPPING");
    assert_eq!(described.offset, 2 * PAGE as u64);
    assert_eq!(described.reserved, 0);
    let local = 0_u64;
    let nowhere = {
        let map = device.map(0, PAGE);
        map.address()
    };
    for address in [
        theirs.address(),
        &raw const local as usize,
        nowhere,
        0,
        usize::MAX,
    ] {
        assert_eq!(device.mapping(address), Err(Errno::INVAL), "{address:#x}");
    }
    assert_eq!(other.mapping(ours.address()), Err(Errno::INVAL));
    // The mapping of another file of the same device is described.
    assert!(doorbell().mapping(ours.address()).is_ok());
}

fn a_mapping_is_described_once_it_is_touched() {
    let device = doorbell();
    let map = device.map(0, PAGE);
    let before = device.mapping(map.address()).expect("MAPPING");
    assert_eq!(
        (before.page_size, before.memory_type),
        (0, IVSHMEM_MEMORY_NONE)
    );
    map.words()[0].store(0, SeqCst);
    let after = device.mapping(map.address()).expect("MAPPING");
    assert_eq!(after.page_size, PAGE as u64);
    assert_eq!(after.memory_type, device.info().memory_type);
}

fn a_plain_device_has_no_interrupts() {
    let device = plain();
    let fd = eventfd(0, EventfdFlags::CLOEXEC).expect("eventfd");
    let no = Errno::OPNOTSUPP;
    let ring = ivshmem_doorbell { peer: 0, vector: 0 };
    assert_eq!(device.ring(0, 0), Err(no));
    assert_eq!(device.ring_many(&[ring]), Err(no));
    assert_eq!(device.wait(0, 0, 0), Err(no));
    let mut set = [ivshmem_event::default()];
    assert_eq!(device.waits(&mut set, 0), Err(no));
    assert_eq!(device.subscribe(&[0]), Err(no));
    assert_eq!(device.attach(0, &fd), Err(no));
    let nothing_subscribed = || {
        assert_eq!(device.read(1), Err(no));
        assert_eq!(device.wait(IVSHMEM_VECTOR_ANY, 0, 0), Err(no));
        let mut set = [ivshmem_event {
            vector: IVSHMEM_VECTOR_ANY,
            ..Default::default()
        }];
        assert_eq!(device.waits(&mut set, 0), Err(no));
    };
    nothing_subscribed();
    // The state has no need of interrupts.
    let generation = device.info().generation;
    assert_eq!(device.wait(IVSHMEM_VECTOR_STATE, 0, 0), Ok(generation));
    assert_eq!(device.subscribe(&[IVSHMEM_VECTOR_STATE]), Ok(()));
    assert_eq!(device.wait(IVSHMEM_VECTOR_ANY, 1, 0), Ok(0));
    assert_eq!(device.unsubscribe(&[]), Ok(()));
    nothing_subscribed();
    assert_eq!(device.attach(IVSHMEM_VECTOR_STATE, &fd), Ok(()));
    assert_eq!(device.detach(IVSHMEM_VECTOR_STATE, &fd), Ok(()));
    assert_eq!(device.ivposition(), Ok(0));
}

fn main() {
    guest::run(cases![
        numbers_are_as_the_header_has_them,
        unknown_calls_are_not_ours,
        other_sizes_directions_and_types_are_not_ours,
        bad_pointers_are_faults,
        half_a_structure_is_a_fault,
        bad_pointers_in_arguments_are_faults,
        an_answer_needs_a_place,
        reserved_fields_must_be_zero,
        undefined_flags_must_be_zero,
        absent_vectors_are_refused,
        negative_timeouts_are_refused,
        arrays_have_a_size,
        mappings_of_others_are_refused,
        a_mapping_is_described_once_it_is_touched,
        a_plain_device_has_no_interrupts,
    ])
}
