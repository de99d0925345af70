// SPDX-License-Identifier: GPL-2.0

//! Small structures to and from user space.
//!
//! `kernel::uaccess` copies any number of bytes, and pays for not knowing how many: a function
//! call, and a check of the kernel's side of the copy. The arguments of calls are a few words,
//! which are quicker moved one by one.
//!
//! C header: [`include/linux/uaccess.h`](srctree/include/linux/uaccess.h)

use core::ptr;
use kernel::{
    ffi,
    prelude::*,
    uaccess::UserPtr, //
};
use zerocopy::{
    FromBytes,
    Immutable,
    IntoBytes, //
};

extern "C" {
    /// `helpers.c`: reads words; `false` for a bad address.
    fn ivshmem_helper_read_user(to: *mut u64, from: *const ffi::c_void, words: usize) -> bool;

    /// `helpers.c`: writes words; `false` for a bad address.
    fn ivshmem_helper_write_user(to: *mut ffi::c_void, from: *const u64, words: usize) -> bool;
}

/// The number of 64-bit words that a structure consists of.
const fn words<T>() -> usize {
    assert!(size_of::<T>() % size_of::<u64>() == 0);
    size_of::<T>() / size_of::<u64>()
}

/// A structure, aligned as a 64-bit word.
#[repr(C, align(8))]
struct Aligned<T>(T);

/// Reads a structure of 64-bit words.
#[inline]
pub(crate) fn read<T: FromBytes + IntoBytes>(from: UserPtr) -> Result<T> {
    let mut value = Aligned(T::new_zeroed());
    let to = ptr::from_mut(&mut value.0).cast();
    // SAFETY: `value` has this number of words, and takes any bytes.
    if !unsafe { ivshmem_helper_read_user(to, from.as_const_ptr(), const { words::<T>() }) } {
        return Err(EFAULT);
    }
    Ok(value.0)
}

/// Writes a structure of 64-bit words.
#[inline]
pub(crate) fn write<T: IntoBytes + Immutable>(to: UserPtr, value: &T) -> Result {
    const { assert!(align_of::<T>() >= align_of::<u64>()) };
    let from = ptr::from_ref(value).cast();
    // SAFETY: `value` has this number of words, and no padding.
    if !unsafe { ivshmem_helper_write_user(to.as_mut_ptr(), from, const { words::<T>() }) } {
        return Err(EFAULT);
    }
    Ok(())
}
