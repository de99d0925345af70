// SPDX-License-Identifier: GPL-2.0

//! The interrupt line of revision 0: shared, a level, told by Status and chosen by Mask.

use std::sync::atomic::Ordering::SeqCst;

use guest::abi::*;
use guest::dev::{LONG, SHORT};
use guest::model::{Model, interrupts, names, new_device, open};
use guest::task::{spawn, until};
use guest::{cases, guest, host, pci, scenario};
use rustix::io::Errno;

const ALL_BITS: u32 = u32::MAX;

fn a_device_with_a_line_is_described() {
    let model = Model::start("line", "--position 3");
    let pci = model.plug("rp0");
    let info = open(&pci).info();
    assert_eq!(info.revision, 0);
    assert_eq!(info.interrupt, IVSHMEM_INTERRUPT_INTX);
    assert_eq!(info.vectors, 1);
    assert_eq!(info.ring_vectors, 256);
    assert_eq!(info.ivposition, 3);
    assert_eq!(info.size, 1 << 20);
    assert_ne!(info.features & u64::from(IVSHMEM_FEATURE_READY), 0);
}

/// Status := 1 by a peer's interrupt, cleared by being read.
fn a_ring_is_an_event() {
    let model = Model::start("line", "");
    let device = open(&model.plug("rp0"));
    let mut seen = device.settle(0);
    let reads = model.state("status_reads");
    for _ in 0..100 {
        model.tell("interrupt");
        seen = device.moved(0, seen);
    }
    assert_eq!(model.state("status"), 0);
    assert_eq!(model.state("status_reads"), reads + 100, "once each");
}

fn sleepers_wake() {
    let model = Model::start("line", "");
    let pci = model.plug("rp0");
    let device = open(&pci);
    let seen = device.settle(0);
    let sleepers: Vec<_> = (0..3)
        .map(|_| {
            let device = open(&pci);
            spawn(move || device.wait(0, seen, LONG))
        })
        .collect();
    sleepers.iter().for_each(|sleeper| sleeper.asleep());
    model.tell("interrupt");
    for sleeper in sleepers {
        assert_eq!(sleeper.join(), Ok(seen + 1));
    }
}

fn the_mask_follows_the_listeners() {
    let model = Model::start("line", "");
    let pci = model.plug("rp0");
    let node = pci.node().expect("bound");
    assert_eq!(model.state("mask"), 0);
    assert!(interrupts(&format!("{node}-0")).is_empty());
    let one = open(&pci);
    let other = open(&pci);
    one.count(0);
    assert_eq!(model.state("mask"), ALL_BITS);
    other.count(0);
    drop(one);
    assert_eq!(model.state("mask"), ALL_BITS);
    let [line] = &interrupts(&format!("{node}-0"))[..] else {
        panic!("one line in /proc/interrupts")
    };
    assert!(
        line.contains("IO-APIC") && line.contains("fasteoi"),
        "{line}"
    );
    drop(other);
    assert_eq!(model.state("mask"), 0);
    assert!(interrupts(&format!("{node}-0")).is_empty());
}

/// What was rung while the line was masked stays in Status.
fn a_masked_ring_is_no_harm() {
    let model = Model::start("line", "");
    let pci = model.plug("rp0");
    model.tell("interrupt");
    assert_eq!(model.state("status"), 1);
    let device = open(&pci);
    device.settle(0);
    until("nothing is left of it", || model.state("status") == 0);
}

fn the_vector_of_a_ring_is_lost() {
    let model = Model::start("line", "--position 9");
    let device = open(&model.plug("rp0"));
    let seen = device.settle(0);
    assert_eq!(device.ring(9, 200), Ok(()));
    device.moved(0, seen);
    assert_eq!(device.wait(1, 0, 0), Err(Errno::INVAL));
    // It goes out as it is, for those of the peers that have vectors.
    model.tell("rings");
    assert_eq!(device.ring(4, 255), Ok(()));
    assert_eq!(device.ring(4, 256), Err(Errno::INVAL));
    assert_eq!(device.ring(0xffff, 0), Ok(()));
    // A read of the device comes after all writes to it.
    assert_eq!(device.ivposition(), Ok(9));
    assert_eq!(model.tell("rings"), "4:255 65535:0");
}

/// QEMU before 2.5 puts the number of rings into Status: bit 0 may well be clear.
fn any_status_is_ours() {
    let model = Model::start("line", "");
    let device = open(&model.plug("rp0"));
    let mut seen = device.settle(0);
    for status in [2, 0x80, 0xfe, 0x8000_0000u32] {
        model.tell(&format!("status {status}"));
        seen = device.moved(0, seen);
    }
}

/// As that QEMU did it.
fn rings_that_coalesce_are_an_event() {
    let model = Model::start("line", "--counter-status");
    let device = open(&model.plug("rp0"));
    let mut seen = device.settle(0);
    for rings in [2, 4, 254] {
        model.tell(&format!("interrupt 0 {rings}"));
        assert_eq!(device.moved(0, seen), seen + 1);
        assert_eq!(model.state("last_status"), rings);
        seen += 1;
    }
    assert_eq!(device.count(0), seen);
}

fn a_status_of_0_is_not_ours() {
    let model = Model::start("line", "");
    let device = open(&model.plug("rp0"));
    let seen = device.settle(0);
    model.tell("spurious 1000");
    until("the line is released", || model.state("pending") == 0);
    assert_eq!(device.count(0), seen);
    model.tell("interrupt");
    assert_eq!(device.wait(0, seen, LONG), Ok(seen + 1));
}

/// What reads all ones has been pulled out: it is another that asserts the line.
fn all_ones_are_not_ours() {
    let model = Model::start("line", "");
    let device = open(&model.plug("rp0"));
    let seen = device.settle(0);
    model.tell("die");
    model.tell("spurious 100");
    until("the line is released", || model.state("pending") == 0);
    assert_eq!(model.state("dead_reads"), 100);
    assert_eq!(device.wait(0, seen, SHORT), Err(Errno::TIMEDOUT));
    model.tell("live");
    model.tell("interrupt");
    assert_eq!(device.wait(0, seen, LONG), Ok(seen + 1));
}

fn a_storm_is_survived() {
    let model = Model::start("line", "");
    let device = open(&model.plug("rp0"));
    let seen = device.settle(0);
    model.tell("storm 5000");
    until("the storm ends", || model.state("pending") == 0);
    until("all is counted", || device.count(0) == seen + 5001);
    device.settle(0);
}

/// Nobody can quiet a device that keeps asserting its line, so the kernel stops listening to it.
fn a_stuck_line_harms_nobody() {
    let model = Model::start("line", "");
    let pci = model.plug("rp0");
    let device = open(&pci);
    let seen = device.settle(0);
    let stick = || {
        let given_up = spawn(|| pci::logged("nobody cared"));
        given_up.asleep();
        model.tell("spurious 4294967295");
        given_up.join_within(8);
    };
    stick();
    // It is still stuck, and that is no reason for an event.
    assert_eq!(device.count(0), seen);
    let sleeper = spawn({
        let device = open(&pci);
        move || device.wait(0, seen, LONG)
    });
    sleeper.asleep();
    pci.unbind();
    assert_eq!(sleeper.join(), Err(Errno::NODEV));
    assert_eq!(model.state("mask"), 0);
    drop(device);
    model.tell("spurious 0");
    pci.bind();
    let device = open(&pci);
    let seen = device.settle(0);
    // And once more, to the end of the device.
    stick();
    let sleeper = spawn(move || device.wait(0, seen, LONG));
    sleeper.asleep();
    model.unplug();
    assert_eq!(sleeper.join(), Err(Errno::NODEV));
}

/// Two functions of one device have one line.
fn the_line_is_shared() {
    let one = Model::start("one", "");
    let other = Model::start("other", "");
    // The guest looks at a slot when function 0 is there.
    let before = names();
    host::device_add(&other.properties("rp0", r#","addr":"0.1""#));
    host::device_add(&one.properties("rp0", r#","addr":"0.0","multifunction":true"#));
    let first = new_device(&before);
    let mut seen = before;
    seen.push(first.name);
    new_device(&seen);
    until("both are bound", || {
        pci::devices().iter().all(|pci| pci.node().is_some())
    });
    let all = pci::devices();
    let [a, b] = &all[..] else {
        panic!("two functions")
    };
    let device = [open(a), open(b)];
    assert_eq!(a.attribute("irq"), b.attribute("irq"));
    let counts = [device[0].settle(0), device[1].settle(0)];
    for _ in 0..100 {
        other.tell("interrupt");
    }
    until("it has handled all", || other.state("status") == 0);
    one.tell("interrupt");
    let of_one = device
        .iter()
        .zip(counts)
        .filter(|(device, seen)| device.count(0) == seen + 1);
    until("both are rung", || {
        device
            .iter()
            .zip(counts)
            .all(|(device, seen)| device.count(0) > seen)
    });
    assert_eq!(of_one.count(), 1, "each counts its own");
    // One goes, the other stays.
    drop(device);
    b.unbind();
    let device = open(a);
    device.settle(0);
    b.bind();
    // Function 0 takes the others with it.
    drop(device);
    one.unplug();
}

fn unbinding_quiets_the_line() {
    let model = Model::start("line", "");
    let pci = model.plug("rp0");
    let device = open(&pci);
    device.settle(0);
    let sleeper = spawn({
        let device = open(&pci);
        move || device.wait(IVSHMEM_VECTOR_STATE, 1, LONG)
    });
    sleeper.asleep();
    model.tell("storm 1000000");
    pci.unbind();
    assert_eq!(sleeper.join(), Err(Errno::NODEV));
    assert_eq!(model.state("mask"), 0);
    assert_eq!(model.state("command") & 4, 0, "bus master");
    model.tell("storm 0");
    assert_eq!(device.wait(0, 0, 0), Err(Errno::NODEV));
    drop(device);
    pci.bind();
    open(&pci).settle(0);
}

/// Guest 1 has a second device: of revision 0, with a line, and the same peers.
fn revision_0_and_revision_1_talk() {
    let (_model, device) = if guest() == 0 {
        (None, guest::dev::Device::open())
    } else {
        let model = Model::start("line", "--server {run}/server.sock --vectors 4");
        let pci = model.plug("rp1");
        let device = open(&pci);
        assert_eq!(device.info().revision, 0);
        assert_eq!(device.ivposition(), Ok(2));
        (Some(model), device)
    };
    let peer = if guest() == 0 { 2 } else { 0 };
    assert_eq!(device.info().size, guest::size());
    let memory = device.map(0, 4096);
    let words = memory.words();
    let vector = if guest() == 0 { 3 } else { 0 };
    let mut seen = device.settle(vector);
    host::barrier("settled");
    for round in 1..=200 {
        if guest() == 0 {
            words[0].store(round, SeqCst);
            device.ring(peer, 1).expect("DOORBELL");
            while words[1].load(SeqCst) != round {
                seen = device.moved(vector, seen);
            }
        } else {
            while words[0].load(SeqCst) != round {
                seen = device.moved(vector, seen);
            }
            words[1].store(round, SeqCst);
            device.ring(peer, 3).expect("DOORBELL");
        }
    }
    // A doorbell device whose peer has left must not be unplugged: QEMU would crash.
    host::barrier("done");
}

fn main() {
    match scenario().as_str() {
        "peers" => guest::run(cases![revision_0_and_revision_1_talk]),
        "stuck" => guest::run(cases![a_stuck_line_harms_nobody]),
        _ => guest::run(cases![
            a_device_with_a_line_is_described,
            a_ring_is_an_event,
            sleepers_wake,
            the_mask_follows_the_listeners,
            a_masked_ring_is_no_harm,
            the_vector_of_a_ring_is_lost,
            any_status_is_ours,
            rings_that_coalesce_are_an_event,
            a_status_of_0_is_not_ours,
            all_ones_are_not_ours,
            a_storm_is_survived,
            the_line_is_shared,
            unbinding_quiets_the_line,
        ]),
    }
}
