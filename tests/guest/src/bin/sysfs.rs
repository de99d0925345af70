// SPDX-License-Identifier: GPL-2.0

//! What can be seen of a device without opening it, and of who has it open.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;

use guest::abi::*;
use guest::dev::{Device, attribute, attribute_of, delivered};
use guest::{cases, vectors};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::OFlags;

const NAMES: [&str; 10] = [
    "size",
    "ivposition",
    "vectors",
    "ring_vectors",
    "interrupt",
    "revision",
    "memory_type",
    "mapped_by",
    "page_size",
    "generation",
];

#[track_caller]
fn check(node: &str) {
    let device = Device::open_as(&format!("/dev/{node}"), OFlags::RDWR).expect(node);
    let info = device.info();
    let interrupt = ["none", "intx", "msix"][info.interrupt as usize];
    let memory_type = ["none", "wb", "wc", "uc", "other"][info.memory_type as usize];
    let mapped_by = ["none", "record", "entry", "page"][info.mapped_by as usize];
    let expected = [
        info.size.to_string(),
        info.ivposition.to_string(),
        info.vectors.to_string(),
        info.ring_vectors.to_string(),
        interrupt.to_owned(),
        info.revision.to_string(),
        memory_type.to_owned(),
        mapped_by.to_owned(),
        info.page_size.to_string(),
        info.generation.to_string(),
    ];
    for (name, expected) in NAMES.iter().zip(expected) {
        assert_eq!(attribute_of(node, name), Some(expected), "{name}");
    }
}

fn attributes_are_what_info_says() {
    check("ivshmem0");
}

fn also_of_a_plain_device() {
    check("ivshmem1");
    assert_eq!(
        attribute_of("ivshmem1", "interrupt").as_deref(),
        Some("none")
    );
}

fn attributes_are_read_only() {
    for name in NAMES.into_iter().chain(["counts/0"]) {
        let path = format!("/sys/class/misc/ivshmem0/{name}");
        let mode = fs::metadata(&path).expect(name).permissions().mode();
        assert_eq!(mode & 0o777, 0o444, "{name}");
        assert!(fs::write(&path, "1").is_err(), "{name}");
    }
}

fn each_vector_has_a_count() {
    let mut names: Vec<u32> = fs::read_dir("/sys/class/misc/ivshmem0/counts")
        .expect("counts")
        .map(|entry| {
            entry
                .expect("counts")
                .file_name()
                .into_string()
                .expect("ASCII")
        })
        .map(|name| name.parse().expect("a number"))
        .collect();
    names.sort();
    assert_eq!(names, (0..vectors()).collect::<Vec<_>>());
    assert_eq!(
        attribute_of("ivshmem1", "counts/0"),
        None,
        "a plain one has none"
    );
}

fn counts_are_those_of_the_calls() {
    let device = Device::open();
    for vector in 0..vectors() {
        let seen = device.settle(vector);
        assert_eq!(delivered(vector), seen);
        device.ring_self(vector);
        assert_eq!(device.moved(vector, seen), delivered(vector));
        assert_eq!(delivered(vector), seen + 1);
    }
}

/// A look at sysfs makes nobody listen.
fn a_look_requests_no_interrupt() {
    let interrupts = || fs::read_to_string("/proc/interrupts").expect("procfs");
    for vector in 0..vectors() {
        delivered(vector);
    }
    attribute("vectors").expect("vectors");
    assert!(!interrupts().contains("ivshmem0-"), "{}", interrupts());
}

/// The lines of a file in `fdinfo` that are the driver's.
fn information(device: &Device) -> Vec<String> {
    let path = format!("/proc/self/fdinfo/{}", device.as_fd().as_raw_fd());
    let text = fs::read_to_string(path).expect("fdinfo");
    let ours = ["subscribed:", "waited:", "eventfd:"];
    let is_ours = |line: &&str| ours.iter().any(|word| line.starts_with(word));
    text.lines().filter(is_ours).map(str::to_owned).collect()
}

fn fdinfo_says_what_a_file_waits_for() {
    let device = Device::open();
    assert!(information(&device).is_empty());
    let count = device.settle(1);
    assert_eq!(information(&device), ["waited:\t1"]);
    let other = Device::open();
    let before = other.settle(2);
    let fd = eventfd(0, EventfdFlags::CLOEXEC).expect("eventfd");
    device.attach(3, &fd).expect("EVENTFD");
    device.subscribe(&[2]).expect("SUBSCRIBE");
    other.ring_self(2);
    let now = other.moved(2, before);
    let subscribed = format!("subscribed:\t2 seen {before} count {now}");
    assert_eq!(
        information(&device),
        [subscribed.as_str(), "waited:\t1", "eventfd:\t3"]
    );
    device.read(1).expect("read");
    let subscribed = format!("subscribed:\t2 seen {now} count {now}");
    assert_eq!(information(&device)[0], subscribed);
    device.detach(3, &fd).expect("EVENTFD");
    device.unsubscribe(&[]).expect("SUBSCRIBE");
    assert!(information(&device).is_empty());
    assert_eq!(device.wait(1, count, 0), Err(rustix::io::Errno::TIMEDOUT));
    assert_eq!(information(&device), ["waited:\t1"]);
    assert_eq!(information(&other), ["waited:\t2"]);
}

fn fdinfo_names_the_state() {
    let device = Device::open();
    device
        .subscribe(&[IVSHMEM_VECTOR_STATE])
        .expect("SUBSCRIBE");
    let lines = information(&device);
    let generation = device.info().generation;
    let values = format!("seen {generation} count {generation}");
    assert_eq!(lines.len(), 1);
    assert!(
        lines[0].starts_with("subscribed:") && lines[0].ends_with(&values),
        "{lines:?}"
    );
}

fn main() {
    guest::run(cases![
        attributes_are_what_info_says,
        also_of_a_plain_device,
        attributes_are_read_only,
        each_vector_has_a_count,
        a_look_requests_no_interrupt,
        counts_are_those_of_the_calls,
        fdinfo_says_what_a_file_waits_for,
        fdinfo_names_the_state,
    ])
}
