// SPDX-License-Identifier: GPL-2.0

//! Devices are taken from a running guest, by ACPI or by their root port, and given back.
//!
//! QEMU aborts when a doorbell device is unplugged one of whose peers has left before. So this guest
//! is alone with its server, and gets another server with another device. It also aborts when a
//! memory backend is used a second time by a plain device; so that gets another as well.

use std::fs;
use std::sync::atomic::Ordering::SeqCst;

use guest::dev::PAGE;
use guest::model::{Model, names, new_device, open};
use guest::pci::{self, Pci};
use guest::task::until;
use guest::users::Users;
use guest::{cases, debug, host, scaled, scenario};
use rustix::io::Errno;

/// One of the devices that QEMU made.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Doorbell,
    Plain,
}

impl Kind {
    fn id(self) -> &'static str {
        match self {
            Kind::Doorbell => "ivshmem0",
            Kind::Plain => "ivshmem1",
        }
    }

    /// The device of this kind that there is.
    fn pci(self) -> Pci {
        let interrupt = match self {
            Kind::Doorbell => "msix",
            Kind::Plain => "none",
        };
        let is = |pci: &Pci| {
            let node = pci.node().expect("it is bound");
            guest::dev::attribute_of(&node, "interrupt").as_deref() == Some(interrupt)
        };
        pci::devices()
            .into_iter()
            .find(is)
            .expect("a device of this kind")
    }

    #[track_caller]
    fn unplug(self) {
        match self {
            Kind::Doorbell => {
                host::device_del(self.id());
                // QEMU keeps the connection of a device that is gone.
                host::qmp(r#"{"execute":"chardev-remove","arguments":{"id":"server"}}"#);
            }
            Kind::Plain => host::unplug_plain(self.id()),
        }
    }

    #[track_caller]
    fn plug(self) -> Pci {
        let before = names();
        match self {
            Kind::Doorbell => {
                host::must("server stop");
                host::must("server start");
                host::plug_doorbell("rp0");
            }
            Kind::Plain => {
                host::plug_plain(self.id(), "rp1");
            }
        }
        let pci = new_device(&before);
        until("the driver binds", || pci.node().is_some());
        pci
    }

    /// That it works.
    #[track_caller]
    fn works(self, pci: &Pci) {
        let device = open(pci);
        assert_eq!(device.info().size, guest::size());
        let map = device.map(0, PAGE);
        map.words()[0].store(42, SeqCst);
        assert_eq!(map.words()[0].load(SeqCst), 42);
        if self == Kind::Doorbell {
            for vector in 0..guest::vectors() {
                device.settle(vector);
            }
        }
    }
}

fn unplug_in_use(kind: Kind) {
    let pci = kind.pci();
    let name = pci.node();
    let users = Users::new(&pci);
    let device = users.device.clone();
    kind.unplug();
    assert!(!pci.path("").exists());
    users.have_noticed();
    // The name stays taken for as long as somebody has the old device open.
    let new = kind.plug();
    assert_ne!(new.node(), name);
    kind.works(&new);
    assert_eq!(device.try_info().err(), Some(Errno::NODEV));
    drop(device);
    kind.unplug();
    let again = kind.plug();
    assert_eq!(again.node(), name);
    kind.works(&again);
}

fn a_doorbell_in_use_is_unplugged() {
    unplug_in_use(Kind::Doorbell);
}

fn a_plain_device_in_use_is_unplugged() {
    unplug_in_use(Kind::Plain);
}

/// As if the guest had pulled it out itself.
fn removed_in_use(kind: Kind) {
    let pci = kind.pci();
    let users = Users::new(&pci);
    std::fs::write(pci.path("remove"), "1").expect("remove");
    users.have_noticed();
    std::fs::write("/sys/bus/pci/rescan", "1").expect("rescan");
    until("it is bound again", || pci.node().is_some());
    kind.works(&pci);
}

fn a_doorbell_is_removed_and_found_again() {
    removed_in_use(Kind::Doorbell);
}

fn a_plain_device_is_removed_and_found_again() {
    removed_in_use(Kind::Plain);
}

/// Pulled out without a word: the device reads all ones before the guest is told.
fn a_device_that_died_is_unplugged() {
    let model = Model::start("dies", "");
    let pci = model.plug("rp2");
    let users = Users::new(&pci);
    model.tell("die");
    users.cannot_know();
    assert_eq!(users.map.words()[0].load(SeqCst), u64::MAX);
    model.unplug();
    assert!(!pci.path("").exists());
    users.have_noticed();
}

/// A slot of conventional PCI, where there is only ACPI's way; QEMU's own test does it there.
fn a_device_behind_a_bridge_comes_and_goes() {
    for _ in 0..scaled(20) {
        let before = names();
        host::plug_plain(Kind::Plain.id(), "bridge");
        let pci = new_device(&before);
        until("the driver binds", || pci.node().is_some());
        Kind::Plain.works(&pci);
        let users = Users::new(&pci);
        Kind::Plain.unplug();
        assert!(!pci.path("").exists());
        users.have_noticed();
    }
}

/// What the kernel has allocated for itself, in KiB.
fn held() -> i64 {
    let text = fs::read_to_string("/proc/meminfo").expect("/proc/meminfo");
    let number = |name| {
        let line = text.lines().find(|line| line.starts_with(name));
        let word = line.expect(name).split_whitespace().nth(1);
        word.expect(name).parse::<i64>().expect("a number")
    };
    ["SUnreclaim:", "VmallocUsed:", "Percpu:"]
        .map(number)
        .iter()
        .sum()
}

/// A thousand times in all, and nothing becomes more of it; on the debug kernel, which would see what
/// one of them leaks, twenty.
fn it_comes_and_goes() {
    let rounds = if debug() { 10 } else { 500 };
    // What is not there for a single device has grown by then.
    let first = rounds / 5;
    for kind in [Kind::Doorbell, Kind::Plain] {
        let name = kind.pci().node();
        let mut before = 0;
        for round in 0..rounds {
            if round == first {
                before = held();
            }
            kind.unplug();
            let pci = kind.plug();
            assert_eq!(pci.node(), name);
            let device = open(&pci);
            let map = device.map(0, PAGE);
            map.words()[0].store(1, SeqCst);
            if kind == Kind::Doorbell {
                device.settle(0);
            }
        }
        let grown = held() - before;
        println!("# {grown} KiB more after {} rounds", rounds - first);
        // Each would leave more than this of a device that was forgotten.
        assert!(debug() || grown < rounds - first, "{grown} KiB");
        kind.works(&kind.pci());
    }
}

fn main() {
    match scenario().as_str() {
        "pcie" => guest::run(cases![
            a_doorbell_in_use_is_unplugged,
            a_plain_device_in_use_is_unplugged,
        ]),
        "bridge" => guest::run(cases![a_device_behind_a_bridge_comes_and_goes]),
        "often" => guest::run(cases![it_comes_and_goes]),
        _ => guest::run(cases![
            a_doorbell_in_use_is_unplugged,
            a_plain_device_in_use_is_unplugged,
            a_doorbell_is_removed_and_found_again,
            a_plain_device_is_removed_and_found_again,
            a_device_that_died_is_unplugged,
        ]),
    }
}
