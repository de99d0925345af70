// SPDX-License-Identifier: GPL-2.0

//! What the driver makes of a device, and what it says of it.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::Ordering::SeqCst;

use guest::abi::*;
use guest::dev::{Device, NODE, attribute_of};
use guest::pci::{self, Pci};
use guest::{cases, guest, guests, scenario, size, vectors};
use rustix::fs::OFlags;
use rustix::io::Errno;

fn open(node: &str) -> Device {
    Device::open_as(&format!("/dev/{node}"), OFlags::RDWR).expect(node)
}

fn the_node_is_for_root_alone() {
    let metadata = fs::metadata(NODE).expect(NODE);
    assert!(metadata.file_type().is_char_device());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
}

fn the_node_leads_to_its_pci_device() {
    let [pci] = &pci::devices()[..] else {
        panic!("one device")
    };
    assert_eq!(Pci::of("ivshmem0").name, pci.name);
    assert_eq!(pci.node().as_deref(), Some("ivshmem0"));
}

fn the_id_is_the_servers() {
    let device = Device::open();
    assert_eq!(device.info().ivposition, guest() as i32);
    assert_eq!(device.ivposition(), Ok(guest() as i32));
}

#[track_caller]
fn check_doorbell(info: &ivshmem_info, vectors: u32) {
    assert_eq!(info.size, size());
    assert_eq!(info.revision, 1);
    assert_eq!(info.interrupt, IVSHMEM_INTERRUPT_MSIX);
    assert_eq!(info.vectors, vectors);
    assert_eq!(
        info.ring_vectors,
        guest::vectors().min(256),
        "what the device has"
    );
}

fn a_doorbell_device_is_described() {
    let info = Device::open().info();
    check_doorbell(&info, vectors());
    assert_eq!(
        info.features & u64::from(IVSHMEM_FEATURE_READY),
        IVSHMEM_FEATURE_READY.into()
    );
    assert_eq!(info.generation, 1);
    assert_eq!(info.memory_type, IVSHMEM_MEMORY_WB);
    assert!(
        info.page_size == 4096 || info.page_size == 2 << 20,
        "{}",
        info.page_size
    );
    assert_eq!(info.reserved, [0; 3]);
}

fn the_pci_device_is_as_qemu_makes_it() {
    let [pci] = &pci::devices()[..] else {
        panic!("one device")
    };
    assert_eq!(pci.attribute("revision"), "0x01");
    assert_eq!(pci.bar_size(0), 256);
    assert_eq!(pci.bar_size(2), size());
    assert_eq!(pci.bar_size(2), Device::open().info().size);
    assert_eq!(pci.bar_size(1), 4096, "the MSI-X table");
}

fn a_bound_device_is_enabled() {
    let [pci] = &pci::devices()[..] else {
        panic!("one device")
    };
    assert_eq!(pci.attribute("enable"), "1");
    assert_ne!(pci.config(4) & (1 << 1), 0, "memory");
    assert_ne!(pci.config(4) & (1 << 2), 0, "bus master, for MSI-X");
    pci.unbind();
    assert_eq!(pci.attribute("enable"), "0");
    assert_eq!(pci.config(4) & (1 << 2), 0, "bus master");
    pci.bind();
    assert_eq!(pci.attribute("enable"), "1");
    assert_eq!(Device::open().info().size, size());
}

fn the_log_has_one_line_of_it_and_no_complaint() {
    let lines = pci::log();
    let ours: Vec<_> = lines
        .iter()
        .filter(|line| line.text.contains("ivshmem") && !line.text.contains("taints kernel"))
        .filter(|line| !line.text.contains("verification failed"))
        .filter(|line| !line.text.starts_with("Command line") && !line.text.contains("user-space"))
        .collect();
    assert!(!ours.is_empty());
    for line in &ours {
        assert!(line.level >= 6, "<{}> {}", line.level, line.text);
    }
    let of_bind = ours
        .iter()
        .filter(|line| line.text.contains("IVPosition"))
        .count();
    // It was bound once more by the case before.
    assert_eq!(of_bind, 2, "one line for each time it is bound");
}

/// The nodes of the doorbell device and of the plain one.
fn both() -> (String, String) {
    let nodes: Vec<String> = pci::devices()
        .iter()
        .map(|pci| pci.node().expect("it is bound"))
        .collect();
    assert_eq!(nodes.len(), 2);
    let is_plain = |node: &String| attribute_of(node, "interrupt").as_deref() == Some("none");
    let plain = nodes
        .iter()
        .find(|node| is_plain(node))
        .expect("a plain device");
    let doorbell = nodes
        .iter()
        .find(|node| !is_plain(node))
        .expect("a doorbell device");
    (doorbell.clone(), plain.clone())
}

fn a_plain_device_has_no_interrupts() {
    let (_, plain) = both();
    let info = open(&plain).info();
    assert_eq!(info.size, size());
    assert_eq!(info.revision, 1);
    assert_eq!(info.ivposition, 0);
    assert_eq!(info.interrupt, IVSHMEM_INTERRUPT_NONE);
    assert_eq!((info.vectors, info.ring_vectors), (0, 0));
    assert_eq!(
        info.features & u64::from(IVSHMEM_FEATURE_READY),
        IVSHMEM_FEATURE_READY.into()
    );
    assert_eq!(
        Pci::of(&plain).config(4) & (1 << 2),
        0,
        "no need of bus mastering"
    );
}

fn two_devices_are_two() {
    let (doorbell, plain) = both();
    assert_eq!(
        [&doorbell, &plain].map(String::as_str),
        ["ivshmem0", "ivshmem1"]
    );
    let (doorbell, plain) = (open(&doorbell), open(&plain));
    check_doorbell(&doorbell.info(), vectors());
    let (one, other) = (doorbell.map(0, 4096), plain.map(0, 4096));
    one.words()[0].store(1, SeqCst);
    other.words()[0].store(2, SeqCst);
    assert_eq!(one.words()[0].load(SeqCst), 1);
    doorbell.settle(0);
}

/// Loads the module with other parameters, and afterwards as it was.
fn with_module(parameters: &str, test: impl FnOnce()) {
    pci::unload().expect("nobody uses the module");
    pci::load(parameters).expect("the module loads");
    let result = panic::catch_unwind(AssertUnwindSafe(test));
    pci::unload().expect("nobody uses the module");
    pci::load_again();
    if let Err(payload) = result {
        panic::resume_unwind(payload);
    }
}

fn a_parameter_caps_the_vectors() {
    with_module("vectors=2", || {
        let device = open(&both().0);
        check_doorbell(&device.info(), 2);
        device.settle(1);
        assert_eq!(device.wait(2, 0, 0), Err(Errno::INVAL));
        // The peers have as many vectors as ever.
        assert_eq!(device.ring(0, vectors() - 1), Ok(()));
    });
    with_module("vectors=100000", || {
        check_doorbell(&open(&both().0).info(), vectors())
    });
}

fn a_wrong_memory_type_is_refused() {
    with_module("memory=fast", || {
        for pci in pci::devices() {
            assert_eq!(pci.node(), None);
            assert!(!pci.path("driver").exists(), "nothing is bound");
            assert_eq!(pci.attribute("enable"), "0", "and all is undone");
        }
        let log = pci::log();
        let complaints = log
            .iter()
            .filter(|line| line.text.contains("memory= is"))
            .count();
        assert_eq!(complaints, 2, "a line for each device");
    });
    assert_eq!(
        open(&both().0).info().size,
        size(),
        "with the right one it works again"
    );
}

fn main() {
    match scenario().as_str() {
        "both" | "qemu-7.2-both" => guest::run(cases![
            a_plain_device_has_no_interrupts,
            two_devices_are_two,
            a_parameter_caps_the_vectors,
            a_wrong_memory_type_is_refused,
        ]),
        _ => {
            assert!(guests() > 1, "IDs are of interest where there are several");
            guest::run(cases![
                the_node_is_for_root_alone,
                the_node_leads_to_its_pci_device,
                the_id_is_the_servers,
                a_doorbell_device_is_described,
                the_pci_device_is_as_qemu_makes_it,
                a_bound_device_is_enabled,
                the_log_has_one_line_of_it_and_no_complaint,
            ])
        }
    }
}
