// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The shared memory.

use std::{
    fs::OpenOptions,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create};

use crate::error::{Context, Error, Result};

/// The memory that a server hands to its clients.
#[derive(Debug)]
pub struct Region {
    fd: OwnedFd,
    size: u64,
}

/// Fails unless a PCI device can show this many bytes as a BAR.
fn check_size(size: u64) -> Result<()> {
    if size.is_power_of_two() && size >= 4096 {
        Ok(())
    } else {
        Err(Error::Size(size))
    }
}

impl Region {
    /// Memory without a name that goes away with its last user.
    pub fn anonymous(size: u64) -> Result<Self> {
        check_size(size)?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = memfd_create("ivshmem", flags).context("cannot make shared memory")?;
        ftruncate(&fd, size).context(format!("cannot make {size} bytes of shared memory"))?;
        // No client can make the others die of SIGBUS by cutting the file.
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .context("cannot seal the shared memory")?;
        Ok(Self { fd, size })
    }

    /// A file, such as one in `/dev/shm` or of huge pages in a hugetlbfs, made if it does not
    /// exist and left there.
    pub fn file(path: &Path, size: u64) -> Result<Self> {
        check_size(size)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .context(format!("cannot open {}", path.display()))?;
        let stat = fstat(&file).context(format!("cannot look at {}", path.display()))?;
        match u64::try_from(stat.st_size).unwrap_or_default() {
            0 => file
                .set_len(size)
                .context(format!("cannot make {} {size} bytes long", path.display()))?,
            is if is != size => {
                return Err(Error::FileSize {
                    path: path.into(),
                    is,
                    wanted: size,
                });
            }
            _ => {}
        }
        Ok(Self {
            fd: file.into(),
            size,
        })
    }

    /// Its bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl AsFd for Region {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
