// SPDX-License-Identifier: GPL-2.0

//! A run: one or more guests from their boot to their end, with the server they share.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, poll};

use crate::build::{self, Bed};
use crate::channel::Channel;
use crate::guest::{Guest, Plan};
use crate::image::Archive;
use crate::migration::Processes;
use crate::model::Models;
use crate::server::Server;
use crate::{Device, Lane, Options, log};

/// What became of a guest.
#[derive(Default)]
pub struct Report {
    /// How the command ended; none if the guest did not get that far.
    pub status: Option<u8>,
    booted: bool,
    tainted: u64,
    leaks: Vec<String>,
    /// The module, if it could not be unloaded in the end.
    stuck: Option<String>,
    console: Vec<String>,
    /// The end of the kernel log at all levels, if the command failed, and what QEMU said.
    pub log: Vec<String>,
    /// It had to be ended, whatever it had said by then.
    timed_out: bool,
}

impl Report {
    /// Whether the guest got stuck or died before the driver was loaded and it was asked to do
    /// anything. That happens to one boot in some hundreds under TCG, with more to do for this host's
    /// processors than they can. One that died had run into a breakpoint by which the kernel changes
    /// its own code, and which was not there any more.
    pub fn lost_in_boot(&self) -> bool {
        self.status.is_none() && !self.booted
    }

    /// Everything that is wrong with this guest but the status of its command.
    pub fn problems(&self, provoked: &[log::Provoked]) -> Vec<String> {
        let mut problems = self.trouble(provoked);
        if self.status.is_none() || self.timed_out {
            let what = if self.timed_out {
                "did not end in time"
            } else {
                "ended early"
            };
            let last = self.console.len().saturating_sub(20);
            problems.push(format!(
                "the guest {what}; its last console lines:\n{}",
                self.console[last..].join("\n")
            ));
        }
        problems
    }

    /// What its kernel has to say against it.
    pub fn trouble(&self, provoked: &[log::Provoked]) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(first) = log::first_trouble(&self.console, provoked) {
            // Reports have many lines, and one report leads to others.
            let lines = self.console.iter().skip(first).take(60);
            let lines: Vec<&str> = lines.map(String::as_str).collect();
            problems.push(format!("kernel log: {}", lines.join("\n")));
        }
        problems.extend(log::taint(self.tainted));
        if !self.leaks.is_empty() {
            problems.push(format!("kmemleak:\n{}", self.leaks.join("\n")));
        }
        if let Some(module) = &self.stuck {
            problems.push(format!("the module cannot be unloaded: {module}"));
        }
        problems
    }
}

/// For each guest, and once more: far more than it takes on a host that is busy.
pub const BOOT: Duration = Duration::from_secs(60);

/// What is heard of a guest.
enum Event {
    Booted,
    Ended(usize),
}

/// A process that ends with this value.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A line of a process that answers soon, or else has failed.
pub fn answer(output: &mut BufReader<ChildStdout>) -> Result<String> {
    let mut line = String::new();
    if output.buffer().is_empty() {
        let timeout = BOOT.try_into().expect("a minute fits");
        let ready = poll(
            &mut [PollFd::new(output.get_ref(), PollFlags::IN)],
            Some(&timeout),
        )?;
        ensure!(ready > 0, "no answer within {BOOT:?}");
    }
    output.read_line(&mut line)?;
    Ok(line)
}

/// The guests of a run and what they share. Ends with this value.
pub struct Group {
    pub guests: Vec<Guest>,
    pub server: Option<Server>,
    scratch: Scratch,
}

/// A directory for the sockets and images of a run, in memory.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        static RUNS: AtomicUsize = AtomicUsize::new(0);
        let run = RUNS.fetch_add(1, Ordering::Relaxed).to_string();
        let path = Path::new(build::RUNS).join(run);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It goes with the namespace at the latest.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Group {
    pub fn start(bed: &Bed, plan: &Plan, archive: &Archive) -> Result<Group> {
        let scratch = Scratch::new()?;
        let program = bed.user_program("ivshmem-server");
        let server = plan
            .has_server()
            .then(|| Server::start(program, &scratch.0, plan.size, plan.vectors))
            .transpose()?;
        let guests = (0..plan.guests)
            .map(|number| Guest::start(bed, plan, number, archive, &scratch.0))
            .collect::<Result<_>>()?;
        Ok(Group {
            guests,
            server,
            scratch,
        })
    }
}

/// What all guests boot into: busybox, the init script and what they are given.
pub fn archive(files: &[(String, PathBuf)], module: Option<&[u8]>) -> Result<Archive> {
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "proc", "sys", "tmp", "files"] {
        archive.directory(directory);
    }
    archive.character("dev/console", 5, 1);
    archive.copy("bin/busybox", Path::new("/bin/busybox"))?;
    let applets = build::quietly(Command::new("busybox").arg("--list"))?;
    for applet in String::from_utf8(applets.stdout)?.lines() {
        if applet != "busybox" {
            archive.link(&format!("bin/{applet}"), "busybox");
        }
    }
    archive.file("init", true, include_bytes!("init.sh"));
    if let Some(module) = module {
        archive.file("ivshmem.ko", false, module);
    }
    for (name, path) in files {
        archive.copy(name, path)?;
    }
    Ok(archive)
}

/// The lines of a stream, until its other end is closed. A guest may write anything.
fn lines(stream: UnixStream, mut each: impl FnMut(&str)) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match stream.read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) => each(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n'])),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // A reset by a QEMU that was killed is an end as well.
            Err(_) => return,
        }
    }
}

/// Boots the guests and waits for their ends. `output` gets each line a command writes.
pub fn run(
    bed: &Bed,
    plan: &Plan,
    archive: &Archive,
    limit: Duration,
    output: &(dyn Fn(usize, &str) + Sync),
) -> Result<Vec<Report>> {
    let deadline = Instant::now() + limit;
    let boot_deadline = Instant::now() + BOOT * (plan.guests as u32 + 1);
    let group = Group::start(bed, plan, archive)?;
    let mut processes = Vec::new();
    let mut monitors = Vec::new();
    let mut streams = Vec::new();
    for guest in group.guests {
        processes.push(guest.process);
        monitors.push(guest.monitor);
        streams.push((guest.console, guest.output, guest.control));
    }

    let scratch = &group.scratch.0;
    let models = Models::new(bed.test_program("device-model"), scratch.clone());
    let processes = &Processes::new(bed, plan, scratch, processes);
    let channel = &Channel::new(monitors, models, group.server, processes, scratch);
    let (event, events) = mpsc::channel();
    let reports = thread::scope(|scope| -> Result<Vec<Report>> {
        let mut watchers = Vec::new();
        for (number, (console, out, control)) in streams.into_iter().enumerate() {
            let event = event.clone();
            watchers.push(scope.spawn(move || -> Result<Report> {
                let mut answers = control.try_clone()?;
                let console = thread::spawn(move || {
                    let mut log = Vec::new();
                    lines(console, |line| log.push(line.to_owned()));
                    log
                });
                let report = thread::scope(|scope| {
                    scope.spawn(|| lines(out, |line| output(number, line)));
                    let mut report = Report::default();
                    lines(control, |line| {
                        if !note(&mut report, line) {
                            let answer = channel.answer(number, line);
                            // A guest that is gone needs no answer.
                            let _ = writeln!(answers, "{answer}");
                            if let Err(error) = channel.afterwards(number, line) {
                                eprintln!("bed: guest {number}: {line}: {error:#}");
                            }
                        }
                        if line == "booted" {
                            // Fails only if the other side gave up.
                            let _ = event.send(Event::Booted);
                        }
                        if report.status.is_some() {
                            channel.ended(number);
                        }
                    });
                    channel.ended(number);
                    report
                });
                // As above.
                let _ = event.send(Event::Ended(number));
                let console = console.join().expect("no thread panics");
                Ok(Report { console, ..report })
            }));
        }

        let mut booted = 0;
        let mut ended = BTreeSet::new();
        while ended.len() < plan.guests {
            let deadline = match booted + ended.len() < plan.guests {
                true => deadline.min(boot_deadline),
                false => deadline,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            match events.recv_timeout(left) {
                Ok(Event::Booted) => booted += 1,
                Ok(Event::Ended(number)) => drop(ended.insert(number)),
                Err(_) => break,
            }
        }
        // By now each has ended or is to be ended; that closes the lines the watchers read.
        processes.end();
        let mut reports = Vec::new();
        for (number, watcher) in watchers.into_iter().enumerate() {
            let mut report = watcher.join().expect("no thread panics")?;
            let errors = fs::read_to_string(Guest::errors(number, &group.scratch.0))?;
            report.timed_out = !ended.contains(&number);
            report.log.extend(errors.lines().map(str::to_owned));
            reports.push(report);
        }
        Ok(reports)
    })?;
    Ok(reports)
}

/// Takes down what the init script says of the end of the guest.
fn note(report: &mut Report, line: &str) -> bool {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match word {
        "booted" => report.booted = true,
        "exit" => report.status = rest.parse().ok(),
        "tainted" => report.tainted = rest.parse().unwrap_or(u64::MAX),
        "log" => report.log.push(rest.to_owned()),
        "leak" => report.leaks.push(rest.to_owned()),
        "stuck" => report.stuck = Some(rest.to_owned()),
        _ => return false,
    }
    true
}

/// What is the same in all guests that nobody asked anything else of.
pub const PLAN: Plan = Plan {
    lane: Lane::Stock,
    guests: 1,
    device: Device::None,
    vectors: 0,
    size: 0,
    smp: 2,
    memory: 1024,
    hotplug: false,
    sleeps: false,
    old_qemu: false,
    qemu_args: Vec::new(),
    kernel_args: String::new(),
    load: false,
    module_args: String::new(),
    command: String::new(),
    interactive: false,
};

/// The bed, with the accelerator that `ACCEL` names: TCG, or KVM if a guest can boot with it.
pub fn bed(qemu: Option<PathBuf>) -> Result<Bed> {
    let mut bed = Bed::new(qemu)?;
    if env::var("ACCEL").is_ok_and(|accelerator| accelerator == "kvm") {
        bed.kvm = true;
        bed.kvm = bed.remember("kvm-works", || {
            let plan = Plan {
                command: "true".to_owned(),
                ..PLAN
            };
            let limit = Duration::from_secs(30);
            let reports = run(&bed, &plan, &archive(&[], None)?, limit, &|_, _| ());
            Ok(reports.is_ok_and(|reports| reports[0].status == Some(0)))
        })?;
        if !bed.kvm {
            eprintln!("bed: KVM does not boot a guest here; using TCG");
        }
    }
    Ok(bed)
}

/// What a person who boots guests gets into them.
pub fn person(options: &Options, command: &str) -> Result<(Bed, Plan, Archive)> {
    ensure!(options.guests > 0, "at least one guest");
    let bed = bed(options.qemu.clone())?;
    let plan = Plan {
        lane: options.lane,
        guests: options.guests,
        device: options.device,
        vectors: options.vectors,
        size: options.size,
        smp: options.smp,
        sleeps: true,
        qemu_args: options
            .qemu_args
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
        load: true,
        module_args: options.module_args.clone(),
        command: command.to_owned(),
        ..PLAN
    };
    let module = thread::scope(|scope| {
        let user = scope.spawn(|| bed.build_user_programs());
        let module = bed.module(options.lane);
        user.join().expect("no thread panics")?;
        module
    })?;
    let mut files = vec![("bin/ivshmem".to_owned(), bed.user_program("ivshmem"))];
    for entry in fs::read_dir(build::FILES)? {
        let entry = entry?;
        files.push((
            format!("files/{}", entry.file_name().to_string_lossy()),
            entry.path(),
        ));
    }
    let archive = archive(&files, Some(&module))?;
    Ok((bed, plan, archive))
}

/// `make run`: the status of the command, or of the first guest whose command failed.
pub fn command(options: &Options, command: &str) -> Result<ExitCode> {
    let (bed, plan, archive) = person(options, command)?;
    let day = Duration::from_secs(24 * 60 * 60);
    let reports = run(&bed, &plan, &archive, day, &|guest, line| {
        if plan.guests > 1 {
            println!("{guest}: {line}");
        } else {
            println!("{line}");
        }
    })?;
    let mut code = 0;
    for (number, report) in reports.iter().enumerate() {
        let problems = report.problems(&[]);
        for problem in &problems {
            eprintln!("bed: guest {number}: {problem}");
        }
        let status = report.status.unwrap_or(1);
        if code == 0 {
            code = if status == 0 {
                u8::from(!problems.is_empty())
            } else {
                status
            };
        }
    }
    Ok(ExitCode::from(code))
}
