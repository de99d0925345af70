// SPDX-License-Identifier: GPL-2.0

//! The shared memory: BAR2, and how user space maps it.
//!
//! There are two ways to the same mapping, chosen when the device is bound:
//!
//! - The kernel has a memory type on record for the BAR, and the core inserts page frames with it,
//!   2 MiB at a time where address and length allow.
//! - Where the BAR lies in a range that the processor's MTRRs call uncached (firmware does that to
//!   the hole below 4 GiB), no such record can be write-back. There the page tables are filled with
//!   4 KiB write-back leaves directly. A peer and the host map the same memory write-back, and that
//!   is what it is.
//!
//! With the parameter `pages`, the memory gets struct pages instead, if it can have them: other
//! parts of the kernel can then do I/O on it, and removal waits until they have finished.
//!
//! Revocation: `gone` is set, then the readers of `faults` are waited for, then all leaves are
//! removed. A fault that comes later sees `gone`, so none can come back.

use crate::{
    abi,
    abstractions::{
        inode::MappingInode,
        memory::{
            Frames,
            MemoryType,
            Record,
            Wanted,
            PMD_SIZE, //
        },
        module,
        pages::Pages,
        pci::{
            resource,
            Region,
            Resource, //
        },
        vma::{
            Fault,
            Outcome,
            Pager, //
        }, //
    }, //
};
use kernel::{
    device,
    fmt,
    new_srcu,
    page::PAGE_SIZE,
    pci,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        new_mutex,
        Mutex,
        SetOnce,
        Srcu, //
    }, //
};

/// What the user of the module asks for: the parameter `memory`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// Write-back, whatever it takes.
    Auto,
    /// Write-combining.
    WriteCombining,
    /// Uncached.
    Uncached,
}

impl Request {
    /// Reads the parameter.
    pub(crate) fn from_parameter() -> Result<Self> {
        match module::memory().to_bytes() {
            b"auto" => Ok(Self::Auto),
            b"wc" => Ok(Self::WriteCombining),
            b"uc" => Ok(Self::Uncached),
            _ => Err(EINVAL),
        }
    }
}

/// Who chooses the memory type of a leaf.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The kernel's record.
    Recorded,
    /// The leaf itself.
    Filled,
    /// Likewise, and there are struct pages for the memory.
    Paged,
}

/// How the memory is mapped. Fixed once it is known.
#[derive(Clone, Copy)]
struct Backing {
    frames: Frames,
    way: Way,
    memory_type: MemoryType,
    page_size: usize,
}

/// What is held for the mappings, and given back when the device goes.
struct Claim {
    // These are dropped before the region that they describe.
    pages: Option<Pages>,
    _record: Option<Record>,
    _region: Region,
}

/// The shared memory of a device.
#[pin_data]
pub(crate) struct Memory {
    inode: MappingInode,
    backing: SetOnce<Backing>,
    gone: Atomic<bool>,
    #[pin]
    faults: Srcu,
    #[pin]
    claim: Mutex<Option<Claim>>,
}

impl Memory {
    /// Memory that is not there yet.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            inode: MappingInode::new(c"[ivshmem]")?,
            backing: SetOnce::new(),
            gone: Atomic::new(false),
            faults <- new_srcu!("ivshmem_faults"),
            claim <- new_mutex!(None),
        })
    }

    /// Claims BAR2 and decides how to map it.
    pub(crate) fn claim(
        &self,
        pdev: &pci::Device<device::Bound>,
        request: Request,
        with_pages: bool,
    ) -> Result {
        match resource(pdev, 2)? {
            Resource::Memory { len, .. } if len >= PAGE_SIZE as u64 => {}
            Resource::Memory { len, .. } => {
                dev_err!(pdev, "BAR2 has {} bytes, less than a page\n", len);
                return Err(ENODEV);
            }
            Resource::Ports => {
                dev_err!(pdev, "BAR2 is not memory\n");
                return Err(ENODEV);
            }
            Resource::Absent => {
                dev_err!(pdev, "no BAR2, hence no shared memory\n");
                return Err(ENODEV);
            }
        }
        let region = Region::new(pdev, 2, c"ivshmem memory")
            .inspect_err(|_| dev_err!(pdev, "cannot claim BAR2\n"))?;
        let frames = Frames::new(&region);
        let write_back = MemoryType(abi::IVSHMEM_MEMORY_WB);
        let huge = cfg!(CONFIG_ARCH_SUPPORTS_PMD_PFNMAP) && frames.size() >= PMD_SIZE as u64;
        let mut backing = Backing {
            frames,
            way: Way::Recorded,
            memory_type: write_back,
            page_size: if huge { PMD_SIZE } else { PAGE_SIZE },
        };
        let mut pages = None;
        let mut record = None;
        if with_pages {
            pages = match request {
                Request::Auto => Pages::new(pdev, &region),
                _ => Err(ENOTSUPP),
            }
            .inspect_err(|err| {
                let why = match *err {
                    EINVAL => "it is not made of whole parts of 2 MiB",
                    ERANGE => "it is out of the kernel's reach",
                    ENOTSUPP => "memory= asks for other than write-back",
                    _ => "the kernel could not make them",
                };
                dev_notice!(pdev, "the memory cannot have pages: {}\n", why);
            })
            .ok();
        }
        if pages.is_some() {
            backing.way = Way::Paged;
            self.inode.set_dax();
        } else if request != Request::Uncached {
            let wanted = match request {
                Request::WriteCombining => Wanted::WriteCombining,
                _ => Wanted::WriteBack,
            };
            let got = Record::new(&region, wanted)
                .inspect_err(|_| dev_err!(pdev, "cannot put BAR2's memory type on record\n"))?;
            backing.memory_type = got.memory_type();
            if request == Request::Auto && backing.memory_type != write_back {
                backing.way = Way::Filled;
                backing.memory_type = write_back;
                backing.page_size = PAGE_SIZE;
            } else {
                record = Some(got);
            }
        } else if cfg!(CONFIG_X86) {
            // What the core inserts without a record. No other architecture has records.
            backing.memory_type = MemoryType(abi::IVSHMEM_MEMORY_UC);
        }
        *self.claim.lock() = Some(Claim {
            pages,
            _record: record,
            _region: region,
        });
        self.backing.populate(backing);
        Ok(())
    }

    /// Its size in bytes, 0 while it is not known.
    pub(crate) fn size(&self) -> u64 {
        self.backing
            .as_ref()
            .map_or(0, |backing| backing.frames.size())
    }

    /// The memory type of its mappings.
    pub(crate) fn memory_type(&self) -> MemoryType {
        let none = MemoryType(abi::IVSHMEM_MEMORY_NONE);
        self.backing
            .as_ref()
            .map_or(none, |backing| backing.memory_type)
    }

    /// How its mappings are made: `IVSHMEM_MAPPED_BY_*`.
    pub(crate) fn mapped_by(&self) -> u32 {
        match self.backing.as_ref().map(|backing| backing.way) {
            None => abi::IVSHMEM_MAPPED_BY_NONE,
            Some(Way::Recorded) => abi::IVSHMEM_MAPPED_BY_RECORD,
            Some(Way::Filled) => abi::IVSHMEM_MAPPED_BY_ENTRY,
            Some(Way::Paged) => abi::IVSHMEM_MAPPED_BY_PAGE,
        }
    }

    /// The size of the largest leaf a mapping may use.
    pub(crate) fn page_size(&self) -> usize {
        self.backing
            .as_ref()
            .map_or(PAGE_SIZE, |backing| backing.page_size)
    }

    /// Takes the memory from all who map it, and gives BAR2 back. Does not wait for user space,
    /// except with pages; `users` then tells whoever waits which processes to look at.
    pub(crate) fn revoke(&self, users: &dyn fmt::Display) {
        self.gone.store(true, Relaxed);
        self.faults.synchronize();
        self.inode.zap();
        // Not with the lock held: waiting may take long.
        let claim = self.claim.lock().take();
        if let Some(pages) = claim.as_ref().and_then(|claim| claim.pages.as_ref()) {
            pages.wait_until_free(users);
        }
    }
}

impl Pager for Memory {
    fn inode(&self) -> &MappingInode {
        &self.inode
    }

    fn has_pages(&self) -> bool {
        self.backing
            .as_ref()
            .is_some_and(|backing| backing.way == Way::Paged)
    }

    fn fault(&self, fault: &Fault<'_>) -> Outcome {
        let _guard = self.faults.read_lock();
        let Some(backing) = self.backing.as_ref() else {
            return Outcome::SIGBUS;
        };
        if self.gone.load(Relaxed) {
            return Outcome::SIGBUS;
        }
        match backing.way {
            Way::Recorded => fault.insert(&backing.frames),
            Way::Filled => fault.fill(&backing.frames),
            Way::Paged => match self
                .claim
                .lock()
                .as_ref()
                .and_then(|claim| claim.pages.as_ref())
            {
                Some(pages) => fault.insert_pages(&backing.frames, pages),
                None => Outcome::SIGBUS,
            },
        }
    }
}
