// SPDX-License-Identifier: GPL-2.0

//! The library, by its own tests, and the tool, as people use it: each subcommand, and mistakes.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::symlink;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::Ordering::SeqCst;

use guest::dev::{Device, NODE, PAGE};
use guest::pci::{self, Pci};
use guest::task::{asleep_in, spawn};
use guest::{cases, size, vectors};
use libc::c_long;
use rustix::process::Pid;

/// The test program, which has the name of its source.
const LIBRARY: &str = "/bin/device";
const TOOL: &str = "/bin/ivshmem";

/// The tool with arguments, separated by blanks.
fn tool(arguments: &str) -> Command {
    let mut command = Command::new(TOOL);
    command.args(arguments.split_whitespace());
    command
}

/// Runs the tool with something to read.
#[track_caller]
fn run(arguments: &str, input: &[u8]) -> Output {
    let mut command = tool(arguments);
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect(TOOL);
    let mut stdin = child.stdin.take().expect("a pipe");
    // One that refuses its arguments reads nothing.
    let _ = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().expect("its end")
}

#[track_caller]
fn succeeds(arguments: &str, input: &[u8]) -> Vec<u8> {
    let output = run(arguments, input);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {complaint}", output.status);
    assert_eq!(complaint, "", "it has nothing to complain of");
    output.stdout
}

/// What the tool says.
#[track_caller]
fn says(arguments: &str) -> String {
    String::from_utf8(succeeds(arguments, b"")).expect("text")
}

/// The tool fails, and says in one line why, and what to do.
#[track_caller]
fn fails(arguments: &str, input: &[u8], advice: &str) {
    let output = run(arguments, input);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{arguments}: {complaint}");
    assert!(output.stdout.is_empty(), "{arguments}");
    let line = complaint.strip_suffix('\n').expect("a line");
    assert!(!line.contains('\n'), "{arguments}: {complaint}");
    assert!(line.starts_with("ivshmem: "), "{arguments}: {complaint}");
    assert!(line.contains(advice), "{arguments}: {complaint}");
}

/// The tool while it runs. It ends with this value.
struct Running(Child);

impl Running {
    #[track_caller]
    fn start(arguments: &str) -> (Running, BufReader<ChildStdout>) {
        let mut child = tool(arguments).stdout(Stdio::piped()).spawn().expect(TOOL);
        let output = child.stdout.take().expect("a pipe");
        (Running(child), BufReader::new(output))
    }

    /// Waits until it sleeps in a system call.
    #[track_caller]
    fn asleep_in(&self, call: c_long) {
        asleep_in(Pid::from_child(&self.0), call);
    }

    /// How it ends by itself.
    #[track_caller]
    fn status(mut self) -> Option<i32> {
        let ended = spawn(move || self.0.wait().expect("its end"));
        ended.join().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The next line that comes from a program; the rest is for later.
#[track_caller]
fn next(mut output: BufReader<ChildStdout>) -> (String, BufReader<ChildStdout>) {
    let reader = spawn(move || {
        let mut line = String::new();
        output.read_line(&mut line).expect("read");
        (line, output)
    });
    reader.join()
}

/// A watched vector's line without the time, which must not go back.
#[track_caller]
fn event<'a>(line: &'a str, last: &mut f64) -> Vec<&'a str> {
    let mut words = line.split_whitespace();
    let time = words.next().and_then(|time| time.parse().ok());
    let time: f64 = time.unwrap_or_else(|| panic!("no time: {line:?}"));
    assert!(time >= *last, "{line}");
    *last = time;
    words.collect()
}

#[track_caller]
fn id(device: &Device) -> i32 {
    device.ivposition().expect("IVPOSITION")
}

/// Bytes that do not repeat with the pages.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

fn the_library_passes_its_own_tests() {
    let output = Command::new(LIBRARY)
        .args(["--include-ignored", "--test-threads=1"])
        .output()
        .expect(LIBRARY);
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}:\n{said}", output.status);
    assert!(!said.contains(" 0 passed;"), "there are some:\n{said}");
    assert!(said.contains(" 0 ignored;"), "all of them:\n{said}");
}

fn info_shows_all_about_a_device() {
    let device = Device::open();
    let text = says("info");
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some(NODE));
    let lines: Vec<(&str, &str)> = lines
        .map(|line| line.split_at(17))
        .map(|(name, value)| (name.trim(), value))
        .collect();
    let pages = match device.info().page_size {
        size if size >= 1 << 30 => format!("{} GiB", size >> 30),
        size if size >= 1 << 20 => format!("{} MiB", size >> 20),
        size => format!("{} KiB", size >> 10),
    };
    for (name, value) in [
        ("PCI device", Pci::of("ivshmem0").name),
        ("revision", "1".to_owned()),
        ("own ID", id(&device).to_string()),
        (
            "shared memory",
            format!("{} MiB ({} bytes)", size() >> 20, size()),
        ),
        ("pages up to", pages),
        ("interrupts", "MSI-X".to_owned()),
        ("own vectors", vectors().to_string()),
        ("rings vectors", format!("below {}", vectors())),
        ("generation", device.info().generation.to_string()),
    ] {
        assert!(lines.contains(&(name, &value)), "{name} {value}: {text}");
    }
    let (name, value) = lines[4];
    assert!(
        name == "mapped as" && value.starts_with("write-back, "),
        "{text}"
    );
    assert_eq!(lines.len(), 10);
    assert_eq!(says(&format!("info {NODE}")), text);
    assert_eq!(says(&format!("--device {NODE} info")), text);
    symlink(NODE, "/tmp/alias").expect("symlink");
    assert_eq!(says("info /tmp/alias"), text.replace(NODE, "/tmp/alias"));
}

/// One that cannot be looked at hides none of the others.
fn info_goes_on_with_the_next_device() {
    let output = run(&format!("info /dev/ivshmem9 {NODE}"), b"");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, succeeds(&format!("info {NODE}"), b""));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("/dev/ivshmem9: no such"), "{complaint}");
}

fn list_has_a_line_for_each() {
    let device = Device::open();
    let line = format!(
        "{NODE} {} id {} size {} MiB vectors {}\n",
        Pci::of("ivshmem0").name,
        id(&device),
        size() >> 20,
        vectors()
    );
    assert_eq!(says("list"), line);
}

/// More than the tool takes at once, from a place that is aligned to nothing.
fn write_puts_its_input_there() {
    const AT: usize = PAGE - 1;
    let map = Device::open().map(0, 64 * PAGE);
    map.bytes().iter().for_each(|byte| byte.store(0xee, SeqCst));
    let bytes = pattern(40 * PAGE + 5);
    let said = succeeds(&format!("write --offset {AT}"), &bytes);
    assert!(said.is_empty());
    for (at, byte) in map.bytes().iter().enumerate() {
        let written = at.checked_sub(AT).and_then(|at| bytes.get(at));
        assert_eq!(byte.load(SeqCst), *written.unwrap_or(&0xee), "byte {at}");
    }
}

fn dump_gives_back_what_was_written() {
    let bytes = pattern(40 * PAGE + 5);
    succeeds("write --offset 1M", &bytes);
    let range = format!("--offset 1M --length {}", bytes.len());
    assert!(succeeds(&format!("dump {range}"), b"") == bytes);
    let all = succeeds("dump", b"");
    assert_eq!(all.len() as u64, size());
    assert!(all[1 << 20..].starts_with(&bytes));
    // The very end is there as well.
    let end = size() - 3;
    succeeds(&format!("write --offset {end:#x}"), b"end");
    assert_eq!(succeeds(&format!("dump --offset {end:#x}"), b""), b"end");
    assert_eq!(succeeds(&format!("dump --offset {}", size()), b""), b"");
}

fn read_shows_it_in_hexadecimal() {
    let mut bytes = vec![0; 64];
    bytes.extend(b"Hello, world!\n");
    succeeds("write -o 64K", &bytes);
    let zeros = "00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|";
    let shown = format!(
        "00010000  {zeros}\n\
         *\n\
         00010040  48 65 6c 6c 6f 2c 20 77  6f 72 6c 64 21 0a        |Hello, world!.|\n\
         0001004e\n"
    );
    assert_eq!(says("read -o 64K -l 78"), shown);
}

fn ring_interrupts_a_peer() {
    let device = Device::open();
    let seen = device.settle(3);
    let me = id(&device);
    assert_eq!(says(&format!("ring {me} 3")), "");
    assert_eq!(device.moved(3, seen), seen + 1);
    // Rings that come quickly may be one interrupt.
    assert_eq!(says(&format!("ring {me} 3 --count 100")), "");
    assert!((seen + 2..=seen + 101).contains(&device.moved(3, seen + 1)));
    device.settle(3);
}

fn wait_sleeps_until_a_ring() {
    let device = Device::open();
    let me = id(&device);
    let seen = [1, 2].map(|vector| device.settle(vector));
    let (waiter, output) = Running::start("wait 1 2 state");
    waiter.asleep_in(libc::SYS_ioctl);
    // Not by that of another.
    let before = device.settle(0);
    says(&format!("ring {me} 0"));
    device.moved(0, before);
    waiter.asleep_in(libc::SYS_ioctl);
    says(&format!("ring {me} 2"));
    let (line, mut output) = next(output);
    assert_eq!(line, format!("2 {}\n", seen[1] + 1));
    assert_eq!(waiter.status(), Some(0));
    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("read");
    assert_eq!(rest, "", "vector 1 has not moved");
    // Who has seen less has nothing to wait for.
    let line = format!("1 {}\n", seen[0]);
    assert_eq!(says(&format!("wait 1 --seen {}", seen[0] - 1)), line);
}

/// With a status of its own, so that scripts can tell it from a mistake.
fn wait_gives_up_in_time() {
    Device::open().settle(0);
    for arguments in ["wait 0 --timeout 0.02", "wait 0 state -t 0"] {
        let output = run(arguments, b"");
        assert_eq!(output.status.code(), Some(2), "{arguments}");
        assert!(output.stdout.is_empty() && output.stderr.is_empty());
    }
}

fn watch_prints_interrupts_as_they_come() {
    let device = Device::open();
    let me = id(&device);
    let mut seen = [0, 1, 2, 3].map(|vector| device.settle(vector));
    let (watcher, mut output) = Running::start("watch");
    let mut time = 0.0;
    for vector in [0, 3, 3, 1] {
        watcher.asleep_in(libc::SYS_read);
        says(&format!("ring {me} {vector}"));
        let line;
        (line, output) = next(output);
        seen[vector] += 1;
        let [vector, count] = [vector as u64, seen[vector]].map(|number| number.to_string());
        assert_eq!(event(&line, &mut time), [&vector, &count, "+1"]);
    }
}

/// Others are none of its business.
fn watch_may_be_told_which() {
    let device = Device::open();
    let me = id(&device);
    let seen = [0, 1].map(|vector| device.settle(vector));
    let (watcher, output) = Running::start("watch 1 state");
    watcher.asleep_in(libc::SYS_read);
    says(&format!("ring {me} 0"));
    device.moved(0, seen[0]);
    says(&format!("ring {me} 1"));
    let (line, _) = next(output);
    let count = (seen[1] + 1).to_string();
    assert_eq!(event(&line, &mut 0.0), ["1", &count, "+1"]);
}

/// As in a pipe to `head`.
fn watch_ends_when_nobody_reads() {
    let device = Device::open();
    let me = id(&device);
    device.settle(0);
    let (watcher, output) = Running::start("watch 0");
    watcher.asleep_in(libc::SYS_read);
    drop(output);
    says(&format!("ring {me} 0"));
    assert_eq!(watcher.status(), Some(0));
}

fn what_is_no_device_is_refused() {
    let subcommands = [
        "info", "ring 0 0", "wait 0", "watch", "read", "dump", "write",
    ];
    for subcommand in subcommands {
        let advice = "cannot open /dev/ivshmem9: no such device: is the module ivshmem loaded?";
        fails(&format!("{subcommand} -d /dev/ivshmem9"), b"", advice);
        let advice = "not an ivshmem device, or its driver does not know this call: check path";
        fails(&format!("{subcommand} -d /dev/zero"), b"", advice);
    }
    fails("info /dev/ivshmem9", b"", "is the module ivshmem loaded?");
}

fn what_is_no_number_is_refused() {
    for arguments in [
        "ring zero 0",
        "ring 0 -1",
        "ring 0 4294967296",
        "ring 0 0 --count many",
        "wait any",
        "wait 0 --timeout soon",
        "wait 0 --seen 0x1",
        "watch 1.5",
        "read --offset 1X",
        "read --length 0x",
        "dump --offset 99999999999T",
        "write --offset -1",
    ] {
        fails(arguments, b"", "(try --help)");
    }
}

fn what_is_missing_or_too_much_is_refused() {
    for arguments in [
        "ring",
        "ring 0",
        "ring 0 0 0",
        "wait",
        "write file",
        "info --device",
        "sing",
    ] {
        fails(arguments, b"", "(try --help)");
    }
}

fn what_is_out_of_range_is_refused() {
    let device = Device::open();
    let me = id(&device);
    let vectors = vectors();
    for arguments in [
        format!("ring {me} {vectors}"),
        format!("ring {me} 256"),
        "ring 65536 0".to_owned(),
        format!("wait {vectors}"),
        format!("watch {vectors}"),
    ] {
        fails(&arguments, b"", "see the device's info for what there is");
    }
    let size = size();
    for range in [
        format!("--offset {}", size + 1),
        format!("--offset {size} --length 1"),
        format!("--length {}", size + 1),
        format!("--offset 2 --length {}", u64::MAX),
        format!("--offset {} --length 2", u64::MAX),
    ] {
        for subcommand in ["read", "dump"] {
            let arguments = format!("{subcommand} {range}");
            fails(&arguments, b"", "choose another --offset or --length");
        }
    }
    for offset in [size + 1, u64::MAX] {
        let arguments = format!("write --offset {offset}");
        fails(&arguments, b"", "choose another --offset");
    }
}

fn an_input_that_is_too_long_is_told_of() {
    let at = size() - 4;
    let advice = "write less, or choose another --offset";
    succeeds(&format!("write --offset {at}"), b"    ");
    fails(&format!("write --offset {at}"), b"12345", advice);
    let end = succeeds(&format!("dump --offset {at}"), b"");
    assert_eq!(end, b"1234", "what fits is there");
    fails(&format!("write --offset {}", size()), b"1", advice);
}

fn without_a_device_there_is_none_to_use() {
    let [pci] = &pci::devices()[..] else {
        panic!("one device")
    };
    pci.unbind();
    assert_eq!(says("list"), "");
    for arguments in ["info", "ring 0 0", "wait 0", "read"] {
        fails(arguments, b"", "is the module ivshmem loaded?");
    }
    pci.bind();
    assert!(says("list").starts_with(NODE));
}

fn main() {
    guest::run(cases![
        the_library_passes_its_own_tests,
        info_shows_all_about_a_device,
        info_goes_on_with_the_next_device,
        list_has_a_line_for_each,
        write_puts_its_input_there,
        dump_gives_back_what_was_written,
        read_shows_it_in_hexadecimal,
        ring_interrupts_a_peer,
        wait_sleeps_until_a_ring,
        wait_gives_up_in_time,
        watch_prints_interrupts_as_they_come,
        watch_may_be_told_which,
        watch_ends_when_nobody_reads,
        what_is_no_device_is_refused,
        what_is_no_number_is_refused,
        what_is_missing_or_too_much_is_refused,
        what_is_out_of_range_is_refused,
        an_input_that_is_too_long_is_told_of,
        without_a_device_there_is_none_to_use,
    ])
}
