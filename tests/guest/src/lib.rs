// SPDX-License-Identifier: GPL-2.0

//! What the test programs that run in guests share.

#[allow(
    dead_code,
    non_camel_case_types,
    clippy::all,
    reason = "generated from the header"
)]
#[path = "../../../user/ivshmem/src/bindings.rs"]
pub mod abi;
pub mod dev;
pub mod host;
mod ktap;
pub mod model;
pub mod pci;
pub mod task;
pub mod users;

use std::env;

pub use ktap::{Case, run, skip};

/// The name of the scenario this program was started for.
pub fn scenario() -> String {
    env::args().nth(1).expect("the name of the scenario")
}

fn number(variable: &str) -> u64 {
    let value = env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set"));
    value
        .parse()
        .unwrap_or_else(|_| panic!("{variable} is no number"))
}

/// Which of the guests of this run this one is; the first is 0.
pub fn guest() -> usize {
    number("IVSHMEM_GUEST") as usize
}

/// How many guests this run has.
pub fn guests() -> usize {
    number("IVSHMEM_GUESTS") as usize
}

/// How many vectors the doorbell device was made with.
pub fn vectors() -> u32 {
    number("IVSHMEM_VECTORS") as u32
}

/// The bytes of shared memory of each device.
pub fn size() -> u64 {
    number("IVSHMEM_SIZE")
}

/// Whether this is the debug kernel.
pub fn debug() -> bool {
    env::var("IVSHMEM_LANE").is_ok_and(|lane| lane == "debug")
}

/// A number of repetitions, fewer on the debug kernel.
pub fn scaled(number: u64) -> u64 {
    if debug() { number.div_ceil(10) } else { number }
}
