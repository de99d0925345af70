// SPDX-License-Identifier: GPL-2.0

//! Vectors: from interrupt to event.
//!
//! A vector is requested when the first open file listens to it and freed with the last. That is
//! kind to a processor's few interrupt vectors, shows in `/proc/interrupts` what is in use, and
//! leaves vectors masked that nobody asked for: under KVM, QEMU aborts when a guest unmasks one for
//! which its server has sent no eventfd.

use crate::{
    abstractions::irq::{
        Kind,
        Table, //
    },
    events::{
        Source,
        Sources, //
    },
    regs, //
};
use kernel::{
    device,
    io::Io,
    irq::{
        Handler,
        IrqReturn, //
    },
    pci,
    prelude::*,
    str::CString,
    sync::{
        new_mutex,
        Arc,
        Mutex, //
    }, //
};

/// Turns the interrupts of one vector into events.
enum VectorHandler {
    /// MSI-X: each interrupt is an event.
    Msix(Arc<Source>),
    /// The interrupt line of a revision 0 device, which other devices may share.
    Intx(Arc<Source>, Arc<regs::Bar0>),
}

impl Handler for VectorHandler {
    fn handle(&self) -> IrqReturn {
        let (source, bar) = match self {
            Self::Msix(source) => {
                source.deliver();
                return IrqReturn::Handled;
            }
            Self::Intx(source, bar) => (source, bar),
        };
        // Reading it clears it, and so releases the line.
        let status = bar
            .try_access()
            .map_or(0, |bar| bar.read(regs::INTERRUPT_STATUS).into_raw());
        match status {
            // Not ours, or the device is gone.
            0 | regs::ALL_ONES => IrqReturn::None,
            // Old QEMU sets more than bit 0, and then possibly not that one.
            _ => {
                source.deliver();
                IrqReturn::Handled
            }
        }
    }
}

/// The interrupts of a device, and how many listen to each.
///
/// Lock order: `listeners`, then the table's own lock.
#[pin_data]
pub(crate) struct Interrupts {
    table: Arc<Table<VectorHandler>>,
    /// BAR0, for INTx.
    line: Option<Arc<regs::Bar0>>,
    name: CString,
    #[pin]
    listeners: Mutex<KVVec<u32>>,
}

impl Interrupts {
    /// Prepares up to `max` vectors; with `line`, the one of INTx.
    pub(crate) fn new(
        pdev: &pci::Device<device::Bound>,
        line: Option<Arc<regs::Bar0>>,
        max: u32,
        name: CString,
    ) -> Result<Pin<KBox<Self>>> {
        let kind = if line.is_some() {
            Kind::Intx
        } else {
            Kind::MsiX
        };
        let table = Table::new(pdev, kind, max)?;
        let listeners = KVVec::from_elem(0, table.len() as usize, GFP_KERNEL)?;
        let this = KBox::pin_init(
            pin_init!(Self {
                table,
                line,
                name,
                listeners <- new_mutex!(listeners),
            }),
            GFP_KERNEL,
        )?;
        // Whoever had the device before may have left it otherwise.
        this.mask(0);
        Ok(this)
    }

    /// The number of vectors.
    pub(crate) fn len(&self) -> u32 {
        self.table.len()
    }

    /// Adds a listener to a vector; the first one requests it.
    pub(crate) fn listen(&self, vector: u32, sources: &Sources) -> Result {
        let source = sources.vector(vector).ok_or(EINVAL)?.clone();
        let mut listeners = self.listeners.lock();
        let count = listeners.get_mut(vector as usize).ok_or(EINVAL)?;
        if *count == 0 {
            let name = CString::try_from_fmt(fmt!("{}-{}", &*self.name, vector))?;
            let handler = match &self.line {
                None => VectorHandler::Msix(source),
                Some(bar) => VectorHandler::Intx(source, bar.clone()),
            };
            self.table.request(vector, name, handler)?;
            self.mask(regs::ALL_ONES);
        }
        *count += 1;
        Ok(())
    }

    /// Removes a listener from a vector; the last one frees it.
    pub(crate) fn unlisten(&self, vector: u32) {
        let mut listeners = self.listeners.lock();
        let Some(count) = listeners.get_mut(vector as usize) else {
            return;
        };
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.mask(0);
            self.table.free(vector);
        }
    }

    /// Ends all interrupts: there are none, and none being handled, when this returns.
    pub(crate) fn close(&self) {
        let _listeners = self.listeners.lock();
        self.mask(0);
        self.table.close();
    }

    /// Restores what the device lost in a reset or in a sleep state, and counts an event for each
    /// vector that is listened to, since a ring may have been lost meanwhile.
    pub(crate) fn restore(&self, sources: &Sources) {
        let listeners = self.listeners.lock();
        for (vector, count) in listeners.iter().enumerate() {
            if *count == 0 {
                continue;
            }
            self.mask(regs::ALL_ONES);
            if let Some(source) = sources.vector(vector as u32) {
                source.deliver();
            }
        }
    }

    /// Chooses which bits of Interrupt Status assert INTx.
    fn mask(&self, bits: u32) {
        if let Some(bar) = self.line.as_ref().and_then(|bar| bar.try_access()) {
            bar.write_reg(regs::INTERRUPT_MASK::from_raw(bits));
        }
    }
}
