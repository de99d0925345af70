// SPDX-License-Identifier: GPL-2.0

//! A device loses its registers in a reset; the driver restores what is its own, and tells.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use guest::abi::*;
use guest::dev::{Device, LONG, PAGE};
use guest::model::{Model, open, open_as};
use guest::pci::{self, Pci};
use guest::task::{Worker, spawn, until};
use guest::{cases, host, scaled, scenario, vectors};
use rustix::fs::OFlags;
use rustix::io::Errno;

const STATE: u32 = IVSHMEM_VECTOR_STATE;

/// By the bridge that it is alone behind.
#[track_caller]
fn reset(pci: &Pci) {
    std::fs::write(pci.path("reset"), "1").expect("reset");
}

/// The doorbell device, and the plain one.
fn both() -> (Pci, Pci) {
    let all = pci::devices();
    let [doorbell, plain] = &all[..] else {
        panic!("two devices")
    };
    (doorbell.clone(), plain.clone())
}

fn the_state_moves() {
    let (doorbell, plain) = both();
    for pci in [doorbell, plain] {
        let device = open(&pci);
        let before = device.info();
        let seen = device.count(STATE);
        assert_eq!(before.generation, seen);
        let waiter = {
            let device = open(&pci);
            spawn(move || device.wait(STATE, seen, LONG))
        };
        waiter.asleep();
        reset(&pci);
        assert_eq!(waiter.join(), Ok(seen + 1));
        let after = device.info();
        assert_eq!(after.generation, seen + 1);
        assert_eq!(
            ivshmem_info {
                generation: 0,
                ..after
            },
            ivshmem_info {
                generation: 0,
                ..before
            }
        );
    }
}

fn vectors_go_on() {
    let (pci, _) = both();
    let device = open(&pci);
    let mut counts: Vec<u64> = (0..vectors()).map(|vector| device.settle(vector)).collect();
    for _ in 0..scaled(20) {
        reset(&pci);
        for vector in 0..vectors() {
            let at = vector as usize;
            // A ring may have been lost, and so there is an event for each listener.
            counts[at] = device.moved(vector, counts[at]);
            counts[at] = device.settle(vector);
        }
    }
}

fn sleepers_look_again() {
    let (pci, _) = both();
    let device = Arc::new(open(&pci));
    let sleepers: Vec<Worker<_>> = (0..vectors())
        .map(|vector| {
            let device = device.clone();
            let seen = device.settle(vector);
            spawn(move || device.wait(vector, seen, LONG))
        })
        .collect();
    sleepers.iter().for_each(Worker::asleep);
    reset(&pci);
    for sleeper in sleepers {
        sleeper.join().expect("it wakes");
    }
}

fn the_memory_stays() {
    let (doorbell, plain) = both();
    for pci in [doorbell, plain] {
        let device = open(&pci);
        let map = device.map(0, 4 * PAGE);
        map.words()[0].store(7, SeqCst);
        reset(&pci);
        assert_eq!(map.words()[0].load(SeqCst), 7);
        map.words()[512].store(8, SeqCst);
        assert_eq!(device.map(0, 2 * PAGE).words()[512].load(SeqCst), 8);
    }
}

fn resets_in_the_middle_of_rings() {
    let (pci, _) = both();
    let stop = Arc::new(AtomicBool::new(false));
    let ringers: Vec<_> = (0..2)
        .map(|vector| {
            let (device, stop) = (open(&pci), stop.clone());
            let me = device.ivposition().expect("IVPOSITION") as u32;
            spawn(move || {
                while !stop.load(SeqCst) {
                    device.ring(me, vector).expect("DOORBELL");
                }
            })
        })
        .collect();
    let device = open(&pci);
    for vector in 0..2 {
        device.count(vector);
    }
    for _ in 0..scaled(20) {
        reset(&pci);
    }
    stop.store(true, SeqCst);
    ringers.into_iter().for_each(Worker::join);
    for vector in 0..2 {
        device.settle(vector);
    }
}

fn nobody_minds_who_has_no_driver() {
    let (pci, _) = both();
    pci.unbind();
    reset(&pci);
    pci.bind();
    open(&pci).settle(0);
}

/// Has a root port report an error, and waits until all behind it has recovered.
#[track_caller]
fn inject(port: &str, error: &str) {
    let logged = pci::log().len();
    let command = format!("pcie_aer_inject_error {port} {error}");
    let answer = host::qmp(&format!(
        r#"{{"execute":"human-monitor-command","arguments":{{"command-line":"{command}"}}}}"#
    ));
    assert!(answer.starts_with("\"OK id: "), "{answer}");
    // Another error that comes while the port still forgets this one would be forgotten with it.
    until("the device recovers", || {
        let log = pci::log();
        log[logged..]
            .iter()
            .any(|line| line.text.ends_with("AER: device recovery successful"))
    });
}

/// One that is not fatal, by which the link still works, and one that is.
const ERRORS: [&str; 2] = ["COMP_TIME", "DLP"];

fn an_error_is_recovered_from() {
    for (pci, port) in [both().0, both().1].iter().zip(["rp0", "rp1"]) {
        let device = open(pci);
        let vectors = device.info().vectors;
        let map = device.map(0, PAGE);
        let mut counts: Vec<u64> = (0..vectors).map(|vector| device.settle(vector)).collect();
        // Each twice: what is recovered to must be there for the next one as well.
        for error in ERRORS.repeat(2) {
            map.words()[0].fetch_add(1, SeqCst);
            let written = map.words()[0].load(SeqCst);
            let before = device.info();
            inject(port, error);
            assert_eq!(
                device.moved(STATE, before.generation),
                before.generation + 1
            );
            for vector in 0..vectors {
                let at = vector as usize;
                counts[at] = device.moved(vector, counts[at]);
                counts[at] = device.settle(vector);
            }
            assert_eq!(map.words()[0].load(SeqCst), written);
            assert_eq!(
                ivshmem_info {
                    generation: before.generation,
                    ..device.info()
                },
                before
            );
        }
    }
}

fn the_mask_is_restored_after_an_error() {
    let model = Model::start("line", "--position 4");
    let pci = model.plug("rp0");
    let device = open(&pci);
    let mut seen = device.settle(0);
    for error in ERRORS.repeat(2) {
        inject("rp0", error);
        device.moved(0, seen);
        seen = device.settle(0);
        assert_eq!(model.state("mask"), u32::MAX);
    }
    assert!(model.state("resets") > 1);
}

fn the_mask_is_restored() {
    let model = Model::start("line", "--position 4");
    let pci = model.plug("rp0");
    reset(&pci);
    assert_eq!(model.state("mask"), 0, "nobody listens");
    let device = open(&pci);
    let mut seen = device.settle(0);
    for _ in 0..scaled(10) {
        reset(&pci);
        assert_eq!(model.state("mask"), u32::MAX);
        device.moved(0, seen);
        seen = device.settle(0);
    }
    assert_eq!(device.ivposition(), Ok(4));
    assert!(model.state("resets") > 1);
}

/// A reset of revision 0 may set it back to where it is not ready.
fn it_may_not_be_ready_again() {
    let model = Model::start("early", "--not-ready --position 4");
    let pci = model.plug("rp0");
    let device = open(&pci);
    model.tell("ready");
    device.moved(STATE, 0);
    let map = device.map(0, PAGE);
    map.words()[0].store(10, SeqCst);
    device.settle(0);

    reset(&pci);
    let info = device.info();
    assert_eq!(info.features & u64::from(IVSHMEM_FEATURE_READY), 0);
    assert_eq!(info.ivposition, -1);
    let seen = info.generation;
    let hasty = open_as(&pci, OFlags::RDWR | OFlags::NONBLOCK);
    assert_eq!(hasty.ring(4, 0), Err(Errno::AGAIN));
    let waiter = {
        let device: Device = open(&pci);
        spawn(move || device.wait(STATE, seen, LONG))
    };
    waiter.asleep();

    // It may well come back as somebody else.
    model.tell("ready 8");
    assert_eq!(waiter.join(), Ok(seen + 1));
    assert_eq!(device.info().ivposition, 8);
    assert_eq!(device.ivposition(), Ok(8));
    until("the memory is back", || map.words()[0].load(SeqCst) == 10);
    device.settle(0);
}

fn main() {
    match scenario().as_str() {
        "revision0" => guest::run(cases![
            the_mask_is_restored,
            the_mask_is_restored_after_an_error,
            it_may_not_be_ready_again
        ]),
        _ => guest::run(cases![
            the_state_moves,
            vectors_go_on,
            sleepers_look_again,
            the_memory_stays,
            resets_in_the_middle_of_rings,
            nobody_minds_who_has_no_driver,
            an_error_is_recovered_from,
        ]),
    }
}
