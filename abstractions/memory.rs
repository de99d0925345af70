// SPDX-License-Identifier: GPL-2.0

//! Physical memory of a device: its frames, and the memory type the kernel has on record for them.
//!
//! C header: [`include/linux/io.h`](srctree/include/linux/io.h)

use super::pci::Region;
use core::ptr::NonNull;
use kernel::{
    bindings,
    ffi,
    page::PAGE_SHIFT,
    prelude::*, //
};

extern "C" {
    /// `helpers.c`: the memory type of the kernel's own mapping.
    fn ivshmem_helper_kernel_memory_type(address: *const ffi::c_void) -> u32;
}

/// Bytes that a PMD maps.
pub(crate) const PMD_SIZE: usize = 1 << bindings::PMD_SHIFT;

/// How the processor treats memory; the numbers are those of `IVSHMEM_MEMORY_*`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemoryType(pub(crate) u32);

/// Page frames of a device's memory.
///
/// # Invariants
///
/// The frames were claimed for the driver when this was made.
#[derive(Clone, Copy)]
pub(crate) struct Frames {
    first: usize,
    count: usize,
}

impl Frames {
    /// The whole pages of a claimed BAR.
    pub(crate) fn new(region: &Region) -> Self {
        let (start, len) = region.range();
        // INVARIANT: `region` is the claim.
        Self {
            first: (start >> PAGE_SHIFT) as usize,
            count: (len >> PAGE_SHIFT) as usize,
        }
    }

    /// Their size in bytes.
    pub(crate) fn size(&self) -> u64 {
        (self.count as u64) << PAGE_SHIFT
    }

    /// The frame number of a page, and how many frames there are from it on.
    pub(super) fn at(&self, page: usize) -> Option<(usize, usize)> {
        let after = self.count.checked_sub(page).filter(|after| *after > 0)?;
        Some((self.first + page, after))
    }
}

/// Which memory type to put on record.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Write-back.
    WriteBack,
    /// Write-combining.
    WriteCombining,
}

/// A memory type on record for a device's memory, in form of a kernel mapping of it.
///
/// Leaves that the core inserts for frames take their type from this record, and are uncached
/// without one.
///
/// # Invariants
///
/// The address was returned by `memremap()`.
pub(crate) struct Record(NonNull<ffi::c_void>);

// SAFETY: A kernel mapping may be used and removed on any thread.
unsafe impl Send for Record {}
// SAFETY: The memory is not accessed through it.
unsafe impl Sync for Record {}

impl Record {
    /// Asks for a memory type. The processor's own ranges (MTRR) may turn it into another.
    pub(crate) fn new(region: &Region, wanted: Wanted) -> Result<Self> {
        let (start, len) = region.range();
        let flags = match wanted {
            Wanted::WriteBack => bindings::MEMREMAP_WB,
            Wanted::WriteCombining => bindings::MEMREMAP_WC,
        };
        // SAFETY: The range is claimed by `region`.
        let address = unsafe { bindings::memremap(start, len as usize, flags as ffi::c_ulong) };
        // INVARIANT: Just returned.
        NonNull::new(address).map(Self).ok_or(ENOMEM)
    }

    /// The type that it got.
    pub(crate) fn memory_type(&self) -> MemoryType {
        // SAFETY: The address is mapped by the type invariants.
        MemoryType(unsafe { ivshmem_helper_kernel_memory_type(self.0.as_ptr()) })
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::memunmap(self.0.as_ptr()) };
    }
}
