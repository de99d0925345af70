// SPDX-License-Identifier: GPL-2.0

//! BAR0 and MSI-X as the device has them, without the driver: what the driver relies on, and what
//! QEMU's own test of the device asserts of them. What that asserts of the memory is in `mmap.rs`:
//! that guests, and the host, have the same. Its hotplug is in `unplug.rs`, and its memory that is
//! no file in `many.rs`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use guest::pci::{self, Bar, Pci};
use guest::task::until;
use guest::{cases, guest, guests, host, size, vectors};

const MASK: usize = 0;
const STATUS: usize = 4;
const IV_POSITION: usize = 8;
const DOORBELL: usize = 12;

const DOORBELL_DEVICE: usize = 0;
const PLAIN_DEVICE: usize = 1;

fn device(which: usize) -> Pci {
    let devices = pci::devices();
    assert_eq!(devices.len(), 2);
    let pci = devices[which].clone();
    assert_eq!(pci.bar_size(1) > 0, which == DOORBELL_DEVICE, "MSI-X");
    if pci.attribute("enable") == "0" {
        fs::write(pci.path("enable"), "1").expect("enable");
    }
    pci
}

fn the_bars_have_their_sizes() {
    for which in [DOORBELL_DEVICE, PLAIN_DEVICE] {
        let pci = device(which);
        assert_eq!(pci.attribute("revision"), "0x01");
        assert_eq!(pci.bar_size(0), 256);
        assert_eq!(pci.bar_size(2), size());
    }
}

fn registers_are_zero_at_first() {
    let bar = Bar::new(&device(PLAIN_DEVICE), 0);
    assert_eq!(bar.read(MASK), 0);
    assert_eq!(bar.read(STATUS), 0);
    assert_eq!(bar.read(IV_POSITION), 0, "not configured for interrupts");
}

fn iv_position_is_the_id() {
    let bar = Bar::new(&device(DOORBELL_DEVICE), 0);
    assert_eq!(bar.read(IV_POSITION), guest() as u32);
}

fn mask_keeps_what_is_written() {
    let bar = Bar::new(&device(PLAIN_DEVICE), 0);
    bar.write(MASK, u32::MAX);
    assert_eq!(bar.read(MASK), u32::MAX);
    bar.write(MASK, 0);
    assert_eq!(bar.read(MASK), 0);
}

fn status_is_cleared_by_a_read() {
    let bar = Bar::new(&device(PLAIN_DEVICE), 0);
    bar.write(STATUS, 1);
    assert_eq!(bar.read(STATUS), 1);
    assert_eq!(bar.read(STATUS), 0);
}

fn the_rest_is_ignored() {
    for which in [DOORBELL_DEVICE, PLAIN_DEVICE] {
        let bar = Bar::new(&device(which), 0);
        let id = bar.read(IV_POSITION);
        bar.write(IV_POSITION, 3);
        assert_eq!(bar.read(IV_POSITION), id);
        assert_eq!(bar.read(DOORBELL), 0);
        for reserved in (16..256).step_by(4) {
            bar.write(reserved, u32::MAX);
            assert_eq!(bar.read(reserved), 0, "{reserved}");
        }
        // A peer that is not there, a vector that is not there.
        bar.write(DOORBELL, 8 << 16);
        bar.write(DOORBELL, 0xffff_0000);
        bar.write(DOORBELL, 0xff);
    }
}

fn the_memory_is_memory() {
    let bar = Bar::new(&device(PLAIN_DEVICE), 2);
    for offset in (0..4096).step_by(4) {
        bar.write(offset, offset as u32 ^ 0x5a5a_a5a5);
    }
    for offset in (0..4096).step_by(4) {
        assert_eq!(bar.read(offset), offset as u32 ^ 0x5a5a_a5a5);
    }
}

fn the_msix_table_has_an_entry_for_each_vector() {
    let pci = device(DOORBELL_DEVICE);
    assert_eq!(pci.config(0x34) & 0xff, 0x40, "the only capability");
    assert_eq!(pci.config(0x40), 0x0011, "is MSI-X");
    assert_eq!(u32::from(pci.config(0x42) & 0x7ff) + 1, vectors());
}

/// A ring sets the bit of a masked vector at its receiver, and of no other vector.
fn a_ring_makes_the_vector_pending() {
    const PENDING: usize = 0x800;
    let pci = device(DOORBELL_DEVICE);
    let registers = Bar::new(&pci, 0);
    let table = Bar::new(&pci, 1);
    let config = File::options()
        .write(true)
        .open(pci.path("config"))
        .expect("config");
    let enable = |enable: bool| {
        let control = (pci.config(0x42) & 0x7fff) | (u16::from(enable) << 15);
        config
            .write_all_at(&control.to_le_bytes(), 0x42)
            .expect("a write to config");
    };
    // After a reset all entries are masked.
    enable(true);
    assert_eq!(table.read(PENDING), 0);
    host::barrier("MSI-X is enabled");
    let peer = (guest() + 1) % guests();
    let vector = guest() as u32;
    registers.write(DOORBELL, ((peer as u32) << 16) | vector);
    // The peer rings the vector of its own number.
    let expected = 1 << peer;
    until("the vector is pending", || table.read(PENDING) != 0);
    assert_eq!(table.read(PENDING), expected);
    host::barrier("seen");
    enable(false);
}

fn main() {
    guest::run(cases![
        the_bars_have_their_sizes,
        registers_are_zero_at_first,
        iv_position_is_the_id,
        mask_keeps_what_is_written,
        status_is_cleared_by_a_read,
        the_rest_is_ignored,
        the_memory_is_memory,
        the_msix_table_has_an_entry_for_each_vector,
        a_ring_makes_the_vector_pending,
    ])
}
