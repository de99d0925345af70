// SPDX-License-Identifier: GPL-2.0

//! `make shell`: the terminal is the console of one guest at a time.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Result, ensure};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::Options;
use crate::guest::{Monitor, Plan};
use crate::run::{self, Group};

/// Ctrl-] begins a command to the runner.
const ESCAPE: u8 = 0x1d;

/// A terminal in raw mode for as long as this value lives.
struct Raw(Option<Termios>);

impl Raw {
    fn new() -> Result<Self> {
        if !io::stdin().is_terminal() {
            return Ok(Raw(None));
        }
        let before = tcgetattr(io::stdin().as_fd())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin().as_fd(), OptionalActions::Now, &raw)?;
        Ok(Raw(Some(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // Nothing is left to do about a terminal that went away.
            let _ = tcsetattr(io::stdin().as_fd(), OptionalActions::Now, before);
        }
    }
}

/// What the person types goes to the guest that is shown, except for commands to the runner.
struct Keyboard {
    shown: Arc<AtomicUsize>,
    consoles: Vec<UnixStream>,
    monitors: Vec<Monitor>,
    escaped: bool,
}

impl Keyboard {
    fn read(mut self) {
        let mut buffer = [0; 256];
        while let Ok(length @ 1..) = io::stdin().read(&mut buffer) {
            buffer[..length].iter().for_each(|&key| self.key(key));
        }
    }

    fn key(&mut self, key: u8) {
        let number = usize::from(key.wrapping_sub(b'0'));
        if !self.escaped && key == ESCAPE {
            self.escaped = true;
            return;
        }
        if std::mem::take(&mut self.escaped) && key != ESCAPE {
            if key == b'q' {
                // A guest may have ended by itself, or be ending.
                self.monitors
                    .iter_mut()
                    .for_each(|monitor| drop(monitor.quit()));
            } else if number < self.consoles.len() {
                self.shown.store(number, Ordering::Relaxed);
                show(format!("\r\n--- guest {number}\r\n").as_bytes());
            }
            return;
        }
        // As above.
        let _ = self.consoles[self.shown.load(Ordering::Relaxed)].write_all(&[key]);
    }
}

pub fn shell(options: &Options) -> Result<ExitCode> {
    let (bed, plan, archive) = run::person(options, "")?;
    let plan = Plan {
        interactive: true,
        ..plan
    };
    ensure!(plan.guests <= 10, "no more guests than there are digits");
    eprintln!("bed: end a guest with `exit`; Ctrl-] q ends them all");
    if plan.guests > 1 {
        eprintln!(
            "bed: Ctrl-] 0 to Ctrl-] {} switch between the guests",
            plan.guests - 1
        );
    }
    let group = Group::start(&bed, &plan, &archive)?;
    let shown = Arc::new(AtomicUsize::new(0));
    let mut keyboard = Keyboard {
        shown: shown.clone(),
        consoles: Vec::new(),
        monitors: Vec::new(),
        escaped: false,
    };
    let mut screens = Vec::new();
    let mut processes = Vec::new();
    for (number, guest) in group.guests.into_iter().enumerate() {
        keyboard.consoles.push(guest.console.try_clone()?);
        keyboard.monitors.push(guest.monitor);
        processes.push(guest.process);
        let (mut console, shown) = (guest.console, shown.clone());
        screens.push(thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = console.read(&mut buffer) {
                if shown.load(Ordering::Relaxed) == number {
                    show(&buffer[..length]);
                }
            }
        }));
    }
    let _raw = Raw::new()?;
    // Not joined: nothing interrupts a read of the terminal but the end of this process.
    thread::spawn(|| keyboard.read());
    for screen in screens {
        screen.join().expect("no thread panics");
    }
    Ok(ExitCode::SUCCESS)
}

fn show(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    // Nobody is left to tell.
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}
