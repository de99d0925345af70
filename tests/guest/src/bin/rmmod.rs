// SPDX-License-Identifier: GPL-2.0

//! The module goes when nobody uses it, and not before.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;

use guest::dev::{Device, PAGE};
use guest::pci;
use guest::{cases, scaled};
use rustix::io::Errno;

fn loaded() -> bool {
    fs::read_to_string("/proc/modules")
        .expect("procfs")
        .lines()
        .any(|line| line.starts_with("ivshmem "))
}

fn it_is_refused_while_a_file_is_open() {
    let device = Device::open();
    assert_eq!(pci::unload(), Err(Errno::AGAIN));
    assert!(loaded());
    device.settle(0);
    drop(device);
}

fn it_is_refused_while_something_is_mapped() {
    let map = Device::open().map(0, PAGE);
    assert_eq!(pci::unload(), Err(Errno::AGAIN));
    map.words()[0].store(1, SeqCst);
    drop(map);
}

/// The code of an open file must stay, though its device is gone.
fn it_is_refused_while_a_file_of_a_gone_device_is_open() {
    let device = Device::open();
    let [pci] = &pci::devices()[..] else {
        panic!("one device")
    };
    pci.unbind();
    assert_eq!(pci::unload(), Err(Errno::AGAIN));
    assert_eq!(device.try_info(), Err(Errno::NODEV));
    drop(device);
    pci.bind();
}

fn it_works_afterwards_and_leaves_nothing() {
    assert_eq!(pci::unload(), Ok(()));
    assert!(!loaded());
    assert!(!Path::new("/dev/ivshmem0").exists());
    assert!(!Path::new("/sys/class/misc/ivshmem0").exists());
    assert!(!Path::new("/sys/bus/pci/drivers/ivshmem").exists());
    let interrupts = fs::read_to_string("/proc/interrupts").expect("procfs");
    assert!(!interrupts.contains("ivshmem"), "{interrupts}");
    let iomem = fs::read_to_string("/proc/iomem").expect("procfs");
    assert!(!iomem.contains("ivshmem"), "{iomem}");
    assert_eq!(pci::devices()[0].attribute("enable"), "0");
    pci::load_again();
    Device::open().settle(1);
}

fn it_can_be_loaded_again_and_again() {
    for _ in 0..scaled(20) {
        assert_eq!(pci::unload(), Ok(()));
        pci::load_again();
        let device = Device::open();
        let map = device.map(0, PAGE);
        map.words()[0].store(1, SeqCst);
        device.settle(0);
    }
    assert_eq!(pci::load(""), Err(Errno::EXIST));
}

fn main() {
    guest::run(cases![
        it_is_refused_while_a_file_is_open,
        it_is_refused_while_something_is_mapped,
        it_is_refused_while_a_file_of_a_gone_device_is_open,
        it_works_afterwards_and_leaves_nothing,
        it_can_be_loaded_again_and_again,
    ])
}
