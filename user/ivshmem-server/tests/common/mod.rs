// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A client that shares no code with the server: what it reads is what is on the wire.

#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    io::IoSliceMut,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use ivshmem_server::{Listener, Region, Running, Server, raise_file_limit};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
};
use tempfile::TempDir;

/// Longer than anything takes, to fail instead of hanging.
pub const LONG: Duration = Duration::from_secs(30);
/// Long enough to believe that nothing comes.
pub const SHORT: Duration = Duration::from_millis(50);

pub struct Bed {
    pub path: PathBuf,
    pub server: Running,
    _dir: TempDir,
}

pub fn serve(vectors: u16) -> Bed {
    raise_file_limit();
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("socket");
    let listener = Listener::bind(&path).unwrap();
    let server = Server::new(Region::anonymous(1 << 20).unwrap(), vectors, Some(listener));
    Bed {
        path,
        server: server.unwrap().spawn(),
        _dir: dir,
    }
}

pub fn readable(fd: impl AsFd, timeout: Duration) -> bool {
    let timeout = Timespec::try_from(timeout).unwrap();
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).unwrap() > 0
}

/// The count of an eventfd, which is 0 afterwards.
pub fn drain(eventfd: &OwnedFd) -> u64 {
    if !readable(eventfd, Duration::ZERO) {
        return 0;
    }
    let mut count = [0; 8];
    rustix::io::read(eventfd, &mut count).unwrap();
    u64::from_ne_bytes(count)
}

pub fn ring(eventfd: &OwnedFd) {
    rustix::io::write(eventfd, &1u64.to_ne_bytes()).unwrap();
}

pub struct Raw(pub UnixStream);

impl Raw {
    pub fn connect(path: impl AsRef<Path>) -> Self {
        let socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        Self(socket)
    }

    /// The next 8 bytes and the descriptors that came with them; `None` at the end.
    pub fn message(&self) -> Option<([u8; 8], Vec<OwnedFd>)> {
        let mut bytes = [0; 8];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let into = &mut [IoSliceMut::new(&mut bytes)];
        let received = recvmsg(&self.0, into, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        let fds = control
            .drain()
            .flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
                _ => panic!("only descriptors come with a message"),
            })
            .collect();
        match received.bytes {
            0 => None,
            8 => Some((bytes, fds)),
            other => panic!("{other} bytes are no message"),
        }
    }

    pub fn number(&self, expected: i64) {
        let (bytes, fds) = self.message().expect("a message");
        assert_eq!((i64::from_le_bytes(bytes), fds.len()), (expected, 0));
    }

    pub fn fd(&self, expected: i64) -> OwnedFd {
        let (bytes, mut fds) = self.message().expect("a message");
        assert_eq!((i64::from_le_bytes(bytes), fds.len()), (expected, 1));
        fds.pop().unwrap()
    }

    pub fn fds(&self, expected: i64, count: usize) -> Vec<OwnedFd> {
        (0..count).map(|_| self.fd(expected)).collect()
    }

    /// Reads version, ID and memory.
    pub fn greeting(&self, id: i64) -> OwnedFd {
        self.number(0);
        self.number(id);
        self.fd(-1)
    }

    pub fn silent(&self) -> bool {
        !readable(&self.0, SHORT)
    }
}
