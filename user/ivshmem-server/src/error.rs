// SPDX-License-Identifier: GPL-2.0 OR MIT

use std::{io, os::fd::RawFd, path::PathBuf};

/// What can go wrong, each in one line that says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A size of the shared memory that no PCI device can have.
    #[error(
        "the shared memory must be a power of two of at least 4096 bytes (QEMU aborts otherwise), not {0}"
    )]
    Size(u64),
    /// The file for the shared memory is there and has another size.
    #[error("{path} has {is} bytes, not {wanted}: remove it or give its size")]
    FileSize {
        /// The file.
        path: PathBuf,
        /// Its size.
        is: u64,
        /// The size asked for.
        wanted: u64,
    },
    /// A number of vectors that no ivshmem device can have.
    #[error("a client has 1 to 2048 vectors, not {0}")]
    Vectors(usize),
    /// Somebody uses the socket.
    #[error("{0} is in use: a server listens on it")]
    InUse(PathBuf),
    /// The path of the socket belongs to something else.
    #[error("{0} exists and is not a socket: remove it or choose another path")]
    NotASocket(PathBuf),
    /// A descriptor to inherit is named more than once.
    #[error("descriptor {0} is named twice: each socket has one of its own")]
    GivenTwice(RawFd),
    /// The socket to inherit is no listening one.
    #[error("the inherited descriptor is not a listening socket: have it listen before")]
    NotListening,
    /// Every ID was given away once.
    #[error(
        "all 65536 IDs have been used, and QEMU crashes when one is used again: restart the server and its clients"
    )]
    IdsExhausted,
    /// The server ended the connection.
    #[error("the server closed the connection")]
    Closed,
    /// The server said what the protocol does not allow.
    #[error("the server breaks the protocol: {0}")]
    Protocol(String),
    /// The server did not send in time what was waited for.
    #[error("the server did not send {0} in time")]
    Timeout(String),
    /// There is no such peer, or it has fewer vectors.
    #[error("peer {peer} is not connected or has no vector {vector}")]
    NoPeer {
        /// The peer's ID.
        peer: u16,
        /// Its vector.
        vector: u16,
    },
    /// This client has fewer vectors.
    #[error("this client has no vector {0}")]
    NoVector(u16),
    /// The system refused something.
    #[error("{0}: {1}")]
    Io(String, #[source] io::Error),
}

/// A result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Says what was tried when the system refuses it.
pub(crate) trait Context<T> {
    fn context(self, what: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|error| Error::Io(what.into(), error.into()))
    }
}
