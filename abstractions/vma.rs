// SPDX-License-Identifier: GPL-2.0

//! Mappings of device memory, page by page, from a fault handler.
//!
//! `kernel::mm::virt` can set up an area, but has neither `VM_PFNMAP` nor `vm_operations_struct`.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use super::{
    inode::MappingInode,
    memory::{
        Frames,
        MemoryType,
        PMD_SIZE, //
    },
    pages::Pages, //
};
use core::{
    marker::PhantomData,
    ptr, //
};
use kernel::{
    bindings,
    ffi,
    mm::virt::{
        flags,
        VmaNew,
        VmaRef, //
    },
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*, //
};

#[allow(improper_ctypes, reason = "the types are those of `kernel::bindings`")]
extern "C" {
    /// `helpers.c`: fills a range with write-back leaves whatever the kernel's own memory type
    /// for the frames is.
    fn ivshmem_helper_fill(
        vma: *mut bindings::vm_area_struct,
        address: ffi::c_ulong,
        pfn: ffi::c_ulong,
        size: ffi::c_ulong,
    ) -> ffi::c_int;

    /// `helpers.c`: whether there is a huge leaf where a single page is asked for.
    fn ivshmem_helper_is_huge(vmf: *mut bindings::vm_fault) -> bool;

    /// `helpers.c`: maps the page of a frame, and makes it writable for a write.
    fn ivshmem_helper_insert_page(
        vmf: *mut bindings::vm_fault,
        pfn: ffi::c_ulong,
    ) -> bindings::vm_fault_t;

    /// `helpers.c`: maps the folio that begins with a frame, likewise.
    fn ivshmem_helper_insert_folio(
        vmf: *mut bindings::vm_fault,
        pfn: ffi::c_ulong,
    ) -> bindings::vm_fault_t;

    /// `helpers.c`: the size of the leaf at an address, 0 without one.
    fn ivshmem_helper_leaf_size(
        mm: *mut bindings::mm_struct,
        address: ffi::c_ulong,
    ) -> ffi::c_ulong;

    /// `helpers.c`: the memory type that a user leaf of `size` bytes with `prot` has.
    fn ivshmem_helper_memory_type(prot: bindings::pgprot_t, size: ffi::c_ulong) -> u32;
}

/// The memory behind mappings. Its owner answers their faults.
pub(crate) trait Pager: Send + Sync + 'static {
    /// The inode that all mappings belong to.
    fn inode(&self) -> &MappingInode;

    /// Whether the memory has struct pages. Does not change once there are mappings.
    fn has_pages(&self) -> bool;

    /// Makes the address of the fault accessible, or says why not.
    fn fault(&self, fault: &Fault<'_>) -> Outcome;
}

/// How a fault ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome(bindings::vm_fault_t);

impl Outcome {
    /// There is nothing at this address, or no longer.
    pub(crate) const SIGBUS: Self = Self(bindings::vm_fault_reason_VM_FAULT_SIGBUS);
    /// Not with a huge leaf: the fault comes again for a single page.
    pub(crate) const FALLBACK: Self = Self(bindings::vm_fault_reason_VM_FAULT_FALLBACK);
    const NOPAGE: Self = Self(bindings::vm_fault_reason_VM_FAULT_NOPAGE);
    const OOM: Self = Self(bindings::vm_fault_reason_VM_FAULT_OOM);
}

/// A part of a mapping that can be filled at once: it lies in the area, within one PMD, around
/// the address of a fault, and its frames exist.
struct Window {
    address: usize,
    pfn: usize,
    pages: usize,
}

/// A fault in a mapping.
///
/// # Invariants
///
/// `vmf` is a valid fault in an area that [`set_up`] has made.
pub(crate) struct Fault<'a> {
    vmf: *mut bindings::vm_fault,
    huge: bool,
    _vmf: PhantomData<&'a bindings::vm_fault>,
}

impl Window {
    /// Whether it is all that a PMD maps, and can be mapped by one.
    fn is_pmd(&self) -> bool {
        let pages = PMD_SIZE >> PAGE_SHIFT;
        self.pages == pages && self.pfn % pages == 0
    }
}

impl Fault<'_> {
    fn vma(&self) -> &VmaRef {
        // SAFETY: By the type invariants; a fault holds the area's lock.
        unsafe { VmaRef::from_raw((*self.vmf).__bindgen_anon_1.vma) }
    }

    /// Whether another fault has put a huge leaf in the place of the page that this one is about.
    fn is_done(&self) -> bool {
        // SAFETY: By the type invariants.
        unsafe { ivshmem_helper_is_huge(self.vmf) }
    }

    fn window(&self, frames: &Frames) -> Option<Window> {
        // SAFETY: By the type invariants.
        let (address, pgoff) = unsafe {
            let place = &(*self.vmf).__bindgen_anon_1;
            (place.address & !(PAGE_SIZE - 1), place.pgoff)
        };
        let (pfn, after) = frames.at(pgoff)?;
        let start = (address & !(PMD_SIZE - 1)).max(self.vma().start());
        let before = ((address - start) >> PAGE_SHIFT).min(pgoff);
        let start = address - (before << PAGE_SHIFT);
        let end = (address | (PMD_SIZE - 1)).min(self.vma().end() - 1);
        let pages = ((end - address) >> PAGE_SHIFT) + 1;
        Some(Window {
            address: start,
            pfn: pfn - before,
            pages: before + pages.min(after),
        })
    }

    /// Maps the pages around the fault, or a huge one when that is asked for, with the memory type
    /// that the kernel has on record for the frames.
    pub(crate) fn insert(&self, frames: &Frames) -> Outcome {
        let Some(window) = self.window(frames) else {
            return Outcome::SIGBUS;
        };
        if self.huge {
            return self.insert_huge(&window);
        }
        if self.is_done() {
            return Outcome::NOPAGE;
        }
        let vma = self.vma().as_ptr();
        for page in 0..window.pages {
            let address = window.address + (page << PAGE_SHIFT);
            // SAFETY: The area is `VM_PFNMAP` by `set_up`, contains the address, and the frame is
            // one of `frames`.
            let ret = unsafe { bindings::vmf_insert_pfn(vma, address, window.pfn + page) };
            if ret != Outcome::NOPAGE.0 {
                return Outcome(ret);
            }
        }
        Outcome::NOPAGE
    }

    #[cfg(CONFIG_ARCH_SUPPORTS_PMD_PFNMAP)]
    fn insert_huge(&self, window: &Window) -> Outcome {
        if !window.is_pmd() {
            return Outcome::FALLBACK;
        }
        // SAFETY: By the type invariants.
        let write = unsafe { (*self.vmf).flags } & bindings::fault_flag_FAULT_FLAG_WRITE != 0;
        // SAFETY: The area is `VM_PFNMAP` and not copy-on-write by `set_up`, contains the whole
        // PMD, and its frames are of `frames` and aligned.
        Outcome(unsafe { bindings::vmf_insert_pfn_pmd(self.vmf, window.pfn, write) })
    }

    #[cfg(not(CONFIG_ARCH_SUPPORTS_PMD_PFNMAP))]
    fn insert_huge(&self, _window: &Window) -> Outcome {
        Outcome::FALLBACK
    }

    /// Maps the pages around the fault with the memory type of ordinary memory (write-back).
    pub(crate) fn fill(&self, frames: &Frames) -> Outcome {
        if self.huge {
            return Outcome::FALLBACK;
        }
        let Some(window) = self.window(frames) else {
            return Outcome::SIGBUS;
        };
        let size = window.pages << PAGE_SHIFT;
        let vma = self.vma().as_ptr();
        // SAFETY: The area is `VM_PFNMAP` by `set_up`, contains the range, and the frames are of
        // `frames`; a fault holds the area's lock.
        match unsafe { ivshmem_helper_fill(vma, window.address, window.pfn, size) } {
            0 => Outcome::NOPAGE,
            _ => Outcome::OOM,
        }
    }
}

impl Fault<'_> {
    /// Maps the page of the fault, or a huge one when that is asked for, as memory that the
    /// kernel has pages for.
    pub(crate) fn insert_pages(&self, frames: &Frames, _pages: &Pages) -> Outcome {
        let Some(window) = self.window(frames) else {
            return Outcome::SIGBUS;
        };
        if self.huge {
            if !window.is_pmd() {
                return Outcome::FALLBACK;
            }
            // SAFETY: By the type invariants; the frames have pages while there is a `Pages`, in
            // folios of this size, and the area contains all of it.
            return Outcome(unsafe { ivshmem_helper_insert_folio(self.vmf, window.pfn) });
        }
        if self.is_done() {
            return Outcome::NOPAGE;
        }
        // SAFETY: By the type invariants.
        let address = unsafe { (*self.vmf).__bindgen_anon_1.address } & !(PAGE_SIZE - 1);
        let pfn = window.pfn + ((address - window.address) >> PAGE_SHIFT);
        // SAFETY: By the type invariants; the frames have pages while there is a `Pages`.
        Outcome(unsafe { ivshmem_helper_insert_page(self.vmf, pfn) })
    }
}

struct VmOperations(bindings::vm_operations_struct);

// SAFETY: Never written after its initialisation.
unsafe impl Sync for VmOperations {}

struct Operations<P>(PhantomData<P>);

impl<P: Pager> Operations<P> {
    const TABLE: VmOperations = VmOperations(bindings::vm_operations_struct {
        fault: Some(Self::fault),
        #[cfg(CONFIG_ARCH_SUPPORTS_PMD_PFNMAP)]
        huge_fault: Some(Self::huge_fault),
        #[cfg(CONFIG_HAVE_IOREMAP_PROT)]
        access: Some(Self::access),
        ..pin_init::zeroed()
    });

    const fn table() -> &'static bindings::vm_operations_struct {
        &Self::TABLE.0
    }

    /// # Safety
    ///
    /// As the `fault` operation of an area that [`set_up`] has made with a `P`.
    unsafe extern "C" fn fault(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: The caller's promise is passed on.
        unsafe { Self::answer(vmf, false) }
    }

    /// # Safety
    ///
    /// As the `huge_fault` operation of an area that [`set_up`] has made with a `P`.
    #[cfg(CONFIG_ARCH_SUPPORTS_PMD_PFNMAP)]
    unsafe extern "C" fn huge_fault(
        vmf: *mut bindings::vm_fault,
        order: ffi::c_uint,
    ) -> bindings::vm_fault_t {
        // Larger leaves do not survive what user space may do to a mapping: the core takes a
        // leaf PUD for a page table when it splits or moves an area.
        if order != bindings::PMD_ORDER {
            return Outcome::FALLBACK.0;
        }
        // SAFETY: The caller's promise is passed on.
        unsafe { Self::answer(vmf, true) }
    }

    /// # Safety
    ///
    /// As the `access` operation of an area that [`set_up`] has made with a `P`.
    #[cfg(CONFIG_HAVE_IOREMAP_PROT)]
    unsafe extern "C" fn access(
        vma: *mut bindings::vm_area_struct,
        address: ffi::c_ulong,
        buffer: *mut ffi::c_void,
        len: ffi::c_int,
        write: ffi::c_int,
    ) -> ffi::c_int {
        let mut flags = bindings::fault_flag_FAULT_FLAG_REMOTE;
        if write != 0 {
            flags |= bindings::fault_flag_FAULT_FLAG_WRITE;
        }
        // SAFETY: By the safety requirements.
        let mm = unsafe { (*vma).vm_mm };
        // A debugger may go where the process itself has not been yet.
        // SAFETY: The caller holds the lock of the area's process; without `unlocked` it stays so.
        let err = unsafe { bindings::fixup_user_fault(mm, address, flags, ptr::null_mut()) };
        if err != 0 {
            return err;
        }
        // SAFETY: The caller's promise is passed on.
        unsafe { bindings::generic_access_phys(vma, address, buffer, len, write) }
    }

    /// # Safety
    ///
    /// `vmf` must be a fault in an area that [`set_up`] has made with a `P`.
    unsafe fn answer(vmf: *mut bindings::vm_fault, huge: bool) -> bindings::vm_fault_t {
        // SAFETY: By the safety requirements; the area outlives the fault.
        let private = unsafe { (*(*vmf).__bindgen_anon_1.vma).vm_private_data };
        // SAFETY: `set_up` has set it to a `P` that outlives the area.
        let pager = unsafe { &*private.cast::<P>() };
        // INVARIANT: By the safety requirements.
        let fault = Fault {
            vmf,
            huge,
            _vmf: PhantomData,
        };
        pager.fault(&fault).0
    }
}

/// Checks that a new area may map device memory: it must be shared, or be read-only for good,
/// since copies of device memory are not possible.
pub(crate) fn check_shared(vma: &VmaNew) -> Result {
    if vma.flags() & flags::SHARED != 0 || vma.flags() & flags::MAYWRITE == 0 {
        return Ok(());
    }
    vma.try_clear_maywrite()
}

/// The page of the file that an area begins with.
pub(crate) fn page_offset(vma: &VmaNew) -> usize {
    // SAFETY: An area that is being set up is not changed by others.
    unsafe { (*vma.as_ptr()).vm_pgoff }
}

/// Makes `pager` answer the faults of a new area.
///
/// # Safety
///
/// `pager` must live as long as the area, which must have passed [`check_shared`].
pub(super) unsafe fn set_up<P: Pager>(vma: &VmaNew, pager: &P) {
    vma.set_dontexpand();
    vma.set_dontdump();
    let raw = vma.as_ptr();
    if !pager.has_pages() {
        vma.set_io();
        // SAFETY: An area that is being set up is not in use yet.
        unsafe { (*raw).__bindgen_anon_2.vm_flags |= flags::PFNMAP };
    }
    // SAFETY: As above.
    unsafe { (*raw).vm_ops = Operations::<P>::table() };
    // SAFETY: As above.
    unsafe { (*raw).vm_private_data = ptr::from_ref(pager).cast_mut().cast() };
}

/// A leaf of the page table.
pub(crate) struct Leaf {
    /// Bytes that it maps.
    pub(crate) size: usize,
    /// How the processor treats them.
    pub(crate) memory_type: MemoryType,
}

/// Looks up an address in a mapping of `pager`: its offset in the memory and, if there is one
/// yet, its leaf. `None` if the area is not a mapping of `pager`.
pub(crate) fn look_up<P: Pager>(
    vma: &VmaRef,
    address: usize,
    pager: &P,
) -> Option<(u64, Option<Leaf>)> {
    let raw = vma.as_ptr();
    // SAFETY: The area's lock is held as long as there is a `VmaRef`, which keeps these in place.
    let (ops, private, pgoff) = unsafe { ((*raw).vm_ops, (*raw).vm_private_data, (*raw).vm_pgoff) };
    if !ptr::eq(ops, Operations::<P>::table()) || !ptr::eq(private.cast(), pager) {
        return None;
    }
    let page = pgoff + ((address - vma.start()) >> PAGE_SHIFT);
    let offset = (page << PAGE_SHIFT) as u64;
    if pager.has_pages() {
        // SAFETY: The area's lock is held, and so is its process's.
        let size = unsafe { ivshmem_helper_leaf_size((*raw).vm_mm, address) };
        // SAFETY: Decodes a value.
        let memory_type = MemoryType(unsafe { ivshmem_helper_memory_type((*raw).vm_page_prot, 1) });
        return Some((offset, (size > 0).then_some(Leaf { size, memory_type })));
    }
    let mut args = bindings::follow_pfnmap_args {
        vma: raw,
        address,
        ..Default::default()
    };
    // SAFETY: The area's lock is held; `args` names the area and an address in it.
    let leaf = (unsafe { bindings::follow_pfnmap_start(&mut args) } == 0).then(|| {
        let size = (!args.addr_mask).wrapping_add(1);
        // SAFETY: Decodes a value.
        let memory_type = unsafe { ivshmem_helper_memory_type(args.pgprot, size) };
        // SAFETY: The lookup has succeeded and its lock is held.
        unsafe { bindings::follow_pfnmap_end(&mut args) };
        Leaf {
            size,
            memory_type: MemoryType(memory_type),
        }
    });
    Some((offset, leaf))
}
