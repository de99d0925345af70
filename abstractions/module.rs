// SPDX-License-Identifier: GPL-2.0

//! Module parameters that are strings, which `module!` does not have.

use kernel::{
    ffi,
    prelude::*,
    str::CStrExt, //
};

extern "C" {
    /// `helpers.c`: the parameter `memory`. Not writable once the module is loaded.
    static ivshmem_helper_memory: *const ffi::c_char;
}

/// The parameter `memory`.
pub(crate) fn memory() -> &'static CStr {
    // SAFETY: Set before the module's init runs, and not changed afterwards.
    let text = unsafe { ivshmem_helper_memory };
    // SAFETY: A string that lives as long as the module.
    unsafe { CStr::from_char_ptr(text) }
}
