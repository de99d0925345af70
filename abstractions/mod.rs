// SPDX-License-Identifier: GPL-2.0

//! What the driver needs and the kernel's Rust API does not have yet.
//!
//! Each module here is written as if for `rust/kernel/`: it wraps one C interface, knows nothing of
//! ivshmem, and its public functions are safe unless they say why not. Together they are the home
//! of `kernel::bindings` and of `unsafe`.

pub(crate) mod eventfd;
pub(crate) mod inode;
pub(crate) mod irq;
pub(crate) mod memory;
pub(crate) mod miscdev;
pub(crate) mod module;
pub(crate) mod pages;
pub(crate) mod pci;
pub(crate) mod uaccess;
pub(crate) mod vma;
pub(crate) mod wait;
