// SPDX-License-Identifier: GPL-2.0

//! An inode of one's own, to gather mappings under.
//!
//! Every device node has an inode and thus an address space of its own, and a character device may
//! have any number of nodes. Files that share one [`MappingInode`] have all their mappings in one
//! address space, so that one call reaches them all.

use core::ptr::NonNull;
use kernel::{
    bindings,
    error::from_err_ptr,
    ffi,
    prelude::*, //
};

#[allow(improper_ctypes, reason = "the types are those of `kernel::bindings`")]
extern "C" {
    // include/linux/anon_inodes.h is not among the headers of `kernel::bindings`.
    fn anon_inode_create_getfile(
        name: *const ffi::c_char,
        fops: *const bindings::file_operations,
        private: *mut ffi::c_void,
        flags: ffi::c_int,
        context: *const bindings::inode,
    ) -> *mut bindings::file;
}

struct NoOperations(bindings::file_operations);

// SAFETY: Never written.
unsafe impl Sync for NoOperations {}

static NO_OPERATIONS: NoOperations = NoOperations(pin_init::zeroed());

/// An anonymous inode whose address space holds the mappings of many files.
///
/// # Invariants
///
/// Owns one reference to the inode.
pub(crate) struct MappingInode(NonNull<bindings::inode>);

// SAFETY: An inode may be used and put on any thread.
unsafe impl Send for MappingInode {}
// SAFETY: The functions used here have locks of their own.
unsafe impl Sync for MappingInode {}

impl MappingInode {
    /// Creates the inode.
    pub(crate) fn new(name: &'static CStr) -> Result<Self> {
        // SAFETY: `name` and the operations are static; no private data and no context.
        let file = from_err_ptr(unsafe {
            anon_inode_create_getfile(
                name.as_char_ptr(),
                &NO_OPERATIONS.0,
                core::ptr::null_mut(),
                bindings::O_RDWR as ffi::c_int,
                core::ptr::null(),
            )
        })?;
        // SAFETY: The file is ours, and its inode is set for its whole life.
        let inode = unsafe { (*file).f_inode };
        // SAFETY: The file holds a reference to its inode, so there is one to add to.
        unsafe { bindings::ihold(inode) };
        // The file was only a way to get the inode. It must be closed before this returns, because
        // a deferred close could run after a failed module load, and its operations are ours.
        //
        // SAFETY: The file is ours and nobody else has seen it.
        unsafe { bindings::__fput_sync(file) };
        // INVARIANT: `ihold()` has taken the reference.
        NonNull::new(inode).map(Self).ok_or(ENOMEM)
    }

    /// Makes the future mappings of a file that is being opened belong to this inode.
    ///
    /// # Safety
    ///
    /// `file` must be in its `open()` operation, and `self` must live until its `release()`.
    pub(super) unsafe fn adopt(&self, file: *mut bindings::file) {
        // SAFETY: Nobody else uses a file that is being opened.
        unsafe { (*file).f_mapping = self.mapping() };
    }

    /// Says that mappings are of memory, not of a cache of it: huge leaves then do not depend on
    /// the settings for transparent huge pages. To be called before there are mappings.
    pub(crate) fn set_dax(&self) {
        // SAFETY: We own a reference to the inode by the type invariants.
        unsafe { bindings::inode_set_flags(self.0.as_ptr(), bindings::S_DAX, bindings::S_DAX) };
    }

    /// Removes all pages of all mappings from the page tables.
    pub(crate) fn zap(&self) {
        // SAFETY: The address space lives as long as the inode.
        unsafe { bindings::unmap_mapping_range(self.mapping(), 0, 0, 1) };
    }

    fn mapping(&self) -> *mut bindings::address_space {
        // SAFETY: We own a reference to the inode by the type invariants; `i_mapping` is set for
        // the inode's whole life.
        unsafe { (*self.0.as_ptr()).i_mapping }
    }
}

impl Drop for MappingInode {
    fn drop(&mut self) {
        // SAFETY: We own a reference by the type invariants.
        unsafe { bindings::iput(self.0.as_ptr()) };
    }
}
