// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Many clients, many vectors, and who has to wait for whom.

mod common;

use std::sync::{Mutex, MutexGuard, PoisonError};

use common::{Bed, LONG, Raw, drain, ring, serve};
use ivshmem_server::{Client, Notice};

/// Each of these tests needs a good part of the descriptors that a process may have.
fn alone(vectors: u16) -> (MutexGuard<'static, ()>, Bed) {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    (alone, serve(vectors))
}

#[test]
fn who_does_not_read_makes_nobody_wait() {
    let vectors = 1024;
    let (_alone, bed) = alone(vectors);
    let lazy = Raw::connect(&bed.path);
    let mut reader = Client::connect(&bed.path, vectors, Some(LONG)).unwrap();
    for _ in 0..3 {
        let comes = Client::connect(&bed.path, vectors, Some(LONG)).unwrap();
        reader
            .wait_for_peer(comes.id(), vectors, Some(LONG))
            .unwrap();
        drop(comes);
        while !matches!(
            reader.notice(Some(LONG)).unwrap(),
            Some(Notice::Disconnected { .. })
        ) {}
    }
    let last = Client::connect(&bed.path, vectors, Some(LONG)).unwrap();
    reader
        .wait_for_peer(last.id(), vectors, Some(LONG))
        .unwrap();

    // It gets what is still true when it reads at last, in order.
    let vectors = usize::from(vectors);
    lazy.greeting(0);
    lazy.fds(0, vectors);
    lazy.fds(1, vectors);
    lazy.fds(5, vectors);
    assert!(lazy.silent());
}

#[test]
fn who_leaves_half_way_through_is_taken_back() {
    let (_alone, bed) = alone(1024);
    let lazy = Raw::connect(&bed.path);
    lazy.greeting(0);
    lazy.fds(0, 1024);
    // The lazy one's socket does not hold this many, so it is in the middle of them.
    let comes = Client::connect(&bed.path, 1024, Some(LONG)).unwrap();
    drop(comes);
    // The server knows of the departure when it has taken the next client.
    let next = Client::connect(&bed.path, 1024, Some(LONG)).unwrap();
    assert_eq!(next.peers().map(|(id, _)| id).collect::<Vec<_>>(), [0]);
    let mut seen = 0;
    loop {
        let (bytes, fds) = lazy.message().unwrap();
        assert_eq!(i64::from_le_bytes(bytes), 1);
        if fds.is_empty() {
            break;
        }
        seen += 1;
    }
    assert!(seen > 0 && seen < 1024, "{seen}");
    lazy.fds(2, 1024);
}

#[test]
fn eight_clients_with_2048_vectors_each() {
    let (_alone, bed) = alone(2048);
    let clients: Vec<_> = (0..8).map(|_| Raw::connect(&bed.path)).collect();
    // All the descriptors would be more than a process may have, so each is closed at once.
    let some = [0, 255, 256, 2047];
    let mut rings = Vec::new();
    let mut heard = Vec::new();
    for (own, client) in (0..).zip(&clients) {
        client.greeting(own);
        for id in 0..8 {
            for vector in 0..2048 {
                let eventfd = client.fd(id);
                match (own, id) {
                    (3, 6) if some.contains(&vector) => rings.push(eventfd),
                    (6, 6) if some.contains(&vector) => heard.push(eventfd),
                    _ => {}
                }
            }
        }
        assert!(client.silent());
    }
    assert_eq!(rings.len(), some.len());
    for (at, peer) in rings.iter().enumerate() {
        ring(peer);
        let counts: Vec<_> = heard.iter().map(drain).collect();
        assert_eq!(counts.iter().position(|count| *count == 1), Some(at));
        assert_eq!(counts.iter().sum::<u64>(), 1);
    }
}

#[test]
fn many_clients() {
    let (_alone, bed) = alone(1);
    let mut clients: Vec<_> = (0..100)
        .map(|_| Client::connect(&bed.path, 1, Some(LONG)).unwrap())
        .collect();
    let last = clients.pop().unwrap();
    assert_eq!((last.id(), last.peers().count()), (99, 99));
    for client in &mut clients {
        client.wait_for_peer(99, 1, Some(LONG)).unwrap();
        client.ring(99, 0).unwrap();
    }
    assert_eq!(
        last.wait(0, Some(LONG)).unwrap(),
        99,
        "each interrupt is counted"
    );
}
