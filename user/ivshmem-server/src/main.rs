// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Serves shared memory and interrupts to virtual machines with QEMU's `ivshmem-doorbell`.

use std::{
    io::{self, Write, stdout},
    os::{
        fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    process::ExitCode,
};

use clap::{ArgGroup, Parser};
use ivshmem_server::{Error, Listener, Region, Result, Server, raise_file_limit};
use rustix::{
    io::{FdFlags, fcntl_setfd},
    stdio::stderr,
    termios::isatty,
};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

/// Serve shared memory and interrupts to virtual machines with QEMU's ivshmem-doorbell
///
/// Give each machine as many vectors as the server:
/// -chardev socket,path=PATH,id=ivshmem -device ivshmem-doorbell,chardev=ivshmem,vectors=N
#[derive(Parser)]
#[command(version, group(ArgGroup::new("clients").required(true).multiple(true)))]
struct Args {
    /// Listen on a socket at PATH
    #[arg(short, long, value_name = "PATH", group = "clients")]
    socket: Option<PathBuf>,

    /// Listen on an inherited socket
    #[arg(long, value_name = "FD", conflicts_with = "socket", value_parser = clap::value_parser!(RawFd).range(0..), group = "clients")]
    listen_fd: Option<RawFd>,

    /// Serve the client at the other end of an inherited socket (repeat for more)
    #[arg(long, value_name = "FD", value_parser = clap::value_parser!(RawFd).range(0..), group = "clients")]
    client_fd: Vec<RawFd>,

    /// Bytes of shared memory, a power of two (K, M and G are understood)
    #[arg(long, default_value = "16M", value_parser = ivshmem::parse_size)]
    size: u64,

    /// Interrupt vectors of each client, 1 to 2048
    #[arg(short = 'n', long, default_value_t = 1)]
    vectors: u16,

    /// Share this file (in /dev/shm or a hugetlbfs, say) instead of anonymous memory
    #[arg(long, value_name = "FILE")]
    shm_path: Option<PathBuf>,

    /// Also log when a client does not keep up
    #[arg(short, long)]
    verbose: bool,
}

/// Takes over a descriptor that the command line names.
fn inherit(fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: Nothing in this process closes it meanwhile. The call tells if there is none.
    let named = unsafe { BorrowedFd::borrow_raw(fd) };
    fcntl_setfd(named, FdFlags::CLOEXEC)
        .map_err(|error| Error::Io(format!("cannot use descriptor {fd}"), error.into()))?;
    // SAFETY: It is open, is named once, and was before this process opened anything: whoever
    // started it says that it is for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn run(args: Args) -> Result<()> {
    // Before this process opens anything in the place of what it should have been given.
    let mut inherited = args.listen_fd.iter().chain(&args.client_fd);
    while let Some(fd) = inherited.next() {
        if inherited.clone().any(|other| other == fd) {
            return Err(Error::GivenTwice(*fd));
        }
    }
    let inherited = args.listen_fd.map(inherit).transpose()?;
    let clients: Vec<OwnedFd> = args
        .client_fd
        .iter()
        .map(|fd| inherit(*fd))
        .collect::<Result<_>>()?;

    raise_file_limit();
    let region = match &args.shm_path {
        None => Region::anonymous(args.size)?,
        Some(path) => Region::file(path, args.size)?,
    };
    let (listener, place) = match (&args.socket, inherited) {
        (Some(path), _) => (
            Some(Listener::bind(path)?),
            format!("listening on {}", path.display()),
        ),
        (None, Some(socket)) => (
            Some(Listener::inherited(socket)?),
            "listening on an inherited socket".into(),
        ),
        (None, None) => (None, "serving".into()),
    };
    let mut server = Server::new(region, args.vectors, listener)?;
    for client in clients {
        server.add(UnixStream::from(client))?;
    }
    let mut signals = Signals::new([SIGINT, SIGTERM])
        .map_err(|error| Error::Io("cannot catch signals".into(), error))?;
    let stopper = server.stopper();
    std::thread::spawn(move || signals.forever().for_each(|_| stopper.stop()));
    // Nobody may care.
    let _ = writeln!(
        stdout(),
        "{place} ({} bytes, {} vectors)",
        args.size,
        args.vectors
    );
    server.run()
}

fn main() -> ExitCode {
    let args = Args::parse();
    let level = if args.verbose {
        tracing::Level::DEBUG
    } else {
        tracing::Level::INFO
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(isatty(stderr()))
        .with_target(false)
        // A log that nobody reads, or for which there is no space, is no reason to end.
        .log_internal_errors(false)
        .init();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may care.
            let _ = writeln!(io::stderr(), "ivshmem-server: {error}");
            ExitCode::FAILURE
        }
    }
}
