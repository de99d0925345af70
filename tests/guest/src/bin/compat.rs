// SPDX-License-Identifier: GPL-2.0

//! A 32-bit program makes all calls of a 64-bit kernel. It is `compat.c`, since the header is C;
//! each case is one of its subjects.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use guest::cases;

const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/compat"));

#[track_caller]
fn run(subject: &str) {
    const PATH: &str = "/tmp/compat";
    fs::write(PATH, PROGRAM).expect(PATH);
    fs::set_permissions(PATH, PermissionsExt::from_mode(0o700)).expect(PATH);
    let output = Command::new(PATH).arg(subject).output().expect(PATH);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}: {said}", output.status);
}

fn it_is_a_32_bit_program() {
    assert_eq!(&PROGRAM[..5], b"\x7fELF\x01");
}

fn structures_have_one_layout() {
    run("layout");
}

fn info_and_ivposition() {
    run("info");
}

fn doorbell_and_doorbells() {
    run("doorbells");
}

fn wait_and_waits() {
    run("waits");
}

fn subscribe_poll_and_read() {
    run("subscriptions");
}

fn eventfd() {
    run("eventfds");
}

fn mmap_and_mapping() {
    run("mappings");
}

fn main() {
    guest::run(cases![
        it_is_a_32_bit_program,
        structures_have_one_layout,
        info_and_ivposition,
        doorbell_and_doorbells,
        wait_and_waits,
        subscribe_poll_and_read,
        eventfd,
        mmap_and_mapping,
    ])
}
