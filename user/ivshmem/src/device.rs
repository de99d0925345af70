// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The device file.

use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    slice,
    time::Duration,
};

use rustix::{fs::OFlags, io::Errno};

use crate::{
    bindings::*,
    error::{Error, Result},
    ioctl::call,
    memory::{Access, Memory},
};

/// One of this guest's interrupt vectors, from 0 on, or where a call says so [`VECTOR_STATE`] or
/// [`VECTOR_ANY`].
pub type Vector = u32;

/// Every vector that a [`Device`] has subscribed to; its count is that of their events, of each
/// since it was subscribed to.
pub const VECTOR_ANY: Vector = IVSHMEM_VECTOR_ANY;
/// The state of the device; its count is [`Info::generation`].
pub const VECTOR_STATE: Vector = IVSHMEM_VECTOR_STATE;
/// The most elements that a slice given to a [`Device`] may have.
pub const MAX_ARRAY: usize = IVSHMEM_MAX_ARRAY as usize;

/// One ring: the ID of the peer to interrupt and its vector.
pub use crate::bindings::ivshmem_doorbell as Doorbell;

/// A vector and a count of its interrupts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Event(ivshmem_event);

impl Event {
    /// To wait until the vector's count is not `seen` any more.
    pub fn new(vector: Vector, seen: u64) -> Self {
        Self(ivshmem_event {
            vector,
            reserved: 0,
            count: seen,
        })
    }

    /// The vector.
    pub fn vector(&self) -> Vector {
        self.0.vector
    }

    /// Its count.
    pub fn count(&self) -> u64 {
        self.0.count
    }
}

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// Not at all.
    Look,
    /// For a time from now on.
    After(Duration),
    /// Until a time of `CLOCK_MONOTONIC`.
    Until(Duration),
    /// Without limit.
    Never,
}

impl Timeout {
    fn flags_and_nanoseconds(self) -> (u32, i64) {
        // What does not fit lies centuries ahead.
        let nanoseconds = |time: Duration| time.as_nanos().try_into().unwrap_or(i64::MAX);
        match self {
            Self::Look => (0, 0),
            Self::After(time) => (0, nanoseconds(time)),
            Self::Until(time) => (IVSHMEM_WAIT_ABSOLUTE, nanoseconds(time)),
            Self::Never => (0, IVSHMEM_WAIT_INFINITE.into()),
        }
    }
}

/// How a device interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Interrupt {
    /// Not at all (ivshmem-plain).
    None,
    /// By INTx, with one vector.
    Intx,
    /// By MSI-X.
    Msix,
    /// In a way that this library does not know.
    Unknown(u32),
}

/// How the driver makes mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MappedBy {
    /// Not at all yet.
    None,
    /// By frame number, with the memory type that the kernel has on record.
    Record,
    /// By page-table entries that the driver writes itself.
    Entry,
    /// By struct pages, so that direct I/O and the like work on the memory.
    Page,
    /// In a way that this library does not know.
    Unknown(u32),
}

/// How the processor treats a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryType {
    /// There is no memory, or it is not known yet.
    None,
    /// Write-back, as ordinary memory.
    WriteBack,
    /// Write-combining.
    WriteCombining,
    /// Uncached.
    Uncached,
    /// Something else.
    Other(u32),
}

impl From<u32> for MemoryType {
    fn from(number: u32) -> Self {
        match number {
            IVSHMEM_MEMORY_NONE => Self::None,
            IVSHMEM_MEMORY_WB => Self::WriteBack,
            IVSHMEM_MEMORY_WC => Self::WriteCombining,
            IVSHMEM_MEMORY_UC => Self::Uncached,
            other => Self::Other(other),
        }
    }
}

/// What a device is and has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Info {
    /// Bytes of shared memory.
    pub size: u64,
    /// Whether its ID and its memory are valid yet.
    pub ready: bool,
    /// Whether the memory consists of pages, so that direct I/O and the like work on it.
    pub pages: bool,
    /// Moves when anything else here may have changed.
    pub generation: u64,
    /// Bytes covered by the largest page a mapping may use.
    pub page_size: u64,
    /// This guest's ID. `None` while the device is not ready; 0 also when it has no interrupts.
    pub ivposition: Option<u16>,
    /// PCI revision.
    pub revision: u32,
    /// How it interrupts.
    pub interrupt: Interrupt,
    /// Vectors this guest can wait for.
    pub vectors: u32,
    /// Peers can be interrupted by vectors below this.
    pub ring_vectors: u32,
    /// How a mapping is treated.
    pub memory_type: MemoryType,
    /// How a mapping is made.
    pub mapped_by: MappedBy,
}

impl From<ivshmem_info> for Info {
    fn from(info: ivshmem_info) -> Self {
        Self {
            size: info.size,
            ready: info.features & u64::from(IVSHMEM_FEATURE_READY) != 0,
            pages: info.features & u64::from(IVSHMEM_FEATURE_PAGES) != 0,
            generation: info.generation,
            page_size: info.page_size,
            ivposition: info.ivposition.try_into().ok(),
            revision: info.revision,
            interrupt: match info.interrupt {
                IVSHMEM_INTERRUPT_NONE => Interrupt::None,
                IVSHMEM_INTERRUPT_INTX => Interrupt::Intx,
                IVSHMEM_INTERRUPT_MSIX => Interrupt::Msix,
                other => Interrupt::Unknown(other),
            },
            vectors: info.vectors,
            ring_vectors: info.ring_vectors,
            memory_type: info.memory_type.into(),
            mapped_by: match info.mapped_by {
                IVSHMEM_MAPPED_BY_NONE => MappedBy::None,
                IVSHMEM_MAPPED_BY_RECORD => MappedBy::Record,
                IVSHMEM_MAPPED_BY_ENTRY => MappedBy::Entry,
                IVSHMEM_MAPPED_BY_PAGE => MappedBy::Page,
                other => MappedBy::Unknown(other),
            },
        }
    }
}

/// What a place in a mapping really is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Description {
    /// Bytes covered by its page; `None` when it has not been touched yet.
    pub page_size: Option<u64>,
    /// The offset of its page in the shared memory.
    pub offset: u64,
    /// How the processor treats it.
    pub memory_type: MemoryType,
}

/// How to open a device.
///
/// ```no_run
/// let device = ivshmem::OpenOptions::new().read_only(true).open("/dev/ivshmem0")?;
/// # Ok::<(), ivshmem::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    read_only: bool,
    exclusive: bool,
    nonblocking: bool,
}

impl OpenOptions {
    /// For reading and writing, shared with others, and waiting for what is not there yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only to look and to wait: neither to ring nor to map writable.
    pub fn read_only(&mut self, read_only: bool) -> &mut Self {
        self.read_only = read_only;
        self
    }

    /// As the only user, or not at all.
    pub fn exclusive(&mut self, exclusive: bool) -> &mut Self {
        self.exclusive = exclusive;
        self
    }

    /// Have [`Device::read_events`] return nothing instead of waiting, and rings of a device that
    /// is not ready fail with [`Error::NotReady`].
    pub fn nonblocking(&mut self, nonblocking: bool) -> &mut Self {
        self.nonblocking = nonblocking;
        self
    }

    /// Opens the device.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Device> {
        let mut flags = OFlags::empty();
        flags.set(OFlags::EXCL, self.exclusive);
        flags.set(OFlags::NONBLOCK, self.nonblocking);
        fs::OpenOptions::new()
            .read(true)
            .write(!self.read_only)
            .custom_flags(flags.bits() as i32)
            .open(&path)
            .map(|file| Device { fd: file.into() })
            .map_err(|error| Error::Open(path.as_ref().into(), error))
    }
}

/// An open ivshmem device.
///
/// Interrupts are counted. Who waits says which count was seen last, so nothing is lost between a
/// look and the next, and nobody takes an interrupt from another:
///
/// ```no_run
/// use ivshmem::{Access, Device, Timeout};
/// use std::sync::atomic::Ordering;
///
/// let device = Device::open("/dev/ivshmem0")?;
/// let memory = device.map_all(Access::ReadWrite)?;
/// let mut seen = device.count(0)?;
/// memory.atomic_u64(0)?.store(42, Ordering::Release);
/// device.ring(1, 0)?;
/// loop {
///     seen = device.wait(0, seen, Timeout::Never)?;
///     println!("{seen} interrupts; {}", memory.atomic_u64(8)?.load(Ordering::Acquire));
/// }
/// # Ok::<(), ivshmem::Error>(())
/// ```
///
/// All calls can be made by several threads at once. The descriptor polls readable when a vector
/// that was [subscribed](Device::subscribe) to has been interrupted.
#[derive(Debug)]
pub struct Device {
    fd: OwnedFd,
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<OwnedFd> for Device {
    /// Takes a descriptor of a device that was opened elsewhere.
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl From<Device> for OwnedFd {
    fn from(device: Device) -> Self {
        device.fd
    }
}

impl Device {
    /// Opens a device for reading and writing.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        OpenOptions::new().open(path)
    }

    fn call<const NUMBER: u32, T>(
        &self,
        argument: &mut T,
        what: impl FnOnce() -> String,
    ) -> Result<usize> {
        call::<NUMBER, T>(&self.fd, argument).map_err(|errno| Error::new(errno, what))
    }

    /// What the device is and has.
    pub fn info(&self) -> Result<Info> {
        let mut info = ivshmem_info::default();
        self.call::<IVSHMEM_IOC_INFO, _>(&mut info, || "ask for the device's info".into())?;
        Ok(info.into())
    }

    /// This guest's ID, `None` while the device is not ready.
    pub fn ivposition(&self) -> Result<Option<u16>> {
        let mut id = 0i32;
        self.call::<IVSHMEM_IOC_IVPOSITION, _>(&mut id, || "ask for the ID".into())?;
        Ok(id.try_into().ok())
    }

    /// Interrupts a peer. Whether it was there cannot be known.
    pub fn ring(&self, peer: u32, vector: Vector) -> Result<()> {
        let mut doorbell = Doorbell { peer, vector };
        let what = || format!("ring vector {vector} of peer {peer}");
        self.call::<IVSHMEM_IOC_DOORBELL, _>(&mut doorbell, what)
            .map(drop)
    }

    /// Interrupts several at once, at most [`MAX_ARRAY`]; says how many were.
    pub fn ring_many(&self, doorbells: &[Doorbell]) -> Result<usize> {
        let mut argument = ivshmem_doorbells {
            doorbells: doorbells.as_ptr().expose_provenance() as u64,
            nr: length(doorbells),
            reserved: 0,
        };
        let what = || format!("ring {} doorbells", doorbells.len());
        self.call::<IVSHMEM_IOC_DOORBELLS, _>(&mut argument, what)
    }

    /// The count of a vector now. From then on this file listens to it.
    pub fn count(&self, vector: Vector) -> Result<u64> {
        self.wait(vector, 0, Timeout::Look)
    }

    /// Waits until the count of a vector, [`VECTOR_STATE`] or [`VECTOR_ANY`], differs from `seen`.
    ///
    /// The count now. It is still `seen` when it did not change in time.
    pub fn wait(&self, vector: Vector, seen: u64, timeout: Timeout) -> Result<u64> {
        let (flags, timeout) = timeout.flags_and_nanoseconds();
        let mut wait = ivshmem_wait {
            vector,
            flags,
            count: seen,
            timeout,
        };
        match call::<IVSHMEM_IOC_WAIT, _>(&self.fd, &mut wait) {
            Ok(_) | Err(Errno::TIMEDOUT) => Ok(wait.count),
            Err(errno) => Err(Error::new(errno, || format!("wait for {}", name(vector)))),
        }
    }

    /// Waits until the count of at least one of several vectors differs from the one given for it,
    /// and puts the counts now into all.
    ///
    /// How many differ; 0 when none did in time.
    pub fn wait_any_of(&self, events: &mut [Event], timeout: Timeout) -> Result<usize> {
        let (flags, timeout) = timeout.flags_and_nanoseconds();
        let nr = length(events);
        let events = events.as_mut_ptr().expose_provenance() as u64;
        let mut waits = ivshmem_waits {
            events,
            nr,
            flags,
            timeout,
        };
        match call::<IVSHMEM_IOC_WAITS, _>(&self.fd, &mut waits) {
            Err(Errno::TIMEDOUT) => Ok(0),
            changed => changed
                .map_err(|errno| Error::new(errno, || format!("wait for one of {nr} vectors"))),
        }
    }

    /// Adds vectors to those that [`Device::read_events`] and polling the descriptor speak of.
    /// [`VECTOR_STATE`] can be among them.
    pub fn subscribe(&self, vectors: &[Vector]) -> Result<()> {
        self.change_subscription(vectors, 0)
    }

    /// Removes vectors from the subscription; none means all.
    pub fn unsubscribe(&self, vectors: &[Vector]) -> Result<()> {
        self.change_subscription(vectors, IVSHMEM_UNSUBSCRIBE)
    }

    fn change_subscription(&self, vectors: &[Vector], flags: u32) -> Result<()> {
        let mut subscribe = ivshmem_subscribe {
            vectors: vectors.as_ptr().expose_provenance() as u64,
            nr: length(vectors),
            flags,
        };
        let what = || format!("change the subscription of {} vectors", vectors.len());
        self.call::<IVSHMEM_IOC_SUBSCRIBE, _>(&mut subscribe, what)
            .map(drop)
    }

    /// Reads which of the vectors subscribed to have been interrupted since the last time, and
    /// waits while there are none.
    ///
    /// How many of `events` were filled; 0 only when the file is nonblocking.
    pub fn read_events(&self, events: &mut [Event]) -> Result<usize> {
        let bytes = size_of_val(events);
        // SAFETY: An event consists of integers without gaps, so it can be seen as bytes, and any
        // bytes can be put into it.
        let buffer = unsafe { slice::from_raw_parts_mut(events.as_mut_ptr().cast::<u8>(), bytes) };
        match rustix::io::read(&self.fd, buffer) {
            Ok(bytes) => Ok(bytes / size_of::<Event>()),
            Err(Errno::AGAIN) => Ok(0),
            Err(errno) => Err(Error::new(errno, || {
                "read events (is a vector subscribed to?)".into()
            })),
        }
    }

    /// Has an eventfd signalled for each interrupt of a vector, or [`VECTOR_STATE`].
    pub fn attach_eventfd(&self, vector: Vector, eventfd: impl AsFd) -> Result<()> {
        self.change_eventfd(vector, eventfd.as_fd(), 0)
    }

    /// Undoes [`Device::attach_eventfd`].
    pub fn detach_eventfd(&self, vector: Vector, eventfd: impl AsFd) -> Result<()> {
        self.change_eventfd(vector, eventfd.as_fd(), IVSHMEM_EVENTFD_DETACH)
    }

    fn change_eventfd(&self, vector: Vector, eventfd: BorrowedFd<'_>, flags: u32) -> Result<()> {
        let fd = eventfd.as_raw_fd();
        let mut argument = ivshmem_eventfd {
            vector,
            fd,
            flags,
            reserved: 0,
        };
        let what = || format!("attach or detach the eventfd for {}", name(vector));
        self.call::<IVSHMEM_IOC_EVENTFD, _>(&mut argument, what)
            .map(drop)
    }

    /// Maps `len` bytes of the shared memory from `offset` on, which must be a multiple of the
    /// page size. Does not wait for a device that is not ready.
    pub fn map(&self, offset: u64, len: usize, access: Access) -> Result<Memory> {
        Memory::map(&self.fd, offset, len, access).map_err(|error| {
            let what = || format!("map {len} bytes of the memory at {offset:#x}");
            match Errno::from_io_error(&error) {
                Some(errno) => Error::new(errno, what),
                None => Error::Io(what(), error),
            }
        })
    }

    /// Maps all of the shared memory.
    pub fn map_all(&self, access: Access) -> Result<Memory> {
        let size = self.info()?.size;
        let len = usize::try_from(size)
            .map_err(|_| Error::Invalid(format!("map {size} bytes in this process")))?;
        self.map(0, len, access)
    }

    /// What `offset` bytes into a mapping of this device really is.
    pub fn describe(&self, mapping: &Memory, offset: usize) -> Result<Description> {
        let place = mapping.as_ptr().wrapping_add(offset);
        let mut argument = ivshmem_mapping {
            addr: place.addr() as u64,
            ..Default::default()
        };
        let what = || format!("describe {offset:#x} in a mapping");
        self.call::<IVSHMEM_IOC_MAPPING, _>(&mut argument, what)?;
        Ok(Description {
            page_size: Some(argument.page_size).filter(|size| *size != 0),
            offset: argument.offset,
            memory_type: argument.memory_type.into(),
        })
    }
}

/// The driver refuses what is too long for it; that must not become short on the way.
fn length<T>(array: &[T]) -> u32 {
    array.len().try_into().unwrap_or(u32::MAX)
}

fn name(vector: Vector) -> String {
    match vector {
        VECTOR_ANY => "the subscribed vectors".into(),
        VECTOR_STATE => "the device's state".into(),
        vector => format!("vector {vector}"),
    }
}

/// The ivshmem devices there are, `/dev/ivshmem0` and so on, in this order.
pub fn devices() -> io::Result<Vec<PathBuf>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir("/dev")? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("ivshmem"));
        numbers.extend(number.and_then(|number| number.parse::<u32>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers
        .into_iter()
        .map(|number| format!("/dev/ivshmem{number}").into())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_files_are_no_devices() {
        let file = Device::open("/dev/null").unwrap();
        assert!(matches!(file.info(), Err(Error::NotADevice)));
        assert!(matches!(
            file.wait(0, 0, Timeout::Never),
            Err(Error::NotADevice)
        ));
        let error = Device::open("/dev/ivshmem-that-is-not")
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("is the module ivshmem loaded?"), "{error}");
    }

    #[test]
    fn timeouts_in_the_drivers_terms() {
        let second = Duration::from_secs(1);
        assert_eq!(Timeout::Look.flags_and_nanoseconds(), (0, 0));
        assert_eq!(
            Timeout::After(second).flags_and_nanoseconds(),
            (0, 1_000_000_000)
        );
        assert_eq!(
            Timeout::Until(second).flags_and_nanoseconds(),
            (1, 1_000_000_000)
        );
        assert_eq!(Timeout::Never.flags_and_nanoseconds(), (0, -1));
        assert_eq!(
            Timeout::After(Duration::MAX).flags_and_nanoseconds(),
            (0, i64::MAX)
        );
    }

    #[test]
    fn an_id_is_there_or_not() {
        let id = |ivposition| {
            Info::from(ivshmem_info {
                ivposition,
                ..Default::default()
            })
        };
        assert_eq!(id(-1).ivposition, None);
        assert_eq!(id(0).ivposition, Some(0));
        assert_eq!(id(65535).ivposition, Some(65535));
    }
}
