// SPDX-License-Identifier: GPL-2.0

//! Struct pages for a device's memory, so that other parts of the kernel can hold on to it
//! (`O_DIRECT`, io_uring's fixed buffers, RDMA, vhost).
//!
//! C header: [`include/linux/memremap.h`](srctree/include/linux/memremap.h)

use super::{
    memory::PMD_SIZE,
    pci::Region, //
};
use kernel::{
    bindings,
    error::from_err_ptr,
    ffi,
    fmt,
    page::PAGE_SHIFT,
    pci,
    prelude::*,
    str::CString,
    sync::aref::ARef,
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    }, //
};

extern "C" {
    /// `helpers.c`: whether the kernel can have pages at this physical range.
    fn ivshmem_helper_can_have_pages(start: u64, len: u64) -> bool;

    /// `helpers.c`: how many of these folios, of one PMD each, somebody holds on to; `first` is
    /// set to the first one's index.
    fn ivshmem_helper_held_folios(
        pfn: ffi::c_ulong,
        folios: ffi::c_ulong,
        first: *mut ffi::c_ulong,
    ) -> ffi::c_ulong;
}

/// Struct pages for a claimed BAR, in folios of a PMD each.
///
/// # Invariants
///
/// `memremap_pages()` has succeeded with `map`, and its counterpart was not called.
pub(crate) struct Pages {
    map: Pin<KBox<bindings::dev_pagemap>>,
    pdev: ARef<pci::Device>,
    start: u64,
    len: u64,
}

// SAFETY: Pages may be removed on any thread.
unsafe impl Send for Pages {}

impl Pages {
    /// Makes pages for a region. `EINVAL`: not aligned to PMDs. `ERANGE`: out of the kernel's
    /// reach.
    pub(crate) fn new(pdev: &pci::Device, region: &Region) -> Result<Self> {
        let (start, len) = region.range();
        if (start | len) % PMD_SIZE as u64 != 0 || len == 0 {
            return Err(EINVAL);
        }
        // SAFETY: Compares numbers.
        if !unsafe { ivshmem_helper_can_have_pages(start, len) } {
            return Err(ERANGE);
        }
        let mut map = KBox::pin(bindings::dev_pagemap::default(), GFP_KERNEL)?;
        // SAFETY: The value is not moved.
        let raw = unsafe { map.as_mut().get_unchecked_mut() };
        raw.type_ = bindings::memory_type_MEMORY_DEVICE_GENERIC;
        raw.vmemmap_shift = bindings::PMD_SHIFT as ffi::c_ulong - PAGE_SHIFT;
        raw.nr_range = 1;
        // SAFETY: The map is not in use yet; a single range is what `nr_range` says.
        let range = unsafe { raw.__bindgen_anon_1.range.as_mut() };
        range.start = start;
        range.end = start + len - 1;
        // SAFETY: The map is filled in and pinned; the region is claimed, and aligned as it must be.
        let address = unsafe { bindings::memremap_pages(raw, bindings::NUMA_NO_NODE) };
        from_err_ptr(address).map_err(|_| ENOMEM)?;
        // INVARIANT: It has succeeded.
        Ok(Self {
            map,
            pdev: pdev.into(),
            start,
            len,
        })
    }

    /// How many folios somebody holds on to, and the offset of the first.
    fn held(&self) -> (usize, u64) {
        let mut first = 0;
        let pfn = (self.start >> PAGE_SHIFT) as ffi::c_ulong;
        let folios = (self.len >> bindings::PMD_SHIFT) as ffi::c_ulong;
        // SAFETY: The pages exist by the type invariants.
        let held = unsafe { ivshmem_helper_held_folios(pfn, folios, &mut first) };
        (held, (first as u64) << bindings::PMD_SHIFT)
    }

    /// Waits until nobody holds on to a page. They should be mapped by nobody any more.
    ///
    /// If it takes long, says so in the log; `users` are the processes that might be the reason.
    pub(crate) fn wait_until_free(&self, users: &dyn fmt::Display) {
        let since = Instant::<Monotonic>::now();
        let mut told = false;
        // Such pages have no event for it.
        loop {
            let (held, first) = self.held();
            if held == 0 {
                break;
            }
            if !told && since.elapsed() > Delta::from_secs(1) {
                // Not formatted by printk, which must not sleep.
                let users = CString::try_from_fmt(fmt!("{}", users));
                dev_notice!(
                    self.pdev,
                    "{} of {} parts of 2 MiB are in use for I/O, the first at {:#x}; \
                     waiting for their users to let go (opened by processes: {})\n",
                    held,
                    self.len >> bindings::PMD_SHIFT,
                    first,
                    users.as_deref().unwrap_or(c"not known")
                );
                told = true;
            }
            fsleep(Delta::from_millis(5));
        }
        if told {
            dev_notice!(self.pdev, "nobody uses the memory any more\n");
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // The core does not wait for them, and would take the pages from under their users.
        self.wait_until_free(&"not known");
        // SAFETY: The value is not moved.
        let map = unsafe { self.map.as_mut().get_unchecked_mut() };
        // SAFETY: By the type invariants.
        unsafe { bindings::memunmap_pages(map) };
    }
}
