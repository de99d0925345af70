// SPDX-License-Identifier: GPL-2.0

//! The bed tests itself: what test programs rely on, and that a failure is seen as one.

use guest::{cases, guest, guests, host, scenario};

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

fn can_have_the_server_replaced() {
    host::server("stop");
    assert!(host::ask("peer join").is_err());
    host::server("start");
    host::peer("join");
}

fn fails_as_it_is_told() {
    panic!("told to");
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
        "server" => guest::run(cases![has_a_peer_on_the_host, can_have_the_server_replaced,]),
        _ => guest::run(cases![fails_as_it_is_told]),
    }
}
