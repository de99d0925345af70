// SPDX-License-Identifier: GPL-2.0

//! Udev, with the rules of this project, gives devices names that do not depend on their order.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use guest::cases;
use guest::model::Model;
use guest::pci::{self, Pci};
use guest::task::until;

const RULES: &str = include_str!("../../../../packaging/60-ivshmem.rules");
const UDEVADM: &str = "/bin/udevadm";

/// The daemon. It ends with this value.
struct Udev(Child);

impl Udev {
    fn new() -> Udev {
        fs::create_dir_all("/run/udev/rules.d").expect("/run");
        fs::write("/run/udev/rules.d/60-ivshmem.rules", RULES).expect("the rules");
        let daemon = Command::new(UDEVADM).arg0("systemd-udevd").spawn();
        let udev = Udev(daemon.expect("udev"));
        // The one before has left a socket that nobody listens to.
        until("udev listens", || {
            let mut ping = Command::new(UDEVADM);
            ping.args(["control", "--ping"]).stderr(Stdio::null());
            ping.status().expect(UDEVADM).success()
        });
        udev
    }

    #[track_caller]
    fn ask(&self, arguments: &[&str]) {
        let status = Command::new(UDEVADM).args(arguments).status();
        assert!(status.expect(UDEVADM).success(), "udevadm {arguments:?}");
    }

    /// Until all that the kernel has said is dealt with.
    #[track_caller]
    fn settle(&self) {
        self.ask(&["settle"]);
    }
}

impl Drop for Udev {
    fn drop(&mut self) {
        // It may have failed; then that has been told.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn by_path(pci: &Pci) -> PathBuf {
    PathBuf::from(format!("/dev/ivshmem/by-path/pci-{}", pci.name))
}

fn by_subsystem(pci: &Pci) -> PathBuf {
    let [vendor, device] = ["subsystem_vendor", "subsystem_device"].map(|id| pci.attribute(id));
    PathBuf::from(format!("/dev/ivshmem/by-subsystem/{vendor}:{device}"))
}

#[track_caller]
fn leads_to(link: &Path) -> PathBuf {
    fs::canonicalize(link).unwrap_or_else(|error| panic!("{}: {error}", link.display()))
}

#[track_caller]
fn node(pci: &Pci) -> PathBuf {
    Path::new("/dev").join(pci.node().expect("it is bound"))
}

/// Devices that were there before udev was.
fn each_has_its_names() {
    let udev = Udev::new();
    udev.ask(&["trigger", "--action=add", "--subsystem-match=misc"]);
    udev.settle();
    let all = pci::devices();
    assert_eq!(all.len(), 2);
    for pci in &all {
        assert_eq!(leads_to(&by_path(pci)), node(pci));
    }
    let nodes: Vec<PathBuf> = all.iter().map(node).collect();
    assert!(nodes.contains(&leads_to(&by_subsystem(&all[0]))));
}

/// Devices that are told apart by nothing else: each name leads to the one that has these IDs.
fn a_subsystem_is_a_name() {
    let udev = Udev::new();
    let subsystems = ["1af4:4201", "1234:4202"];
    let names = ["red", "blue"];
    let start = |at: usize| {
        let model = Model::start(names[at], &format!("--subsystem {}", subsystems[at]));
        let pci = model.plug(["rp2", "rp3"][at]);
        (model, pci)
    };
    let (red, blue) = (start(0), start(1));
    udev.settle();
    let links = ["0x1af4:0x4201", "0x1234:0x4202"];
    let links = links.map(|ids| Path::new("/dev/ivshmem/by-subsystem").join(ids));
    assert_ne!(node(&red.1), node(&blue.1));
    assert_eq!(leads_to(&links[0]), node(&red.1));
    assert_eq!(leads_to(&links[1]), node(&blue.1));
    for (link, (_, pci)) in links.iter().zip([&red, &blue]) {
        assert_eq!(*link, by_subsystem(pci));
    }
    // They change places, and their numbers.
    let before = [node(&red.1), node(&blue.1)];
    drop((red, blue));
    udev.settle();
    assert!(links.iter().all(|link| !link.exists()));
    let (blue, red) = (start(1), start(0));
    udev.settle();
    assert_eq!([node(&blue.1), node(&red.1)], before);
    assert_eq!(leads_to(&links[0]), node(&red.1));
    assert_eq!(leads_to(&links[1]), node(&blue.1));
}

/// Devices that come and go while it runs, and get another number.
fn names_follow_the_device() {
    let udev = Udev::new();
    let [first, second] = &pci::devices()[..] else {
        panic!("two devices");
    };
    let before = node(first);
    first.unbind();
    udev.settle();
    assert!(!by_path(first).exists());
    second.unbind();
    second.bind();
    first.bind();
    udev.settle();
    assert_ne!(node(first), before);
    assert_eq!(leads_to(&by_path(first)), node(first));
    assert_eq!(leads_to(&by_path(second)), node(second));
}

fn main() {
    guest::run(cases![
        each_has_its_names,
        a_subsystem_is_a_name,
        names_follow_the_device,
    ])
}
