// SPDX-License-Identifier: GPL-2.0

//! An ivshmem device outside of QEMU: of either revision, with INTx, MSI-X or no interrupts, as a
//! hypervisor made it that QEMU never was, and with the faults a driver must survive.
//!
//! QEMU 11.1 plugs it into a guest:
//!
//!     -device '{"driver":"vfio-user-pci","socket":{"type":"unix","path":"PATH"}}'
//!
//! (Under KVM add `"x-no-kvm-intx":true`: the device is not told of the end of an interrupt that
//! KVM handles by itself.) Each connection finds the device as if it had just been switched on.
//!
//! Commands come on standard input, one a line; each is answered by `ok [DATA]` or `err TEXT` on
//! standard output:
//!
//! - `ready [ID]`, `unready`: the device has its ID and its memory; it has them no more.
//! - `interrupt [VECTOR [COUNT]]`: a peer rings, so often before the device looks.
//! - `status VALUE`: Interrupt Status becomes this.
//! - `spurious N`: INTx is asserted, and not by Status, until that was read N times.
//! - `storm N`: Status is 1, and 1 again each time it was read, N times.
//! - `die`, `live`: all reads are all ones and no write has an effect, as if it were unplugged.
//! - `rings`: which doorbells were rung since the last such command, as `PEER:VECTOR`.
//! - `violations`: what the driver did since then that the specification forbids.
//! - `state`: the registers and what else there is to know.

mod backend;
mod config;
mod device;
mod peers;

use std::io::{self, BufRead, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vfio_user::Server;

use crate::backend::Backend;
use crate::device::{Device, Peers, Ready};
use crate::peers::Membership;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Interrupt {
    None,
    Intx,
    Msix,
}

/// What BAR0 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bar0 {
    None,
    Io,
    Memory(u64),
}

/// Whose device it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Subsystem {
    vendor: u16,
    device: u16,
}

impl FromStr for Subsystem {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (vendor, device) = text.split_once(':').ok_or("not VENDOR:DEVICE")?;
        let number = |text| u16::from_str_radix(text, 16).map_err(|error| error.to_string());
        Ok(Subsystem {
            vendor: number(vendor)?,
            device: number(device)?,
        })
    }
}

/// What kind of device this is.
#[derive(Clone, Copy, Debug)]
struct Shape {
    revision: u8,
    subsystem: Subsystem,
    interrupt: Interrupt,
    vectors: u16,
    pin: bool,
    bar0: Bar0,
    bar1: bool,
    size: u64,
    ports: bool,
    ready: Ready,
    counter_status: bool,
}

impl Shape {
    fn has_bar1(&self) -> bool {
        self.bar1 || self.interrupt == Interrupt::Msix
    }
}

#[cfg(test)]
impl Default for Shape {
    fn default() -> Self {
        Shape {
            revision: 0,
            subsystem: Subsystem {
                vendor: 0x1af4,
                device: 0x1100,
            },
            interrupt: Interrupt::Intx,
            vectors: 1,
            pin: false,
            bar0: Bar0::Memory(256),
            bar1: false,
            size: 1 << 20,
            ports: false,
            ready: Ready::Now,
            counter_status: false,
        }
    }
}

#[derive(Parser)]
struct Options {
    /// Where QEMU connects to
    #[arg(long)]
    socket: PathBuf,
    /// The PCI revision
    #[arg(long, default_value_t = 0)]
    revision: u8,
    /// The IDs of vendor and device of its subsystem
    #[arg(long, default_value = "1af4:1100")]
    subsystem: Subsystem,
    #[arg(long, value_enum, default_value = "intx")]
    interrupt: Interrupt,
    /// Vectors of MSI-X, and those a server is asked for
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=128))]
    vectors: u16,
    /// Claim to have an interrupt line, whatever is true
    #[arg(long)]
    pin: bool,
    /// BAR0: its size, "io" or "none"
    #[arg(long, default_value = "256", value_parser = bar0)]
    bar0: Bar0,
    /// Have a BAR1 even without MSI-X
    #[arg(long)]
    bar1: bool,
    /// Bytes of BAR2; 0 for none
    #[arg(long, default_value = "1M", value_parser = ivshmem::parse_size)]
    size: u64,
    /// Have I/O ports in BAR2, at most 256 bytes of them
    #[arg(long)]
    ports: bool,
    /// The ID among the peers; with a server that gives it
    #[arg(long, default_value_t = 0)]
    position: u16,
    /// Be ready only after so many reads of IVPosition
    #[arg(long, conflicts_with = "not_ready")]
    ready_after: Option<u32>,
    /// Be ready only when told so
    #[arg(long)]
    not_ready: bool,
    /// Set Status to the number of rings, as QEMU did before 2.5
    #[arg(long)]
    counter_status: bool,
    /// Join the ivshmem server of this socket; its memory is BAR2
    #[arg(long)]
    server: Option<PathBuf>,
}

fn bar0(text: &str) -> Result<Bar0, String> {
    Ok(match text {
        "none" => Bar0::None,
        "io" => Bar0::Io,
        size => Bar0::Memory(ivshmem::parse_size(size).map_err(|error| error.to_string())?),
    })
}

fn anonymous(size: u64) -> Result<OwnedFd> {
    let memory = memfd_create("bar2", MemfdFlags::CLOEXEC)?;
    ftruncate(&memory, size)?;
    Ok(memory)
}

fn main() -> Result<()> {
    let options = Options::parse();
    let membership = match &options.server {
        Some(server) => Some(Membership::join(server, options.vectors)?),
        None => None,
    };
    let (memory, size) = match &membership {
        Some(membership) => {
            let (memory, size) = membership.memory()?;
            (Some(memory), size)
        }
        None if options.size > 0 => (Some(anonymous(options.size)?), options.size),
        None => (None, 0),
    };
    let shape = Shape {
        revision: options.revision,
        subsystem: options.subsystem,
        interrupt: options.interrupt,
        vectors: options.vectors,
        pin: options.pin,
        bar0: options.bar0,
        bar1: options.bar1,
        size,
        ports: options.ports,
        ready: match options.ready_after {
            _ if options.not_ready => Ready::WhenTold,
            Some(reads) => Ready::AfterReads(reads),
            None => Ready::Now,
        },
        counter_status: options.counter_status,
    };
    // QEMU would abort.
    let is_bar = |size: u64| size.is_power_of_two();
    ensure!(size == 0 || is_bar(size), "BAR2 must be a power of two");
    if let Bar0::Memory(size) = shape.bar0 {
        ensure!(is_bar(size), "BAR0 must be a power of two");
    }

    let position = membership
        .as_ref()
        .map_or(options.position, Membership::position);
    let peers = membership
        .clone()
        .map(|membership| Box::new(membership) as Box<dyn Peers>);
    let device = Arc::new(Mutex::new(Device::new(shape, position, peers)));
    if let Some(membership) = membership {
        let device = device.clone();
        thread::spawn(move || {
            if let Err(error) = membership.follow(&device) {
                eprintln!("device-model: {error:#}");
            }
        });
    }

    let memory = memory.as_ref().map(AsFd::as_fd);
    let server = Server::new(
        &options.socket,
        true,
        backend::interrupts(&shape),
        backend::regions(&shape, memory),
    )?;
    let mut backend = Backend::new(device.clone(), &shape, memory)?;
    println!("ok listening");
    thread::scope(|scope| {
        scope.spawn(|| {
            for line in io::stdin().lock().lines().map_while(Result::ok) {
                let answer = device.lock().expect("no thread panics").command(&line);
                match answer {
                    Ok(data) => println!("ok {data}"),
                    Err(error) => println!("err {error}"),
                }
                // Whoever asked does not wait for a buffer to fill.
                let _ = io::stdout().flush();
            }
            // Nobody is there any more to command it.
            std::process::exit(0);
        });
        loop {
            device.lock().expect("no thread panics").power_on();
            if let Err(error) = server.run(&mut backend) {
                eprintln!("device-model: {error}");
            }
        }
    })
}
