// SPDX-License-Identifier: GPL-2.0

//! The runner of the test bed: builds what guests need, boots them, judges what they did.

mod build;
mod channel;
mod demo;
mod guest;
mod image;
mod ktap;
mod log;
mod migration;
mod model;
mod run;
mod server;
mod shell;
mod suites;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Which kernel a guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Lane {
    /// Debian's, as shipped.
    Stock,
    /// The same source with every checker on.
    Debug,
}

impl Lane {
    pub fn name(self) -> &'static str {
        match self {
            Lane::Stock => "stock",
            Lane::Debug => "debug",
        }
    }
}

/// Which ivshmem devices a guest has. Their ids are `ivshmem0`, `ivshmem1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Device {
    Plain,
    Doorbell,
    /// A doorbell device, then a plain one.
    Both,
    None,
}

impl Device {
    pub fn name(self) -> &'static str {
        match self {
            Device::Plain => "plain",
            Device::Doorbell => "doorbell",
            Device::Both => "both",
            Device::None => "none",
        }
    }
}

/// What a person may choose about guests; each is also an environment variable.
#[derive(Args)]
pub struct Options {
    #[arg(long, env = "LANE", value_enum, default_value = "stock")]
    lane: Lane,
    #[arg(long, env = "DEVICE", value_enum, default_value = "doorbell")]
    device: Device,
    #[arg(long, env = "GUESTS", default_value_t = 1)]
    guests: usize,
    #[arg(long, env = "VECTORS", default_value_t = 4)]
    vectors: u32,
    /// Bytes, or with a suffix K, M or G.
    #[arg(long, env = "SIZE", default_value = "16M", value_parser = bytes)]
    size: u64,
    #[arg(long, env = "SMP", default_value_t = 2)]
    smp: u32,
    /// Another QEMU binary of the host.
    #[arg(long, env = "QEMU")]
    qemu: Option<PathBuf>,
    #[arg(long, env = "QEMU_ARGS", default_value = "")]
    qemu_args: String,
    #[arg(long, env = "MODULE_ARGS", default_value = "")]
    module_args: String,
}

#[derive(Parser)]
struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Shows two guests in a conversation.
    Demo,
    /// Runs the checks of the sources and the guest suites.
    Test {
        /// Only this lane.
        #[arg(long, value_enum)]
        lane: Option<Lane>,
        /// Only this subject.
        #[arg(long, env = "SUITE")]
        suite: Option<String>,
        #[arg(long, env = "QEMU")]
        qemu: Option<PathBuf>,
    },
    /// Boots guests, runs a command in each and exits with its status.
    Run {
        #[command(flatten)]
        options: Options,
        #[arg(long, env = "CMD")]
        cmd: String,
    },
    /// Boots guests with the terminal as their console.
    Shell {
        #[command(flatten)]
        options: Options,
    },
}

fn bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(digits) if text.ends_with('K') => (digits, 10),
        Some(digits) if text.ends_with('M') => (digits, 20),
        Some(digits) => (digits, 30),
        None => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| format!("not a size: {text}"))?;
    number
        .checked_shl(shift)
        .filter(|size| size >> shift == number)
        .ok_or_else(|| format!("too large: {text}"))
}

fn act(action: Action) -> Result<ExitCode> {
    match action {
        Action::Demo => demo::demo(),
        Action::Test { lane, suite, qemu } => test::test(&run::bed(qemu)?, lane, suite.as_deref()),
        Action::Run { options, cmd } => run::command(&options, &cmd),
        Action::Shell { options } => shell::shell(&options),
    }
}

fn main() -> ExitCode {
    act(Command::parse().action).unwrap_or_else(|error| {
        eprintln!("bed: {error:#}");
        ExitCode::from(2)
    })
}
