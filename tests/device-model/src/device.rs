// SPDX-License-Identifier: GPL-2.0

//! The device: its registers, its interrupts and its faults.

use std::fs::File;
use std::io::Write;

use crate::config::Config;
use crate::{Interrupt, Shape};

const MASK: u64 = 0x0;
const STATUS: u64 = 0x4;
const IV_POSITION: u64 = 0x8;
const DOORBELL: u64 = 0xc;

/// As many complaints as a person reads.
const MAX_VIOLATIONS: usize = 20;

/// When a device that was just switched on, or reset, is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    Now,
    /// After this many reads of IVPosition.
    AfterReads(u32),
    /// When it is told so.
    WhenTold,
}

/// One ring of the doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    pub peer: u16,
    pub vector: u16,
}

/// How this device reaches its peers.
pub trait Peers: Send {
    fn ring(&mut self, ring: Ring);
}

pub struct Device {
    shape: Shape,
    pub config: Config,
    peers: Option<Box<dyn Peers>>,
    position: u16,
    ready: Ready,
    mask: u32,
    status: u32,
    /// QEMU's way to INTx: an eventfd, and whether it has not yet seen the last signal through.
    line: Option<File>,
    line_masked: bool,
    vectors: Vec<Option<File>>,
    /// The faults.
    dead: bool,
    spurious: u32,
    storm: u32,
    /// What was seen of the driver.
    rings: Vec<Ring>,
    violations: Vec<String>,
    resets: u32,
    status_reads: u32,
    last_status: u32,
    dead_reads: u32,
}

impl Device {
    pub fn new(shape: Shape, position: u16, peers: Option<Box<dyn Peers>>) -> Self {
        Device {
            config: Config::new(&shape),
            peers,
            position,
            ready: shape.ready,
            mask: 0,
            status: 0,
            line: None,
            line_masked: false,
            vectors: (0..shape.vectors).map(|_| None).collect(),
            dead: false,
            spurious: 0,
            storm: 0,
            rings: Vec::new(),
            violations: Vec::new(),
            resets: 0,
            status_reads: 0,
            last_status: 0,
            dead_reads: 0,
            shape,
        }
    }

    /// QEMU has connected: the device is plugged in.
    pub fn power_on(&mut self) {
        self.config = Config::new(&self.shape);
        self.line = None;
        self.line_masked = false;
        self.vectors.fill_with(|| None);
        self.registers_reset();
    }

    /// A reset by software. QEMU looks after configuration space and interrupts.
    pub fn reset(&mut self) {
        self.resets += 1;
        self.registers_reset();
    }

    fn registers_reset(&mut self) {
        self.mask = 0;
        self.status = 0;
        self.ready = self.shape.ready;
        self.assert();
    }

    pub fn is_ready(&self) -> bool {
        self.ready == Ready::Now
    }

    pub fn is_dead(&self) -> bool {
        self.dead
    }

    pub fn violation(&mut self, what: String) {
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(what);
        }
    }

    /// A read of BAR0.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if self.dead {
            data.fill(0xff);
            self.dead_reads += 1;
            if offset == STATUS {
                self.spurious = self.spurious.saturating_sub(1);
                self.assert();
            }
            return;
        }
        if data.len() != 4 || offset % 4 != 0 {
            self.violation(format!("read of {} bytes at {offset:#x}", data.len()));
        }
        let value = match offset {
            MASK => self.mask,
            STATUS => self.read_status(),
            IV_POSITION => self.read_position(),
            _ => {
                self.violation(format!("read at {offset:#x}"));
                0
            }
        };
        let length = data.len().min(4);
        data[..length].copy_from_slice(&value.to_le_bytes()[..length]);
    }

    /// A write of BAR0.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if self.dead {
            return;
        }
        let Ok(bytes) = data.try_into() else {
            self.violation(format!("write of {} bytes at {offset:#x}", data.len()));
            return;
        };
        let value = u32::from_le_bytes(bytes);
        match offset {
            MASK => self.mask = value,
            STATUS => self.status = value,
            DOORBELL => self.ring(Ring {
                peer: (value >> 16) as u16,
                vector: value as u16,
            }),
            _ => self.violation(format!("write at {offset:#x}")),
        }
        self.assert();
    }

    fn read_status(&mut self) -> u32 {
        self.status_reads += 1;
        let status = std::mem::take(&mut self.status);
        self.last_status = status;
        self.spurious = self.spurious.saturating_sub(1);
        if self.storm > 0 {
            self.storm -= 1;
            self.status = 1;
        }
        self.assert();
        status
    }

    fn read_position(&mut self) -> u32 {
        match &mut self.ready {
            Ready::Now => self.position.into(),
            Ready::AfterReads(0) => {
                self.ready = Ready::Now;
                self.position.into()
            }
            Ready::AfterReads(reads) => {
                *reads -= 1;
                u32::MAX
            }
            Ready::WhenTold => u32::MAX,
        }
    }

    fn ring(&mut self, ring: Ring) {
        self.rings.push(ring);
        if !self.is_ready() {
            self.violation(format!("ring of {} before the device is ready", ring.peer));
        }
        match &mut self.peers {
            Some(peers) => peers.ring(ring),
            None if ring.peer == self.position => self.interrupt(ring.vector.into(), 1),
            None => {}
        }
    }

    /// A peer has interrupted this device, `count` times since it was looked last.
    pub fn interrupt(&mut self, vector: usize, count: u64) {
        match self.shape.interrupt {
            Interrupt::None => {}
            Interrupt::Msix => signal(self.vectors.get(vector).and_then(Option::as_ref)),
            Interrupt::Intx => {
                // What old QEMU did, to the confusion of drivers that look at bit 0.
                self.status = if self.shape.counter_status {
                    (count & 0xff) as u32
                } else {
                    1
                };
                self.assert();
            }
        }
    }

    /// Makes INTx be what the registers say it is.
    fn assert(&mut self) {
        let asserted = self.shape.interrupt == Interrupt::Intx
            && (self.status & self.mask != 0 || self.spurious > 0);
        self.config.set_interrupt(asserted);
        if asserted && !self.line_masked && !self.config.intx_disabled() && self.line.is_some() {
            self.line_masked = true;
            signal(self.line.as_ref());
        }
    }

    pub fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
        self.assert();
    }

    /// QEMU connects INTx to the guest's interrupt controller, or takes it from there.
    pub fn connect_line(&mut self, line: Option<File>) {
        self.line = line;
        self.line_masked = false;
        self.assert();
    }

    /// The level of INTx is an edge to QEMU: it masks the line itself with each, and unmasks it
    /// when it believes that the guest has handled it.
    pub fn mask_line(&mut self, masked: bool) {
        self.line_masked = masked;
        self.assert();
    }

    pub fn connect_vector(&mut self, vector: usize, eventfd: Option<File>) {
        if let Some(place) = self.vectors.get_mut(vector) {
            *place = eventfd;
        }
    }

    pub fn disconnect_vectors(&mut self) {
        self.vectors.fill_with(|| None);
    }

    /// One command of the control line; the answer to it.
    pub fn command(&mut self, line: &str) -> Result<String, String> {
        let mut words = line.split_whitespace();
        let verb = words.next().unwrap_or_default();
        let mut number = |default: Option<u32>| match words.next() {
            None => default.ok_or(format!("{verb} needs a number")),
            Some(word) => word.parse().map_err(|_| format!("not a number: {word}")),
        };
        match verb {
            "ready" => {
                self.position = number(Some(self.position.into()))?
                    .try_into()
                    .map_err(|_| "not an ID".to_owned())?;
                self.ready = Ready::Now;
            }
            "unready" => self.ready = Ready::WhenTold,
            "interrupt" => {
                let vector = number(Some(0))? as usize;
                self.interrupt(vector, number(Some(1))?.into());
            }
            "status" => self.status = number(None)?,
            "spurious" => self.spurious = number(None)?,
            "storm" => {
                self.storm = number(None)?;
                self.status = 1;
            }
            "die" => self.dead = true,
            "live" => self.dead = false,
            "rings" => {
                let rings = std::mem::take(&mut self.rings);
                let texts: Vec<_> = rings
                    .iter()
                    .map(|ring| format!("{}:{}", ring.peer, ring.vector))
                    .collect();
                return Ok(texts.join(" "));
            }
            "violations" => return Ok(std::mem::take(&mut self.violations).join("; ")),
            "state" => {
                return Ok(format!(
                    "command={} mask={} status={} pending={} line={} resets={} status_reads={} \
                     last_status={} dead_reads={}",
                    self.config.command(),
                    self.mask,
                    self.status,
                    self.storm + self.spurious,
                    u8::from(self.line.is_some()),
                    self.resets,
                    self.status_reads,
                    self.last_status,
                    self.dead_reads,
                ));
            }
            _ => return Err(format!("no such command: {verb}")),
        }
        self.assert();
        Ok(String::new())
    }
}

/// An eventfd that is full has been signalled as well.
fn signal(eventfd: Option<&File>) {
    if let Some(mut eventfd) = eventfd {
        let _ = eventfd.write(&1u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use rustix::event::{EventfdFlags, eventfd};

    use super::{Device, Ready};
    use crate::{Interrupt, Shape};

    fn device(shape: Shape) -> Device {
        Device::new(shape, 7, None)
    }

    fn read(device: &mut Device, offset: u64) -> u32 {
        let mut data = [0; 4];
        device.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(device: &mut Device, offset: u64, value: u32) {
        device.write(offset, &value.to_le_bytes());
    }

    /// An eventfd that is given away, and this end of it.
    fn wire() -> (File, File) {
        let ours = File::from(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
        (ours.try_clone().unwrap(), ours)
    }

    fn signals(mut wire: &File) -> u64 {
        let mut count = [0; 8];
        wire.read_exact(&mut count)
            .map_or(0, |()| u64::from_ne_bytes(count))
    }

    #[test]
    fn the_line_is_a_level() {
        let mut device = device(Shape::default());
        let (theirs, ours) = wire();
        device.connect_line(Some(theirs));
        device.interrupt(0, 1);
        assert_eq!(signals(&ours), 0, "masked by the register");
        write(&mut device, 0, u32::MAX);
        assert_eq!(signals(&ours), 1);
        device.interrupt(0, 1);
        assert_eq!(signals(&ours), 0, "masked by the automatism");
        device.mask_line(false);
        assert_eq!(signals(&ours), 1, "still asserted");
        assert_eq!(read(&mut device, 4), 1);
        assert_eq!(read(&mut device, 4), 0);
        device.mask_line(false);
        assert_eq!(signals(&ours), 0);
    }

    #[test]
    fn the_line_can_be_disabled() {
        let mut device = device(Shape::default());
        let (theirs, ours) = wire();
        device.connect_line(Some(theirs));
        write(&mut device, 0, 1);
        device.write_config(4, &[7, 4]);
        device.interrupt(0, 1);
        assert_eq!(signals(&ours), 0);
        device.write_config(4, &[7, 0]);
        assert_eq!(signals(&ours), 1);
    }

    #[test]
    fn faults_end_when_they_were_counted() {
        let mut device = device(Shape::default());
        let (theirs, ours) = wire();
        device.connect_line(Some(theirs));
        device.command("spurious 2").unwrap();
        for _ in 0..2 {
            assert_eq!(signals(&ours), 1);
            assert_eq!(read(&mut device, 4), 0);
            device.mask_line(false);
        }
        assert_eq!(signals(&ours), 0);
        write(&mut device, 0, 1);
        device.command("storm 2").unwrap();
        for _ in 0..3 {
            assert_eq!(signals(&ours), 1);
            assert_eq!(read(&mut device, 4), 1);
            device.mask_line(false);
        }
        assert_eq!(signals(&ours), 0);
    }

    #[test]
    fn it_gets_ready() {
        let mut slow = device(Shape {
            ready: Ready::AfterReads(2),
            ..Shape::default()
        });
        let reads: Vec<_> = (0..3).map(|_| read(&mut slow, 8)).collect();
        assert_eq!(reads, [u32::MAX, u32::MAX, 7]);
        let mut told = device(Shape {
            ready: Ready::WhenTold,
            ..Shape::default()
        });
        assert_eq!(read(&mut told, 8), u32::MAX);
        told.command("ready 9").unwrap();
        assert_eq!(read(&mut told, 8), 9);
        told.reset();
        assert_eq!(read(&mut told, 8), u32::MAX);
    }

    #[test]
    fn msix_has_vectors() {
        let shape = Shape {
            interrupt: Interrupt::Msix,
            vectors: 2,
            ..Shape::default()
        };
        let mut device = device(shape);
        let (theirs, ours) = wire();
        device.connect_vector(1, Some(theirs));
        write(&mut device, 0xc, (7 << 16) | 1);
        write(&mut device, 0xc, 7 << 16);
        write(&mut device, 0xc, (8 << 16) | 1);
        assert_eq!(signals(&ours), 1);
        assert_eq!(device.command("rings").unwrap(), "7:1 7:0 8:1");
        assert_eq!(device.command("rings").unwrap(), "");
    }

    #[test]
    fn old_status_is_the_counter() {
        let mut device = device(Shape {
            counter_status: true,
            ..Shape::default()
        });
        device.interrupt(0, 0x102);
        assert_eq!(read(&mut device, 4), 2);
        device.command("interrupt 0 3").unwrap();
        assert_eq!(read(&mut device, 4), 3);
    }

    #[test]
    fn bad_manners_are_noticed() {
        let mut device = device(Shape::default());
        device.read(4, &mut [0; 2]);
        device.read(0x20, &mut [0; 4]);
        device.write(0, &[0; 8]);
        let violations = device.command("violations").unwrap();
        assert_eq!(violations.split("; ").count(), 3, "{violations}");
    }

    #[test]
    fn the_dead_read_all_ones() {
        let mut device = device(Shape::default());
        device.command("die").unwrap();
        assert_eq!(read(&mut device, 8), u32::MAX);
        device.command("spurious 1").unwrap();
        assert_eq!(read(&mut device, 4), u32::MAX);
        let state = device.command("state").unwrap();
        assert!(
            state.contains("pending=0") && state.contains("dead_reads=2"),
            "{state}"
        );
        device.command("live").unwrap();
        assert_eq!(read(&mut device, 8), 7);
    }
}
