// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The client half of the library.

mod common;

use std::{
    io::Write,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use common::{LONG, SHORT, serve};
use ivshmem_server::{Client, Error, Notice};
use rustix::{
    event::{EventfdFlags, eventfd},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
};

#[test]
fn rings_are_counted() {
    let bed = serve(2);
    let mut one = Client::connect(&bed.path, 2, Some(LONG)).unwrap();
    let other = Client::connect(&bed.path, 2, Some(LONG)).unwrap();
    one.wait_for_peer(other.id(), 2, Some(LONG)).unwrap();
    assert_eq!(other.wait(1, Some(SHORT)).unwrap(), 0);
    (0..3).for_each(|_| one.ring(1, 1).unwrap());
    assert_eq!(other.wait(1, Some(LONG)).unwrap(), 3);
    assert_eq!(other.wait(0, Some(Duration::ZERO)).unwrap(), 0);
    one.ring(0, 0).unwrap();
    assert_eq!(one.wait(0, None).unwrap(), 1, "its own vectors");
}

#[test]
fn who_is_not_there_cannot_be_rung() {
    let bed = serve(2);
    let client = Client::connect(&bed.path, 2, Some(LONG)).unwrap();
    assert!(matches!(
        client.ring(7, 0),
        Err(Error::NoPeer { peer: 7, vector: 0 })
    ));
    assert!(matches!(
        client.ring(0, 2),
        Err(Error::NoPeer { peer: 0, vector: 2 })
    ));
    assert!(matches!(client.wait(2, None), Err(Error::NoVector(2))));
}

#[test]
fn news_of_peers() {
    let bed = serve(2);
    let mut client = Client::connect(&bed.path, 2, Some(LONG)).unwrap();
    assert_eq!(client.notice(Some(SHORT)).unwrap(), None);
    drop(Client::connect(&bed.path, 2, Some(LONG)).unwrap());
    for expected in [
        Notice::Connected { peer: 1, vector: 0 },
        Notice::Connected { peer: 1, vector: 1 },
        Notice::Disconnected { peer: 1 },
    ] {
        assert_eq!(client.notice(Some(LONG)).unwrap(), Some(expected));
    }
    assert_eq!(client.peers().count(), 0);
}

#[test]
fn fewer_vectors_than_the_server_has() {
    let bed = serve(4);
    let mut few = Client::connect(&bed.path, 1, Some(LONG)).unwrap();
    assert_eq!(few.vectors().len(), 1);
    let _all = Client::connect(&bed.path, 4, Some(LONG)).unwrap();
    few.wait_for_peer(1, 4, Some(LONG)).unwrap();
    assert_eq!(few.vectors().len(), 1);
}

#[test]
fn more_vectors_than_the_server_has() {
    let bed = serve(1);
    let none = Client::connect(&bed.path, 0, Some(LONG));
    assert!(matches!(none, Err(Error::Vectors(0))), "{none:?}");
    // Long enough for what the server does send.
    let limit = Duration::from_secs(1);
    let error = Client::connect(&bed.path, 2, Some(limit)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the server did not send more than 1 of 2 vectors in time"
    );
}

/// QEMU makes eventfds blocking that the whole world shares.
#[test]
fn a_blocking_eventfd_blocks_nobody() {
    let bed = serve(1);
    let client = Client::connect(&bed.path, 1, Some(LONG)).unwrap();
    let vector = &client.vectors()[0];
    let flags = fcntl_getfl(vector).unwrap();
    fcntl_setfl(vector, flags - OFlags::NONBLOCK).unwrap();
    let start = Instant::now();
    client.ring(0, 0).unwrap();
    std::thread::scope(|scope| {
        let waiters = [0, 1].map(|_| scope.spawn(|| client.wait(0, Some(4 * SHORT)).unwrap()));
        let sum: u64 = waiters.map(|waiter| waiter.join().unwrap()).iter().sum();
        assert_eq!(sum, 1);
    });
    assert!(start.elapsed() < LONG);
}

fn told(messages: &[i64]) -> Error {
    let (mut server, client) = UnixStream::pair().unwrap();
    for message in messages {
        server.write_all(&message.to_le_bytes()).unwrap();
    }
    drop(server);
    Client::from_socket(client, 1, Some(LONG)).unwrap_err()
}

#[test]
fn servers_that_break_the_protocol() {
    assert!(matches!(told(&[]), Error::Closed));
    assert!(matches!(told(&[0, 0]), Error::Closed));
    for messages in [&[1i64][..], &[0, -1], &[0, 65536], &[0, 0, -1], &[0, 0, 0]] {
        assert!(matches!(told(messages), Error::Protocol(_)), "{messages:?}");
    }
}

/// Messages may come in any pieces, the descriptor with the first byte.
#[test]
fn messages_in_pieces() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::{io::IoSlice, mem::MaybeUninit, os::fd::AsFd};

    let (mut server, client) = UnixStream::pair().unwrap();
    let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let sender = std::thread::spawn(move || {
        for (number, with_fd) in [(0i64, false), (5, false), (-1, true), (5, true)] {
            for (at, byte) in number.to_le_bytes().chunks(1).enumerate() {
                if with_fd && at == 0 {
                    let fds = [event.as_fd()];
                    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                    let mut control = SendAncillaryBuffer::new(&mut space);
                    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
                    let bytes = [IoSlice::new(byte)];
                    sendmsg(&server, &bytes, &mut control, SendFlags::empty()).unwrap();
                } else {
                    server.write_all(byte).unwrap();
                }
            }
        }
        server
    });
    let client = Client::from_socket(client, 1, Some(LONG)).unwrap();
    assert_eq!((client.id(), client.vectors().len()), (5, 1));
    drop(sender.join().unwrap());
}
