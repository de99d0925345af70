// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The server's loop.
//!
//! Each client has a queue of what it is still to be told, and gets as much of it as its socket
//! takes. What has to reach a client is only ever queued, so a client that does not read makes
//! nobody wait but itself. When a peer leaves, what has not been said of it yet is dropped from the
//! queues: neither do its eventfds stay open for a slow client's sake nor does the queue grow.

use std::{
    collections::{BTreeMap, VecDeque},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use rustix::{
    event::{EventfdFlags, epoll, eventfd},
    io::Errno,
    net::{RecvFlags, recv},
};
use tracing::{debug, info, warn};

use crate::{
    error::{Context, Error, Result},
    protocol,
    region::Region,
    socket::Listener,
};

/// The most vectors an MSI-X device can have.
pub const MAX_VECTORS: u16 = 2048;

/// When to try again what the system had no resources for. Whatever frees them (a client of this
/// or another server that reads, or closes files) is no event that could be waited for.
const RETRY: Duration = Duration::from_millis(10);

/// Clients accepted at a time. Those who came before are served in between, and a signal is heard.
const AT_A_TIME: usize = 64;

const TOKEN_STOP: u64 = u64::MAX;
const TOKEN_LISTENER: u64 = u64::MAX - 1;

/// The eventfds of one client, one for each vector.
type Eventfds = Arc<[OwnedFd]>;

/// Something a client is still to be told.
#[derive(Debug)]
enum Item {
    /// A number by itself.
    Number(i64),
    /// The shared memory.
    Memory,
    /// A client's eventfds, the recipient's own included. `sent` of them are through.
    Vectors {
        id: u16,
        eventfds: Eventfds,
        sent: usize,
    },
}

#[derive(Debug)]
struct Client {
    socket: UnixStream,
    eventfds: Eventfds,
    queue: VecDeque<Item>,
    /// The socket was full, and has not become writable since.
    blocked: bool,
}

/// What became of an attempt to tell a client everything in its queue.
#[derive(Debug, PartialEq, Eq)]
enum Flushed {
    All,
    /// The socket is full.
    Blocked,
    /// The system has no resources, such as for more descriptors in flight.
    Refused,
}

impl Client {
    fn flush(&mut self, region: &Region) -> rustix::io::Result<Flushed> {
        while let Some(item) = self.queue.front_mut() {
            let (number, fd) = match item {
                Item::Number(number) => (*number, None),
                Item::Memory => (protocol::MEMORY, Some(region.as_fd())),
                Item::Vectors { id, eventfds, sent } => {
                    (i64::from(*id), Some(eventfds[*sent].as_fd()))
                }
            };
            match protocol::send(&self.socket, number, fd) {
                Ok(()) => {}
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Ok(Flushed::Blocked),
                Err(Errno::TOOMANYREFS | Errno::NOBUFS | Errno::NOMEM) => {
                    return Ok(Flushed::Refused);
                }
                Err(error) => return Err(error),
            }
            match item {
                Item::Vectors { eventfds, sent, .. } if *sent + 1 < eventfds.len() => *sent += 1,
                _ => drop(self.queue.pop_front()),
            }
        }
        Ok(Flushed::All)
    }

    /// Has the client learn that a peer is gone.
    fn forget(&mut self, peer: u16) {
        let gone = Item::Number(peer.into());
        let about_peer = |item: &Item| matches!(item, Item::Vectors { id, .. } if *id == peer);
        match self.queue.iter().position(about_peer) {
            None => self.queue.push_back(gone),
            Some(at) => match self.queue[at] {
                Item::Vectors { sent: 1.., .. } => self.queue[at] = gone,
                _ => drop(self.queue.remove(at)),
            },
        }
    }
}

/// Ends the loop of a [`Server`], from any thread.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<OwnedFd>);

impl Stopper {
    /// Has [`Server::run`] return.
    pub fn stop(&self) {
        rustix::io::write(&*self.0, &1u64.to_ne_bytes()).expect("the count is far from its limit");
    }
}

/// An ivshmem server.
///
/// ```no_run
/// use ivshmem_server::{Client, Listener, Region, Server};
///
/// let path = "/run/ivshmem.sock";
/// let server = Server::new(Region::anonymous(16 << 20)?, 4, Some(Listener::bind(path)?))?.spawn();
/// let client = Client::connect(path, 4, None)?;
/// assert_eq!(client.id(), 0);
/// # Ok::<(), ivshmem_server::Error>(())
/// ```
#[derive(Debug)]
pub struct Server {
    region: Region,
    vectors: u16,
    listener: Option<Listener>,
    epoll: OwnedFd,
    stop: Stopper,
    clients: BTreeMap<u16, Client>,
    /// The next client's ID. They are never used again: QEMU crashes when one is.
    next_id: u32,
    /// Given up for a moment to refuse a client when there is no other descriptor left.
    spare: Option<OwnedFd>,
    /// When to accept connections that may be waiting: at once, or after [`RETRY`] where the system
    /// had no resources to accept them.
    accept_after: Option<Duration>,
}

impl Server {
    /// A server of clients with `vectors` vectors each. Without a listener it has only the clients
    /// it is [given](Server::add).
    pub fn new(region: Region, vectors: u16, listener: Option<Listener>) -> Result<Self> {
        if !(1..=MAX_VECTORS).contains(&vectors) {
            return Err(Error::Vectors(vectors.into()));
        }
        let what = "cannot set up the event loop";
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context(what)?;
        let stop = new_eventfd().context(what)?;
        // Edge-triggered: each event is remembered in the clients' state, so nothing has to be
        // asked for anew each time a queue fills or drains.
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &stop, epoll::EventData::new_u64(TOKEN_STOP), flags).context(what)?;
        if let Some(listener) = &listener {
            let data = epoll::EventData::new_u64(TOKEN_LISTENER);
            epoll::add(&epoll, &listener.socket, data, flags).context(what)?;
        }
        let spare = new_eventfd().context(what)?;
        Ok(Self {
            region,
            vectors,
            listener,
            epoll,
            stop: Stopper(stop.into()),
            clients: BTreeMap::new(),
            next_id: 0,
            spare: Some(spare),
            accept_after: None,
        })
    }

    /// What ends [`Server::run`].
    pub fn stopper(&self) -> Stopper {
        self.stop.clone()
    }

    /// The memory it shares.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Serves until it is stopped. Clients then see the end of their connection.
    pub fn run(mut self) -> Result<()> {
        let what = "cannot wait for clients";
        let mut events = [MaybeUninit::uninit(); 64];
        loop {
            let refused = self.flush().then_some(RETRY);
            let timeout = [refused, self.accept_after]
                .into_iter()
                .flatten()
                .min()
                .map(|timeout| timeout.try_into().expect("a few milliseconds fit"));
            let (events, _) = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
                Err(Errno::INTR) => continue,
                events => events.context(what)?,
            };
            if self.accept_after.is_some() {
                self.accept();
            }
            for event in events {
                match event.data.u64() {
                    TOKEN_STOP => return Ok(()),
                    TOKEN_LISTENER => self.accept(),
                    token => self.handle(token as u16, event.flags),
                }
            }
        }
    }

    /// Serves on a thread of its own.
    pub fn spawn(self) -> Running {
        let stop = self.stopper();
        Running {
            stop,
            thread: Some(std::thread::spawn(move || self.run())),
        }
    }

    /// Takes who waits at the listener. The next edge comes with the next one only, so whoever is
    /// left is not forgotten.
    fn accept(&mut self) {
        let again = self.accept_after.take() == Some(RETRY);
        if (0..AT_A_TIME).all(|_| self.accept_one(again)) {
            self.accept_after = Some(Duration::ZERO);
        }
    }

    /// Whether there may be more.
    fn accept_one(&mut self, again: bool) -> bool {
        let Some(listener) = &self.listener else {
            return false;
        };
        let error = match listener.socket.accept() {
            Ok((socket, _)) => {
                if let Err(error) = self.add(socket) {
                    warn!("a client was refused: {error}");
                }
                return true;
            }
            Err(error) => error,
        };
        match Errno::from_io_error(&error) {
            Some(Errno::AGAIN) => return false,
            Some(Errno::INTR | Errno::CONNABORTED) => return true,
            Some(Errno::MFILE) if self.spare.take().is_some() => {
                let refused = listener.socket.accept().is_ok();
                self.spare = new_eventfd().ok();
                if refused {
                    warn!("a client was refused: {error}");
                    return true;
                }
            }
            _ => {}
        }
        if !again {
            warn!("cannot accept a client now: {error}");
        }
        self.spare = self.spare.take().or_else(|| new_eventfd().ok());
        self.accept_after = Some(RETRY);
        false
    }

    /// Takes a client by its end of a stream socket. On an error nothing has been sent to it.
    pub fn add(&mut self, socket: UnixStream) -> Result<()> {
        let id = u16::try_from(self.next_id).map_err(|_| Error::IdsExhausted)?;
        let eventfds: Eventfds = (0..self.vectors)
            .map(|_| new_eventfd())
            .collect::<rustix::io::Result<Vec<_>>>()
            .context(format!("no eventfds for {} vectors", self.vectors))?
            .into();
        let flags = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        epoll::add(
            &self.epoll,
            &socket,
            epoll::EventData::new_u64(id.into()),
            flags,
        )
        .context("cannot wait for the client")?;
        self.next_id += 1;

        let vectors = |id: u16, eventfds: &Eventfds| Item::Vectors {
            id,
            eventfds: eventfds.clone(),
            sent: 0,
        };
        let mut queue = VecDeque::from([
            Item::Number(protocol::VERSION),
            Item::Number(id.into()),
            Item::Memory,
        ]);
        for (peer, client) in &mut self.clients {
            queue.push_back(vectors(*peer, &client.eventfds));
            client.queue.push_back(vectors(id, &eventfds));
        }
        queue.push_back(vectors(id, &eventfds));
        self.clients.insert(
            id,
            Client {
                socket,
                eventfds,
                queue,
                blocked: false,
            },
        );
        info!("client {id} connected, {} now", self.clients.len());
        Ok(())
    }

    fn handle(&mut self, id: u16, flags: epoll::EventFlags) {
        // An earlier event of the same batch may have ended it.
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        if flags.contains(epoll::EventFlags::OUT) {
            client.blocked = false;
        }
        let mut byte = [0];
        match recv(&client.socket, &mut byte, RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => self.remove(id, &error.to_string()),
            Ok((_, 0)) => self.remove(id, "it closed the connection"),
            Ok(_) => self.remove(id, "it sent something, which no client may"),
        }
    }

    /// Ends a client, and has the others learn of it.
    fn remove(&mut self, id: u16, why: &str) {
        self.clients.remove(&id);
        for client in self.clients.values_mut() {
            client.forget(id);
        }
        info!("client {id} left ({why}), {} now", self.clients.len());
    }

    /// Tells the clients what they are ready for. Whether it has to be tried again for want of
    /// resources.
    fn flush(&mut self) -> bool {
        let mut refused = false;
        loop {
            let mut dead = Vec::new();
            for (id, client) in self
                .clients
                .iter_mut()
                .filter(|(_, client)| !client.blocked)
            {
                match client.flush(&self.region) {
                    Ok(Flushed::All) => {}
                    Ok(Flushed::Blocked) => {
                        debug!("the socket of client {id} is full");
                        client.blocked = true;
                    }
                    Ok(Flushed::Refused) => refused = true,
                    Err(error) => dead.push((*id, error)),
                }
            }
            // The others have something new to learn then.
            if dead.is_empty() {
                return refused;
            }
            for (id, error) in dead {
                self.remove(id, &error.to_string());
            }
        }
    }
}

fn new_eventfd() -> rustix::io::Result<OwnedFd> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
}

impl AsFd for Stopper {
    /// Readable once it was used.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A server on a thread of its own; dropping it stops the server.
#[derive(Debug)]
pub struct Running {
    stop: Stopper,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Running {
    /// Stops the server and says how it ended.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.stop.stop();
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        thread.join().expect("the server does not panic")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            warn!("the server failed: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_let_in_piece_by_piece() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("socket");
        let listener = Listener::bind(&path).unwrap();
        let mut server = Server::new(Region::anonymous(4096).unwrap(), 1, Some(listener)).unwrap();
        let crowd: Vec<_> = (0..AT_A_TIME + 1)
            .map(|_| UnixStream::connect(&path).unwrap())
            .collect();
        server.accept();
        assert_eq!(server.clients.len(), AT_A_TIME);
        assert_eq!(server.accept_after, Some(Duration::ZERO));
        server.accept();
        assert_eq!(server.clients.len(), crowd.len());
        assert_eq!(server.accept_after, None);
    }

    #[test]
    fn ids_run_out() {
        let mut server = Server::new(Region::anonymous(4096).unwrap(), 1, None).unwrap();
        server.next_id = 65535;
        let pairs = [0, 1].map(|_| UnixStream::pair().unwrap());
        let [last, refused] = pairs.map(|(ours, theirs)| (server.add(theirs), ours));
        assert!(last.0.is_ok());
        assert!(matches!(refused.0, Err(Error::IdsExhausted)));
        server.flush();
        let client = crate::Client::from_socket(last.1, 1, None).unwrap();
        assert_eq!(client.id(), 65535);
    }
}
