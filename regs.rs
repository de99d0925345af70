// SPDX-License-Identifier: GPL-2.0

//! BAR0, register by register, in the words of QEMU's "Device Specification for Inter-VM shared
//! memory device".
//!
//! Every access is one aligned 32-bit operation: QEMU takes narrower and wider ones, but gives them
//! other meanings. Reading Interrupt Status has the side effect of clearing it, so the registers
//! are never dumped.
//!
//! - IVPosition: the ID of this guest's device among the clients of its server.
//! - peer: any of those clients.
//! - Doorbell: the register that interrupts a peer.

use kernel::{
    io::register,
    pci, //
};

register! {
    /// Interrupt Mask: which bits of Interrupt Status assert INTx. Revision 0 without MSI-X only.
    pub(crate) INTERRUPT_MASK(u32) @ 0x0 {
        31:0 bits;
    }

    /// Interrupt Status: a peer has interrupted this device. Reading it clears it. Revision 0
    /// without MSI-X only.
    pub(crate) INTERRUPT_STATUS(u32) @ 0x4 {
        31:0 bits;
    }

    /// IVPosition: 0 if the device is not configured for interrupts, else its ID. Revision 0 may
    /// read -1 for a while after a reset.
    pub(crate) IV_POSITION(u32) @ 0x8 {
        31:0 id;
    }

    /// Doorbell: writing it interrupts a peer. Reads 0.
    pub(crate) DOORBELL(u32) @ 0xc {
        31:16 peer;
        15:0 vector;
    }
}

/// Bytes of the registers that are defined. Some devices have no more, QEMU's has 256.
pub(crate) const END: usize = 0x10;

/// The vectors a doorbell can name: QEMU decodes eight bits of the field's sixteen, and would ring
/// another vector than the one asked for.
pub(crate) const MAX_RING_VECTORS: u32 = 0x100;

/// What a register of a device that is no longer there reads.
pub(crate) const ALL_ONES: u32 = u32::MAX;

/// BAR0 while the driver is bound; afterwards it cannot be accessed.
pub(crate) type Bar0 = pci::DevresBar<{ END }>;
