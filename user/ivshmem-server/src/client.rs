// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A client in a program of the host.

use std::{
    collections::BTreeMap,
    io::IoSliceMut,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::{Duration, Instant},
};

use ivshmem::{Access, Memory};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::fstat,
    io::{Errno, ReadWriteFlags, preadv2, write},
};

use crate::{
    error::{Context, Error, Result},
    protocol::{self, Receiver},
};

/// News from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A peer can be interrupted by one more vector.
    Connected {
        /// Its ID.
        peer: u16,
        /// The vector.
        vector: u16,
    },
    /// A peer is gone.
    Disconnected {
        /// Its ID.
        peer: u16,
    },
    /// This client can be interrupted by one more vector.
    Vector(u16),
}

/// A peer of all the clients of a server, as a virtual machine is one.
///
/// It learns of peers that come and go when it is asked for [news](Client::notice); its descriptor
/// polls readable when there are some.
#[derive(Debug)]
pub struct Client {
    socket: UnixStream,
    receiver: Receiver,
    id: u16,
    memory: OwnedFd,
    size: u64,
    wanted: usize,
    vectors: Vec<OwnedFd>,
    peers: BTreeMap<u16, Vec<OwnedFd>>,
}

impl Client {
    /// Connects to the server at `path`, as a client with `vectors` vectors, and waits at most
    /// `timeout` until the server has set it up. All peers that were there before are known then.
    pub fn connect(
        path: impl AsRef<Path>,
        vectors: u16,
        timeout: Option<Duration>,
    ) -> Result<Self> {
        let path = path.as_ref();
        let socket = UnixStream::connect(path).context(format!(
            "cannot connect to the server at {}",
            path.display()
        ))?;
        Self::from_socket(socket, vectors, timeout)
    }

    /// As [`Client::connect`], by a socket that is connected to the server already.
    pub fn from_socket(
        socket: UnixStream,
        vectors: u16,
        timeout: Option<Duration>,
    ) -> Result<Self> {
        if vectors == 0 {
            return Err(Error::Vectors(0));
        }
        let deadline = Deadline::after(timeout);
        let mut receiver = Receiver::default();
        let mut next = |what: &str| {
            receive(&mut receiver, &socket, deadline)?
                .ok_or_else(|| Error::Timeout(what.to_owned()))
        };
        match next("its version")? {
            (protocol::VERSION, None) => {}
            (version, _) => return Err(protocol_error(format!("version {version} is not known"))),
        }
        let id = match next("an ID")? {
            (id, None) => to_id(id)?,
            _ => return Err(protocol_error("the ID comes with a file")),
        };
        let memory = match next("the shared memory")? {
            (protocol::MEMORY, Some(memory)) => memory,
            (number, _) => return Err(protocol_error(format!("{number} where memory was due"))),
        };
        let stat = fstat(&memory).context("cannot look at the shared memory")?;
        let mut client = Self {
            socket,
            receiver,
            id,
            memory,
            size: stat.st_size as u64,
            wanted: vectors.into(),
            vectors: Vec::new(),
            peers: BTreeMap::new(),
        };
        while client.vectors.len() < client.wanted {
            if client.next(deadline)?.is_none() {
                let has = client.vectors.len();
                return Err(Error::Timeout(format!(
                    "more than {has} of {vectors} vectors"
                )));
            }
        }
        Ok(client)
    }

    /// This client's own ID.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// Bytes of shared memory.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The shared memory.
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// Maps all of the shared memory.
    pub fn map(&self) -> Result<Memory> {
        let len = usize::try_from(self.size).map_err(|_| Error::Size(self.size))?;
        Memory::map(&self.memory, 0, len, Access::ReadWrite).context("cannot map the shared memory")
    }

    /// The eventfds of this client's own vectors.
    pub fn vectors(&self) -> &[OwnedFd] {
        &self.vectors
    }

    /// The peers there are, each with the eventfds of its vectors.
    pub fn peers(&self) -> impl Iterator<Item = (u16, &[OwnedFd])> {
        self.peers
            .iter()
            .map(|(id, vectors)| (*id, vectors.as_slice()))
    }

    /// Waits at most `timeout` for news. `None` when there were none.
    pub fn notice(&mut self, timeout: Option<Duration>) -> Result<Option<Notice>> {
        self.next(Deadline::after(timeout))
    }

    /// Waits at most `timeout` until a peer is there and has so many vectors.
    pub fn wait_for_peer(
        &mut self,
        peer: u16,
        vectors: u16,
        timeout: Option<Duration>,
    ) -> Result<()> {
        let deadline = Deadline::after(timeout);
        while self
            .peers
            .get(&peer)
            .is_none_or(|has| has.len() < vectors.into())
        {
            if self.next(deadline)?.is_none() {
                return Err(Error::Timeout(format!(
                    "peer {peer} with {vectors} vectors"
                )));
            }
        }
        Ok(())
    }

    fn next(&mut self, deadline: Deadline) -> Result<Option<Notice>> {
        loop {
            let Some((number, fd)) = receive(&mut self.receiver, &self.socket, deadline)? else {
                return Ok(None);
            };
            let id = to_id(number)?;
            match fd {
                // The specification has a client with fewer vectors close the rest.
                Some(_) if id == self.id && self.vectors.len() == self.wanted => {}
                Some(fd) if id == self.id => {
                    self.vectors.push(fd);
                    return Ok(Some(Notice::Vector(self.vectors.len() as u16 - 1)));
                }
                Some(fd) => {
                    let vectors = self.peers.entry(id).or_default();
                    vectors.push(fd);
                    let vector = vectors.len() as u16 - 1;
                    return Ok(Some(Notice::Connected { peer: id, vector }));
                }
                None if self.peers.remove(&id).is_some() => {
                    return Ok(Some(Notice::Disconnected { peer: id }));
                }
                None => return Err(protocol_error(format!("peer {id} left that was not there"))),
            }
        }
    }

    /// Interrupts a peer, or this client itself.
    pub fn ring(&self, peer: u16, vector: u16) -> Result<()> {
        let vectors = if peer == self.id {
            Some(&self.vectors)
        } else {
            self.peers.get(&peer)
        };
        let eventfd = vectors
            .and_then(|vectors| vectors.get(usize::from(vector)))
            .ok_or(Error::NoPeer { peer, vector })?;
        match write(eventfd, &1u64.to_ne_bytes()) {
            // Its count is at the limit, so it will see an interrupt all the same.
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(error) => Err(error).context(format!("cannot ring vector {vector} of {peer}")),
        }
    }

    /// Waits at most `timeout` for interrupts of a vector of this client. How many there were since
    /// the last look; 0 when there were none in time. They may have been more than one, and never
    /// are counted as none.
    pub fn wait(&self, vector: u16, timeout: Option<Duration>) -> Result<u64> {
        let deadline = Deadline::after(timeout);
        let eventfd = self
            .vectors
            .get(usize::from(vector))
            .ok_or(Error::NoVector(vector))?;
        let what = || format!("cannot wait for vector {vector}");
        loop {
            if !deadline.wait(eventfd).context(what())? {
                return Ok(0);
            }
            // The eventfd's own O_NONBLOCK is shared with all peers, and QEMU clears it, so it is
            // the call that must not block. Eventfds have no offset: -1 means so.
            let mut count = [0; 8];
            let into = &mut [IoSliceMut::new(&mut count)];
            match preadv2(eventfd, into, u64::MAX, ReadWriteFlags::NOWAIT) {
                Ok(_) => return Ok(u64::from_ne_bytes(count)),
                // Another thread was faster.
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error).context(what()),
            }
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn protocol_error(what: impl Into<String>) -> Error {
    Error::Protocol(what.into())
}

fn to_id(number: i64) -> Result<u16> {
    u16::try_from(number).map_err(|_| protocol_error(format!("{number} is not an ID")))
}

/// The next message, if it comes in time.
fn receive(
    receiver: &mut Receiver,
    socket: &UnixStream,
    deadline: Deadline,
) -> Result<Option<(i64, Option<OwnedFd>)>> {
    let what = "cannot read from the server";
    loop {
        match receiver.receive(socket) {
            Ok(message) => return Ok(Some(message)),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                if !deadline.wait(socket).context(what)? {
                    return Ok(None);
                }
            }
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(Error::Closed),
            Err(error) => return Err(error).context(what),
        }
    }
}

/// The end of a wait; none waits without limit.
#[derive(Clone, Copy)]
struct Deadline(Option<Instant>);

impl Deadline {
    fn after(timeout: Option<Duration>) -> Self {
        // What lies beyond the end of time is no limit.
        Self(timeout.and_then(|timeout| Instant::now().checked_add(timeout)))
    }

    /// Waits until there is something to read. False when it did not come in time.
    fn wait(self, fd: impl AsFd) -> rustix::io::Result<bool> {
        loop {
            let left = self
                .0
                .map(|end| end.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut [PollFd::new(&fd, PollFlags::IN)], left.as_ref()) {
                Err(Errno::INTR) => {}
                ready => return Ok(ready? > 0),
            }
        }
    }
}
