// SPDX-License-Identifier: GPL-2.0

//! Devices as other hypervisors make them, and some that nobody makes.

use std::fs;
use std::sync::atomic::Ordering::SeqCst;

use guest::abi::*;
use guest::dev::{Device, SHORT, attribute_of};
use guest::model::{Model, open};
use guest::pci::Pci;
use guest::task::until;
use guest::users::Users;
use guest::{cases, scenario};
use rustix::io::Errno;

/// Its memory works, and it has no interrupts.
#[track_caller]
fn is_plain(device: &Device) {
    let info = device.info();
    assert_eq!(info.interrupt, IVSHMEM_INTERRUPT_NONE);
    assert_eq!((info.vectors, info.ring_vectors), (0, 0));
    assert_eq!(info.ivposition, 0);
    assert_eq!(device.ring(0, 0), Err(Errno::OPNOTSUPP));
    assert_eq!(device.wait(0, 0, 0), Err(Errno::OPNOTSUPP));
    has_memory(device);
}

#[track_caller]
fn has_memory(device: &Device) {
    let info = device.info();
    assert_ne!(info.features & u64::from(IVSHMEM_FEATURE_READY), 0);
    let len = info.size as usize;
    let map = device.map(0, len);
    for (value, word) in map.words().iter().step_by(512).enumerate() {
        word.store(value as u64, SeqCst);
    }
    for (value, word) in map.words().iter().step_by(512).enumerate() {
        assert_eq!(word.load(SeqCst), value as u64);
    }
}

#[track_caller]
fn with(arguments: &str, check: impl FnOnce(&Device, &Pci)) {
    let model = Model::start("variant", arguments);
    let pci = model.plug("rp0");
    check(&open(&pci), &pci);
}

/// The same of a device with MSI-X, that cannot be unplugged.
#[track_caller]
fn with_msix(port: &'static str, arguments: &str, check: impl FnOnce(&Device, &Model)) {
    let model = Model::start(port, &format!("--interrupt msix {arguments}"));
    check(&open(&model.plug(port)), &model);
    model.stay();
}

/// Refused with a line that says this, and nothing is left of the attempt.
#[track_caller]
fn refused(model: &Model, port: &str, what: &str) {
    let (pci, reason) = model.is_refused(port);
    assert!(reason.contains(what), "{reason}");
    until("what probe did is undone", || {
        pci.attribute("enable") == "0"
    });
    assert_eq!(model.state("command") & 4, 0, "bus master");
    assert_eq!(model.state("mask"), 0);
    let memory = fs::read_to_string("/proc/iomem").expect("/proc/iomem");
    assert!(!memory.contains("ivshmem"), "{memory}");
}

/// cloud-hypervisor: no BAR1, registers that read 0.
fn the_memory_alone() {
    with("--revision 1 --interrupt none", |device, _| {
        is_plain(device)
    });
}

fn no_registers() {
    for interrupt in ["none", "intx"] {
        let arguments = format!("--revision 1 --bar0 none --interrupt {interrupt}");
        with(&arguments, |device, _| is_plain(device));
    }
}

fn no_registers_but_msix() {
    with_msix("rp0", "--revision 1 --bar0 none", |device, _| {
        is_plain(device)
    });
}

/// kvmtool has I/O ports in the place of the registers.
fn ports_for_registers() {
    with("--bar0 io", |device, pci| {
        assert_eq!(pci.bar_size(0), 256);
        is_plain(device);
    });
}

fn ports_for_registers_and_msix() {
    with_msix("rp1", "--bar0 io --vectors 2 --pin", |device, _| {
        is_plain(device)
    });
}

fn registers_of_any_size() {
    for size in [16, 256, 4096, 65536] {
        with(&format!("--bar0 {size}"), |device, pci| {
            assert_eq!(pci.bar_size(0), size);
            has_memory(device);
            device.settle(0);
        });
    }
}

/// ACRN: a BAR1, but no MSI-X.
fn a_bar1_without_msix() {
    with("--revision 1 --interrupt none --bar1", |device, _| {
        is_plain(device)
    });
}

/// Revision 1 never has a line, although an old configuration space says so.
fn a_pin_without_a_line() {
    with("--revision 1 --interrupt none --pin", |device, pci| {
        assert_ne!(pci.config(0x3c) >> 8, 0, "the pin");
        is_plain(device);
    });
}

fn a_pin_beside_msix() {
    with_msix("rp2", "--revision 1 --vectors 4 --pin", |device, _| {
        let info = device.info();
        assert_eq!(info.interrupt, IVSHMEM_INTERRUPT_MSIX);
        assert_eq!((info.vectors, info.ring_vectors), (4, 4));
        has_memory(device);
        for vector in 0..4 {
            device.settle(vector);
        }
    });
}

fn revision_0_without_interrupts() {
    with("--interrupt none", |device, _| is_plain(device));
}

fn the_smallest_memory() {
    with("--size 4K", |device, _| {
        assert_eq!(device.info().size, 4096);
        has_memory(device);
    });
}

fn no_memory() {
    for interrupt in ["none", "intx"] {
        let model = Model::start("none", &format!("--size 0 --interrupt {interrupt}"));
        refused(&model, "rp0", "no BAR2");
    }
}

/// Revision 0 with MSI-X: a device that QEMU made with `msi=on`.
fn msix_can_be_early_as_well() {
    with_msix("rp4", "--not-ready --vectors 3 --pin", |device, model| {
        let info = device.info();
        assert_eq!((info.revision, info.ivposition), (0, -1));
        assert_eq!(info.interrupt, IVSHMEM_INTERRUPT_MSIX);
        assert_eq!((info.vectors, info.ring_vectors), (3, 3));
        model.tell("ready");
        device.moved(IVSHMEM_VECTOR_STATE, 0);
        for vector in 0..3 {
            device.settle(vector);
        }
        // No line, no Mask.
        assert_eq!(model.state("mask"), 0);
    });
}

fn no_memory_but_msix() {
    let model = Model::start("none", "--size 0 --revision 1 --interrupt msix");
    let others = fs::read_to_string("/proc/iomem").expect("/proc/iomem");
    assert!(
        others.contains("ivshmem memory"),
        "those of the cases before"
    );
    let (pci, reason) = model.is_refused("rp3");
    assert!(reason.contains("no BAR2"), "{reason}");
    until("what probe did is undone", || {
        pci.attribute("enable") == "0"
    });
    assert!(!pci.path("msi_irqs").exists(), "its vectors are free again");
    model.stay();
}

/// Dead, and then gone: as far as the guest sees, since QEMU must keep it.
fn msix_may_die_in_use() {
    let model = Model::start("rp5", "--revision 1 --interrupt msix --vectors 4");
    let pci = model.plug("rp5");
    let users = Users::new(&pci);
    model.tell("die");
    users.cannot_know();
    assert_eq!(users.device.try_info().err(), Some(Errno::IO));
    fs::write(pci.path("remove"), "1").expect("remove");
    assert!(!pci.path("").exists());
    users.have_noticed();
    model.stay();
}

fn less_memory_than_a_page() {
    refused(&Model::start("tiny", "--size 2K"), "rp0", "BAR2");
}

fn ports_for_memory() {
    let model = Model::start("ports", "--ports --size 256");
    refused(&model, "rp0", "BAR2 is not memory");
}

/// More memory than there is room for.
fn memory_without_a_place() {
    let model = Model::start("vast", "--size 4096G");
    refused(&model, "rp0", "no BAR2");
}

/// Only revision 0 may say that it has no ID yet.
fn registers_that_do_not_answer() {
    for interrupt in ["none", "intx"] {
        let arguments = format!("--revision 1 --not-ready --interrupt {interrupt}");
        let model = Model::start("mute", &arguments);
        refused(&model, "rp0", "the device does not answer");
    }
}

/// In a reset, or pulled out; nobody can know which until it answers again, or is gone.
fn registers_that_answer_no_more() {
    let model = Model::start("mute", "--revision 1 --interrupt none");
    let pci = model.plug("rp0");
    let device = open(&pci);
    let before = device.info();
    model.tell("die");
    assert_eq!(device.try_info().err(), Some(Errno::IO));
    assert_eq!(device.ivposition(), Err(Errno::IO));
    let node = pci.node().expect("bound");
    assert_eq!(attribute_of(&node, "ivposition").as_deref(), Some("-1"));
    assert_eq!(
        device.wait(IVSHMEM_VECTOR_STATE, before.generation, SHORT),
        Err(Errno::TIMEDOUT),
        "the driver has not been told"
    );
    model.tell("live");
    assert_eq!(device.info(), before);
    assert_eq!(device.ivposition(), Ok(before.ivposition));
}

/// After all that was refused, one that is in order works.
fn what_was_refused_left_nothing() {
    with("--position 1", |device, pci| {
        assert_eq!(pci.node().as_deref(), Some("ivshmem0"));
        has_memory(device);
        device.settle(0);
    });
}

fn main() {
    match scenario().as_str() {
        "msix" => guest::run(cases![
            no_registers_but_msix,
            ports_for_registers_and_msix,
            a_pin_beside_msix,
            msix_can_be_early_as_well,
            no_memory_but_msix,
            msix_may_die_in_use,
        ]),
        _ => guest::run(cases![
            the_memory_alone,
            no_registers,
            ports_for_registers,
            registers_of_any_size,
            a_bar1_without_msix,
            a_pin_without_a_line,
            revision_0_without_interrupts,
            the_smallest_memory,
            no_memory,
            less_memory_than_a_page,
            ports_for_memory,
            memory_without_a_place,
            registers_that_do_not_answer,
            registers_that_answer_no_more,
            what_was_refused_left_nothing,
        ]),
    }
}
