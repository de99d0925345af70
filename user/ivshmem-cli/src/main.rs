// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Looks at, reads, writes, rings and waits for ivshmem devices.

mod hexdump;

use std::{
    fmt, fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand, error::ErrorKind};
use ivshmem::{
    Access, Device, Event, Info, Interrupt, MappedBy, Memory, MemoryType, OpenOptions, Timeout,
    VECTOR_STATE, Vector, devices, parse_size,
};

type Result<T = (), E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// Look at, read, write, ring and wait for ivshmem devices
#[derive(Parser)]
#[command(name = "ivshmem", version)]
struct Args {
    /// The device [default: the one there is]
    #[arg(short, long, global = true, value_name = "PATH")]
    device: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show all about a device, or about each there is
    Info {
        #[arg(value_name = "DEVICE")]
        devices: Vec<PathBuf>,
    },
    /// List the devices, a line each
    List,
    /// Interrupt a peer
    Ring {
        /// ID of the peer
        peer: u32,
        /// The peer's vector
        vector: u32,
        /// So many times
        #[arg(short, long, default_value_t = 1)]
        count: u64,
    },
    /// Wait for an interrupt, and print the vectors that had one with their counts
    Wait {
        /// Vectors, or "state" for a change of the device
        #[arg(required = true, value_parser = parse_vector)]
        vectors: Vec<Vector>,
        /// Give up after so many seconds, with exit status 2
        #[arg(short, long, value_name = "SECONDS", value_parser = parse_seconds)]
        timeout: Option<Duration>,
        /// The count of each vector that was seen last [default: that of now]
        #[arg(short, long, value_name = "COUNT")]
        seen: Option<u64>,
    },
    /// Print interrupts as they come: seconds, vector, count, and how many more than before
    Watch {
        /// Vectors, or "state" [default: all]
        #[arg(value_parser = parse_vector)]
        vectors: Vec<Vector>,
    },
    /// Show shared memory in hexadecimal
    Read {
        #[command(flatten)]
        range: Range,
    },
    /// Write shared memory to standard output as it is
    Dump {
        #[command(flatten)]
        range: Range,
    },
    /// Write standard input to shared memory
    Write {
        /// From this byte on (K, M and G are understood)
        #[arg(short, long, default_value = "0", value_parser = parse_size)]
        offset: u64,
    },
}

#[derive(clap::Args)]
struct Range {
    /// From this byte on (K, M and G are understood)
    #[arg(short, long, default_value = "0", value_parser = parse_size)]
    offset: u64,
    /// So many bytes [default: all]
    #[arg(short, long, value_name = "BYTES", value_parser = parse_size)]
    length: Option<u64>,
}

fn parse_vector(text: &str) -> Result<Vector, String> {
    match text {
        "state" => Ok(VECTOR_STATE),
        number => number
            .parse()
            .map_err(|_| format!("{number} is not a vector or \"state\"")),
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text
        .parse()
        .map_err(|_| format!("{text} is not a number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn vector_name(vector: Vector) -> String {
    if vector == VECTOR_STATE {
        "state".into()
    } else {
        vector.to_string()
    }
}

/// The device asked for, or the only one.
fn the_device(asked: Option<PathBuf>) -> Result<PathBuf> {
    if let Some(path) = asked {
        return Ok(path);
    }
    let mut all = devices()?;
    match all.len() {
        0 => Err("there is no /dev/ivshmem*: is the module ivshmem loaded?".into()),
        1 => Ok(all.remove(0)),
        several => Err(format!("there are {several} devices: choose one by --device").into()),
    }
}

fn open_to_look(path: &Path) -> ivshmem::Result<Device> {
    OpenOptions::new().read_only(true).open(path)
}

/// The PCI device that a device node belongs to, by whatever name.
fn pci_address(path: &Path) -> Option<String> {
    let node = fs::canonicalize(path).ok()?;
    let link = Path::new("/sys/class/misc")
        .join(node.file_name()?)
        .join("device");
    Some(
        fs::read_link(link)
            .ok()?
            .file_name()?
            .to_string_lossy()
            .into_owned(),
    )
}

fn in_units(bytes: u64) -> String {
    [(30, "GiB"), (20, "MiB"), (10, "KiB")]
        .into_iter()
        .find(|(shift, _)| bytes != 0 && bytes % (1 << shift) == 0)
        .map_or_else(
            || format!("{bytes} B"),
            |(shift, unit)| format!("{} {unit}", bytes >> shift),
        )
}

fn id(info: &Info) -> String {
    info.ivposition
        .map_or_else(|| "not ready".into(), |id| id.to_string())
}

fn interrupt(info: &Info) -> String {
    match info.interrupt {
        Interrupt::None => "none".into(),
        Interrupt::Intx => "INTx".into(),
        Interrupt::Msix => "MSI-X".into(),
        other => format!("{other:?}"),
    }
}

fn memory_type(info: &Info) -> String {
    match info.memory_type {
        MemoryType::None => "none yet".into(),
        MemoryType::WriteBack => "write-back".into(),
        MemoryType::WriteCombining => "write-combining".into(),
        MemoryType::Uncached => "uncached".into(),
        other => format!("{other:?}"),
    }
}

fn mapped_by(info: &Info) -> String {
    match info.mapped_by {
        MappedBy::None => "".into(),
        MappedBy::Record => ", by the kernel's record".into(),
        MappedBy::Entry => ", by the driver's own entries".into(),
        MappedBy::Page => ", made of pages".into(),
        other => format!(", {other:?}"),
    }
}

fn look_at(path: &Path) -> Result<Info> {
    let info = open_to_look(path)?.info();
    Ok(info.map_err(|error| format!("{}: {error}", path.display()))?)
}

fn show(path: &Path, out: &mut impl Write) -> Result {
    let info = look_at(path)?;
    writeln!(out, "{}", path.display())?;
    for (name, value) in [
        (
            "PCI device",
            pci_address(path).unwrap_or_else(|| "unknown".into()),
        ),
        ("revision", info.revision.to_string()),
        ("own ID", id(&info)),
        (
            "shared memory",
            format!("{} ({} bytes)", in_units(info.size), info.size),
        ),
        (
            "mapped as",
            format!("{}{}", memory_type(&info), mapped_by(&info)),
        ),
        ("pages up to", in_units(info.page_size)),
        ("interrupts", interrupt(&info)),
        ("own vectors", info.vectors.to_string()),
        ("rings vectors", format!("below {}", info.ring_vectors)),
        ("generation", info.generation.to_string()),
    ] {
        writeln!(out, "  {name:<14} {value}")?;
    }
    Ok(())
}

fn list(path: &Path, out: &mut impl Write) -> Result {
    let info = look_at(path)?;
    writeln!(
        out,
        "{} {} id {} size {} vectors {}",
        path.display(),
        pci_address(path).unwrap_or_else(|| "-".into()),
        id(&info),
        in_units(info.size),
        info.vectors,
    )?;
    Ok(())
}

/// Does it for each of the devices. One that cannot be looked at hides none of the others.
fn each<W: Write>(
    paths: &[PathBuf],
    out: &mut W,
    show: impl Fn(&Path, &mut W) -> Result,
) -> Result<ExitCode> {
    let mut status = ExitCode::SUCCESS;
    for path in paths {
        match show(path, out) {
            Err(error) if !error.is::<io::Error>() => {
                status = ExitCode::FAILURE;
                complain(&error);
            }
            shown => shown?,
        }
    }
    Ok(status)
}

fn wait(
    device: &Device,
    vectors: &[Vector],
    timeout: Option<Duration>,
    seen: Option<u64>,
    out: &mut impl Write,
) -> Result<ExitCode> {
    let mut events = Vec::new();
    for vector in vectors {
        let seen = seen.map_or_else(|| device.count(*vector), Ok)?;
        events.push(Event::new(*vector, seen));
    }
    let before = events.clone();
    let timeout = timeout.map_or(Timeout::Never, Timeout::After);
    if device.wait_any_of(&mut events, timeout)? == 0 {
        return Ok(ExitCode::from(2));
    }
    for (event, _) in events
        .iter()
        .zip(before)
        .filter(|(now, before)| *now != before)
    {
        writeln!(out, "{} {}", vector_name(event.vector()), event.count())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn watch(device: &Device, mut vectors: Vec<Vector>, out: &mut impl Write) -> Result {
    if vectors.is_empty() {
        vectors = (0..device.info()?.vectors).chain([VECTOR_STATE]).collect();
    }
    let mut seen = Vec::new();
    device.subscribe(&vectors)?;
    for vector in &vectors {
        seen.push(Event::new(*vector, device.count(*vector)?));
    }
    let start = Instant::now();
    let mut events = vec![Event::default(); vectors.len()];
    loop {
        let filled = device.read_events(&mut events)?;
        let seconds = start.elapsed().as_secs_f64();
        for event in &events[..filled] {
            let Some(last) = seen.iter_mut().find(|last| last.vector() == event.vector()) else {
                continue;
            };
            // What came between subscribing and the first look was looked at already.
            let more = event.count().saturating_sub(last.count());
            *last = *event;
            let vector = vector_name(event.vector());
            writeln!(out, "{seconds:10.6} {vector:>5} {} +{more}", event.count())?;
        }
        out.flush()?;
    }
}

/// Maps the whole memory and says which of its bytes are meant.
fn map(device: &Device, range: &Range) -> Result<(Memory, usize, usize)> {
    let memory = device.map_all(Access::Read)?;
    let size = memory.len() as u64;
    let length = range.length.unwrap_or(size.saturating_sub(range.offset));
    if range
        .offset
        .checked_add(length)
        .is_none_or(|end| end > size)
    {
        return Err(format!(
            "{length} bytes at {} are not within the {size} bytes of shared memory: choose another \
             --offset or --length",
            range.offset
        )
        .into());
    }
    // Both are within what is mapped.
    Ok((memory, range.offset as usize, length as usize))
}

/// Copies a range out piece by piece.
fn pieces(
    memory: &Memory,
    offset: usize,
    length: usize,
    mut use_piece: impl FnMut(usize, &[u8]) -> io::Result<()>,
) -> Result {
    let mut piece = [0; 1 << 16];
    for at in (offset..offset + length).step_by(piece.len()) {
        let piece = &mut piece[..(offset + length - at).min(1 << 16)];
        memory.read(at, piece)?;
        use_piece(at, piece)?;
    }
    Ok(())
}

fn write(device: &Device, offset: u64) -> Result {
    let memory = device.map_all(Access::ReadWrite)?;
    let size = memory.len();
    let Some(mut at) = usize::try_from(offset).ok().filter(|at| *at <= size) else {
        return Err(format!(
            "{offset} is not within the {size} bytes of shared memory: choose another --offset"
        )
        .into());
    };
    let mut piece = [0; 1 << 16];
    let mut input = io::stdin().lock();
    loop {
        let length = match input.read(&mut piece)? {
            0 => return Ok(()),
            length => length,
        };
        let fits = length.min(size - at);
        memory.write(at, &piece[..fits])?;
        at += fits;
        if fits < length {
            return Err(format!(
                "the input goes on where the {size} bytes of shared memory end: write less, or \
                 choose another --offset"
            )
            .into());
        }
    }
}

fn run(args: Args) -> Result<ExitCode> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut status = ExitCode::SUCCESS;
    match args.command {
        Command::Info { devices: mut paths } => {
            paths.extend(args.device);
            if paths.is_empty() {
                paths = devices()?;
            }
            if paths.is_empty() {
                return Err("there is no /dev/ivshmem*: is the module ivshmem loaded?".into());
            }
            status = each(&paths, &mut out, show)?;
        }
        Command::List => status = each(&devices()?, &mut out, list)?,
        Command::Ring {
            peer,
            vector,
            count,
        } => {
            let device = Device::open(the_device(args.device)?)?;
            for _ in 0..count {
                device.ring(peer, vector)?;
            }
        }
        Command::Wait {
            vectors,
            timeout,
            seen,
        } => {
            let device = open_to_look(&the_device(args.device)?)?;
            status = wait(&device, &vectors, timeout, seen, &mut out)?;
        }
        Command::Watch { vectors } => {
            watch(&open_to_look(&the_device(args.device)?)?, vectors, &mut out)?;
        }
        Command::Read { range } => {
            let (memory, offset, length) = map(&open_to_look(&the_device(args.device)?)?, &range)?;
            let mut dump = hexdump::Hexdump::new(&mut out);
            pieces(&memory, offset, length, |at, piece| dump.write(at, piece))?;
            dump.end(offset + length)?;
        }
        Command::Dump { range } => {
            let (memory, offset, length) = map(&open_to_look(&the_device(args.device)?)?, &range)?;
            pieces(&memory, offset, length, |_, piece| out.write_all(piece))?;
        }
        Command::Write { offset } => write(&Device::open(the_device(args.device)?)?, offset)?,
    }
    out.flush()?;
    Ok(status)
}

/// Says what is wrong, in a line.
fn complain(what: &dyn fmt::Display) {
    // Nobody may care.
    let _ = writeln!(io::stderr(), "ivshmem: {what}");
}

/// Says what is wrong with the arguments, in a line as for any other mistake; or what was asked for.
///
/// Clap's own status would be that of a wait whose time is over.
fn refuse(error: &clap::Error) -> ExitCode {
    if let ErrorKind::DisplayHelp
    | ErrorKind::DisplayVersion
    | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand = error.kind()
    {
        // Nobody may care.
        let _ = error.print();
        return ExitCode::from(u8::from(error.use_stderr()));
    }
    let text = error.to_string();
    let reason = text.split("\n\n").next().unwrap_or(&text);
    let words: Vec<&str> = reason
        .trim_start_matches("error: ")
        .split_whitespace()
        .collect();
    complain(&format!("{} (try --help)", words.join(" ")));
    ExitCode::FAILURE
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return refuse(&error),
    };
    match run(args) {
        Ok(status) => status,
        // Whoever read our output has seen enough.
        Err(error)
            if error
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) =>
        {
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}
