// SPDX-License-Identifier: GPL-2.0

//! Many devices in a guest, many vectors of a device, many guests of a server.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::SeqCst;

use guest::abi::*;
use guest::dev::{Device, PAGE};
use guest::model::{interrupts, open};
use guest::{cases, guest, guests, host, pci, scenario, vectors};
use rustix::io::Errno;

fn each_device_is_itself() {
    let all = pci::devices();
    assert_eq!(all.len(), 16);
    let nodes: BTreeSet<String> = all.iter().map(|pci| pci.node().expect("bound")).collect();
    assert_eq!(nodes.len(), 16);
    let maps: Vec<_> = all.iter().map(|pci| open(pci).map(0, PAGE)).collect();
    // The doorbell devices have the memory of their server in common.
    let plain: Vec<usize> = (0..16)
        .filter(|at| open(&all[*at]).info().interrupt == IVSHMEM_INTERRUPT_NONE)
        .collect();
    assert_eq!(plain.len(), 12);
    for at in &plain {
        maps[*at].words()[0].store(*at as u64 + 1, SeqCst);
    }
    for at in &plain {
        assert_eq!(maps[*at].words()[0].load(SeqCst), *at as u64 + 1);
    }
}

/// The devices of one guest are peers like any others.
fn they_ring_each_other() {
    let doorbells: Vec<Device> = pci::devices()
        .iter()
        .map(open)
        .filter(|device| device.info().interrupt == IVSHMEM_INTERRUPT_MSIX)
        .collect();
    assert_eq!(doorbells.len(), 4);
    for (at, device) in doorbells.iter().enumerate() {
        device.settle(at as u32);
    }
    for from in &doorbells {
        for (at, to) in doorbells.iter().enumerate() {
            let seen = to.count(at as u32);
            let peer = to.ivposition().expect("IVPOSITION") as u32;
            from.ring(peer, at as u32).expect("DOORBELL");
            to.moved(at as u32, seen);
        }
    }
}

fn all_vectors_work() {
    let device = Device::open();
    assert_eq!(device.info().vectors, vectors());
    assert_eq!(device.info().ring_vectors, vectors());
    assert!(
        interrupts("ivshmem0-").is_empty(),
        "as long as nobody listens"
    );
    // No more at once than a processor has interrupts for.
    for first in (0..vectors()).step_by(64) {
        let device = Device::open();
        let some = first..vectors().min(first + 64);
        for vector in some.clone() {
            device.settle(vector);
        }
        assert_eq!(interrupts("ivshmem0-").len(), some.len());
    }
    assert!(interrupts("ivshmem0-").is_empty(), "nobody does any more");
    let me = device.info().ivposition as u32;
    assert_eq!(device.wait(vectors(), 0, 0), Err(Errno::INVAL));
    assert_eq!(device.ring(me, vectors()), Err(Errno::INVAL));
}

/// Each rings each, on the vector that has the ringer's number.
fn all_guests_ring_each_other() {
    let device = Device::open();
    let me = guest() as u32;
    assert_eq!(device.ivposition(), Ok(me as i32));
    let others = || (0..guests() as u32).filter(move |other| *other != me);
    let counts: Vec<(u32, u64)> = others()
        .map(|other| (other, device.settle(other)))
        .collect();
    host::barrier("all listen");
    for other in others() {
        device.ring(other, me).expect("DOORBELL");
    }
    for (other, seen) in counts {
        device.moved(other, seen);
    }
    let map = device.map(0, PAGE);
    map.words()[guest()].store(1000 + u64::from(me), SeqCst);
    host::barrier("all have written");
    for other in others() {
        assert_eq!(
            map.words()[other as usize].load(SeqCst),
            1000 + u64::from(other)
        );
    }
}

fn main() {
    match scenario().as_str() {
        "devices" => guest::run(cases![each_device_is_itself, they_ring_each_other]),
        "vectors" | "vector" => guest::run(cases![all_vectors_work]),
        _ => guest::run(cases![all_guests_ring_each_other]),
    }
}
