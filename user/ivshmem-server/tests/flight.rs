// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The kernel limits how many descriptors a user has in flight to those who do not read them. The
//! limit is that of open files, so this test has a process of its own.

mod common;

use common::{Raw, serve};
use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CapabilitySet, capabilities, set_capabilities},
};

#[test]
fn too_many_in_flight_are_sent_later_and_in_order() {
    // Threads inherit it, and these would be exempt from the limit.
    let mut sets = capabilities(None).unwrap();
    sets.effective -= CapabilitySet::SYS_RESOURCE | CapabilitySet::SYS_ADMIN;
    set_capabilities(None, sets).unwrap();
    let bed = serve(16);
    let clients: Vec<_> = (0..8).map(|_| Raw::connect(&bed.path)).collect();
    clients[7].number(0);
    let limit = Rlimit {
        current: Some(256),
        ..getrlimit(Resource::Nofile)
    };
    setrlimit(Resource::Nofile, limit).unwrap();

    // 8 * 129 descriptors are to be sent, and nobody reads yet but one after the other.
    for (own, client) in clients.iter().enumerate() {
        let own = own as i64;
        if own != 7 {
            client.number(0);
        }
        client.number(own);
        drop(client.fd(-1));
        for id in (0..own).chain([own]).chain(own + 1..8) {
            drop(client.fds(id, 16));
        }
        assert!(client.silent());
    }
}
