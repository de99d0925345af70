// SPDX-License-Identifier: GPL-2.0

//! One guest: a QEMU process, its monitor and its three serial lines.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use command_fds::{CommandFdExt, FdMapping};
use qapi::{Dictionary, Qmp, Stream, qmp};
use serde_json::{Value, json};

use crate::build::Bed;
use crate::image::Archive;
use crate::run::{BOOT, Process};
use crate::{Device, Lane};

/// What a guest is to be. All guests of a run are alike but for their number.
#[derive(Clone)]
pub struct Plan {
    pub lane: Lane,
    pub guests: usize,
    pub device: Device,
    pub vectors: u32,
    pub size: u64,
    pub smp: u32,
    pub memory: u32,
    /// Puts the ivshmem devices behind root ports `rp0`, `rp1`, ... from where they can be taken.
    pub hotplug: bool,
    /// May suspend to memory. QEMU resets the machine on the way back, and puts in its place again
    /// what it has put into memory itself: a kernel that it has unpacked would be as it began.
    pub sleeps: bool,
    /// Run by QEMU 7.2, which has no devices by vfio-user.
    pub old_qemu: bool,
    pub qemu_args: Vec<String>,
    pub kernel_args: String,
    /// Load the module before the command, and see afterwards that it can be unloaded.
    pub load: bool,
    pub module_args: String,
    /// The shell command; its output is the guest's output.
    pub command: String,
    /// Gives the guest's console to a person, instead of running the command.
    pub interactive: bool,
}

/// The file descriptors QEMU finds its monitor and its serial lines at.
const MONITOR: i32 = 10;
pub const LINES: [(i32, &str, &str); 3] = [
    // One interrupt each: ISA interrupts are edges, and are lost when shared. Not 5, which firmware
    // makes a level: it is lost after a sleep.
    (11, "0x3f8", "4"),
    (12, "0x2f8", "3"),
    (13, "0x3e8", "7"),
];

/// Without 5-level page tables: while a booting kernel finds out what its processor can do, an
/// interrupt that comes in between makes KASAN take every address for a wild one.
const CPU: &str = "max,la57=off";

pub struct Guest {
    pub process: Process,
    pub monitor: Monitor,
    /// The kernel's console.
    pub console: UnixStream,
    /// What the command writes.
    pub output: UnixStream,
    /// Requests of the guest to the host, and the answers.
    pub control: UnixStream,
}

/// A device that the runner has plugged in.
pub struct Plugged {
    driver: &'static str,
    index: usize,
}

impl Plugged {
    pub fn id(&self) -> String {
        format!("ivshmem{}", self.index)
    }
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

impl Plan {
    /// The variables that the init script, and the tests, find out about themselves by.
    fn environment(&self, number: usize) -> String {
        [
            ("IVSHMEM_GUEST", number.to_string()),
            ("IVSHMEM_GUESTS", self.guests.to_string()),
            ("IVSHMEM_LANE", self.lane.name().to_owned()),
            ("IVSHMEM_DEVICE", self.device.name().to_owned()),
            ("IVSHMEM_VECTORS", self.vectors.to_string()),
            ("IVSHMEM_SIZE", self.size.to_string()),
            ("IVSHMEM_MODULE_ARGS", self.module_args.clone()),
            ("BED_LOAD", if self.load { "1" } else { "" }.to_owned()),
            (
                "BED_INTERACTIVE",
                if self.interactive { "1" } else { "" }.to_owned(),
            ),
            ("BED_COMMAND", self.command.clone()),
        ]
        .iter()
        .fold(String::new(), |text, (name, value)| {
            text + &format!("export {name}={}\n", quote(value))
        })
    }

    /// The devices the guest is started with.
    pub fn devices(&self) -> Vec<Plugged> {
        let drivers: &[&str] = match self.device {
            Device::Plain => &["ivshmem-plain"],
            Device::Doorbell => &["ivshmem-doorbell"],
            Device::Both => &["ivshmem-doorbell", "ivshmem-plain"],
            Device::None => &[],
        };
        let plugged = |(index, &driver)| Plugged { driver, index };
        drivers.iter().enumerate().map(plugged).collect()
    }

    pub fn has_server(&self) -> bool {
        matches!(self.device, Device::Doorbell | Device::Both)
    }

    pub fn arguments(&self, number: usize, scratch: &Path, devices: &[Plugged]) -> Vec<String> {
        let mut arguments: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(ToString::to_string));
        let directory = scratch.display();
        if devices.iter().any(|one| one.driver == "ivshmem-plain") {
            let backend = format!(
                "memory-backend-file,id=memory,mem-path={directory}/memory,size={},share=on",
                self.size
            );
            add(&["-object", &backend]);
        }
        if devices.iter().any(|one| one.driver == "ivshmem-doorbell") {
            add(&[
                "-chardev",
                &format!("socket,id=server,path={directory}/server.sock"),
            ]);
        }
        if self.hotplug {
            for port in 0..6 {
                let slot = port + 1;
                // Firmware leaves a port that is empty at boot too little room for a larger BAR2. (Above
                // 4 GiB it would choose addresses that the memory map of an AMD processor reserves.)
                let room = "pref32-reserve=64M";
                add(&[
                    "-device",
                    &format!("pcie-root-port,id=rp{port},chassis={slot},slot={slot},{room}"),
                ]);
            }
        }
        for one in devices {
            let mut device = format!("{},id={}", one.driver, one.id());
            device += &match one.driver {
                "ivshmem-plain" => ",memdev=memory".to_owned(),
                _ => format!(",chardev=server,vectors={}", self.vectors),
            };
            if self.hotplug {
                device += &format!(",bus=rp{}", one.index);
            }
            add(&["-device", &device]);
        }
        arguments.extend(self.qemu_args.iter().map(|word| {
            word.replace("{run}", &directory.to_string())
                .replace("{guest}", &number.to_string())
        }));
        arguments
    }
}

impl Guest {
    /// What QEMU itself has to say about a guest.
    pub fn errors(number: usize, scratch: &Path) -> PathBuf {
        scratch.join(format!("qemu-{number}.log"))
    }

    /// Starts a guest; returns once QEMU has made all its devices, so that the guests of a server
    /// get their IDs in the order of their numbers.
    pub fn start(
        bed: &Bed,
        plan: &Plan,
        number: usize,
        archive: &Archive,
        scratch: &Path,
    ) -> Result<Guest> {
        let mut archive = archive.clone();
        archive.file("/environment", false, plan.environment(number).as_bytes());
        let initrd = scratch.join(format!("initrd-{number}"));
        fs::write(&initrd, archive.finish())?;

        let mut lines = Vec::new();
        let mut ends = Vec::new();
        for _ in LINES {
            let (line, end) = UnixStream::pair()?;
            lines.push(line);
            ends.push(end.into());
        }
        let mut arguments = plan.arguments(number, scratch, &plan.devices());
        arguments.extend(["-initrd".to_owned(), initrd.to_string_lossy().into_owned()]);
        let (process, monitor) = qemu(bed, plan, number, scratch, ends, &arguments)?;
        fs::remove_file(initrd)?;
        let [console, output, control] = <[UnixStream; 3]>::try_from(lines).expect("three lines");
        Ok(Guest {
            process,
            monitor,
            console,
            output,
            control,
        })
    }
}

/// Starts QEMU with these ends of the serial lines; returns once it has made all devices.
pub fn qemu(
    bed: &Bed,
    plan: &Plan,
    number: usize,
    scratch: &Path,
    lines: Vec<OwnedFd>,
    arguments: &[String],
) -> Result<(Process, Monitor)> {
    let (monitor, monitor_end) = UnixStream::pair()?;
    let mut ends = vec![FdMapping {
        parent_fd: monitor_end.into(),
        child_fd: MONITOR,
    }];
    ends.extend(
        lines
            .into_iter()
            .zip(LINES)
            .map(|(parent_fd, (child_fd, ..))| FdMapping {
                parent_fd,
                child_fd,
            }),
    );

    let accelerator = if plan.old_qemu {
        // One processor of its would not always see what another has patched in the kernel.
        "tcg,thread=single"
    } else if bed.kvm {
        "kvm"
    } else {
        "tcg,thread=multi"
    };
    let packed_kernel = bed.packed_kernel(plan.lane)?;
    let kernel = match plan.sleeps {
        true => packed_kernel.clone(),
        false => bed.kernel(plan.lane)?,
    };
    let mut command: Command = bed.qemu(plan.old_qemu)?;
    command
        .args([
            "-no-user-config",
            "-nodefaults",
            "-no-reboot",
            "-display",
            "none",
        ])
        .args([
            // Named, so that no shared memory is made before it: a machine that has a smaller memory
            // before its RAM cannot be migrated with TCG (QEMU 11.1 aborts).
            "-object",
            &format!("memory-backend-ram,id=ram,size={}M", plan.memory),
            "-machine",
            "q35,memory-backend=ram",
            "-cpu",
            CPU,
            "-name",
            &format!("guest{number}"),
        ])
        .args(["-accel", accelerator])
        .args([
            "-smp",
            &plan.smp.to_string(),
            "-m",
            &plan.memory.to_string(),
        ])
        .args(["-chardev", &format!("socket,id=monitor,fd={MONITOR}")])
        .args(["-qmp", "chardev:monitor"]);
    for (index, (descriptor, port, interrupt)) in LINES.iter().enumerate() {
        command
            .args([
                "-chardev",
                &format!("socket,id=line{index},fd={descriptor}"),
            ])
            .arg("-device")
            .arg(format!(
                "isa-serial,chardev=line{index},index={index},iobase={port},irq={interrupt}"
            ));
    }
    // A host that is busy must not look like a guest that hangs; and tests read the whole log.
    let patient = "watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=120 \
                   workqueue.watchdog_thresh=120 log_buf_len=4M";
    let append = format!(
        "console=ttyS0 no_timer_check loglevel=5 printk.time=1 panic=-1 oops=panic kunit.enable=0 \
         cryptomgr.notests {patient} {}",
        plan.kernel_args
    );
    let errors = Guest::errors(number, scratch);
    command
        .arg("-kernel")
        .arg(kernel)
        .args(["-append", &append])
        .args(
            arguments
                .iter()
                .map(|word| word.replace("{kernel}", &packed_kernel.to_string_lossy())),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::options().create(true).append(true).open(&errors)?)
        .fd_mappings(ends)?;
    let process = command.spawn().map(Process).context("cannot start QEMU")?;
    // Drops this process's copies of QEMU's ends, or their closing would never be seen.
    drop(command);

    match Monitor::new(monitor) {
        Ok(monitor) => Ok((process, monitor)),
        Err(error) => {
            drop(process);
            let message = fs::read_to_string(&errors)?;
            bail!("QEMU does not start: {} ({error})", message.trim());
        }
    }
}

/// How a migration may end.
const ENDS: [&str; 2] = ["completed", "failed"];

/// The QEMU machine protocol.
pub struct Monitor {
    qmp: Qmp<Stream<BufReader<UnixStream>, UnixStream>>,
}

impl Monitor {
    fn new(stream: UnixStream) -> Result<Self> {
        // A server that is silent keeps QEMU from starting.
        stream.set_read_timeout(Some(BOOT))?;
        let mut qmp = Qmp::new(Stream::new(BufReader::new(stream.try_clone()?), stream));
        // The greeting comes first; an end of file in its place would be a panic in there.
        let greeting = qmp.inner_mut().fill_buf().context("no greeting in time")?;
        ensure!(!greeting.is_empty(), "no greeting");
        qmp.handshake()?;
        qmp.inner().get_ref_write().set_read_timeout(None)?;
        Ok(Monitor { qmp })
    }

    /// Any command, as JSON; returns what it returns.
    pub fn raw(&mut self, command: &str) -> Result<Value> {
        let command: Value = serde_json::from_str(command)?;
        let stream = self.qmp.inner_mut();
        writeln!(stream, "{command}")?;
        stream.flush()?;
        loop {
            let mut message = self.message()?;
            if let Some(error) = message.get("error") {
                bail!("{error}");
            }
            if let Some(result) = message.get_mut("return") {
                return Ok(result.take());
            }
        }
    }

    fn message(&mut self) -> Result<Value> {
        let mut line = String::new();
        let length = self.qmp.inner_mut().read_line(&mut line)?;
        ensure!(length > 0, "QEMU is gone");
        Ok(serde_json::from_str(&line)?)
    }

    /// Waits for an event of which `wanted` says yes.
    fn wait(&mut self, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "the event did not come within {limit:?}");
            self.qmp
                .inner()
                .get_ref_write()
                .set_read_timeout(Some(left))?;
            let message = self.message();
            self.qmp.inner().get_ref_write().set_read_timeout(None)?;
            if message.as_ref().is_ok_and(&wanted) {
                return Ok(());
            }
            message.map_err(|error| anyhow!("waiting for an event: {error}"))?;
        }
    }

    pub fn device_add(&mut self, properties: &str) -> Result<()> {
        let mut arguments: Dictionary = serde_json::from_str(properties)?;
        let mut text = |name: &str| {
            arguments
                .remove(name)
                .and_then(|value| value.as_str().map(str::to_owned))
        };
        let driver = text("driver").context("no driver")?;
        let (bus, id) = (text("bus"), text("id"));
        self.qmp.execute(&qmp::device_add {
            driver,
            bus,
            id,
            arguments,
        })?;
        Ok(())
    }

    /// Takes a device away; returns when the guest has let go of it.
    pub fn device_del(&mut self, id: &str) -> Result<()> {
        self.qmp.execute(&qmp::device_del { id: id.to_owned() })?;
        let deleted =
            |event: &Value| event["event"] == "DEVICE_DELETED" && event["data"]["device"] == id;
        // It may have come before the command's own answer.
        if self.qmp.events().any(|event| {
            matches!(&event, qmp::Event::DEVICE_DELETED { data, .. } if data.device.as_deref() == Some(id))
        }) {
            return Ok(());
        }
        self.wait(Duration::from_secs(60), deleted)
    }

    /// The IDs of the devices that can be unplugged.
    pub fn plugged(&mut self) -> Result<Vec<String>> {
        let list =
            self.raw(r#"{"execute":"qom-list","arguments":{"path":"/machine/peripheral"}}"#)?;
        let names = list.as_array().context("a list")?.iter();
        Ok(names
            .filter_map(|entry| entry["name"].as_str().map(str::to_owned))
            .collect())
    }

    /// Sends the guest to a QEMU that waits for it; returns when all of it is there.
    pub fn migrate(&mut self, way: &str) -> Result<()> {
        let events = json!({"execute": "migrate-set-capabilities", "arguments":
            {"capabilities": [{"capability": "events", "state": true}]}});
        self.raw(&events.to_string())?;
        let migrate = json!({"execute": "migrate", "arguments": {"uri": way}});
        self.raw(&migrate.to_string())?;
        self.wait(Duration::from_secs(120), |event| {
            let status = event["data"]["status"].as_str();
            event["event"] == "MIGRATION" && status.is_some_and(|status| ENDS.contains(&status))
        })?;
        let result = self.raw(r#"{"execute":"query-migrate"}"#)?;
        ensure!(result["status"] == "completed", "the migration: {result}");
        Ok(())
    }

    /// Waits until a guest that was migrated runs.
    pub fn resumed(&mut self) -> Result<()> {
        self.wait(Duration::from_secs(60), |event| event["event"] == "RESUME")
    }

    pub fn quit(&mut self) -> Result<()> {
        self.qmp.execute(&qmp::quit {})?;
        Ok(())
    }

    /// Waits until the guest has suspended itself.
    pub fn suspended(&mut self) -> Result<()> {
        let limit = Duration::from_secs(60);
        if self
            .qmp
            .events()
            .any(|event| matches!(event, qmp::Event::SUSPEND { .. }))
        {
            return Ok(());
        }
        self.wait(limit, |event| event["event"] == "SUSPEND")
    }

    pub fn wakeup(&mut self) -> Result<()> {
        self.qmp.execute(&qmp::system_wakeup {})?;
        Ok(())
    }
}
