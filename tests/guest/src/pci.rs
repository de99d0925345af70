// SPDX-License-Identifier: GPL-2.0

//! The module, the PCI devices it drives, and the kernel's log.

use std::env;
use std::ffi::{CString, c_void};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::ptr::{self, NonNull};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::system::{delete_module, finit_module};

const DRIVER: &str = "/sys/bus/pci/drivers/ivshmem";

/// Loads the module with these parameters.
pub fn load(parameters: &str) -> Result<(), Errno> {
    let module = File::open("/ivshmem.ko").expect("/ivshmem.ko");
    finit_module(&module, &CString::new(parameters).expect("no NUL"), 0)
}

/// `MODULE_INIT_COMPRESSED_FILE`
const COMPRESSED: i32 = 4;

/// Loads a module of Debian's kernel that the scenario has in `modules`; `false` if it is not there.
#[track_caller]
pub fn load_of_debian(name: &str) -> bool {
    let Ok(module) = File::open(format!("/{name}.ko.xz")) else {
        return false;
    };
    finit_module(&module, c"", COMPRESSED).expect(name);
    true
}

/// Loads the module as the scenario has it.
#[track_caller]
pub fn load_again() {
    load(&env::var("IVSHMEM_MODULE_ARGS").expect("the parameters")).expect("the module loads");
}

pub fn unload() -> Result<(), Errno> {
    delete_module(c"ivshmem", libc::O_NONBLOCK)
}

/// A PCI device.
#[derive(Clone, Debug)]
pub struct Pci {
    /// Its address.
    pub name: String,
}

/// All ivshmem devices, by their addresses.
pub fn devices() -> Vec<Pci> {
    let mut devices: Vec<Pci> = fs::read_dir("/sys/bus/pci/devices")
        .expect("sysfs")
        .map(|entry| Pci {
            name: entry
                .expect("sysfs")
                .file_name()
                .into_string()
                .expect("ASCII"),
        })
        .filter(|pci| pci.attribute("vendor") == "0x1af4" && pci.attribute("device") == "0x1110")
        .collect();
    devices.sort_by(|one, other| one.name.cmp(&other.name));
    devices
}

impl Pci {
    /// The device of a node.
    pub fn of(node: &str) -> Pci {
        let target = fs::read_link(format!("/sys/class/misc/{node}/device")).expect("a PCI device");
        let name = target.file_name().expect("a name").to_str().expect("ASCII");
        Pci {
            name: name.to_owned(),
        }
    }

    pub fn path(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/sys/bus/pci/devices/{}/{file}", self.name))
    }

    #[track_caller]
    pub fn attribute(&self, name: &str) -> String {
        fs::read_to_string(self.path(name))
            .expect(name)
            .trim()
            .to_owned()
    }

    /// The size of a BAR, 0 if there is none.
    pub fn bar_size(&self, bar: usize) -> u64 {
        let resources = self.attribute("resource");
        let line = resources.lines().nth(bar).expect("a line for each BAR");
        let [start, end, _] = [0, 1, 2].map(|field| {
            let text = line.split(' ').nth(field).expect("three fields");
            u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("a number")
        });
        if end == 0 { 0 } else { end - start + 1 }
    }

    pub fn bar_address(&self, bar: usize) -> u64 {
        let resources = self.attribute("resource");
        let line = resources.lines().nth(bar).expect("a line for each BAR");
        let text = line.split(' ').next().expect("a field");
        u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("a number")
    }

    /// A 16-bit register of its configuration space.
    pub fn config(&self, offset: usize) -> u16 {
        let config = fs::read(self.path("config")).expect("config");
        u16::from_le_bytes([config[offset], config[offset + 1]])
    }

    /// The name of its device node, if the driver is bound.
    pub fn node(&self) -> Option<String> {
        let mut entries = fs::read_dir(self.path("misc")).ok()?;
        let entry = entries.next()?.expect("sysfs");
        Some(entry.file_name().into_string().expect("ASCII"))
    }

    #[track_caller]
    pub fn unbind(&self) {
        fs::write(format!("{DRIVER}/unbind"), &self.name).expect("unbind");
    }

    #[track_caller]
    pub fn bind(&self) {
        fs::write(format!("{DRIVER}/bind"), &self.name).expect("bind");
    }
}

/// A mapped BAR.
pub struct Bar {
    start: NonNull<c_void>,
    len: usize,
}

impl Bar {
    pub fn new(pci: &Pci, bar: usize) -> Bar {
        let len = (pci.bar_size(bar) as usize).next_multiple_of(4096);
        let file = File::options()
            .read(true)
            .write(true)
            .open(pci.path(&format!("resource{bar}")))
            .expect("the BAR");
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: The kernel chooses an address where nothing is.
        let start = unsafe { mmap(ptr::null_mut(), len, prot, MapFlags::SHARED, &file, 0) };
        Bar {
            start: NonNull::new(start.expect("mmap")).expect("an address"),
            len,
        }
    }

    fn at(&self, offset: usize) -> *mut u32 {
        assert!(offset < self.len && offset % 4 == 0);
        self.start.as_ptr().wrapping_byte_add(offset).cast()
    }

    pub fn read(&self, offset: usize) -> u32 {
        // SAFETY: The offset is in the mapping, and aligned.
        unsafe { ptr::read_volatile(self.at(offset)) }
    }

    pub fn write(&self, offset: usize, value: u32) {
        // SAFETY: As above.
        unsafe { ptr::write_volatile(self.at(offset), value) }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        // SAFETY: Nobody refers to the mapping any more.
        unsafe { munmap(self.start.as_ptr(), self.len) }.expect("munmap");
    }
}

/// A line of the kernel's log.
pub struct Line {
    /// 7 is for debugging, 6 information, below that something is wrong.
    pub level: u8,
    pub text: String,
}

/// Waits until the kernel says something with this in it.
pub fn logged(what: &str) {
    let mut log = File::open("/dev/kmsg").expect("/dev/kmsg");
    log.seek(SeekFrom::End(0)).expect("/dev/kmsg");
    let mut record = [0; 8192];
    loop {
        match log.read(&mut record) {
            Ok(length) if String::from_utf8_lossy(&record[..length]).contains(what) => return,
            Ok(_) => {}
            // Records were lost before they were read.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(error) => panic!("/dev/kmsg: {error}"),
        }
    }
}

/// The kernel's log.
pub fn log() -> Vec<Line> {
    let mut file = rustix::fs::open(
        "/dev/kmsg",
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK,
        rustix::fs::Mode::empty(),
    )
    .expect("/dev/kmsg");
    let mut lines = Vec::new();
    let mut record = [0; 8192];
    loop {
        match rustix::io::read(&mut file, &mut record) {
            Ok(length) => {
                let record = String::from_utf8_lossy(&record[..length]);
                let (head, rest) = record.split_once(';').expect("a record");
                let priority: u32 = head
                    .split(',')
                    .next()
                    .expect("a field")
                    .parse()
                    .expect("a number");
                let text = rest.lines().next().unwrap_or("").to_owned();
                lines.push(Line {
                    level: (priority & 7) as u8,
                    text,
                });
            }
            Err(Errno::PIPE) => {}
            Err(Errno::AGAIN) => return lines,
            Err(error) => panic!("/dev/kmsg: {error}"),
        }
    }
}
