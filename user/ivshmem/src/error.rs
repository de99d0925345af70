// SPDX-License-Identifier: GPL-2.0 OR MIT

use std::{io, path::PathBuf};

use rustix::io::Errno;

use crate::memory::OutOfRange;

/// What can go wrong, each in one line that says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device could not be opened.
    #[error("cannot open {}: {}", .0.display(), hint(.1))]
    Open(PathBuf, #[source] io::Error),
    /// The file is not an ivshmem device, or its driver does not know the call.
    #[error(
        "not an ivshmem device, or its driver does not know this call: check path and versions"
    )]
    NotADevice,
    /// The device was unplugged or its driver unbound. Final for this [`Device`](crate::Device).
    #[error("the device is gone: open it again when it is back")]
    Gone,
    /// The device cannot interrupt.
    #[error("the device has no interrupts: use ivshmem-doorbell with a server, not ivshmem-plain")]
    NoInterrupts,
    /// The device is not set up yet. Mapping it never waits for that; ringing does, unless it was
    /// opened [nonblocking](crate::OpenOptions::nonblocking).
    #[error("the device is not ready yet: wait for its state to change, and try again")]
    NotReady,
    /// The device was opened only to read.
    #[error("the device is open read-only: open it for writing to ring or to map it writable")]
    ReadOnly,
    /// A signal came.
    #[error("interrupted by a signal: try again")]
    Interrupted,
    /// The system has no interrupt left for the vector.
    #[error("the system has no interrupt left: listen to fewer vectors")]
    NoInterruptLeft,
    /// The driver says that an argument makes no sense for this device.
    #[error("cannot {0}: see the device's info for what there is")]
    Invalid(String),
    /// Accesses outside of a mapping.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
    /// Anything else.
    #[error("cannot {0}: {1}")]
    Io(String, #[source] io::Error),
}

/// A result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// What an errno means when it was tried to `what`.
    pub(crate) fn new(errno: Errno, what: impl FnOnce() -> String) -> Self {
        match errno {
            Errno::NOTTY => Self::NotADevice,
            Errno::NODEV => Self::Gone,
            Errno::OPNOTSUPP => Self::NoInterrupts,
            Errno::AGAIN => Self::NotReady,
            Errno::ACCESS => Self::ReadOnly,
            Errno::INTR => Self::Interrupted,
            Errno::NOSPC => Self::NoInterruptLeft,
            Errno::INVAL => Self::Invalid(what()),
            errno => Self::Io(what(), errno.into()),
        }
    }
}

fn hint(error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "no such device: is the module ivshmem loaded?",
        io::ErrorKind::PermissionDenied => "permission denied: ask for access to the device node",
        io::ErrorKind::ResourceBusy => "somebody uses it, and it or this is exclusive",
        _ => return error.to_string(),
    };
    hint.to_owned()
}
