// SPDX-License-Identifier: GPL-2.0

//! What all open files of a device share.
//!
//! It outlives the binding of the driver to the device, for as long as a file is open. It reaches
//! the hardware only through handles that end with the binding, so that everything afterwards is
//! an error and never a fault.

use crate::{
    abi,
    abstractions::{
        memory::MemoryType,
        wait::Wait, //
    },
    count::Patience,
    events::{
        self,
        Sources, //
    },
    irq::Interrupts,
    memory::Memory,
    name::Number,
    regs, //
};
use kernel::{
    current,
    fmt,
    io::Io,
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full,
            Release, //
        },
        Arc,
        Mutex, //
    },
    task::Pid, //
};

/// What is known of a device when it is bound.
pub(crate) struct Identity {
    /// Its number, and so its name.
    pub(crate) number: Number,
    /// The PCI revision.
    pub(crate) revision: u8,
    /// How it interrupts: `IVSHMEM_INTERRUPT_*`.
    pub(crate) interrupt: u32,
    /// The vectors a doorbell takes.
    pub(crate) ring_vectors: u32,
}

/// Who has the device open.
#[derive(Default)]
struct Openers {
    processes: KVec<Pid>,
    exclusive: bool,
}

/// The stages of a device's life: not ready yet,
const NOT_READY: u32 = 0;
/// in use,
const READY: u32 = 1;
/// and no longer bound to the driver, for good.
const GONE: u32 = 2;

/// A device, as its open files see it.
#[pin_data]
pub(crate) struct Device {
    identity: Identity,
    bar: Option<Arc<regs::Bar0>>,
    sources: Sources,
    interrupts: Option<Pin<KBox<Interrupts>>>,
    stage: Atomic<u32>,
    #[pin]
    openers: Mutex<Openers>,
    #[pin]
    memory: Memory,
}

impl Device {
    /// A device without its memory.
    pub(crate) fn new(
        identity: Identity,
        bar: Option<Arc<regs::Bar0>>,
        interrupts: Option<Pin<KBox<Interrupts>>>,
    ) -> Result<Arc<Self>> {
        let vectors = interrupts.as_ref().map_or(0, |interrupts| interrupts.len());
        let sources = Sources::new(vectors)?;
        Arc::pin_init(
            try_pin_init!(Self {
                identity,
                bar,
                sources,
                interrupts,
                stage: Atomic::new(NOT_READY),
                openers <- new_mutex!(Openers::default()),
                memory <- Memory::new(),
            }),
            GFP_KERNEL,
        )
    }

    /// What was known when it was bound.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Its events.
    pub(crate) fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Its shared memory.
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The memory type of mappings, of which there are none while it is not ready.
    pub(crate) fn memory_type(&self) -> MemoryType {
        match self.is_ready() {
            true => self.memory.memory_type(),
            false => MemoryType(abi::IVSHMEM_MEMORY_NONE),
        }
    }

    /// How mappings are made, of which there are none while it is not ready.
    pub(crate) fn mapped_by(&self) -> u32 {
        match self.is_ready() {
            true => self.memory.mapped_by(),
            false => abi::IVSHMEM_MAPPED_BY_NONE,
        }
    }

    /// Its interrupts, if it has any.
    pub(crate) fn interrupts(&self) -> Option<&Interrupts> {
        self.interrupts.as_deref()
    }

    /// Whether the driver was unbound from it.
    pub(crate) fn is_gone(&self) -> bool {
        self.stage.load(Acquire) == GONE
    }

    /// `ENODEV` if it is gone.
    pub(crate) fn check(&self) -> Result {
        if self.is_gone() {
            return Err(ENODEV);
        }
        Ok(())
    }

    /// Marks the device as gone, and wakes everybody so that they see it.
    pub(crate) fn leave(&self) {
        self.stage.store(GONE, Release);
        self.sources.wake_all();
    }

    /// Reads IVPosition: 0 without the register, -1 while the device is not ready. `EIO`: the
    /// device does not answer, because it is being reset or has been pulled out.
    pub(crate) fn iv_position(&self) -> Result<i32> {
        let Some(bar) = &self.bar else {
            return Ok(0);
        };
        let bar = bar.try_access().ok_or(ENODEV)?;
        match bar.read(regs::IV_POSITION).into_raw() {
            // Only revision 0 is ever not ready.
            regs::ALL_ONES if self.identity.revision > 0 => Err(EIO),
            id => Ok(id as i32),
        }
    }

    /// Whether the device is bound, and IVPosition and the shared memory are valid.
    pub(crate) fn is_ready(&self) -> bool {
        self.stage.load(Acquire) == READY
    }

    /// Looks if the device is ready. If it has become so, that is an event. `false`: look again
    /// later. May be called from hard interrupt context.
    pub(crate) fn look_if_ready(&self) -> bool {
        if matches!(self.iv_position(), Ok(..0)) {
            return false;
        }
        if self.stage.cmpxchg(NOT_READY, READY, Full).is_ok() {
            self.sources.state().deliver();
        }
        true
    }

    /// Waits until the device is ready.
    #[inline(never)]
    pub(crate) fn wait_ready(&self, nonblocking: bool) -> Result {
        self.check()?;
        if nonblocking {
            return Err(EAGAIN);
        }
        let queue = Wait::new((**self.sources.state()).as_ref());
        events::wait(&mut [queue], Patience::Endless, || {
            (self.stage.load(Acquire) != NOT_READY).then_some(())
        })?;
        self.check()
    }

    /// The device works again after it had lost its registers. It may have another ID now, or none
    /// yet, and may have missed rings, which is why everybody who waits is made to look.
    ///
    /// Returns whether it is ready.
    pub(crate) fn restored(&self) -> bool {
        let ready = !matches!(self.iv_position(), Ok(..0));
        let (old, new) = if ready {
            (NOT_READY, READY)
        } else {
            (READY, NOT_READY)
        };
        // It is that already, or gone, if this fails.
        let _ = self.stage.cmpxchg(old, new, Full);
        self.sources.state().deliver();
        if let Some(interrupts) = self.interrupts() {
            interrupts.restore(&self.sources);
        }
        ready
    }

    /// Checks a ring. `EOPNOTSUPP`: the device cannot. `EINVAL`: there is no such peer or vector.
    pub(crate) fn check_ring(&self, ring: &abi::ivshmem_doorbell) -> Result {
        if self.identity.ring_vectors == 0 {
            return Err(EOPNOTSUPP);
        }
        if ring.vector >= self.identity.ring_vectors || ring.peer > u32::from(u16::MAX) {
            return Err(EINVAL);
        }
        Ok(())
    }

    /// Rings all of `rings`, which were checked.
    pub(crate) fn ring(&self, rings: &[abi::ivshmem_doorbell]) -> Result {
        let bar = self.bar.as_ref().ok_or(EOPNOTSUPP)?;
        let bar = bar.try_access().ok_or(ENODEV)?;
        for ring in rings {
            bar.write_reg(
                regs::DOORBELL::zeroed()
                    .with_peer(ring.peer as u16)
                    .with_vector(ring.vector as u16),
            );
        }
        Ok(())
    }

    /// Notes that the current process has opened the device, and returns it. `EBUSY`: somebody
    /// wants to be the only one.
    pub(crate) fn enter(&self, exclusive: bool) -> Result<Pid> {
        let process = current!().tgid();
        let mut openers = self.openers.lock();
        if openers.exclusive || (exclusive && !openers.processes.is_empty()) {
            return Err(EBUSY);
        }
        openers.processes.push(process, GFP_KERNEL_ACCOUNT)?;
        openers.exclusive = exclusive;
        Ok(process)
    }

    /// The counterpart of [`Self::enter`].
    pub(crate) fn exit(&self, process: Pid) {
        let mut openers = self.openers.lock();
        let place = openers.processes.iter().position(|other| *other == process);
        if let Some(Ok(_)) = place.map(|place| openers.processes.remove(place)) {
            openers.exclusive = false;
        }
    }

    /// Takes the memory away. With pages, waits for those who do I/O on it.
    pub(crate) fn revoke_memory(&self) {
        self.memory.revoke(self);
    }
}

/// The processes that have opened the device.
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let openers = self.openers.lock();
        if openers.processes.is_empty() {
            return f.write_str("none");
        }
        for (index, process) in openers.processes.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{process}")?;
        }
        Ok(())
    }
}
