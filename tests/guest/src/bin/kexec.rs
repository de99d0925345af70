// SPDX-License-Identifier: GPL-2.0

//! A guest that uses its devices starts another kernel: the devices are quiet when that begins.
//!
//! This program runs twice. The first time it uses the devices and starts the same kernel again;
//! what the second finds is tested.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use guest::dev::PAGE;
use guest::model::{Model, open};
use guest::pci::{self, Pci};
use guest::task::until;
use guest::{cases, host};

/// The bits of the command register that let a device write to memory, and so interrupt.
const BUS_MASTER: u16 = 4;
const COMMAND: usize = 4;

/// Says to the second kernel that it is the second.
const MARK: &str = "started-by-kexec";

/// A file of what is on a disk.
fn copy(disk: &str) -> File {
    until("the disk is there", || Path::new(disk).exists());
    let copy = disk.replace("/dev", "/tmp");
    let mut from = File::open(disk).expect(disk);
    io::copy(&mut from, &mut File::create(&copy).expect("a copy")).expect(disk);
    File::open(copy).expect("the copy")
}

fn start_another_kernel(command_line: &str) -> ! {
    // The debug kernel has it built in.
    pci::load_of_debian("virtio_blk");
    let [initrd, kernel] = ["/dev/vda", "/dev/vdb"].map(copy);
    let command_line = CString::new(format!("{} {MARK}", command_line.trim())).expect("no NUL");
    // SAFETY: The descriptors are open, and the command line is as long as is said.
    let loaded = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            initrd.as_raw_fd(),
            command_line.as_bytes_with_nul().len(),
            command_line.as_ptr(),
            0,
        )
    };
    assert_eq!(loaded, 0, "{}", io::Error::last_os_error());
    // SAFETY: Touches no memory of ours.
    unsafe { libc::reboot(libc::LINUX_REBOOT_CMD_KEXEC) };
    panic!("{}", io::Error::last_os_error());
}

fn is_msix(pci: &Pci) -> bool {
    fs::read_to_string(pci.path("revision")).is_ok_and(|revision| revision.trim() == "0x01")
}

/// Before the driver is loaded.
fn they_are_quiet() {
    let line = Model::running("line");
    assert_eq!(line.state("mask"), 0);
    line.tell("interrupt");
    assert_eq!(line.state("status"), 1, "and nobody reads it");
    // Of this the PCI core takes care, of Mask nobody but the driver.
    for pci in pci::devices() {
        assert_eq!(pci.config(COMMAND) & BUS_MASTER, 0);
    }
    line.stay();
}

fn they_work_again() {
    pci::load("").expect("the module loads");
    let all = pci::devices();
    assert_eq!(all.len(), 2);
    for pci in &all {
        let device = open(pci);
        device.map(0, PAGE);
        if is_msix(pci) {
            device.settle(0);
        } else {
            let seen = device.settle(0);
            let line = Model::running("line");
            line.tell("interrupt");
            device.moved(0, seen);
            line.stay();
        }
    }
    pci::unload().expect("the module can go");
}

fn main() {
    let command_line = fs::read_to_string("/proc/cmdline").expect("/proc/cmdline");
    if command_line.contains(MARK) {
        guest::run(cases![they_are_quiet, they_work_again]);
    }
    pci::load("").expect("the module loads");
    let line = Model::start("line", "");
    let with_line = open(&line.plug("rp2"));
    with_line.settle(0);
    assert_ne!(line.state("mask"), 0);
    line.stay();
    let with_vectors = pci::devices()
        .iter()
        .find(|pci| is_msix(pci))
        .map(open)
        .expect("a doorbell device");
    with_vectors.settle(0);
    // Somebody rings while there is nobody to answer.
    let id = with_vectors.ivposition().expect("IVPOSITION");
    host::peer("join");
    host::peer(&format!("ring {id} 0"));
    start_another_kernel(&command_line)
}
