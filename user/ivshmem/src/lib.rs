// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Shared memory and interrupts between virtual machines, by `/dev/ivshmemN`.
//!
//! [`Device`] is the way in. What the calls mean in full is in `uapi/ivshmem.h`.

#[allow(
    missing_docs,
    non_camel_case_types,
    unused,
    reason = "this is how C has it"
)]
mod bindings;
mod device;
mod error;
mod ioctl;
mod memory;
mod size;

pub use device::{
    Description, Device, Doorbell, Event, Info, Interrupt, MAX_ARRAY, MappedBy, MemoryType,
    OpenOptions, Timeout, VECTOR_ANY, VECTOR_STATE, Vector, devices,
};
pub use error::{Error, Result};
pub use memory::{Access, Memory, OutOfRange};
pub use size::parse_size;
