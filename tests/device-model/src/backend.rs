// SPDX-License-Identifier: GPL-2.0

//! What QEMU asks for, in the words of vfio-user.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::Result;
use ivshmem::{Access, Memory, OutOfRange};
use vfio_bindings::bindings::vfio::*;
use vfio_user::{DmaMapFlags, DmaUnmapFlags, IrqInfo, ServerBackend, ServerRegion, SparseArea};

use crate::config::BAR1_SIZE;
use crate::device::{Device, Ready};
use crate::{Bar0, Interrupt, Shape};

pub struct Backend {
    device: Arc<Mutex<Device>>,
    /// BAR2. QEMU maps it as well, but not always: it takes the mapping from the guest at the first
    /// INTx, and then every access comes here.
    memory: Option<Memory>,
}

/// BAR2 can be mapped by QEMU: whole pages, and not one that is only there later.
fn is_mappable(shape: &Shape) -> bool {
    shape.size >= 4096 && shape.ready == Ready::Now
}

/// All regions vfio-pci has, and no more than that: QEMU wants to hear of each.
pub fn regions(shape: &Shape, memory: Option<BorrowedFd<'_>>) -> Vec<ServerRegion> {
    (0..VFIO_PCI_NUM_REGIONS)
        .map(|index| {
            let size = match index {
                VFIO_PCI_BAR0_REGION_INDEX => match shape.bar0 {
                    Bar0::None => 0,
                    Bar0::Io => 256,
                    Bar0::Memory(size) => size,
                },
                VFIO_PCI_BAR1_REGION_INDEX if shape.has_bar1() => BAR1_SIZE,
                VFIO_PCI_BAR2_REGION_INDEX => shape.size,
                VFIO_PCI_CONFIG_REGION_INDEX => 256,
                _ => 0,
            };
            let mut region = ServerRegion {
                region_info: vfio_region_info {
                    argsz: size_of::<vfio_region_info>() as u32,
                    index,
                    size,
                    ..Default::default()
                },
                sparse_areas: Vec::new(),
                mmap_fd: None,
            };
            if size > 0 {
                region.region_info.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
            }
            if index == VFIO_PCI_BAR2_REGION_INDEX && is_mappable(shape) {
                region.region_info.flags |= VFIO_REGION_INFO_FLAG_MMAP;
                region.mmap_fd = memory.map(|memory| memory.as_raw_fd());
                // Without an area the descriptor would not be sent.
                let area = vfio_region_sparse_mmap_area { offset: 0, size };
                region.sparse_areas.push(SparseArea { area });
            }
            region
        })
        .collect()
}

pub fn interrupts(shape: &Shape) -> Vec<IrqInfo> {
    (0..VFIO_PCI_NUM_IRQS)
        .map(|index| {
            let (flags, count) = match (index, shape.interrupt) {
                (VFIO_PCI_INTX_IRQ_INDEX, Interrupt::Intx) => {
                    let maskable = VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED;
                    (VFIO_IRQ_INFO_EVENTFD | maskable, 1)
                }
                (VFIO_PCI_MSIX_IRQ_INDEX, Interrupt::Msix) => {
                    (VFIO_IRQ_INFO_EVENTFD, shape.vectors.into())
                }
                _ => (0, 0),
            };
            IrqInfo {
                index,
                flags,
                count,
            }
        })
        .collect()
}

impl Backend {
    pub fn new(
        device: Arc<Mutex<Device>>,
        shape: &Shape,
        memory: Option<BorrowedFd<'_>>,
    ) -> Result<Self> {
        let memory = memory
            .map(|memory| Memory::map(memory, 0, shape.size as usize, Access::ReadWrite))
            .transpose()?;
        Ok(Backend { device, memory })
    }

    fn device(&self) -> MutexGuard<'_, Device> {
        self.device.lock().expect("no thread panics")
    }

    /// BAR2, if it may be accessed now.
    fn memory(&self, offset: u64) -> Option<&Memory> {
        let mut device = self.device();
        if !device.is_ready() && !device.is_dead() {
            device.violation(format!("access of BAR2 at {offset:#x} before it is there"));
        }
        let there = device.is_ready() && !device.is_dead();
        self.memory.as_ref().filter(|_| there)
    }
}

/// What a processor reads or writes at once must not be torn.
fn load(memory: &Memory, offset: usize, data: &mut [u8]) -> Result<(), OutOfRange> {
    match data.len() {
        4 if offset % 4 == 0 => {
            data.copy_from_slice(&memory.atomic_u32(offset)?.load(Relaxed).to_ne_bytes());
        }
        _ => memory.read(offset, data)?,
    }
    Ok(())
}

fn store(memory: &Memory, offset: usize, data: &[u8]) -> Result<(), OutOfRange> {
    match data.try_into() {
        Ok(word) if offset % 4 == 0 => {
            memory
                .atomic_u32(offset)?
                .store(u32::from_ne_bytes(word), Relaxed);
        }
        _ => memory.write(offset, data)?,
    }
    Ok(())
}

impl ServerBackend for Backend {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        match region {
            VFIO_PCI_BAR0_REGION_INDEX => self.device().read(offset, data),
            VFIO_PCI_BAR2_REGION_INDEX => match self.memory(offset) {
                Some(memory) => load(memory, offset as usize, data)?,
                None => data.fill(0xff),
            },
            VFIO_PCI_CONFIG_REGION_INDEX => {
                let device = self.device();
                if device.is_dead() {
                    data.fill(0xff);
                } else {
                    device.config.read(offset as usize, data);
                }
            }
            // QEMU keeps the table of MSI-X; nothing is ever pending here.
            _ => data.fill(0),
        }
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        match region {
            VFIO_PCI_BAR0_REGION_INDEX => self.device().write(offset, data),
            VFIO_PCI_BAR2_REGION_INDEX => {
                if let Some(memory) = self.memory(offset) {
                    store(memory, offset as usize, data)?;
                }
            }
            VFIO_PCI_CONFIG_REGION_INDEX => self.device().write_config(offset as usize, data),
            _ => {}
        }
        Ok(())
    }

    // The device does no DMA.
    fn dma_map(
        &mut self,
        _flags: DmaMapFlags,
        _offset: u64,
        _address: u64,
        _size: u64,
        _memory: Option<File>,
    ) -> io::Result<()> {
        Ok(())
    }

    fn dma_unmap(&mut self, _flags: DmaUnmapFlags, _address: u64, _size: u64) -> io::Result<()> {
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        self.device().reset();
        Ok(())
    }

    fn set_irqs(
        &mut self,
        index: u32,
        flags: u32,
        start: u32,
        count: u32,
        files: Vec<File>,
    ) -> io::Result<()> {
        let mut device = self.device();
        let action = flags & VFIO_IRQ_SET_ACTION_TYPE_MASK;
        match (index, action) {
            (VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER) => {
                device.connect_line(files.into_iter().next());
            }
            (VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_MASK) => device.mask_line(true),
            (VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_UNMASK) => device.mask_line(false),
            (VFIO_PCI_MSIX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER) if count == 0 => {
                device.disconnect_vectors();
            }
            (VFIO_PCI_MSIX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER) => {
                // Vectors without an eventfd come without a file.
                let mut files = files.into_iter();
                for vector in start..start + count {
                    device.connect_vector(vector as usize, files.next());
                }
            }
            _ => {}
        }
        Ok(())
    }
}
