// SPDX-License-Identifier: GPL-2.0

//! Interrupts of a PCI device, each requested and freed on its own.
//!
//! `kernel::pci` allocates all vectors at once, and `kernel::irq` has static names and lifetimes
//! bound to `probe()`. Here an MSI-X vector is allocated, named and requested when it is first
//! needed, and all of it is undone when it is no longer.
//!
//! C header: [`include/linux/msi_api.h`](srctree/include/linux/msi_api.h)

use super::pci::as_raw;
use core::ptr;
use kernel::{
    bindings,
    device,
    devres,
    error::to_result,
    ffi,
    irq::Handler,
    pci,
    prelude::*,
    str::CString,
    sync::{
        aref::ARef,
        new_mutex,
        Arc,
        Mutex, //
    }, //
};

/// How a device interrupts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One level-triggered line, shared with other devices.
    Intx,
    /// MSI-X, with any number of vectors.
    MsiX,
}

/// The interrupt vectors of a device, each with a handler or without.
///
/// All of it ends when the driver is unbound, if [`Self::close`] was not called before: devres
/// calls it, whoever still has a reference.
#[pin_data]
pub(crate) struct Table<H: Handler + Send + 'static> {
    len: u32,
    #[pin]
    open: Mutex<Option<Open<H>>>,
}

struct Open<H: Handler> {
    // Dropped first: a requested vector is freed before the allocation is.
    slots: KVVec<Option<Registration<H>>>,
    allocation: Arc<Allocation>,
}

/// Closes a table when the driver is unbound.
struct CloseOnUnbind<H: Handler + Send + 'static>(Arc<Table<H>>);

impl<H: Handler + Send + 'static> Drop for CloseOnUnbind<H> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl<H: Handler + Send + 'static> Table<H> {
    /// Prepares up to `max` vectors. No interrupt can come before one is requested.
    pub(crate) fn new(
        pdev: &pci::Device<device::Bound>,
        kind: Kind,
        max: u32,
    ) -> Result<Arc<Self>> {
        // SAFETY: `allocation` goes with the table's contents, which devres removes at the latest
        // when the driver is unbound.
        let allocation = unsafe { Allocation::new(pdev, kind, max) }?;
        let len = allocation.len;
        let mut slots = KVVec::with_capacity(len as usize, GFP_KERNEL)?;
        for _ in 0..len {
            slots.push(None, GFP_KERNEL)?;
        }
        let open = Open { slots, allocation };
        let table = Arc::pin_init(
            pin_init!(Self {
                len,
                open <- new_mutex!(Some(open)),
            }),
            GFP_KERNEL,
        )?;
        devres::register(pdev.as_ref(), CloseOnUnbind(table.clone()), GFP_KERNEL)?;
        Ok(table)
    }

    /// The number of vectors that may be requested.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// Requests a vector that has no handler, and starts to deliver its interrupts to `handler`.
    ///
    /// `ENOSPC`: the system has no interrupt left. `ENODEV`: the table is closed.
    pub(crate) fn request(&self, index: u32, name: CString, handler: H) -> Result {
        let mut open = self.open.lock();
        let open = Option::as_mut(&mut open).ok_or(ENODEV)?;
        let slot = open.slots.get_mut(index as usize).ok_or(EINVAL)?;
        if slot.is_some() {
            return Err(EBUSY);
        }
        *slot = Some(Registration::new(&open.allocation, index, name, handler)?);
        Ok(())
    }

    /// Takes the handler of a vector away, after its last run.
    pub(crate) fn free(&self, index: u32) {
        if let Some(open) = Option::as_mut(&mut self.open.lock()) {
            if let Some(slot) = open.slots.get_mut(index as usize) {
                *slot = None;
            }
        }
    }

    /// Ends everything. There is no handler running when this returns.
    pub(crate) fn close(&self) {
        *self.open.lock() = None;
    }
}

/// Vectors allocated for a device.
///
/// # Invariants
///
/// - `pci_alloc_irq_vectors()` has succeeded for the device, and its counterpart was not called.
/// - The device is bound to its driver as long as this exists.
struct Allocation {
    pdev: ARef<pci::Device>,
    kind: Kind,
    len: u32,
    /// Vectors other than the first are allocated when they are requested.
    dynamic: bool,
}

impl Allocation {
    /// # Safety
    ///
    /// The returned value must be gone before the driver is unbound from the device.
    unsafe fn new(pdev: &pci::Device<device::Bound>, kind: Kind, max: u32) -> Result<Arc<Self>> {
        let raw = as_raw(pdev);
        // SAFETY: `raw` is a valid device.
        let dynamic = kind == Kind::MsiX && unsafe { bindings::pci_msix_can_alloc_dyn(raw) };
        let flags = match kind {
            Kind::Intx => bindings::PCI_IRQ_INTX,
            Kind::MsiX => bindings::PCI_IRQ_MSIX,
        };
        let at_once = if dynamic { 1 } else { max };
        // SAFETY: `raw` is a valid device, bound to its driver.
        let ret = unsafe { bindings::pci_alloc_irq_vectors(raw, 1, at_once, flags) };
        to_result(ret.min(0))?;
        let len = if dynamic { max } else { ret as u32 };
        // INVARIANT: The vectors were just allocated; the caller guarantees the second.
        let allocation = Self {
            pdev: pdev.into(),
            kind,
            len,
            dynamic,
        };
        Ok(Arc::new(allocation, GFP_KERNEL)?)
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: By the type invariants. All vectors hold a reference, so they are gone.
        unsafe { bindings::pci_free_irq_vectors(as_raw(&self.pdev)) };
    }
}

/// One allocated vector.
struct Vector {
    allocation: Arc<Allocation>,
    irq: u32,
    /// Set if it was allocated for itself.
    map: Option<bindings::msi_map>,
}

impl Vector {
    fn new(allocation: Arc<Allocation>, index: u32) -> Result<Self> {
        let raw = as_raw(&allocation.pdev);
        if allocation.dynamic && index > 0 {
            // SAFETY: The device is valid, bound, and has MSI-X enabled, by the type invariants.
            let map = unsafe { bindings::pci_msix_alloc_irq_at(raw, index, ptr::null()) };
            to_result(map.index.min(0))?;
            return Ok(Self {
                allocation,
                irq: map.virq as u32,
                map: Some(map),
            });
        }
        // SAFETY: The device is valid and has vectors, by the type invariants.
        let irq = unsafe { bindings::pci_irq_vector(raw, index) };
        to_result(irq.min(0))?;
        Ok(Self {
            allocation,
            irq: irq as u32,
            map: None,
        })
    }
}

impl Drop for Vector {
    fn drop(&mut self) {
        if let Some(map) = self.map {
            // SAFETY: The device is bound and the vector was allocated by `new`; its handler is
            // gone, because a registration frees that first.
            unsafe { bindings::pci_msix_free_irq(as_raw(&self.allocation.pdev), map) };
        }
    }
}

/// A requested interrupt. Dropping it waits for its handler to be over.
///
/// # Invariants
///
/// The interrupt was requested with `handler` as its data.
struct Registration<H: Handler> {
    // These are dropped after `drop` has freed the interrupt.
    vector: Vector,
    handler: Pin<KBox<H>>,
    #[expect(dead_code, reason = "the interrupt refers to it")]
    name: CString,
}

impl<H: Handler> Registration<H> {
    fn new(allocation: &Arc<Allocation>, index: u32, name: CString, handler: H) -> Result<Self> {
        // The handler's address tells it from others on the same line.
        const { assert!(size_of::<H>() > 0) };
        let vector = Vector::new(allocation.clone(), index)?;
        let handler = KBox::pin(handler, GFP_KERNEL)?;
        let flags = match allocation.kind {
            Kind::Intx => bindings::IRQF_SHARED,
            Kind::MsiX => 0,
        };
        // SAFETY: The name and the handler are on the heap and live until the drop of `Self` has
        // freed the interrupt.
        to_result(unsafe {
            bindings::request_threaded_irq(
                vector.irq,
                Some(handle::<H>),
                None,
                flags as ffi::c_ulong,
                name.as_char_ptr(),
                ptr::from_ref(&*handler).cast_mut().cast(),
            )
        })?;
        // INVARIANT: Just requested.
        Ok(Self {
            vector,
            handler,
            name,
        })
    }
}

impl<H: Handler> Drop for Registration<H> {
    fn drop(&mut self) {
        let data = ptr::from_ref(&*self.handler).cast_mut().cast();
        // SAFETY: By the type invariants.
        unsafe { bindings::free_irq(self.vector.irq, data) };
    }
}

/// # Safety
///
/// `data` must point to the `H` of a [`Registration`].
unsafe extern "C" fn handle<H: Handler>(
    _irq: ffi::c_int,
    data: *mut ffi::c_void,
) -> bindings::irqreturn_t {
    // SAFETY: By the safety requirements; the registration frees the interrupt before the handler.
    let handler = unsafe { &*data.cast::<H>() };
    bindings::irqreturn_t(handler.handle() as ffi::c_uint)
}
