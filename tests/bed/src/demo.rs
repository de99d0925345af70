// SPDX-License-Identifier: GPL-2.0

//! `make demo`: two guests, A and B, in a conversation to watch.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::guest::Plan;
use crate::{Device, Lane, run};

/// Who speaks: the indentation, the colour and the name.
const SIDES: [(&str, &str, &str); 2] = [("", "36", "A"), ("        ", "35", "B")];
const BOLD: &str = "1";
const GOOD: &str = "1;32";
const BAD: &str = "1;31";

struct Stage {
    start: Instant,
    colours: bool,
}

impl Stage {
    fn line(&self, colour: &str, text: &str) {
        let seconds = self.start.elapsed().as_secs_f32();
        if self.colours {
            println!("{seconds:5.1} s  \x1b[{colour}m{text}\x1b[m");
        } else {
            println!("{seconds:5.1} s  {text}");
        }
    }
}

pub fn demo() -> Result<ExitCode> {
    let stage = Stage {
        start: Instant::now(),
        colours: io::stdout().is_terminal(),
    };
    stage.line(BOLD, "building the driver, the server and the programs");
    let bed = run::bed(None)?;
    let module = thread::scope(|scope| {
        let programs = scope.spawn(|| bed.build_demo_programs());
        let module = bed.module(Lane::Stock);
        programs.join().expect("no thread panics")?;
        module
    })?;
    let program = ("demo".to_owned(), bed.test_program("demo"));
    let archive = run::archive(&[program], Some(&module))?;
    let plan = Plan {
        guests: SIDES.len(),
        device: Device::Doorbell,
        vectors: 4,
        size: 16 << 20,
        load: true,
        command: "/demo".to_owned(),
        ..run::PLAN
    };

    stage.line(
        BOLD,
        "starting ivshmem-server, and two guests with Debian's kernel as it comes",
    );
    let limit = Duration::from_secs(120);
    let reports = run::run(&bed, &plan, &archive, limit, &|guest, line| {
        let (indent, colour, name) = SIDES[guest];
        stage.line(colour, &format!("{indent}{name} | {line}"));
    })?;

    let mut failed = false;
    for ((_, _, name), report) in SIDES.iter().zip(&reports) {
        let mut problems = report.problems(&[]);
        if let Some(status @ 1..) = report.status {
            problems.push(format!("ended with status {status}"));
            problems.extend(report.log.iter().cloned());
        }
        failed |= !problems.is_empty();
        for problem in problems {
            stage.line(BAD, &format!("{name}: {problem}"));
        }
    }
    if failed {
        stage.line(BAD, "It did not work.");
        return Ok(ExitCode::FAILURE);
    }
    stage.line(
        GOOD,
        "It works: two guests share memory and interrupt each other.",
    );
    Ok(ExitCode::SUCCESS)
}
