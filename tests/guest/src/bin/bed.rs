// SPDX-License-Identifier: GPL-2.0

//! The bed tests itself: what test programs rely on, and that a failure is seen as one.

use std::fs::{self, File};
use std::ptr;

use guest::dev::{PAGE, READ};
use guest::model::Model;
use guest::{cases, guest, guests, host, scenario, size};
use rustix::mm::{MapFlags, mmap};

fn knows_who_it_is() {
    assert!(guest() < guests());
    let name = host::qmp(r#"{"execute":"query-name"}"#);
    assert!(name.contains(&format!("guest{}", guest())), "{name}");
}

fn meets_the_other_guests() {
    for round in 0..20 {
        host::barrier(&format!("round {round}"));
    }
}

fn hears_of_errors() {
    assert!(host::ask("nonsense").is_err());
    assert!(host::ask(r#"qmp {"execute":"nonsense"}"#).is_err());
}

/// A guest that fails does not leave the others waiting.
fn is_not_left_waiting() {
    if guest() > 0 {
        let error = host::ask("barrier where guest 0 does not go").expect_err("guest 0 comes");
        assert!(error.contains("the guests are at"), "{error}");
    }
}

fn has_a_peer_on_the_host() {
    let id = host::peer("join");
    assert_ne!(id, "0", "the guest was first");
    host::peer("ring 0 1");
    host::peer(&format!("ring {id} 2"));
    assert_eq!(host::peer("wait 2"), "1");
    host::peer("leave");
}

fn has_a_peer_that_sees_the_memory() {
    host::peer("join");
    host::peer("fill 4096 8192 66");
    host::peer("check 4096 8192 66");
    host::peer("fill 5001 1 67");
    host::peer("check 4096 905 66");
    let error = host::ask("peer check 4096 8192 66").expect_err("one byte is another");
    assert_eq!(error, "byte 5001 is 67, not 66");
    for request in ["fill", "check"] {
        let beyond = format!("peer {request} {} 2 0", size() - 1);
        let error = host::ask(&beyond).expect_err("it is beyond the end");
        assert_eq!(error, format!("the memory ends at {}", size()));
    }
    host::peer("leave");
}

fn can_have_the_server_replaced() {
    host::server("stop");
    assert!(host::ask("peer join").is_err());
    host::server("start");
    host::peer("join");
}

fn fails_as_it_is_told() {
    panic!("told to");
}

/// The only thing that is wrong is an access that the model is to notice.
fn reads_what_the_specification_forbids() {
    let model = Model::start("line", "");
    let pci = model.plug("rp0");
    pci.unbind();
    fs::write(pci.path("enable"), "1").expect("enable");
    let registers = File::open(pci.path("resource0")).expect("BAR0");
    // SAFETY: The kernel chooses an address where nothing is.
    let start = unsafe { mmap(ptr::null_mut(), PAGE, READ, MapFlags::SHARED, &registers, 0) };
    let reserved = start.expect("mmap").wrapping_byte_add(0x20).cast::<u32>();
    // SAFETY: It is in the mapping, and aligned.
    let _ = unsafe { ptr::read_volatile(reserved) };
}

fn main() {
    match scenario().as_str() {
        "alone" => guest::run(cases![
            knows_who_it_is,
            meets_the_other_guests,
            hears_of_errors
        ]),
        "together" => guest::run(cases![
            knows_who_it_is,
            meets_the_other_guests,
            is_not_left_waiting,
            hears_of_errors,
        ]),
        "server" => guest::run(cases![
            has_a_peer_on_the_host,
            has_a_peer_that_sees_the_memory,
            can_have_the_server_replaced,
        ]),
        "finds-a-forbidden-access" => guest::run(cases![reads_what_the_specification_forbids]),
        _ => guest::run(cases![fails_as_it_is_told]),
    }
}
