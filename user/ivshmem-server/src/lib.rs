// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The host side of QEMU's `ivshmem-doorbell`, as its "Device Specification for Inter-VM shared
//! memory device" describes it.
//!
//! A [`Server`] hands one piece of shared memory and, for each interrupt vector of each client, an
//! eventfd to its clients. Clients are mostly virtual machines; a [`Client`] is one that lives in
//! a program of the host.

mod client;
mod error;
mod limits;
mod protocol;
mod region;
mod server;
mod socket;

pub use client::{Client, Notice};
pub use error::{Error, Result};
pub use limits::raise_file_limit;
pub use region::Region;
pub use server::{MAX_VECTORS, Running, Server, Stopper};
pub use socket::Listener;
