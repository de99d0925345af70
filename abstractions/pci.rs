// SPDX-License-Identifier: GPL-2.0

//! PCI: device enable with an end, what a BAR is, and the callbacks of `struct pci_driver` that
//! `kernel::pci` leaves out.
//!
//! C header: [`include/linux/pci.h`](srctree/include/linux/pci.h)

use core::ptr;
use kernel::{
    bindings,
    device,
    driver,
    error::to_result,
    ffi,
    pci,
    prelude::*,
    sync::aref::ARef,
    types::Opaque,
    ThisModule, //
};

pub(super) fn as_raw<C: device::DeviceContext>(pdev: &pci::Device<C>) -> *mut bindings::pci_dev {
    ptr::from_ref(pdev).cast_mut().cast()
}

/// Enables the device; it is disabled, and with it bus mastering, after the driver was unbound.
pub(crate) fn enable(pdev: &pci::Device<device::Core<'_>>) -> Result {
    // SAFETY: `pdev` is a valid device that is being probed.
    to_result(unsafe { bindings::pcim_enable_device(as_raw(pdev)) })
}

/// Saves config space, as what an error is recovered to. To be called when all is set up.
pub(crate) fn save_state(pdev: &pci::Device<device::Core<'_>>) {
    // SAFETY: `pdev` is a valid device that is being probed.
    unsafe { bindings::pci_save_state(as_raw(pdev)) };
}

/// The number of entries in the MSI-X table; 0 without the capability, or if the BAR that it says
/// to have the table in is not there.
pub(crate) fn msix_table_len(pdev: &pci::Device<device::Bound>) -> Result<u32> {
    let raw = as_raw(pdev);
    // SAFETY: `pdev` is a valid device.
    let len = unsafe { bindings::pci_msix_vec_count(raw) };
    if len <= 0 {
        return Ok(0);
    }
    let mut table = 0;
    // SAFETY: `pdev` is a valid device; its capability was found when it was set up.
    let at = ffi::c_int::from(unsafe { (*raw).msix_cap }) + bindings::PCI_MSIX_TABLE as ffi::c_int;
    // SAFETY: `pdev` is a valid device.
    to_result(unsafe { bindings::pci_read_config_dword(raw, at, &mut table) })?;
    Ok(match resource(pdev, table & bindings::PCI_MSIX_TABLE_BIR) {
        Ok(Resource::Memory { .. }) => len as u32,
        _ => 0,
    })
}

/// Whether the device is wired to an interrupt line.
pub(crate) fn has_interrupt_line(pdev: &pci::Device<device::Bound>) -> bool {
    // SAFETY: `pdev` is a valid device.
    let (pin, irq) = unsafe { ((*as_raw(pdev)).pin, (*as_raw(pdev)).irq) };
    pin != 0 && irq != 0
}

/// What is behind a BAR.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resource {
    /// Nothing, or nothing that was given an address.
    Absent,
    /// I/O ports.
    Ports,
    /// Memory.
    Memory {
        /// Its physical address.
        start: u64,
        /// Its size in bytes.
        len: u64,
    },
}

/// Looks at a BAR, 0 to 5.
pub(crate) fn resource(pdev: &pci::Device<device::Bound>, bar: u32) -> Result<Resource> {
    let len = pdev.resource_len(bar)?;
    let start = pdev.resource_start(bar)?;
    // SAFETY: `pdev` is a valid device; it has the six BARs among its resources, and the
    // accessors above have checked the number.
    let flags = unsafe { (*as_raw(pdev)).resource[bar as usize].flags } as u32;
    Ok(
        if len == 0 || start == 0 || flags & bindings::IORESOURCE_UNSET != 0 {
            Resource::Absent
        } else if flags & bindings::IORESOURCE_MEM != 0 {
            Resource::Memory { start, len }
        } else {
            Resource::Ports
        },
    )
}

/// A claim to a BAR, without a mapping of it.
///
/// # Invariants
///
/// The region is requested for the device.
pub(crate) struct Region {
    pdev: ARef<pci::Device>,
    bar: ffi::c_int,
    start: u64,
    len: u64,
}

impl Region {
    /// Claims a BAR of memory. `ENXIO`: it is not memory. `EBUSY`: somebody else has it.
    pub(crate) fn new(
        pdev: &pci::Device<device::Bound>,
        bar: u32,
        name: &'static CStr,
    ) -> Result<Self> {
        let Resource::Memory { start, len } = resource(pdev, bar)? else {
            return Err(ENXIO);
        };
        let bar = bar as ffi::c_int;
        // SAFETY: `pdev` is a valid device and `name` is static.
        to_result(unsafe { bindings::pci_request_region(as_raw(pdev), bar, name.as_char_ptr()) })?;
        // INVARIANT: Just requested.
        Ok(Self {
            pdev: pdev.into(),
            bar,
            start,
            len,
        })
    }

    /// Its physical address and its size in bytes.
    pub(super) fn range(&self) -> (u64, u64) {
        (self.start, self.len)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::pci_release_region(as_raw(&*self.pdev), self.bar) };
    }
}

/// A PCI driver that is told about sleep states, resets and shutdown as well.
///
/// The core saves and restores config space and MSI-X by itself; these are for what it does not
/// know of. All are called with the device bound, and not while it is being unbound.
pub(crate) trait Lifecycle: pci::Driver + 'static {
    /// The device has lost its registers in a sleep state or a reset, and works again.
    fn restored(data: &Self::Data<'_>);

    /// The system goes down or starts another kernel: no more interrupts from here on.
    fn shutdown(data: &Self::Data<'_>);
}

/// Registers a [`Lifecycle`] driver; to be used in place of [`pci::Adapter`].
pub(crate) struct Adapter<T: Lifecycle>(pci::Adapter<T>);

// SAFETY: As that of `pci::Adapter<T>`, whose associated items it has.
unsafe impl<T: Lifecycle> driver::DriverLayout for Adapter<T> {
    type DriverType = bindings::pci_driver;
    type DriverData<'bound> = T::Data<'bound>;
    const DEVICE_DRIVER_OFFSET: usize = core::mem::offset_of!(Self::DriverType, driver);
}

// SAFETY: `unregister` asks of its caller what the one it calls does.
unsafe impl<T: Lifecycle> driver::RegistrationOps for Adapter<T> {
    unsafe fn register(
        pdrv: &Opaque<Self::DriverType>,
        name: &'static CStr,
        module: &'static ThisModule,
    ) -> Result {
        let raw = pdrv.get();
        // SAFETY: The driver is not registered yet, so nobody else uses it.
        unsafe { (*raw).shutdown = Some(Self::shutdown) };
        // SAFETY: As above.
        unsafe { (*raw).err_handler = Self::error_handlers() };
        // SAFETY: As above.
        unsafe { (*raw).driver.pm = Self::pm_operations() };
        // SAFETY: The caller's promise is passed on.
        unsafe { <pci::Adapter<T> as driver::RegistrationOps>::register(pdrv, name, module) }
    }

    unsafe fn unregister(pdrv: &Opaque<Self::DriverType>) {
        // SAFETY: The caller's promise is passed on.
        unsafe { <pci::Adapter<T> as driver::RegistrationOps>::unregister(pdrv) }
    }
}

impl<T: Lifecycle> Adapter<T> {
    const PM: bindings::dev_pm_ops = bindings::dev_pm_ops {
        resume: Some(Self::resume),
        restore: Some(Self::resume),
        thaw: Some(Self::resume),
        ..pin_init::zeroed()
    };

    const ERRORS: bindings::pci_error_handlers = bindings::pci_error_handlers {
        error_detected: Some(Self::error_detected),
        slot_reset: Some(Self::slot_reset),
        resume: Some(Self::recovered),
        reset_done: Some(Self::recovered),
        ..pin_init::zeroed()
    };

    const fn pm_operations() -> &'static bindings::dev_pm_ops {
        &Self::PM
    }

    const fn error_handlers() -> &'static bindings::pci_error_handlers {
        &Self::ERRORS
    }

    /// Calls `f` with the driver's data, if the device is bound.
    ///
    /// # Safety
    ///
    /// `dev` must be a device of this driver, locked against unbinding.
    unsafe fn with_data(dev: *mut bindings::device, f: impl FnOnce(&T::Data<'_>)) {
        // SAFETY: The device is valid.
        let data = unsafe { bindings::dev_get_drvdata(dev) }.cast::<T::Data<'_>>();
        // SAFETY: `pci::Adapter` sets it to the driver's data and clears it when that goes.
        if let Some(data) = unsafe { data.as_ref() } {
            f(data);
        }
    }

    /// # Safety
    ///
    /// As a callback of `struct dev_pm_ops`.
    unsafe extern "C" fn resume(dev: *mut bindings::device) -> ffi::c_int {
        // SAFETY: The core holds the device's lock.
        unsafe { Self::with_data(dev, T::restored) };
        0
    }

    /// # Safety
    ///
    /// As the `shutdown` callback of `struct pci_driver`.
    unsafe extern "C" fn shutdown(pdev: *mut bindings::pci_dev) {
        // SAFETY: The device is valid, and the core holds its lock.
        unsafe { Self::with_data(&raw mut (*pdev).dev, T::shutdown) };
    }

    /// # Safety
    ///
    /// As the callback of `struct pci_error_handlers`.
    unsafe extern "C" fn error_detected(
        _pdev: *mut bindings::pci_dev,
        state: bindings::pci_channel_state_t,
    ) -> bindings::pci_ers_result_t {
        if state == bindings::pci_channel_io_perm_failure {
            bindings::pci_ers_result_PCI_ERS_RESULT_DISCONNECT
        } else {
            bindings::pci_ers_result_PCI_ERS_RESULT_NEED_RESET
        }
    }

    /// # Safety
    ///
    /// As the callback of `struct pci_error_handlers`.
    unsafe extern "C" fn slot_reset(pdev: *mut bindings::pci_dev) -> bindings::pci_ers_result_t {
        // SAFETY: The device is valid. `save_state` was called when it was in order.
        unsafe { bindings::pci_restore_state(pdev) };
        bindings::pci_ers_result_PCI_ERS_RESULT_RECOVERED
    }

    /// # Safety
    ///
    /// As the callbacks of `struct pci_error_handlers`.
    unsafe extern "C" fn recovered(pdev: *mut bindings::pci_dev) {
        // SAFETY: The device is valid, and the core holds its lock.
        unsafe { Self::with_data(&raw mut (*pdev).dev, T::restored) };
    }
}
