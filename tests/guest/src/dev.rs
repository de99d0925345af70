// SPDX-License-Identifier: GPL-2.0

//! `/dev/ivshmemN` by its raw interface: each method is one call, and returns what that returns.

use std::ffi::c_void;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU8, AtomicU64};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, MremapFlags, ProtFlags};

use crate::abi::*;

/// The first device.
pub const NODE: &str = "/dev/ivshmem0";

/// Nanoseconds within which everything must have happened that a test waits for.
pub const LONG: i64 = 30_000_000_000;

/// No end of a wait: for a thread that sleeps until the test is done with it, however long that takes.
pub const INFINITE: i64 = IVSHMEM_WAIT_INFINITE as i64;

/// Nanoseconds that are worth waiting for something that must not happen.
pub const SHORT: i64 = 20_000_000;

pub const PAGE: usize = 4096;

pub const READ: ProtFlags = ProtFlags::READ;
pub const WRITE: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

/// An open file of a device.
pub struct Device(OwnedFd);

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Device {
    fn from(fd: OwnedFd) -> Self {
        Device(fd)
    }
}

impl From<Device> for OwnedFd {
    fn from(device: Device) -> Self {
        device.0
    }
}

fn check(returned: i32) -> Result<u32, Errno> {
    u32::try_from(returned).map_err(|_| {
        let error = std::io::Error::last_os_error();
        Errno::from_io_error(&error).expect("an error of a system call")
    })
}

impl Device {
    /// The first device, for everything.
    #[track_caller]
    pub fn open() -> Device {
        Device::open_as(NODE, OFlags::RDWR).expect(NODE)
    }

    pub fn open_as(path: &str, flags: OFlags) -> Result<Device, Errno> {
        rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).map(Device)
    }

    pub fn ioctl<T>(&self, number: u32, argument: &mut T) -> Result<u32, Errno> {
        assert_eq!(
            ((number >> 16) & 0x3fff) as usize,
            size_of::<T>(),
            "the size in the number"
        );
        // SAFETY: The kernel accesses as many bytes of the argument as the number carries.
        check(unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::Ioctl::from(number),
                ptr::from_mut(argument),
            )
        })
    }

    /// An ioctl whose argument is an address.
    ///
    /// # Safety
    ///
    /// The address must be one that the kernel may write to, or where nothing can be written.
    pub unsafe fn ioctl_at(&self, number: u32, address: usize) -> Result<u32, Errno> {
        // SAFETY: By the safety requirements.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), libc::Ioctl::from(number), address) })
    }

    pub fn try_info(&self) -> Result<ivshmem_info, Errno> {
        let mut info = ivshmem_info::default();
        self.ioctl(IVSHMEM_IOC_INFO, &mut info).map(|_| info)
    }

    #[track_caller]
    pub fn info(&self) -> ivshmem_info {
        self.try_info().expect("INFO")
    }

    pub fn ivposition(&self) -> Result<i32, Errno> {
        let mut position = i32::MIN;
        self.ioctl(IVSHMEM_IOC_IVPOSITION, &mut position)
            .map(|_| position)
    }

    pub fn ring(&self, peer: u32, vector: u32) -> Result<(), Errno> {
        let mut ring = ivshmem_doorbell { peer, vector };
        self.ioctl(IVSHMEM_IOC_DOORBELL, &mut ring).map(drop)
    }

    pub fn ring_many(&self, rings: &[ivshmem_doorbell]) -> Result<u32, Errno> {
        let mut call = ivshmem_doorbells {
            doorbells: rings.as_ptr() as u64,
            nr: rings.len() as u32,
            reserved: 0,
        };
        self.ioctl(IVSHMEM_IOC_DOORBELLS, &mut call)
    }

    /// Rings this guest itself.
    #[track_caller]
    pub fn ring_self(&self, vector: u32) {
        let me = self.ivposition().expect("IVPOSITION");
        self.ring(me as u32, vector).expect("DOORBELL");
    }

    /// Waits for `timeout` nanoseconds; returns the count.
    pub fn wait(&self, vector: u32, seen: u64, timeout: i64) -> Result<u64, Errno> {
        let mut wait = ivshmem_wait {
            vector,
            flags: 0,
            count: seen,
            timeout,
        };
        self.ioctl(IVSHMEM_IOC_WAIT, &mut wait).map(|_| wait.count)
    }

    /// The count of a vector, which this file listens to from here on.
    #[track_caller]
    pub fn count(&self, vector: u32) -> u64 {
        self.wait(vector, u64::MAX, 0)
            .expect("a count that is not the largest")
    }

    /// Waits until a count is not `seen` any more; that it comes to be is what is tested.
    #[track_caller]
    pub fn moved(&self, vector: u32, seen: u64) -> u64 {
        self.wait(vector, seen, LONG).expect("the vector moves")
    }

    /// Makes the file listen to a vector, with nothing left of what was rung before.
    ///
    /// A ring while nobody listened may be delivered now: a ring of our own is waited for after
    /// that.
    #[track_caller]
    pub fn settle(&self, vector: u32) -> u64 {
        let seen = self.count(vector);
        self.ring_self(vector);
        let mut seen = self.moved(vector, seen);
        while let Ok(count) = self.wait(vector, seen, SHORT) {
            seen = count;
        }
        seen
    }

    pub fn waits(&self, events: &mut [ivshmem_event], timeout: i64) -> Result<u32, Errno> {
        let mut call = ivshmem_waits {
            events: events.as_mut_ptr() as u64,
            nr: events.len() as u32,
            flags: 0,
            timeout,
        };
        self.ioctl(IVSHMEM_IOC_WAITS, &mut call)
    }

    fn subscription(&self, vectors: &[u32], flags: u32) -> Result<(), Errno> {
        let mut call = ivshmem_subscribe {
            vectors: vectors.as_ptr() as u64,
            nr: vectors.len() as u32,
            flags,
        };
        self.ioctl(IVSHMEM_IOC_SUBSCRIBE, &mut call).map(drop)
    }

    pub fn subscribe(&self, vectors: &[u32]) -> Result<(), Errno> {
        self.subscription(vectors, 0)
    }

    /// None of them means all.
    pub fn unsubscribe(&self, vectors: &[u32]) -> Result<(), Errno> {
        self.subscription(vectors, IVSHMEM_UNSUBSCRIBE)
    }

    pub fn eventfd(&self, vector: u32, fd: i32, flags: u32) -> Result<(), Errno> {
        let mut call = ivshmem_eventfd {
            vector,
            fd,
            flags,
            reserved: 0,
        };
        self.ioctl(IVSHMEM_IOC_EVENTFD, &mut call).map(drop)
    }

    pub fn attach(&self, vector: u32, eventfd: impl AsFd) -> Result<(), Errno> {
        self.eventfd(vector, eventfd.as_fd().as_raw_fd(), 0)
    }

    pub fn detach(&self, vector: u32, eventfd: impl AsFd) -> Result<(), Errno> {
        self.eventfd(vector, eventfd.as_fd().as_raw_fd(), IVSHMEM_EVENTFD_DETACH)
    }

    pub fn mapping(&self, address: usize) -> Result<ivshmem_mapping, Errno> {
        let mut call = ivshmem_mapping {
            addr: address as u64,
            ..Default::default()
        };
        self.ioctl(IVSHMEM_IOC_MAPPING, &mut call).map(|_| call)
    }

    /// Maps a part of the memory, shared and for writing.
    #[track_caller]
    pub fn map(&self, offset: u64, len: usize) -> Map {
        self.map_as(offset, len, WRITE, MapFlags::SHARED)
            .expect("mmap")
    }

    pub fn map_as(
        &self,
        offset: u64,
        len: usize,
        prot: ProtFlags,
        flags: MapFlags,
    ) -> Result<Map, Errno> {
        // SAFETY: The kernel chooses an address where nothing is.
        let start = unsafe { rustix::mm::mmap(ptr::null_mut(), len, prot, flags, self, offset) }?;
        Ok(Map { start, len })
    }

    /// The same at an address.
    ///
    /// # Safety
    ///
    /// Nobody refers to what is there.
    #[track_caller]
    pub unsafe fn map_at(&self, address: usize, offset: u64, len: usize) -> Map {
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        let at = ptr::without_provenance_mut(address);
        // SAFETY: By the safety requirements.
        let start = unsafe { rustix::mm::mmap(at, len, WRITE, flags, self, offset) }.expect("mmap");
        assert_eq!(start as usize, address);
        Map { start, len }
    }

    /// What `poll()` says now, of readability or worse.
    pub fn ready(&self) -> PollFlags {
        self.ready_within(0).expect("poll")
    }

    /// What `poll()` says after this many nanoseconds at most.
    pub fn ready_within(&self, timeout: i64) -> Result<PollFlags, Errno> {
        let timeout = Timespec {
            tv_sec: timeout / 1_000_000_000,
            tv_nsec: timeout % 1_000_000_000,
        };
        let mut fds = [PollFd::new(self, PollFlags::IN | PollFlags::RDNORM)];
        poll(&mut fds, Some(&timeout))?;
        Ok(fds[0].revents())
    }

    /// Reads events into a buffer of this many.
    pub fn read(&self, room: usize) -> Result<Vec<ivshmem_event>, Errno> {
        let mut events = vec![ivshmem_event::default(); room];
        let len = size_of_val(&events[..]);
        // SAFETY: The kernel writes to no more than the whole vector, and any bytes are events.
        let read = unsafe {
            libc::read(
                self.0.as_raw_fd(),
                events.as_mut_ptr().cast::<c_void>(),
                len,
            )
        };
        let read = check(read as i32)? as usize;
        assert_eq!(read % size_of::<ivshmem_event>(), 0, "whole records");
        events.truncate(read / size_of::<ivshmem_event>());
        Ok(events)
    }
}

/// A mapping of shared memory.
pub struct Map {
    start: *mut c_void,
    len: usize,
}

// SAFETY: A mapping belongs to the process.
unsafe impl Send for Map {}
// SAFETY: It is accessed by atomic operations only.
unsafe impl Sync for Map {}

impl Map {
    pub fn address(&self) -> usize {
        self.start as usize
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn bytes(&self) -> &[AtomicU8] {
        // SAFETY: The mapping is there as long as `self`; everybody accesses it atomically.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.len) }
    }

    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: As above, and a page is aligned well enough.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.len / 8) }
    }

    pub fn protect(&self, flags: MprotectFlags) -> Result<(), Errno> {
        // SAFETY: Only tests of this refer to the mapping, and know what they may do with it.
        unsafe { rustix::mm::mprotect(self.start, self.len, flags) }
    }

    /// Moves the mapping to an address.
    ///
    /// # Safety
    ///
    /// Nobody refers to what is there.
    #[track_caller]
    pub unsafe fn move_to(self, address: usize) -> Map {
        let len = self.len;
        let old = ptr::without_provenance_mut(self.leak());
        let new = ptr::without_provenance_mut(address);
        // SAFETY: By the safety requirements; all references to the mapping have ended with it.
        let start = unsafe { rustix::mm::mremap_fixed(old, len, len, MremapFlags::MAYMOVE, new) }
            .expect("mremap");
        assert_eq!(start as usize, address);
        Map { start, len }
    }

    /// Removes the mapping of a part.
    pub fn unmap_part(&self, offset: usize, len: usize) -> Result<(), Errno> {
        assert!(offset + len <= self.len);
        let start = self.start.wrapping_byte_add(offset);
        // SAFETY: The part is of this mapping; tests know what they may touch after that.
        unsafe { rustix::mm::munmap(start, len) }
    }

    /// Leaves the mapping there.
    pub fn leak(self) -> usize {
        let address = self.address();
        std::mem::forget(self);
        address
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: All references to the mapping end with `self`.
        unsafe { rustix::mm::munmap(self.start, self.len) }.expect("munmap");
    }
}

/// The value of an attribute of the first device in sysfs; none if there is no such attribute.
pub fn attribute(name: &str) -> Option<String> {
    attribute_of("ivshmem0", name)
}

/// The same of any device.
pub fn attribute_of(device: &str, name: &str) -> Option<String> {
    match std::fs::read_to_string(format!("/sys/class/misc/{device}/{name}")) {
        Ok(text) => {
            let value = text.strip_suffix('\n').expect("a line");
            assert!(!value.contains('\n'), "one line");
            Some(value.to_owned())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => panic!("{name}: {error}"),
    }
}

/// The count of a vector in sysfs, which does not make anybody a listener.
#[track_caller]
pub fn delivered(vector: u32) -> u64 {
    let count = attribute(&format!("counts/{vector}")).expect("a count for each vector");
    count.parse().expect("a number")
}
