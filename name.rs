// SPDX-License-Identifier: GPL-2.0

//! Names of devices: `ivshmem` and the lowest number that nobody uses.
//!
//! A number is in use until the last open file of its device is closed, which may be long after
//! the device is gone: a new device never has the name that somebody still means another by.

use kernel::{
    prelude::*,
    str::CString,
    sync::atomic::{
        Atomic,
        Full,
        Relaxed, //
    }, //
};

/// One bit per number in use.
static IN_USE: [Atomic<u64>; 64] = [const { Atomic::new(0) }; 64];

/// A number of a device. It is free again when this is dropped.
pub(crate) struct Number(u32);

impl Number {
    /// Takes the lowest free number. `ENOSPC` when there are 4096 devices.
    pub(crate) fn new() -> Result<Self> {
        for (index, word) in IN_USE.iter().enumerate() {
            let mut bits = word.load(Relaxed);
            while bits != u64::MAX {
                let bit = (!bits).trailing_zeros();
                match word.cmpxchg(bits, bits | 1 << bit, Full) {
                    Ok(_) => return Ok(Self(index as u32 * u64::BITS + bit)),
                    Err(now) => bits = now,
                }
            }
        }
        Err(ENOSPC)
    }

    /// The name of the device.
    pub(crate) fn device_name(&self) -> Result<CString> {
        CString::try_from_fmt(fmt!("ivshmem{}", self.0))
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        let Some(word) = IN_USE.get((self.0 / u64::BITS) as usize) else {
            return;
        };
        let bit = 1 << (self.0 % u64::BITS);
        let mut bits = word.load(Relaxed);
        while let Err(now) = word.cmpxchg(bits, bits & !bit, Full) {
            bits = now;
        }
    }
}
