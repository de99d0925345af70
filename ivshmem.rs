// SPDX-License-Identifier: GPL-2.0

//! Driver for QEMU's inter-VM shared memory device (ivshmem).
//!
//! The device lets virtual machines share a region of memory (BAR2) and interrupt each other
//! (BAR0 and MSI-X). User space gets `/dev/ivshmemN`, which `uapi/ivshmem.h` describes.
//!
//! What the driver knows of a device has two halves with different lives. [`Bound`] lives from
//! probe to unbind. [`Device`] is shared by all open files and outlives unbind; it
//! reaches the hardware only through handles that end with the binding.
//!
//! Limitations:
//!
//! - A doorbell takes vectors below 256: QEMU decodes no more bits, and would ring another vector.
//! - Rings coalesce in the device; the driver counts what the device delivers.

use kernel::{
    device::Core,
    pci,
    prelude::*,
    sizes::SZ_1K,
    sync::{
        new_mutex,
        Arc,
        Mutex, //
    }, //
};

mod abi;
mod abstractions;
mod count;
mod device;
mod events;
mod file;
mod irq;
mod memory;
mod name;
mod readiness;
mod regs;
mod sysfs;

use crate::{
    abstractions::{
        miscdev,
        pci::{
            enable,
            has_interrupt_line,
            msix_table_len,
            resource,
            save_state,
            Lifecycle,
            Resource, //
        }, //
    },
    device::{
        Device,
        Identity, //
    },
    file::Opened,
    irq::Interrupts,
    memory::Request,
    name::Number,
    readiness::{
        Watch,
        Watching, //
    }, //
};

/// The half of a device that lives as long as the driver is bound to it.
///
/// On the way out: the device is marked as gone and everybody woken; the device file is removed;
/// the interrupts are freed, which waits for their handlers; the mappings are zapped and BAR2 is
/// released. BAR0, and then the device's enablement, are undone by devres after that.
#[pin_data(PinnedDrop)]
struct Bound {
    /// Runs while a revision 0 device is not ready.
    #[pin]
    watching: Mutex<Option<Watching>>,
    watch: Arc<Watch>,
    // Dropped after `drop` has marked the device as gone, and before `_teardown`.
    _file: Pin<KBox<miscdev::Registration<Opened>>>,
    _teardown: Teardown,
    device: Arc<Device>,
}

/// Takes the hardware from the shared half.
struct Teardown(Arc<Device>);

impl Drop for Teardown {
    fn drop(&mut self) {
        if let Some(interrupts) = self.0.interrupts() {
            interrupts.close();
        }
        self.0.revoke_memory();
    }
}

#[pinned_drop]
impl PinnedDrop for Bound {
    fn drop(self: Pin<&mut Self>) {
        self.device.leave();
    }
}

struct IvshmemDriver;

kernel::pci_device_table!(
    PCI_TABLE,
    <IvshmemDriver as pci::Driver>::IdInfo,
    [(
        pci::DeviceId::from_id(pci::Vendor::REDHAT_QUMRANET, 0x1110),
        ()
    )]
);

impl pci::Driver for IvshmemDriver {
    type IdInfo = ();
    type Data<'bound> = Bound;

    const ID_TABLE: pci::IdTable<Self::IdInfo> = &PCI_TABLE;

    fn probe<'bound>(
        pdev: &'bound pci::Device<Core<'_>>,
        _info: Option<&'bound Self::IdInfo>,
    ) -> impl PinInit<Bound, Error> + 'bound {
        pin_init::pin_init_scope(move || {
            let request = Request::from_parameter()
                .inspect_err(|_| dev_err!(pdev, "memory= is neither auto, wc nor uc\n"))?;
            let device = set_up(pdev)?;
            let teardown = Teardown(device.clone());
            let pages = *module_parameters::pages.value_ref();
            device.memory().claim(pdev, request, pages)?;
            let iv_position = device.iv_position().map_err(|_| {
                dev_err!(
                    pdev,
                    "IVPosition reads all ones: the device does not answer\n"
                );
                ENODEV
            })?;
            let watch = Watch::new(&device)?;
            let watching = match device.look_if_ready() {
                true => None,
                false => Some(watch.begin()),
            };

            let name = device.identity().number.device_name()?;
            dev_info!(
                pdev,
                "{}: {} bytes {} by {} in leaves of up to {} KiB, IVPosition {}, {} vectors ({})\n",
                &*name,
                device.memory().size(),
                sysfs::memory_type_name(device.memory().memory_type().0),
                sysfs::mapped_by_name(device.memory().mapped_by()),
                device.memory().page_size() / SZ_1K,
                iv_position,
                device.sources().vectors(),
                sysfs::interrupt_name(device.identity().interrupt),
            );

            save_state(pdev);
            Ok(try_pin_init!(Bound {
                watching <- new_mutex!(watching),
                watch,
                _file: miscdev::Registration::new(pdev.as_ref(), name, device.clone())?,
                _teardown: teardown,
                device,
            }? Error))
        })
    }
}

impl Lifecycle for IvshmemDriver {
    fn restored(bound: &Bound) {
        let mut watching = bound.watching.lock();
        // An old watch ends before the device is looked at anew.
        *watching = None;
        if !bound.device.restored() {
            *watching = Some(bound.watch.begin());
        }
    }

    fn shutdown(bound: &Bound) {
        if let Some(interrupts) = bound.device.interrupts() {
            interrupts.close();
        }
    }
}

/// Finds out what the device is, and takes it into use except for its memory.
fn set_up(pdev: &pci::Device<Core<'_>>) -> Result<Arc<Device>> {
    enable(pdev).inspect_err(|_| dev_err!(pdev, "cannot enable the device\n"))?;

    // Some hypervisors' devices are the memory alone, with something else in the place of the
    // registers, or nothing.
    let bar = match resource(pdev, 0)? {
        Resource::Memory { len, .. } if len >= regs::END as u64 => {
            let bar = pdev
                .iomap_region_sized::<{ regs::END }>(0, c"ivshmem registers")
                .inspect_err(|_| dev_err!(pdev, "cannot map BAR0\n"))?;
            Some(Arc::new(bar.into_devres()?, GFP_KERNEL)?)
        }
        _ => None,
    };

    let number = Number::new()?;
    let name = number.device_name()?;
    let revision = pdev.revision_id();
    let table = msix_table_len(pdev)?;
    let cap = *module_parameters::vectors.value_ref();
    let (interrupt, ring_vectors, interrupts) = match &bar {
        Some(_) if table > 0 => {
            let max = if cap == 0 { table } else { table.min(cap) };
            pdev.set_master();
            let interrupts = Interrupts::new(pdev, None, max, name)
                .inspect_err(|_| dev_err!(pdev, "cannot enable MSI-X\n"))?;
            (abi::IVSHMEM_INTERRUPT_MSIX, table, Some(interrupts))
        }
        // Revision 1 has no line, even where its config space says so.
        Some(bar) if revision == 0 && has_interrupt_line(pdev) => {
            let interrupts = Interrupts::new(pdev, Some(bar.clone()), 1, name)
                .inspect_err(|_| dev_err!(pdev, "cannot use INTx\n"))?;
            // The device does not tell how many vectors its peers have.
            (
                abi::IVSHMEM_INTERRUPT_INTX,
                regs::MAX_RING_VECTORS,
                Some(interrupts),
            )
        }
        _ => (abi::IVSHMEM_INTERRUPT_NONE, 0, None),
    };

    let identity = Identity {
        number,
        revision,
        interrupt,
        ring_vectors: ring_vectors.min(regs::MAX_RING_VECTORS),
    };
    Device::new(identity, bar, interrupts)
}

kernel::module_driver!(<T>, abstractions::pci::Adapter<T>, {
    type: IvshmemDriver,
    name: "ivshmem",
    authors: ["The ivshmem authors"],
    description: "Inter-VM shared memory device",
    license: "GPL",
    params: {
        vectors: u32 {
            default: 0,
            description: "Most vectors to use of each device, 0 for all it has",
        },
        pages: bool {
            default: false,
            description: "Back the memory by pages for I/O on it; removal then waits for the I/O",
        },
    },
});
