// SPDX-License-Identifier: GPL-2.0

//! Device models (see `tests/device-model`), and devices that come and go.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::thread;

use rustix::fs::OFlags;

use crate::dev::Device;
use crate::host;
use crate::pci::{self, Pci};
use crate::task::until;

/// A model that runs on the host. It ends with this value, and the case fails if the driver did
/// what the specification forbids.
pub struct Model {
    name: &'static str,
    socket: String,
}

/// Those that stay until the guest ends.
static STAYING: Mutex<Vec<&str>> = Mutex::new(Vec::new());

/// Fails if the driver did to one of them what the specification forbids. Every case ends with this.
#[track_caller]
pub fn those_that_stay_are_content() {
    let staying = STAYING.lock().expect("nothing fails in here").clone();
    for name in staying {
        assert_eq!(violations(name).as_deref(), Ok(""), "{name}");
    }
}

fn violations(name: &str) -> Result<String, String> {
    host::ask(&format!("tell {name} violations"))
}

impl Model {
    /// Starts a model, which any QEMU may connect to, with these arguments.
    #[track_caller]
    pub fn start(name: &'static str, arguments: &str) -> Model {
        let socket = host::must(&format!("model {name} {arguments}"));
        Model { name, socket }
    }

    /// One that was started before this program was.
    pub fn running(name: &'static str) -> Model {
        Model {
            name,
            socket: String::new(),
        }
    }

    /// Has it execute a command.
    #[track_caller]
    pub fn tell(&self, command: &str) -> String {
        host::must(&format!("tell {} {command}", self.name))
    }

    /// A request to the runner that does the same.
    pub fn request(&self, command: &str) -> String {
        format!("tell {} {command}", self.name)
    }

    /// One of the values of its state.
    #[track_caller]
    pub fn state(&self, name: &str) -> u32 {
        let state = self.tell("state");
        let value = state
            .split(' ')
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        value.expect(name).parse().expect("a number")
    }

    /// The JSON properties to plug it in with. Writes are not posted: what a test tells the model
    /// must not overtake what the driver has written before.
    pub fn properties(&self, bus: &str, more: &str) -> String {
        format!(
            r#"{{"driver":"vfio-user-pci","id":"model-{}","bus":"{bus}","x-no-posted-writes":true,"socket":{{"type":"unix","path":"{}"}}{more}}}"#,
            self.name, self.socket
        )
    }

    /// Plugs it in; returns once the driver is bound to it.
    #[track_caller]
    pub fn plug(&self, bus: &str) -> Pci {
        let pci = self.appear(bus);
        until("the driver binds", || pci.node().is_some());
        pci
    }

    /// Plugs it in; returns the reason why the driver refuses it.
    #[track_caller]
    pub fn is_refused(&self, bus: &str) -> (Pci, String) {
        let logged = pci::log().len();
        let pci = self.appear(bus);
        let mark = format!("ivshmem {}: ", pci.name);
        let mut reason = String::new();
        until("the driver says why", || {
            let log = pci::log();
            let line = log[logged..]
                .iter()
                .find(|line| line.level < 6 && line.text.starts_with(&mark));
            reason = line.map_or(String::new(), |line| line.text[mark.len()..].to_owned());
            !reason.is_empty()
        });
        assert_eq!(pci.node(), None);
        (pci, reason)
    }

    #[track_caller]
    fn appear(&self, bus: &str) -> Pci {
        let before = names();
        host::device_add(&self.properties(bus, ""));
        new_device(&before)
    }

    /// Lets it be there until the guest ends. A model with MSI-X must be: QEMU aborts when one is
    /// unplugged (`memory_region_del_subregion: Assertion ...`, seen with 11.1.3).
    pub fn stay(self) {
        STAYING.lock().expect("as above").push(self.name);
        std::mem::forget(self);
    }

    /// Unplugs it.
    #[track_caller]
    pub fn unplug(&self) {
        host::device_del(&format!("model-{}", self.name));
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // It may be unplugged already, and the guest may have other troubles.
        let _ = host::try_device_del(&format!("model-{}", self.name));
        let violations = violations(self.name);
        let _ = host::ask(&format!("kill {}", self.name));
        if !thread::panicking() {
            assert_eq!(violations.as_deref(), Ok(""), "{}", self.name);
        }
    }
}

/// The addresses of the ivshmem devices there are.
pub fn names() -> Vec<String> {
    pci::devices().into_iter().map(|pci| pci.name).collect()
}

/// Waits for a device that was not among these.
#[track_caller]
pub fn new_device(before: &[String]) -> Pci {
    let mut new = None;
    until("the device appears", || {
        new = pci::devices()
            .into_iter()
            .find(|pci| !before.contains(&pci.name));
        new.is_some()
    });
    new.expect("it is there")
}

/// Opens the node of a device.
#[track_caller]
pub fn open(pci: &Pci) -> Device {
    open_as(pci, OFlags::RDWR)
}

#[track_caller]
pub fn open_as(pci: &Pci, flags: OFlags) -> Device {
    let path = format!("/dev/{}", pci.node().expect("the driver is bound"));
    // A little later than sysfs shows it.
    until("the node is there", || Path::new(&path).exists());
    Device::open_as(&path, flags).expect("the node")
}

/// The lines of `/proc/interrupts` that name this.
pub fn interrupts(name: &str) -> Vec<String> {
    let text = fs::read_to_string("/proc/interrupts").expect("/proc/interrupts");
    text.lines()
        .filter(|line| line.contains(name))
        .map(str::to_owned)
        .collect()
}
