// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The way into the driver.

use std::{ffi::c_void, os::fd::AsFd};

use rustix::{
    io::Result,
    ioctl::{Ioctl, IoctlOutput, Opcode, ioctl},
};

/// One of the driver's calls, with its argument, which the driver may change.
struct Call<'a, const NUMBER: Opcode, T>(&'a mut T);

// SAFETY: The argument is as large as the call's number says, and borrowed as long as it lasts.
unsafe impl<const NUMBER: Opcode, T> Ioctl for Call<'_, NUMBER, T> {
    type Output = usize;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        const { assert!((NUMBER >> 16) as usize & 0x3fff == size_of::<T>()) };
        NUMBER
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut *self.0).cast()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> Result<usize> {
        Ok(usize::try_from(output).expect("rustix makes errors of negative numbers"))
    }
}

/// Makes a call, and returns the number that the driver does.
pub(crate) fn call<const NUMBER: Opcode, T>(fd: impl AsFd, argument: &mut T) -> Result<usize> {
    // SAFETY: The numbers used are those of the driver, whose structures consist of integers, so
    // it may write whatever it likes; arrays that they point to are those of slices.
    unsafe { ioctl(fd, Call::<NUMBER, T>(argument)) }
}
