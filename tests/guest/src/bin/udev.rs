// SPDX-License-Identifier: GPL-2.0

//! Udev, with the rules of this project, gives devices names that do not depend on their order.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use guest::cases;
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
    guest::run(cases![each_has_its_names, names_follow_the_device])
}
