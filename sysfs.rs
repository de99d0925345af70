// SPDX-License-Identifier: GPL-2.0

//! `/sys/class/misc/ivshmemN/`: what the device is and has, for people and for udev.

use crate::{
    abi,
    abstractions::miscdev::{
        Add,
        Attributes, //
    },
    device::Device, //
};
use kernel::{
    fmt,
    prelude::*, //
};

/// An attribute of a device.
#[derive(Clone, Copy)]
pub(crate) enum Attribute {
    /// Bytes of shared memory.
    Size,
    /// The device's ID, -1 while it is not ready.
    IvPosition,
    /// Vectors that can be waited for.
    Vectors,
    /// Vectors that can be rung.
    RingVectors,
    /// How it interrupts: `none`, `intx` or `msix`.
    Interrupt,
    /// The PCI revision.
    Revision,
    /// The memory type of mappings: `none`, `wb`, `wc`, `uc` or `other`.
    MemoryType,
    /// How mappings are made: `none`, `record`, `entry` or `page`.
    MappedBy,
    /// Bytes of the largest leaf of a mapping.
    PageSize,
    /// The count of changes of the device's state.
    Generation,
    /// The count of one vector.
    Count(u32),
}

const NAMED: [(Attribute, &CStr); 10] = [
    (Attribute::Size, c"size"),
    (Attribute::IvPosition, c"ivposition"),
    (Attribute::Vectors, c"vectors"),
    (Attribute::RingVectors, c"ring_vectors"),
    (Attribute::Interrupt, c"interrupt"),
    (Attribute::Revision, c"revision"),
    (Attribute::MemoryType, c"memory_type"),
    (Attribute::MappedBy, c"mapped_by"),
    (Attribute::PageSize, c"page_size"),
    (Attribute::Generation, c"generation"),
];

/// The name of an `IVSHMEM_INTERRUPT_*`.
pub(crate) fn interrupt_name(interrupt: u32) -> &'static str {
    match interrupt {
        abi::IVSHMEM_INTERRUPT_INTX => "intx",
        abi::IVSHMEM_INTERRUPT_MSIX => "msix",
        _ => "none",
    }
}

/// The name of an `IVSHMEM_MEMORY_*`.
pub(crate) fn memory_type_name(memory_type: u32) -> &'static str {
    match memory_type {
        abi::IVSHMEM_MEMORY_NONE => "none",
        abi::IVSHMEM_MEMORY_WB => "wb",
        abi::IVSHMEM_MEMORY_WC => "wc",
        abi::IVSHMEM_MEMORY_UC => "uc",
        _ => "other",
    }
}

/// The name of an `IVSHMEM_MAPPED_BY_*`.
pub(crate) fn mapped_by_name(mapped_by: u32) -> &'static str {
    match mapped_by {
        abi::IVSHMEM_MAPPED_BY_RECORD => "record",
        abi::IVSHMEM_MAPPED_BY_ENTRY => "entry",
        abi::IVSHMEM_MAPPED_BY_PAGE => "page",
        _ => "none",
    }
}

impl Attributes for Device {
    type Id = Attribute;

    fn list(&self, add: &mut Add<'_, Attribute>) -> Result {
        for (attribute, name) in NAMED {
            add(None, attribute, fmt!("{}", name))?;
        }
        for vector in 0..self.sources().vectors() {
            add(
                Some(c"counts"),
                Attribute::Count(vector),
                fmt!("{}", vector),
            )?;
        }
        Ok(())
    }

    fn show(&self, id: Attribute, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match id {
            Attribute::Size => write!(f, "{}", self.memory().size()),
            Attribute::IvPosition => write!(f, "{}", self.iv_position().unwrap_or(-1)),
            Attribute::Vectors => write!(f, "{}", self.sources().vectors()),
            Attribute::RingVectors => write!(f, "{}", self.identity().ring_vectors),
            Attribute::Interrupt => f.write_str(interrupt_name(self.identity().interrupt)),
            Attribute::Revision => write!(f, "{}", self.identity().revision),
            Attribute::MemoryType => f.write_str(memory_type_name(self.memory_type().0)),
            Attribute::MappedBy => f.write_str(mapped_by_name(self.mapped_by())),
            Attribute::PageSize => write!(f, "{}", self.memory().page_size()),
            Attribute::Generation => write!(f, "{}", self.sources().state().count()),
            Attribute::Count(vector) => {
                let count = self
                    .sources()
                    .vector(vector)
                    .map_or(0, |source| source.count());
                write!(f, "{}", count)
            }
        }
    }
}
