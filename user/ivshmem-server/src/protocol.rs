// SPDX-License-Identifier: GPL-2.0 OR MIT

//! One message on the wire: a signed 64-bit little-endian number, with a file descriptor or
//! without.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    io::{Errno, Result},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};

/// The protocol's version, the first message to each client.
pub(crate) const VERSION: i64 = 0;
/// The number that comes with the shared memory.
pub(crate) const MEMORY: i64 = -1;

/// Sends one message, whole, or fails without having sent any of it.
///
/// The socket may share its description with another process, so it is the call that does not
/// block and not the socket.
pub(crate) fn send(socket: impl AsFd, number: i64, fd: Option<BorrowedFd<'_>>) -> Result<()> {
    let bytes = number.to_le_bytes();
    let fds: &[BorrowedFd<'_>] = fd.as_slice();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(
            control.push(SendAncillaryMessage::ScmRights(fds)),
            "there is space for one"
        );
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    // The kernel takes so few bytes in one piece or not at all.
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, flags).map(drop)
}

/// Messages as they come in, in pieces of whatever size.
#[derive(Debug, Default)]
pub(crate) struct Receiver {
    bytes: [u8; 8],
    filled: usize,
    fd: Option<OwnedFd>,
    /// A descriptor was lost, and with it which vector the next one is for.
    lost: bool,
}

impl Receiver {
    /// The next message; `WOULDBLOCK` when it is not there yet, `PIPE` after the last.
    ///
    /// `MFILE`: this process had no number left for a descriptor. There are no messages after that.
    pub(crate) fn receive(&mut self, socket: impl AsFd) -> Result<(i64, Option<OwnedFd>)> {
        if self.lost {
            return Err(Errno::MFILE);
        }
        while self.filled < self.bytes.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let into = &mut [IoSliceMut::new(&mut self.bytes[self.filled..])];
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let received = recvmsg(&socket, into, &mut control, flags)?;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = message {
                    self.fd = fds.last();
                }
            }
            if received.flags.contains(ReturnFlags::CTRUNC) {
                self.lost = true;
                return Err(Errno::MFILE);
            }
            if received.bytes == 0 {
                return Err(Errno::PIPE);
            }
            self.filled += received.bytes;
        }
        self.filled = 0;
        Ok((i64::from_le_bytes(self.bytes), self.fd.take()))
    }
}
