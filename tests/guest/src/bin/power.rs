// SPDX-License-Identifier: GPL-2.0

//! The guest goes to sleep and wakes up. In S3 the device loses its registers: what was rung
//! meanwhile may be lost, and so everybody who waits is made to look.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use guest::abi::*;
use guest::dev::{Device, INFINITE, LONG, Map, PAGE};
use guest::model::{Model, open};
use guest::pci::{self, Pci};
use guest::task::{Worker, spawn};
use guest::{cases, host, scenario, skip};
use rustix::io::Errno;

const STATE: u32 = IVSHMEM_VECTOR_STATE;

#[track_caller]
fn power(file: &str, value: &str) {
    fs::write(format!("/sys/power/{file}"), value).expect(file);
}

/// The registers of the bridge that say where ACPI's ports are. Firmware does not set them again
/// after S3, and then the guest can neither sleep once more nor power itself off.
const BRIDGE: &str = "/sys/bus/pci/devices/0000:00:1f.0/config";
const PORTS: u64 = 0x40;

/// Sleeps in S3; the host has the request carried out meanwhile, and then wakes the guest.
#[track_caller]
fn sleep(request: &str) {
    let bridge = fs::File::options()
        .read(true)
        .write(true)
        .open(BRIDGE)
        .expect(BRIDGE);
    let mut ports = [0; 8];
    bridge.read_exact_at(&mut ports, PORTS).expect(BRIDGE);
    power("mem_sleep", "deep");
    host::must(format!("sleep {request}").trim_end());
    power("state", "mem");
    bridge.write_all_at(&ports, PORTS).expect(BRIDGE);
}

/// All of a way to sleep but the sleep itself: devices are put to sleep and woken.
#[track_caller]
fn test(state: &str) {
    if !Path::new("/sys/power/pm_test").exists() {
        skip("this kernel has no tests of sleep states");
    }
    power("pm_test", "platform");
    let written = fs::write("/sys/power/state", state);
    power("pm_test", "none");
    written.expect("state");
}

/// Sleeps in S0. (In here the real-time clock's alarm does not end that.)
#[track_caller]
fn idle() {
    test("freeze");
}

#[track_caller]
fn hibernate() {
    power("disk", "shutdown");
    test("disk");
}

/// Somebody who uses a device before it sleeps and goes on after that.
struct User {
    pci: Pci,
    device: Arc<Device>,
    map: Map,
    info: ivshmem_info,
    /// The count of the vector that is waited for, and who waits for it.
    seen: u64,
    sleeper: Worker<Result<u64, Errno>>,
}

impl User {
    fn new(pci: Pci) -> User {
        let device = Arc::new(open(&pci));
        let info = device.info();
        let map = device.map(0, PAGE);
        map.words()[0].store(3, SeqCst);
        let (vector, seen) = match info.vectors {
            0 => (STATE, device.count(STATE)),
            vectors => {
                let vector = vectors - 1;
                (vector, device.settle(vector))
            }
        };
        let sleeper = {
            let device = device.clone();
            spawn(move || device.wait(vector, seen, INFINITE))
        };
        sleeper.asleep();
        User {
            pci,
            device,
            map,
            info,
            seen,
            sleeper,
        }
    }

    /// After the sleep. Waking up is an event by itself: nobody has rung since.
    #[track_caller]
    fn goes_on(self) {
        assert!(self.sleeper.join().expect("a count") > self.seen);
        let device = &self.device;
        assert_eq!(self.map.words()[0].load(SeqCst), 3);
        self.map.words()[1].store(4, SeqCst);
        let info = device.info();
        let state = device.wait(STATE, self.info.generation, LONG);
        assert_eq!(state, Ok(info.generation));
        assert_eq!(
            ivshmem_info {
                generation: 0,
                ..info
            },
            ivshmem_info {
                generation: 0,
                ..self.info
            }
        );
        for vector in 0..info.vectors {
            device.settle(vector);
        }
        assert_eq!(self.pci.attribute("enable"), "1");
    }
}

fn users() -> Vec<User> {
    pci::devices().into_iter().map(User::new).collect()
}

fn devices_survive_s3() {
    let users = users();
    sleep("");
    users.into_iter().for_each(User::goes_on);
}

fn devices_survive_s3_again() {
    for _ in 0..3 {
        devices_survive_s3();
    }
}

/// The host's peer rings while the guest sleeps: the device forgets that, or does not, and whoever
/// waits looks in either case.
fn a_ring_during_s3_is_no_harm() {
    let users = users();
    let pci = pci::devices();
    let device = pci
        .iter()
        .map(open)
        .find(|device| device.info().vectors > 0)
        .expect("a doorbell device");
    let me = device.ivposition().expect("IVPOSITION");
    let vector = device.info().vectors - 1;
    let peer = host::peer("join").parse().expect("an ID");
    sleep(&format!("peer ring {me} {vector}"));
    users.into_iter().for_each(User::goes_on);
    // Either rings the other as before.
    let seen = device.settle(vector);
    host::peer(&format!("ring {me} {vector}"));
    device.moved(vector, seen);
    device.ring(peer, 0).expect("DOORBELL");
    assert_eq!(host::peer("wait 0"), "1");
}

fn devices_survive_idle() {
    let users = users();
    idle();
    users.into_iter().for_each(User::goes_on);
}

fn devices_survive_being_frozen() {
    let users = users();
    hibernate();
    users.into_iter().for_each(User::goes_on);
}

/// One that sleeps, one that is rung meanwhile, and one that is not ready any more.
fn revision_0_survives_s3() {
    let line = Model::start("line", "--position 2");
    let user = User::new(line.plug("rp0"));
    let rung = Model::start("rung", "");
    let rung_user = User::new(rung.plug("rp1"));
    let early = Model::start("early", "--not-ready --position 3");
    let pci = early.plug("rp2");
    let device = open(&pci);
    early.tell("ready");
    device.moved(STATE, 0);
    device.settle(0);

    sleep(&rung.request("interrupt"));

    assert!(line.state("resets") > 0, "it did lose its registers");
    assert_eq!(line.state("mask"), u32::MAX);
    user.goes_on();

    // The device forgets what was rung, the driver makes up for it.
    assert!(rung_user.sleeper.join().expect("a count") > rung_user.seen);
    rung_user.device.settle(0);

    let info = device.info();
    assert_eq!(info.ivposition, -1);
    assert_eq!(info.features & u64::from(IVSHMEM_FEATURE_READY), 0);
    early.tell("ready 6");
    device.moved(STATE, info.generation);
    assert_eq!(device.ivposition(), Ok(6));
    device.map(0, PAGE);
    device.settle(0);
}

fn a_line_survives_idle() {
    let model = Model::start("line", "");
    let user = User::new(model.plug("rp0"));
    idle();
    user.goes_on();
}

fn a_line_survives_being_frozen() {
    let model = Model::start("line", "");
    let user = User::new(model.plug("rp0"));
    hibernate();
    user.goes_on();
}

fn main() {
    match scenario().as_str() {
        "revision0" => guest::run(cases![
            a_line_survives_idle,
            a_line_survives_being_frozen,
            revision_0_survives_s3,
        ]),
        _ => guest::run(cases![
            devices_survive_idle,
            devices_survive_being_frozen,
            devices_survive_s3,
            devices_survive_s3_again,
            a_ring_during_s3_is_no_harm,
        ]),
    }
}
