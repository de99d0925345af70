// SPDX-License-Identifier: GPL-2.0

//! Event file descriptors.
//!
//! C header: [`include/linux/eventfd.h`](srctree/include/linux/eventfd.h)

use core::ptr::NonNull;
use kernel::{
    bindings,
    error::from_err_ptr,
    prelude::*, //
};

/// A reference to an eventfd; wraps `struct eventfd_ctx`.
///
/// # Invariants
///
/// Owns one reference to the `struct eventfd_ctx`.
#[derive(PartialEq, Eq)]
pub(crate) struct EventFd(NonNull<bindings::eventfd_ctx>);

// SAFETY: References to an eventfd may be used and put on any thread.
unsafe impl Send for EventFd {}
// SAFETY: `eventfd_signal_mask()` has a lock of its own.
unsafe impl Sync for EventFd {}

impl EventFd {
    /// Takes a reference to the eventfd that `fd` names in the current process.
    ///
    /// `EBADF`: not an open file. `EINVAL`: not an eventfd.
    pub(crate) fn from_fd(fd: i32) -> Result<Self> {
        // SAFETY: Any number may be asked for.
        let ctx = from_err_ptr(unsafe { bindings::eventfd_ctx_fdget(fd) })?;
        // INVARIANT: `eventfd_ctx_fdget()` has taken a reference for us.
        NonNull::new(ctx).map(Self).ok_or(EBADF)
    }

    /// Adds one to the counter, unless it is full. May be called from hard interrupt context.
    pub(crate) fn signal(&self) {
        // SAFETY: We own a reference by the type invariants.
        unsafe { bindings::eventfd_signal_mask(self.0.as_ptr(), 0) };
    }
}

impl Drop for EventFd {
    fn drop(&mut self) {
        // SAFETY: We own a reference by the type invariants.
        unsafe { bindings::eventfd_ctx_put(self.0.as_ptr()) };
    }
}
