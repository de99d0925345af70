// SPDX-License-Identifier: GPL-2.0

//! `uapi/ivshmem.h`, as bindgen reads it.

#![allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    dead_code,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    reason = "generated"
)]

use kernel::{
    ffi,
    prelude::*, //
};
use zerocopy_derive::{
    Immutable,
    KnownLayout, //
};

include!(env!("IVSHMEM_ABI_RS"));
