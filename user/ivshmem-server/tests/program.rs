// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The program `ivshmem-server`.

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
};

use common::{LONG, Raw};
use ivshmem_server::{Client, Error};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tempfile::TempDir;

struct Program {
    child: Child,
    ready: String,
    stderr: BufReader<ChildStderr>,
}

/// Starts it and waits for its word that it is ready, or that it is not.
fn start(args: &[&str], stdin: Stdio) -> Program {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ivshmem-server"))
        .args(args)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut ready)
        .unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    Program {
        child,
        ready,
        stderr,
    }
}

fn start_at(path: &Path, args: &[&str]) -> Program {
    start(
        &[&["--socket", path.to_str().unwrap()], args].concat(),
        Stdio::null(),
    )
}

impl Program {
    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Its log up to the first line with `text`.
    fn log_until(&mut self, text: &str) {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert_ne!(
                self.stderr.read_line(&mut line).unwrap(),
                0,
                "no {text:?} in the log"
            );
        }
    }

    fn end(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        let mut rest = String::new();
        self.stderr.read_to_string(&mut rest).unwrap();
        (status, rest)
    }

    fn signalled(self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
        let (status, log) = self.end();
        assert!(status.success(), "{status}: {log}");
    }
}

#[test]
fn serves_until_a_signal() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("socket");
    for signal in [Signal::TERM, Signal::INT] {
        let program = start_at(&path, &["--size", "2M", "--vectors", "4"]);
        let expected = format!(
            "listening on {} (2097152 bytes, 4 vectors)\n",
            path.display()
        );
        assert_eq!(program.ready, expected);
        let client = Client::connect(&path, 4, Some(LONG)).unwrap();
        assert_eq!(client.size(), 2 << 20);
        program.signalled(signal);
        assert!(!path.exists());
    }
}

#[test]
fn a_dead_servers_socket_is_replaced_and_a_living_ones_is_not() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("socket");
    drop(UnixListener::bind(&path).unwrap());
    let program = start_at(&path, &[]);
    assert!(!program.ready.is_empty());

    let (status, log) = start_at(&path, &[]).end();
    assert!(!status.success());
    assert!(log.contains("is in use"), "{log}");
    let client = Client::connect(&path, 1, Some(LONG)).unwrap();
    assert_eq!(client.id(), 0, "the attempt was no client");
    program.signalled(Signal::TERM);
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "precious").unwrap();
    let (status, log) = start_at(&path, &[]).end();
    assert!(!status.success());
    assert!(log.contains("is not a socket"), "{log}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn says_what_is_wrong_with_a_size() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("socket");
    let (status, log) = start_at(&path, &["--size", "3M"]).end();
    assert!(!status.success());
    assert!(log.contains("power of two"), "{log}");
    assert!(!path.exists());
}

#[test]
fn inherits_a_listening_socket() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let program = start(&["--listen-fd", "0"], Stdio::from(OwnedFd::from(listener)));
    Client::connect(&path, 1, Some(LONG)).unwrap();
    program.signalled(Signal::TERM);
    assert!(path.exists(), "it belongs to who made it");
}

#[test]
fn what_is_not_as_said_is_not_inherited() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    for (args, stdin, advice) in [
        (
            &["--listen-fd", "0"][..],
            Stdio::from(OwnedFd::from(theirs)),
            "not a listening socket",
        ),
        (&["--listen-fd", "0"], Stdio::null(), "non-socket"),
        (&["--listen-fd", "3"], Stdio::null(), "Bad file descriptor"),
        (&["--client-fd", "3"], Stdio::null(), "Bad file descriptor"),
        (
            &["--client-fd", "0", "--listen-fd", "0"],
            Stdio::null(),
            "descriptor 0 is named twice",
        ),
    ] {
        let (status, log) = start(args, stdin).end();
        assert_eq!(status.code(), Some(1), "{args:?}: {log}");
        assert!(log.contains(advice), "{args:?}: {log}");
    }
    drop(ours);
}

#[test]
fn nobody_has_to_read_its_log() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("socket");
    let Program {
        mut child, stderr, ..
    } = start_at(&path, &["--verbose"]);
    drop(stderr);
    for id in 0..3 {
        let client = Client::connect(&path, 1, Some(LONG)).unwrap();
        assert_eq!(client.id(), id);
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn inherits_a_client() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let program = start(&["--client-fd", "0"], Stdio::from(OwnedFd::from(theirs)));
    let client = Client::from_socket(ours, 1, Some(LONG)).unwrap();
    assert_eq!(client.id(), 0);
    program.signalled(Signal::TERM);
}

#[test]
fn a_client_too_many_is_refused_and_the_others_go_on() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("socket");
    let mut program = start_at(&path, &["--vectors", "16"]);
    let limit = Rlimit {
        current: Some(50),
        maximum: Some(50),
    };
    prlimit(Some(program.pid()), Resource::Nofile, limit).unwrap();

    let mut first = Client::connect(&path, 16, Some(LONG)).unwrap();
    let second = Client::connect(&path, 16, Some(LONG)).unwrap();
    let refused = Raw::connect(&path);
    assert!(refused.message().is_none(), "it is told nothing");
    program.log_until("a client was refused: no eventfds for 16 vectors");

    first.wait_for_peer(1, 16, Some(LONG)).unwrap();
    first.ring(1, 15).unwrap();
    assert_eq!(second.wait(15, Some(LONG)).unwrap(), 1);
    drop(second);
    program.log_until("client 1 left");
    let third = Client::connect(&path, 16, Some(LONG)).unwrap();
    assert_eq!(third.id(), 2, "who was refused has used up no ID");

    // Now not even the connection can be accepted.
    let fds = Path::new("/proc")
        .join(program.child.id().to_string())
        .join("fd");
    let unused = (0..).find(|fd: &u64| fds.join(fd.to_string()).symlink_metadata().is_err());
    let limit = Rlimit {
        current: unused,
        maximum: unused,
    };
    prlimit(Some(program.pid()), Resource::Nofile, limit).unwrap();
    let refused = Client::connect(&path, 16, Some(LONG));
    assert!(matches!(refused, Err(Error::Closed)), "{refused:?}");
    program.log_until("a client was refused: Too many open files");
    program.signalled(Signal::TERM);
}
