// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The socket that clients connect to.

use std::{
    fs::{self, File, Metadata},
    io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt, MetadataExt},
            net::{UnixDatagram, UnixListener},
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
    net::sockopt::socket_acceptconn,
};

use crate::error::{Context, Error, Result};

/// A listening socket, whose file goes away with it.
#[derive(Debug)]
pub struct Listener {
    pub(crate) socket: UnixListener,
    /// What to unlink: nothing when the socket was inherited.
    file: Option<(PathBuf, Identity)>,
}

type Identity = (u64, u64);

fn identity(metadata: &Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

impl Listener {
    /// Listens on `path`. What a dead server left there is replaced.
    pub fn bind(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let what = || format!("cannot listen on {}", path.display());
        let socket = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                // Another server may be about to do the same, and must not remove the new socket.
                let _lock = lock_directory(path)?;
                remove_stale(path)?;
                UnixListener::bind(path)
            }
            bound => bound,
        }
        .context(what())?;
        socket.set_nonblocking(true).context(what())?;
        let identity = identity(&fs::symlink_metadata(path).context(what())?);
        Ok(Self {
            socket,
            file: Some((path.into(), identity)),
        })
    }

    /// Takes a listening socket that somebody else made. Its file, if it has one, is left alone.
    pub fn inherited(socket: OwnedFd) -> Result<Self> {
        let what = "cannot use the inherited socket";
        if !socket_acceptconn(&socket).context(what)? {
            return Err(Error::NotListening);
        }
        let socket = UnixListener::from(socket);
        socket.set_nonblocking(true).context(what)?;
        Ok(Self { socket, file: None })
    }
}

/// Keeps other servers from replacing sockets in the directory of `path`.
fn lock_directory(path: &Path) -> Result<File> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let what = || format!("cannot lock {}", directory.display());
    let lock = File::open(directory).context(what())?;
    flock(&lock, FlockOperation::LockExclusive).context(what())?;
    Ok(lock)
}

/// Removes the socket at `path` unless a process has it.
fn remove_stale(path: &Path) -> Result<()> {
    let what = || format!("cannot replace {}", path.display());
    let metadata = fs::symlink_metadata(path).context(what())?;
    if !metadata.file_type().is_socket() {
        return Err(Error::NotASocket(path.into()));
    }
    // A socket of another type cannot connect, so a living server does not see a client come and
    // go, but the error tells whether there is one.
    let probe = UnixDatagram::unbound().context(what())?;
    match probe
        .connect(path)
        .map_err(|error| Errno::from_io_error(&error))
    {
        Err(Some(Errno::CONNREFUSED)) => fs::remove_file(path).context(what()),
        _ => Err(Error::InUse(path.into())),
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some((path, identity_then)) = &self.file {
            // Another server may have its socket there by now.
            if fs::symlink_metadata(path).is_ok_and(|now| identity(&now) == *identity_then) {
                let _ = fs::remove_file(path);
            }
        }
    }
}
