// SPDX-License-Identifier: GPL-2.0

//! Everything that is made before a guest can boot: kernel trees, the module, user-space programs.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

use crate::Lane;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A step that takes longer is announced.
const WORTH_SAYING: Duration = Duration::from_secs(1);

/// Where things are inside the Debian root of the bed.
pub const SOURCE: &str = "/src";
const CACHE: &str = "/srv";

/// What a whole tree has, among other things.
const TREE: [&str; 3] = ["Makefile", "Module.symvers", "rust/libkernel.rmeta"];

/// In memory, and gone with the namespace.
pub const RUNS: &str = "/srv/run";

/// The files that `make run FILES=` names were copied here.
pub const FILES: &str = "/run/files";

/// The directory of the host's own root, there if a QEMU of the host was asked for.
const HOST: &str = "/host";

pub struct Bed {
    /// What only this clone of the repository uses.
    clone: PathBuf,
    /// `7.3.y+deb13-amd64`
    release: String,
    qemu: Option<PathBuf>,
    /// The root as all roots see it that QEMU may run in.
    root: PathBuf,
    /// A root with QEMU 7.2.
    old_qemu: PathBuf,
    /// Whether guests are accelerated by KVM: where that was asked for and works.
    pub kvm: bool,
    trees: [OnceLock<PathBuf>; 2],
}

impl Bed {
    pub fn new(qemu: Option<PathBuf>) -> Result<Self> {
        let given = |name| env::var(name).context("to be started by tests/bed/bed");
        let clone = given("BED_CLONE")?;
        let release = fs::read_to_string("/kernel/release").context("the kernel of the root")?;
        Ok(Bed {
            clone: Path::new(CACHE).join(format!("clone-{clone}")),
            release: release.trim().to_owned(),
            qemu,
            root: given("BED_ROOT")?.into(),
            old_qemu: given("BED_VMM")?.into(),
            kvm: false,
            trees: Default::default(),
        })
    }

    /// The answer to a question about this machine, found out once between two boots of it.
    pub fn remember(&self, what: &str, find_out: impl FnOnce() -> Result<bool>) -> Result<bool> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let path = Path::new(CACHE).join(format!("{what}-{}", boot.trim()));
        if let Ok(answer) = fs::read_to_string(&path) {
            return Ok(answer == "yes");
        }
        let answer = find_out()?;
        fs::write(path, if answer { "yes" } else { "no" })?;
        Ok(answer)
    }

    /// The QEMU of the bed or of the person who runs it, or 7.2.
    pub fn qemu(&self, old: bool) -> Result<Command> {
        let in_root = |root: &Path, path: &Path| {
            let mut command = Command::new("chroot");
            command.arg(root).arg(path);
            command
        };
        let program = Path::new("/usr/bin/qemu-system-x86_64");
        if old {
            let made = self.old_qemu.join("made").exists();
            ensure!(made, "Debian 12's QEMU is not there");
            return Ok(in_root(&self.old_qemu, program));
        }
        Ok(match &self.qemu {
            None => Command::new(program),
            Some(path) => in_root(Path::new(HOST), path),
        })
    }

    /// The tree modules of this lane are built against.
    fn tree(&self, lane: Lane) -> Result<&Path> {
        let known = &self.trees[lane as usize];
        if let Some(tree) = known.get() {
            return Ok(tree);
        }
        let mut tree = self.make_tree(lane)?;
        let present = |file: &&str| fs::metadata(tree.join(file)).is_ok_and(|file| file.len() > 0);
        if !TREE.iter().all(present) {
            eprintln!("bed: {} is damaged", tree.display());
            fs::remove_file(tree.join("made"))?;
            tree = self.make_tree(lane)?;
        }
        Ok(known.get_or_init(|| tree))
    }

    /// Makes it, unless it was made before.
    fn make_tree(&self, lane: Lane) -> Result<PathBuf> {
        let mut command = Command::new(format!("{SOURCE}/tests/bed/tree"));
        command.args([lane.name(), CACHE, &self.release]);
        if lane == Lane::Debug {
            command.arg(format!("{SOURCE}/tests/debug.config"));
        }
        let output = command.stderr(Stdio::inherit()).output()?;
        ensure!(
            output.status.success(),
            "no kernel tree for the {} lane",
            lane.name()
        );
        Ok(String::from_utf8(output.stdout)?.trim().into())
    }

    /// What QEMU boots.
    pub fn kernel(&self, lane: Lane) -> Result<PathBuf> {
        match lane {
            Lane::Stock => Ok(self.root.join("kernel/vmlinux")),
            Lane::Debug => self.packed_kernel(lane),
        }
    }

    /// The kernel as a distribution ships it.
    pub fn packed_kernel(&self, lane: Lane) -> Result<PathBuf> {
        match lane {
            Lane::Stock => Ok(self.root.join("kernel/vmlinuz")),
            Lane::Debug => Ok(self.tree(lane)?.join("arch/x86/boot/bzImage")),
        }
    }

    /// A module of Debian's kernel.
    pub fn stock_module(&self, path: &str) -> PathBuf {
        let modules = Path::new("/kernel/image/usr/lib/modules");
        modules.join(&self.release).join("kernel").join(path)
    }

    /// Builds the module for a lane, unless nothing changed, and returns it.
    pub fn module(&self, lane: Lane) -> Result<Vec<u8>> {
        self.module_build(lane, lane.name(), &module_sources()?, &[])?;
        let path = self.module_directory(lane.name()).join("ivshmem.ko");
        fs::read(&path).with_context(|| format!("{} was not built", path.display()))
    }

    /// The same build with Clippy in the place of the compiler.
    pub fn module_clippy(&self) -> Result<()> {
        let configuration = format!("CLIPPY_CONF_DIR={SOURCE}");
        let arguments = ["CLIPPY=1", &configuration];
        self.module_build(Lane::Stock, "clippy", &module_sources()?, &arguments)
    }

    /// One of the modules that tests of the bed itself need.
    pub fn bed_module(&self, lane: Lane, name: &str) -> Result<PathBuf> {
        let build = format!("bed-{}", lane.name());
        let from = Path::new(SOURCE).join("tests/bed/modules");
        let mut sources = Vec::new();
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            sources.push((entry.file_name().into(), fs::read(entry.path())?));
        }
        sources.sort();
        self.module_build(lane, &build, &sources, &[])?;
        Ok(self.module_directory(&build).join(format!("{name}.ko")))
    }

    fn module_directory(&self, name: &str) -> PathBuf {
        self.clone.join(format!("module-{name}"))
    }

    /// Builds the modules of these sources, unless nothing changed.
    fn module_build(
        &self,
        lane: Lane,
        name: &str,
        sources: &[(PathBuf, Vec<u8>)],
        arguments: &[&str],
    ) -> Result<()> {
        let tree = self.tree(lane)?;
        let directory = self.module_directory(name);
        fs::create_dir_all(&directory)?;
        let _lock = lock(&directory.join("lock"))?;

        let mut key = DefaultHasher::new();
        (tree, arguments, sources).hash(&mut key);
        let key = format!("{:x}", key.finish());
        let stamp = directory.join("built");
        if fs::read_to_string(&stamp).is_ok_and(|built| built == key) {
            return Ok(());
        }
        remove(&stamp)?;

        for (path, content) in sources {
            let copy = directory.join(path);
            // Untouched files keep their time, for make.
            if fs::read(&copy).ok().as_ref() != Some(content) {
                fs::create_dir_all(copy.parent().expect("a file in a directory"))?;
                fs::write(&copy, content)?;
            }
        }
        let mut command = Command::new("make");
        command
            .arg("-C")
            .arg(tree)
            .arg(format!("M={}", directory.display()))
            .args(["-s", "-j2", "KCFLAGS=-Werror", "KRUSTFLAGS=-Dwarnings"])
            .args(arguments)
            .arg("modules");
        if lane == Lane::Debug {
            command.arg("LLVM=-19");
        }
        step(&format!("building the module ({name})"), &mut command)?;
        fs::write(&stamp, key)?;
        Ok(())
    }

    /// A cargo command for one of the workspaces; static programs, that run in any root.
    pub fn cargo(&self, action: &str, workspace: &str) -> Command {
        let mut command = Command::new("cargo");
        command
            .args([action, "--quiet", "--target", TARGET, "--target-dir"])
            .arg(self.clone.join(workspace))
            .env("RUSTFLAGS", "-Dwarnings -Ctarget-feature=+crt-static")
            .current_dir(Path::new(SOURCE).join(workspace));
        command
    }

    /// The test program of a subject.
    pub fn test_program(&self, subject: &str) -> PathBuf {
        self.clone
            .join("tests")
            .join(TARGET)
            .join("debug")
            .join(subject)
    }

    pub fn build_test_programs(&self) -> Result<()> {
        step(
            "building the test programs",
            self.cargo("build", "tests")
                .args(["-p", "guest", "-p", "device-model"]),
        )
        .map(drop)
    }

    /// A program of the user workspace: the CLI or the server.
    pub fn user_program(&self, name: &str) -> PathBuf {
        self.clone
            .join("user")
            .join(TARGET)
            .join("release")
            .join(name)
    }

    pub fn build_user_programs(&self) -> Result<()> {
        step(
            "building the user programs",
            self.cargo("build", "user").arg("--release"),
        )
        .map(drop)
    }

    /// Builds one of the library's test programs, unless nothing changed, and returns it.
    pub fn library_test(&self, name: &str) -> Result<PathBuf> {
        let mut cargo = self.cargo("test", "user");
        cargo
            .args(["--release", "--no-run", "-p", "ivshmem", "--test", name])
            .args(["--message-format", "json-render-diagnostics"]);
        let output = step("building the library's tests", &mut cargo)?;
        // The name of the program has a hash in it that only cargo knows.
        for message in serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>() {
            let message = message?;
            let program = message["executable"].as_str();
            if let Some(program) = program.filter(|_| message["target"]["name"] == name) {
                return Ok(program.into());
            }
        }
        bail!("cargo does not say where the test program {name} is")
    }

    /// As much of both as the demo needs.
    pub fn build_demo_programs(&self) -> Result<()> {
        step(
            "building the server",
            self.cargo("build", "user")
                .args(["--release", "-p", "ivshmem-server"]),
        )?;
        step(
            "building the program of the demo",
            self.cargo("build", "tests")
                .args(["-p", "guest", "--bin", "demo"]),
        )
        .map(drop)
    }
}

/// What the module is made of: the files of the repository that Kbuild may read.
fn module_sources() -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut sources = Vec::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(Path::new(SOURCE).join(&directory))? {
            let entry = entry?;
            let path = directory.join(entry.file_name());
            let name = entry.file_name();
            let top = directory.as_os_str().is_empty();
            if entry.file_type()?.is_dir() {
                if !top || name == "abstractions" || name == "uapi" {
                    directories.push(path);
                }
            } else if name == "Kbuild"
                || [Some("rs"), Some("c"), Some("h")]
                    .contains(&path.extension().and_then(|extension| extension.to_str()))
            {
                sources.push((path, fs::read(entry.path())?));
            }
        }
    }
    sources.sort();
    Ok(sources)
}

/// The Rust sources of the module.
pub fn module_rust_sources() -> Result<Vec<PathBuf>> {
    let mut sources: Vec<_> = module_sources()?
        .into_iter()
        .map(|(path, _)| path)
        .collect();
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    Ok(sources)
}

/// Waits for another run that uses the same thing.
fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
    flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Runs a command whose output matters only if it fails.
pub fn quietly(command: &mut Command) -> Result<Output> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
    if !output.status.success() {
        bail!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(output)
}

/// Runs a command that does nothing when there is nothing to do. If it takes longer, says so.
fn step(what: &str, command: &mut Command) -> Result<Output> {
    let started = Instant::now();
    let (done, wait) = mpsc::channel::<()>();
    let result = thread::scope(|scope| {
        let speaker = scope.spawn(move || {
            let long = wait.recv_timeout(WORTH_SAYING) == Err(RecvTimeoutError::Timeout);
            if long {
                eprintln!("bed: {what}");
            }
            long
        });
        let result = quietly(command);
        drop(done);
        if speaker.join().expect("no thread panics") {
            eprintln!("bed: {what}: {:.1} s", started.elapsed().as_secs_f32());
        }
        result
    });
    result.with_context(|| format!("{what} failed"))
}
