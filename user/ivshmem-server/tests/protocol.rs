// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is on the wire.

mod common;

use std::{fs::File, io::Write, os::unix::net::UnixStream};

use common::{LONG, Raw, drain, ring, serve};
use ivshmem_server::{Client, Error, Region, Server};

#[test]
fn first_client_in_order_byte_by_byte() {
    let bed = serve(3);
    let client = Raw::connect(&bed.path);
    let (bytes, fds) = client.message().unwrap();
    assert_eq!((bytes, fds.len()), ([0; 8], 0), "version 0");
    let (bytes, fds) = client.message().unwrap();
    assert_eq!((bytes, fds.len()), ([0; 8], 0), "ID 0");
    let (bytes, mut fds) = client.message().unwrap();
    assert_eq!((bytes, fds.len()), ([0xff; 8], 1), "-1 and the memory");
    assert_eq!(
        File::from(fds.pop().unwrap()).metadata().unwrap().len(),
        1 << 20
    );
    for _ in 0..3 {
        let (bytes, fds) = client.message().unwrap();
        assert_eq!((bytes, fds.len()), ([0; 8], 1), "own ID and an eventfd");
    }
    assert!(client.silent());
}

#[test]
fn second_client_and_the_first_meet() {
    let bed = serve(3);
    let first = Raw::connect(&bed.path);
    first.greeting(0);
    let first_own = first.fds(0, 3);

    let second = Raw::connect(&bed.path);
    second.greeting(1);
    let second_peer = second.fds(0, 3);
    let second_own = second.fds(1, 3);
    let first_peer = first.fds(1, 3);
    assert!(first.silent() && second.silent());

    // Vector n of one is vector n of the other.
    for (peer, own) in [(&first_peer, &second_own), (&second_peer, &first_own)] {
        for (n, eventfd) in peer.iter().enumerate() {
            (0..=n).for_each(|_| ring(eventfd));
        }
        assert_eq!(own.iter().map(drain).collect::<Vec<_>>(), [1, 2, 3]);
    }
}

#[test]
fn third_client_gets_peers_by_id_and_then_itself() {
    let bed = serve(2);
    let others = [0, 1].map(|id| {
        let other = Raw::connect(&bed.path);
        other.greeting(id);
        other
    });
    let third = Raw::connect(&bed.path);
    third.greeting(2);
    for id in [0, 1, 2] {
        third.fds(id, 2);
    }
    assert!(third.silent());
    drop(others);
}

#[test]
fn departures_are_told_and_ids_never_come_back() {
    let bed = serve(1);
    let stays = Raw::connect(&bed.path);
    stays.greeting(0);
    stays.fd(0);
    for id in 1..=5 {
        let comes = Raw::connect(&bed.path);
        comes.greeting(id);
        comes.fd(0);
        comes.fd(id);
        stays.fd(id);
        drop(comes);
        stays.number(id);
    }
    assert!(stays.silent());
}

#[test]
fn half_closing_is_leaving() {
    let bed = serve(1);
    let stays = Raw::connect(&bed.path);
    stays.greeting(0);
    stays.fd(0);
    let leaves = Raw::connect(&bed.path);
    stays.fd(1);
    leaves.0.shutdown(std::net::Shutdown::Write).unwrap();
    stays.number(1);
}

#[test]
fn who_sends_anything_is_dropped() {
    let bed = serve(1);
    let stays = Raw::connect(&bed.path);
    stays.greeting(0);
    stays.fd(0);
    let mut talks = Raw::connect(&bed.path);
    talks.greeting(1);
    talks.fd(0);
    talks.fd(1);
    stays.fd(1);
    talks.0.write_all(b"hello").unwrap();
    stays.number(1);
    // The server closed without reading it all, which may reset the connection.
    let mut byte = [0];
    assert!(!matches!(
        std::io::Read::read(&mut &talks.0, &mut byte),
        Ok(1..)
    ));
    Client::connect(&bed.path, 1, Some(LONG)).expect("others still come in");
}

#[test]
fn sizes_and_vectors_that_cannot_be() {
    for size in [0, 1, 2048, 4095, 4097, 12288, (16 << 20) + 4096, u64::MAX] {
        assert!(
            matches!(Region::anonymous(size), Err(Error::Size(_))),
            "{size}"
        );
    }
    for vectors in [0, 2049, u16::MAX] {
        let region = Region::anonymous(4096).unwrap();
        assert!(
            matches!(Server::new(region, vectors, None), Err(Error::Vectors(_))),
            "{vectors}"
        );
    }
}

#[test]
fn memory_in_a_file_stays_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("memory");
    drop(Region::file(&path, 8192).unwrap());
    assert_eq!(path.metadata().unwrap().len(), 8192);
    assert_eq!(Region::file(&path, 8192).unwrap().size(), 8192);
    assert!(matches!(
        Region::file(&path, 4096),
        Err(Error::FileSize { is: 8192, .. })
    ));
}

#[test]
fn clients_cannot_cut_the_memory() {
    let bed = serve(1);
    let client = Client::connect(&bed.path, 1, Some(LONG)).unwrap();
    let memory = File::from(client.memory().try_clone_to_owned().unwrap());
    assert!(memory.set_len(0).is_err());
    assert!(memory.set_len(2 << 20).is_err());
}

#[test]
fn clients_share_memory() {
    let bed = serve(1);
    let [one, other] = [0, 1].map(|_| Client::connect(&bed.path, 1, Some(LONG)).unwrap());
    assert_eq!(one.size(), 1 << 20);
    let (one, other) = (one.map().unwrap(), other.map().unwrap());
    one.write(4093, b"across a page").unwrap();
    let mut text = [0; 13];
    other.read(4093, &mut text).unwrap();
    assert_eq!(&text, b"across a page");
}

#[test]
fn a_server_without_a_listener_serves_whom_it_is_given() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut server = Server::new(Region::anonymous(4096).unwrap(), 2, None).unwrap();
    server.add(theirs).unwrap();
    let server = server.spawn();
    let client = Client::from_socket(ours, 2, Some(LONG)).unwrap();
    client.ring(0, 1).unwrap();
    assert_eq!(client.wait(1, Some(LONG)).unwrap(), 1);
    server.stop().unwrap();
}

#[test]
fn stopping_ends_connections_and_removes_the_socket() {
    let bed = serve(1);
    let mut client = Client::connect(&bed.path, 1, Some(LONG)).unwrap();
    bed.server.stop().unwrap();
    assert!(matches!(client.notice(Some(LONG)), Err(Error::Closed)));
    assert!(!bed.path.exists());
}
