// SPDX-License-Identifier: GPL-2.0

//! The PCI configuration space: 256 bytes, and which of their bits can be written.

use crate::{Bar0, Interrupt, Shape};

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const REVISION: usize = 0x08;
const CLASS: usize = 0x0a;
const BAR: usize = 0x10;
const SUBSYSTEM: usize = 0x2c;
const CAPABILITIES: usize = 0x34;
const LINE: usize = 0x3c;
const PIN: usize = 0x3d;
const MSIX: usize = 0x40;

const COMMAND_INTX_DISABLE: u8 = 1 << 2; // of the upper byte
const STATUS_INTERRUPT: u8 = 1 << 3;
const STATUS_CAPABILITIES: u8 = 1 << 4;

const BAR_IO: u32 = 1;
const BAR_MEMORY_64: u32 = 1 << 2;
const BAR_PREFETCHABLE: u32 = 1 << 3;

/// Bytes of BAR1, and where in it the pending bits are.
pub const BAR1_SIZE: u64 = 4096;
const PENDING_BITS: u32 = 0x800;

pub struct Config {
    bytes: [u8; 256],
    writable: [u8; 256],
}

impl Config {
    pub fn new(shape: &Shape) -> Self {
        let mut config = Config {
            bytes: [0; 256],
            writable: [0; 256],
        };
        config.put(0x00, &0x1af4u16.to_le_bytes());
        config.put(0x02, &0x1110u16.to_le_bytes());
        config.put(REVISION, &[shape.revision]);
        // Memory, RAM.
        config.put(CLASS, &[0x00, 0x05]);
        config.put(SUBSYSTEM, &shape.subsystem.vendor.to_le_bytes());
        config.put(SUBSYSTEM + 2, &shape.subsystem.device.to_le_bytes());
        // I/O, memory, bus master; INTx disable.
        config.writable[COMMAND] = 0b111;
        config.writable[COMMAND + 1] = COMMAND_INTX_DISABLE;
        config.writable[LINE] = 0xff;
        match shape.bar0 {
            Bar0::None => {}
            Bar0::Io => config.bar(0, 256, BAR_IO),
            Bar0::Memory(size) => config.bar(0, size, 0),
        }
        if shape.has_bar1() {
            config.bar(1, BAR1_SIZE, 0);
        }
        if shape.size > 0 {
            let kind = match shape.ports {
                true => BAR_IO,
                false => BAR_MEMORY_64 | BAR_PREFETCHABLE,
            };
            config.bar(2, shape.size, kind);
        }
        if shape.pin || shape.interrupt == Interrupt::Intx {
            config.bytes[PIN] = 1;
        }
        if shape.interrupt == Interrupt::Msix {
            config.bytes[STATUS] |= STATUS_CAPABILITIES;
            config.bytes[CAPABILITIES] = MSIX as u8;
            // MSI-X, no next; the table in BAR1 at 0, the pending bits behind it.
            config.put(MSIX, &[0x11, 0]);
            config.put(MSIX + 2, &(shape.vectors - 1).to_le_bytes());
            config.put(MSIX + 4, &1u32.to_le_bytes());
            config.put(MSIX + 8, &(PENDING_BITS | 1).to_le_bytes());
            // Enable and function mask.
            config.writable[MSIX + 3] = 0xc0;
        }
        config
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Of an address, the bits that name a place inside the BAR read 0: software learns the size
    /// from that.
    fn bar(&mut self, index: usize, size: u64, kind: u32) {
        let offset = BAR + 4 * index;
        self.put(offset, &kind.to_le_bytes());
        let address = (!(size - 1)).to_le_bytes();
        let length = if kind & BAR_MEMORY_64 != 0 { 8 } else { 4 };
        self.writable[offset..offset + length].copy_from_slice(&address[..length]);
    }

    pub fn read(&self, offset: usize, data: &mut [u8]) {
        for (at, byte) in data.iter_mut().enumerate() {
            *byte = self.bytes.get(offset + at).copied().unwrap_or(0);
        }
    }

    pub fn write(&mut self, offset: usize, data: &[u8]) {
        for (at, byte) in data.iter().enumerate() {
            if let Some(old) = self.bytes.get_mut(offset + at) {
                let writable = self.writable[offset + at];
                *old = *old & !writable | byte & writable;
            }
        }
    }

    pub fn command(&self) -> u16 {
        u16::from_le_bytes([self.bytes[COMMAND], self.bytes[COMMAND + 1]])
    }

    pub fn intx_disabled(&self) -> bool {
        self.bytes[COMMAND + 1] & COMMAND_INTX_DISABLE != 0
    }

    /// Shows in PCI Status whether the interrupt is pending.
    pub fn set_interrupt(&mut self, pending: bool) {
        self.bytes[STATUS] &= !STATUS_INTERRUPT;
        if pending {
            self.bytes[STATUS] |= STATUS_INTERRUPT;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Config;
    use crate::{Bar0, Interrupt, Shape};

    fn word(config: &Config, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        config.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn sized(config: &mut Config, bar: usize) -> u32 {
        config.write(0x10 + 4 * bar, &[0xff; 4]);
        word(config, 0x10 + 4 * bar)
    }

    #[test]
    fn says_what_it_is() {
        let config = Config::new(&Shape {
            revision: 0,
            subsystem: "1234:abcd".parse().unwrap(),
            ..Shape::default()
        });
        assert_eq!(word(&config, 0), 0x1110_1af4);
        assert_eq!(word(&config, 0x2c), 0xabcd_1234);
        assert_eq!(word(&config, 8), 0x0500_0000);
        assert_eq!(word(&config, 0x3c), 0x0100);
        assert_eq!(word(&config, 0x34), 0);
    }

    #[test]
    fn bars_tell_their_size() {
        let mut config = Config::new(&Shape {
            size: 1 << 20,
            ..Shape::default()
        });
        assert_eq!(sized(&mut config, 0), 0xffff_ff00);
        assert_eq!(sized(&mut config, 1), 0);
        assert_eq!(sized(&mut config, 2), 0xfff0_000c);
        assert_eq!(sized(&mut config, 3), 0xffff_ffff);
        let mut config = Config::new(&Shape {
            bar0: Bar0::Io,
            size: 0,
            ..Shape::default()
        });
        assert_eq!(sized(&mut config, 0), 0xffff_ff01);
        assert_eq!(sized(&mut config, 2), 0);
        let mut config = Config::new(&Shape {
            bar0: Bar0::None,
            ..Shape::default()
        });
        assert_eq!(sized(&mut config, 0), 0);
    }

    #[test]
    fn msix_is_a_capability() {
        let shape = Shape {
            interrupt: Interrupt::Msix,
            vectors: 8,
            ..Shape::default()
        };
        let mut config = Config::new(&shape);
        assert_eq!(word(&config, 0x34), 0x40);
        assert_eq!(word(&config, 0x40), 0x0007_0011);
        config.write(0x40, &[0xff; 4]);
        assert_eq!(word(&config, 0x40), 0xc007_0011);
        assert_eq!((word(&config, 4) >> 20) & 1, 1);
        assert_eq!(sized(&mut config, 1), 0xffff_f000);
    }
}
