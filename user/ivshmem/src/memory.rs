// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Memory that others change while we look.
//!
//! No reference to plain bytes of it exists anywhere: other machines write to it at any time, so
//! every access is atomic, byte by byte at least.

use std::{
    ffi::c_void,
    io,
    os::fd::AsFd,
    ptr::{self, NonNull},
    sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// What a mapping may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only to look.
    Read,
    /// To look and to change.
    ReadWrite,
}

/// An access that leaves the mapped memory, is not aligned, or would write where only reading is
/// allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes at {offset:#x} of a mapping of {size:#x} bytes: {why}")]
pub struct OutOfRange {
    offset: usize,
    len: usize,
    size: usize,
    why: &'static str,
}

impl From<OutOfRange> for io::Error {
    fn from(error: OutOfRange) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}

/// A shared mapping, unmapped on drop.
///
/// When the device it belongs to is removed, touching it raises `SIGBUS`.
#[derive(Debug)]
pub struct Memory {
    start: NonNull<c_void>,
    len: usize,
    access: Access,
}

// SAFETY: The mapping belongs to the process, not to a thread.
unsafe impl Send for Memory {}
// SAFETY: All accesses by a shared reference are atomic.
unsafe impl Sync for Memory {}

impl Memory {
    /// Maps `len` bytes of `fd` from `offset` on, which must be a multiple of the page size.
    pub fn map(fd: impl AsFd, offset: u64, len: usize, access: Access) -> io::Result<Self> {
        let prot = match access {
            Access::Read => ProtFlags::READ,
            Access::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        };
        // SAFETY: The kernel picks the address, so no memory in use is replaced.
        let start = unsafe {
            mmap(
                ptr::null_mut(),
                len,
                prot,
                MapFlags::SHARED,
                fd.as_fd(),
                offset,
            )
        }?;
        let start = NonNull::new(start).expect("mmap does not return address 0");
        Ok(Self { start, len, access })
    }

    /// Bytes mapped.
    #[expect(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// What the mapping may be used for.
    pub fn access(&self) -> Access {
        self.access
    }

    /// Its first byte, for what this type does not offer. The memory is shared with others that
    /// write to it: never make a plain reference to it.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr().cast()
    }

    fn check(&self, offset: usize, len: usize, align: usize) -> Result<(), OutOfRange> {
        let why = if offset.checked_add(len).is_none_or(|end| end > self.len) {
            "beyond its end"
        } else if offset % align != 0 {
            "not aligned"
        } else {
            return Ok(());
        };
        Err(OutOfRange {
            offset,
            len,
            size: self.len,
            why,
        })
    }

    /// `count` values of `T`, one of the atomic integers, at `offset`.
    ///
    /// # Safety
    ///
    /// `T` is valid for any content and allows changes by others. In a read-only mapping the
    /// caller only loads.
    unsafe fn view<T>(&self, offset: usize, count: usize) -> Result<&[T], OutOfRange> {
        let bytes = count.saturating_mul(size_of::<T>());
        self.check(offset, bytes, align_of::<T>())?;
        let first = self.as_ptr().wrapping_add(offset).cast::<T>();
        // SAFETY: The range was checked to lie in the mapping and to be aligned (the mapping
        // starts at a page), it lives as long as `self`, and `T` allows any content.
        Ok(unsafe { std::slice::from_raw_parts(first, count) })
    }

    fn writable(&self, offset: usize, len: usize) -> Result<(), OutOfRange> {
        match self.access {
            Access::ReadWrite => Ok(()),
            Access::Read => Err(OutOfRange {
                offset,
                len,
                size: self.len,
                why: "it is mapped read-only",
            }),
        }
    }

    /// `count` bytes at `offset`, to load and store. The mapping must be writable.
    pub fn atomic_u8s(&self, offset: usize, count: usize) -> Result<&[AtomicU8], OutOfRange> {
        self.writable(offset, count)?;
        // SAFETY: An atomic integer has no invalid content; the mapping is writable.
        unsafe { self.view(offset, count) }
    }

    /// `count` 32-bit words at `offset`, a multiple of 4. The mapping must be writable.
    pub fn atomic_u32s(&self, offset: usize, count: usize) -> Result<&[AtomicU32], OutOfRange> {
        self.writable(offset, count.saturating_mul(4))?;
        // SAFETY: An atomic integer has no invalid content; the mapping is writable.
        unsafe { self.view(offset, count) }
    }

    /// `count` 64-bit words at `offset`, a multiple of 8. The mapping must be writable.
    pub fn atomic_u64s(&self, offset: usize, count: usize) -> Result<&[AtomicU64], OutOfRange> {
        self.writable(offset, count.saturating_mul(8))?;
        // SAFETY: An atomic integer has no invalid content; the mapping is writable.
        unsafe { self.view(offset, count) }
    }

    /// The 32-bit word at `offset`, a multiple of 4. The mapping must be writable.
    pub fn atomic_u32(&self, offset: usize) -> Result<&AtomicU32, OutOfRange> {
        self.atomic_u32s(offset, 1).map(|words| &words[0])
    }

    /// The 64-bit word at `offset`, a multiple of 8. The mapping must be writable.
    pub fn atomic_u64(&self, offset: usize) -> Result<&AtomicU64, OutOfRange> {
        self.atomic_u64s(offset, 1).map(|words| &words[0])
    }

    /// Copies from `offset` into `to`. Each aligned group of 8 bytes is read at once, and nothing
    /// is said about the order among them.
    pub fn read(&self, offset: usize, to: &mut [u8]) -> Result<(), OutOfRange> {
        self.check(offset, to.len(), 1)?;
        let head = (offset.wrapping_neg() % 8).min(to.len());
        let (to_head, rest) = to.split_at_mut(head);
        let words = rest.len() / 8;
        let (to_words, to_tail) = rest.split_at_mut(words * 8);
        for (offset, bytes) in [(offset, to_head), (offset + head + words * 8, to_tail)] {
            // SAFETY: An atomic integer has no invalid content, and it is only loaded.
            let from = unsafe { self.view::<AtomicU8>(offset, bytes.len()) }?;
            for (to, from) in bytes.iter_mut().zip(from) {
                *to = from.load(Relaxed);
            }
        }
        if words > 0 {
            // SAFETY: An atomic integer has no invalid content, and it is only loaded.
            let from = unsafe { self.view::<AtomicU64>(offset + head, words) }?;
            for (to, from) in to_words.chunks_exact_mut(8).zip(from) {
                to.copy_from_slice(&from.load(Relaxed).to_ne_bytes());
            }
        }
        Ok(())
    }

    /// Copies `from` to `offset`, in the way of [`Memory::read`].
    pub fn write(&self, offset: usize, from: &[u8]) -> Result<(), OutOfRange> {
        self.check(offset, from.len(), 1)?;
        let head = (offset.wrapping_neg() % 8).min(from.len());
        let (from_head, rest) = from.split_at(head);
        let words = rest.len() / 8;
        let (from_words, from_tail) = rest.split_at(words * 8);
        for (offset, bytes) in [(offset, from_head), (offset + head + words * 8, from_tail)] {
            for (to, from) in self.atomic_u8s(offset, bytes.len())?.iter().zip(bytes) {
                to.store(*from, Relaxed);
            }
        }
        if words > 0 {
            let to = self.atomic_u64s(offset + head, words)?;
            for (to, from) in to.iter().zip(from_words.chunks_exact(8)) {
                let word = from.try_into().expect("chunks of 8 bytes");
                to.store(u64::from_ne_bytes(word), Relaxed);
            }
        }
        Ok(())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: The mapping is ours, and all that was lent from it borrowed `self`.
        let unmapped = unsafe { munmap(self.start.as_ptr(), self.len) };
        unmapped.expect("unmapping a whole mapping of our own cannot fail");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    fn two(len: usize) -> (Memory, Memory) {
        let fd = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, len as u64).unwrap();
        let writer = Memory::map(&fd, 0, len, Access::ReadWrite).unwrap();
        let reader = Memory::map(&fd, 0, len, Access::Read).unwrap();
        (writer, reader)
    }

    #[test]
    fn copies_any_alignment_and_length() {
        let (writer, reader) = two(4096);
        let pattern: Vec<u8> = (0..64).map(|i| i * 3 + 1).collect();
        for offset in 0..24 {
            for len in 0..40 {
                writer.write(0, &[0; 128]).unwrap();
                writer.write(offset, &pattern[..len]).unwrap();
                let mut all = [0xff; 128];
                reader.read(0, &mut all).unwrap();
                assert_eq!(&all[offset..offset + len], &pattern[..len]);
                assert!(
                    all[..offset]
                        .iter()
                        .chain(&all[offset + len..])
                        .all(|byte| *byte == 0)
                );
                let mut part = vec![0; len];
                reader.read(offset, &mut part).unwrap();
                assert_eq!(part, &pattern[..len]);
            }
        }
    }

    #[test]
    fn refuses_what_is_not_inside() {
        let (writer, reader) = two(4096);
        assert!(writer.write(4095, &[1]).is_ok());
        assert!(writer.write(4095, &[1, 2]).is_err());
        assert!(writer.write(usize::MAX, &[1]).is_err());
        assert!(reader.read(4096, &mut []).is_ok());
        assert!(reader.read(4097, &mut []).is_err());
        assert!(writer.atomic_u64(4088).is_ok());
        assert!(writer.atomic_u64(4092).is_err());
        assert!(writer.atomic_u32(2).is_err());
        assert!(writer.atomic_u64s(0, usize::MAX).is_err());
        assert!(reader.write(0, &[1]).is_err());
        assert!(reader.atomic_u32(0).is_err());
    }
}
