// SPDX-License-Identifier: GPL-2.0

//! Threads that sleep, children that die and what they leave, debuggers, signals.

use std::fs;
use std::mem::MaybeUninit;
use std::panic::{self, AssertUnwindSafe};
use std::process;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, kill_process, setrlimit, waitpid,
};
use rustix::thread::gettid;

/// For what must come.
const LONG: Duration = Duration::from_secs(30);

/// Waits for a state of the system that nothing tells of.
#[track_caller]
pub fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let start = Instant::now();
    while !reached() {
        assert!(start.elapsed() < LONG, "in vain: {what}");
        thread::yield_now();
    }
}

/// A thread that a test can watch. It is left alone if the test fails.
pub struct Worker<T> {
    tid: Pid,
    back: Arc<AtomicBool>,
    result: Receiver<T>,
}

/// Starts a thread.
pub fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Worker<T> {
    let (started, start) = mpsc::channel();
    let (done, result) = mpsc::channel();
    let back = Arc::new(AtomicBool::new(false));
    let worker = back.clone();
    thread::spawn(move || {
        started.send(gettid()).expect("somebody waits for it");
        let result = work();
        worker.store(true, SeqCst);
        // Nobody wants the result if the test has failed.
        let _ = done.send(result);
    });
    let tid = start.recv().expect("it starts");
    Worker { tid, back, result }
}

impl<T> Worker<T> {
    /// Waits until the thread sleeps in a system call.
    #[track_caller]
    pub fn asleep(&self) {
        asleep(self.tid);
    }

    /// Whether it sleeps in a system call.
    pub fn is_asleep(&self) -> bool {
        is_asleep(self.tid)
    }

    /// Sends it a signal, unless it has ended.
    pub fn signal(&self, signal: i32) {
        let (process, thread) = (process::id() as i32, self.tid.as_raw_pid());
        // SAFETY: The signal has a handler, or is to kill this process.
        unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal) };
    }

    /// Its result, that must come.
    #[track_caller]
    pub fn join(self) -> T {
        self.join_within(1)
    }

    /// Its result, that must come but has this many times the usual time.
    #[track_caller]
    pub fn join_within(self, times: u32) -> T {
        match self.result.recv_timeout(LONG * times) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => panic!("the thread does not come back"),
            Err(RecvTimeoutError::Disconnected) => panic!("the thread has panicked"),
        }
    }

    /// Whether it has not come back yet.
    pub fn is_out(&self) -> bool {
        !self.back.load(SeqCst)
    }
}

/// Waits until a task sleeps in a system call.
#[track_caller]
fn asleep(tid: Pid) {
    until("the thread is to fall asleep", || is_asleep(tid));
}

/// Waits until a task sleeps in one system call and no other.
#[track_caller]
pub fn asleep_in(tid: Pid, call: libc::c_long) {
    until("the process is to fall asleep", || {
        sleeps_in(tid) == Some(call)
    });
}

/// The system calls that tests sleep in. Others may sleep as well, but not for what a test wants.
const SLEEPS: [libc::c_long; 11] = [
    libc::SYS_read,
    libc::SYS_ioctl,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_select,
    libc::SYS_pselect6,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_io_uring_enter,
    libc::SYS_pause,
];

/// Whether a task sleeps in a system call; one that has ended does not.
fn is_asleep(tid: Pid) -> bool {
    sleeps_in(tid).is_some_and(|number| SLEEPS.contains(&number))
}

/// The number of the system call that a task sleeps in.
fn sleeps_in(tid: Pid) -> Option<libc::c_long> {
    let text = fs::read_to_string(format!("/proc/{}/syscall", tid.as_raw_pid())).ok()?;
    text.split(' ').next()?.parse().ok()
}

/// How a process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Exit(i32),
    Signal(i32),
}

/// A child process.
pub struct Child(Pid);

/// Starts a copy of this process that does some work and then exits with 0, or 101 if it panics.
pub fn fork(work: impl FnOnce()) -> Child {
    // SAFETY: What the child does is up to the tests; the C library's allocator works in it.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        0 => {
            let result = panic::catch_unwind(AssertUnwindSafe(work));
            let status = if result.is_ok() { 0 } else { 101 };
            // SAFETY: Ends the child without running what the parent has registered.
            unsafe { libc::_exit(status) }
        }
        pid => Child(Pid::from_raw(pid).expect("a process")),
    }
}

impl Child {
    /// Waits until the child sleeps in a system call.
    #[track_caller]
    pub fn asleep(&self) {
        asleep(self.0);
    }

    pub fn wait(self) -> Ended {
        let (_, status) = waitpid(Some(self.0), WaitOptions::empty())
            .expect("waitpid")
            .expect("a child that has ended");
        match status.exit_status() {
            Some(status) => Ended::Exit(status),
            None => Ended::Signal(status.terminating_signal().expect("a signal")),
        }
    }
}

/// How a child ends that touches an address.
pub fn touch(address: usize) -> Ended {
    fork(|| {
        let pointer = address as *const u8;
        // SAFETY: It is for the kernel to say; the child may die of it.
        let _ = unsafe { ptr::read_volatile(pointer) };
    })
    .wait()
}

/// How a child ends that writes to an address.
pub fn write_to(address: usize, value: u8) -> Ended {
    fork(|| {
        let pointer = address as *mut u8;
        // SAFETY: Nothing of this program is there; the child may die of it.
        unsafe { ptr::write_volatile(pointer, value) };
    })
    .wait()
}

/// What a process has left when it died.
pub struct Core(Vec<u8>);

/// The end of a child that does some work that kills it, and what it leaves.
#[track_caller]
pub fn core_of(work: impl FnOnce()) -> (Ended, Core) {
    const PATTERN: &str = "/proc/sys/kernel/core_pattern";
    const FILE: &str = "/tmp/core";
    let before = fs::read(PATTERN).expect(PATTERN);
    fs::write(PATTERN, FILE).expect(PATTERN);
    let child = fork(|| {
        let any = Rlimit {
            current: None,
            maximum: None,
        };
        setrlimit(Resource::Core, any).expect("setrlimit");
        work();
    });
    let ended = child.wait();
    fs::write(PATTERN, before).expect(PATTERN);
    let core = fs::read(FILE).expect("a core dump");
    fs::remove_file(FILE).expect("rm");
    (ended, Core(core))
}

impl Core {
    fn number<const LEN: usize>(&self, at: usize) -> usize {
        let bytes = &self.0[at..at + LEN];
        bytes
            .iter()
            .rev()
            .fold(0, |number, byte| (number << 8) | usize::from(*byte))
    }

    /// The mapping that had this address: where it began, its length, and what was dumped of it.
    #[track_caller]
    fn find(&self, address: usize) -> (usize, usize, &[u8]) {
        const LOADED: usize = 1;
        assert!(self.0.starts_with(b"\x7fELF"));
        let headers = self.number::<8>(32);
        let [size, count] = [54, 56].map(|field| self.number::<2>(field));
        for header in (0..count).map(|index| headers + index * size) {
            let [offset, start, dumped, len] =
                [8, 16, 32, 40].map(|field| self.number::<8>(header + field));
            let loaded = self.number::<4>(header) == LOADED;
            if loaded && (start..start + len).contains(&address) {
                return (start, len, &self.0[offset..offset + dumped]);
            }
        }
        panic!("no such address: {address:#x}");
    }

    /// The mapping that had this address: its length, and how much was dumped of it.
    #[track_caller]
    pub fn mapping(&self, address: usize) -> (usize, usize) {
        let (_, len, dumped) = self.find(address);
        (len, dumped.len())
    }

    /// Memory that was dumped.
    #[track_caller]
    pub fn memory(&self, address: usize, len: usize) -> &[u8] {
        let (start, _, dumped) = self.find(address);
        &dumped[address - start..][..len]
    }
}

/// A process that sleeps, stopped by this one as its debugger. It ends with this value.
pub struct Debugged(Child);

impl Debugged {
    #[track_caller]
    pub fn start() -> Debugged {
        let child = fork(|| {
            // SAFETY: Waits for a signal.
            unsafe { libc::pause() };
        });
        child.asleep();
        let debugged = Debugged(child);
        // SAFETY: The process is a child that does nothing.
        unsafe { debugged.request(libc::PTRACE_ATTACH, 0, 0) }.expect("ptrace");
        let stopped = waitpid(Some(debugged.0.0), WaitOptions::empty()).expect("waitpid");
        assert!(stopped.expect("a child").1.stopped());
        debugged
    }

    /// # Safety
    ///
    /// As for `ptrace()`: `data` may be an address that is written to.
    unsafe fn request(&self, request: u32, address: usize, data: u64) -> Result<(), Errno> {
        let id = self.0.0.as_raw_pid();
        // SAFETY: By the safety requirements.
        match unsafe { libc::syscall(libc::SYS_ptrace, request, id, address, data) } {
            0 => Ok(()),
            _ => {
                let error = std::io::Error::last_os_error();
                Err(Errno::from_io_error(&error).expect("an error of a system call"))
            }
        }
    }

    /// Reads a word of its memory.
    pub fn peek(&self, address: usize) -> Result<u64, Errno> {
        let mut word = 0_u64;
        let to = ptr::from_mut(&mut word).expose_provenance() as u64;
        // SAFETY: The system call, unlike the C library's function, writes the word there.
        unsafe { self.request(libc::PTRACE_PEEKDATA, address, to) }?;
        Ok(word)
    }

    /// Writes a word to its memory.
    pub fn poke(&self, address: usize, word: u64) -> Result<(), Errno> {
        // SAFETY: The child does nothing that could be disturbed.
        unsafe { self.request(libc::PTRACE_POKEDATA, address, word) }
    }

    /// All of its memory.
    #[track_caller]
    pub fn memory(&self) -> fs::File {
        let path = format!("/proc/{}/mem", self.0.0.as_raw_pid());
        let file = fs::File::options().read(true).write(true).open(path);
        file.expect("procfs")
    }
}

impl Drop for Debugged {
    fn drop(&mut self) {
        // Fails only if it is gone already.
        let _ = kill_process(self.0.0, Signal::KILL);
        let _ = waitpid(Some(self.0.0), WaitOptions::empty());
    }
}

pub const DIES: Ended = Ended::Signal(libc::SIGBUS);
pub const LIVES: Ended = Ended::Exit(0);

/// How many signals were handled.
pub static SIGNALS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_signal(_: i32) {
    SIGNALS.fetch_add(1, SeqCst);
}

/// Counts a signal, and lets system calls go on after it, or not.
pub fn handle(signal: i32, flags: i32) {
    let handler: extern "C" fn(i32) = count_signal;
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: All zeroes are a valid action: no flags, an empty mask.
    let action = unsafe { action.assume_init_mut() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = flags;
    // SAFETY: The handler does nothing that is forbidden in one.
    let done = unsafe { libc::sigaction(signal, action, ptr::null_mut()) };
    assert_eq!(done, 0, "sigaction");
}

/// A number of `/proc/self/status`, in KiB.
#[track_caller]
pub fn status(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").expect("procfs");
    let line = text
        .lines()
        .find(|line| line.starts_with(name))
        .expect(name);
    line.split_whitespace()
        .nth(1)
        .expect("a number")
        .parse()
        .expect("a number")
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub fn now() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}
