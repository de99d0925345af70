// SPDX-License-Identifier: GPL-2.0

//! `make test`: the checks of the sources, then the guest suites.

use std::cmp::Reverse;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::build::{self, Bed, SOURCE};
use crate::guest::Plan;
use crate::image::Archive;
use crate::ktap::{self, Verdict};
use crate::log::Provoked;
use crate::run::{self, Report};
use crate::suites::{SUITES, Scenario, Suite};
use crate::{Device, Lane};

#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
}

impl Tally {
    fn count(&mut self, passed: bool) {
        if passed {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
    }
}

pub fn test(bed: &Bed, lane: Option<Lane>, suite: Option<&str>) -> Result<ExitCode> {
    let suites: Vec<&Suite> = SUITES
        .iter()
        .filter(|known| suite.is_none_or(|wanted| wanted == known.subject))
        .collect();
    ensure!(
        !suites.is_empty(),
        "no such suite; there are: {}",
        SUITES
            .iter()
            .map(|suite| suite.subject)
            .collect::<Vec<_>>()
            .join(" ")
    );
    let mut tally = Tally::default();
    if lane.is_none() && suite.is_none() {
        check_sources(bed, &mut tally);
    }
    let lanes = lane.map_or(vec![Lane::Stock, Lane::Debug], |lane| vec![lane]);
    let in_lanes = |suite: &&Suite| {
        let mut scenarios = suite.scenarios.iter();
        scenarios.any(|scenario| lanes.iter().any(|lane| scenario.lanes.contains(lane)))
    };
    if let Some(absent) = suites.iter().find(|suite| !in_lanes(suite)) {
        ensure!(suite.is_none(), "{} is not of this lane", absent.subject);
    }
    for lane in lanes {
        if let Err(error) = run_lane(bed, lane, &suites, &mut tally) {
            println!("FAIL {:5} {error:#}", lane.name());
            tally.count(false);
        }
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(ExitCode::from(u8::from(tally.failed > 0)))
}

/// Formatting, lints, generated sources and host tests: each counts as one.
fn check_sources(bed: &Bed, tally: &mut Tally) {
    let mut check = |what: &str, check: &dyn Fn() -> Result<()>| {
        let started = Instant::now();
        let result = check();
        let verdict = if result.is_ok() { "ok  " } else { "FAIL" };
        println!(
            "{verdict} host  {what:40} {:5.1} s",
            started.elapsed().as_secs_f32()
        );
        if let Err(error) = &result {
            println!("{error:#}");
        }
        tally.count(result.is_ok());
    };
    check("rustfmt of the module", &|| {
        let mut rustfmt = Command::new("rustfmt");
        rustfmt
            .args([
                "--check",
                "--edition=2021",
                "--config-path",
                ".rustfmt.toml",
            ])
            .args(build::module_rust_sources()?)
            .current_dir(SOURCE);
        build::quietly(&mut rustfmt).map(drop)
    });
    check("clippy of the module", &|| bed.module_clippy());
    check("bindings of the header", &|| {
        let mut generate = Command::new(format!("{SOURCE}/user/ivshmem/generate"));
        build::quietly(generate.arg("--check")).map(drop)
    });
    for workspace in ["tests", "user"] {
        check(&format!("rustfmt of {workspace}/"), &|| {
            let mut rustfmt = Command::new("cargo");
            rustfmt
                .args(["fmt", "--all", "--check"])
                .current_dir(format!("{SOURCE}/{workspace}"));
            build::quietly(&mut rustfmt).map(drop)
        });
        check(&format!("clippy of {workspace}/"), &|| {
            let mut clippy = bed.cargo("clippy", workspace);
            clippy.args([
                "--locked",
                "--workspace",
                "--all-targets",
                "--",
                "-Dwarnings",
            ]);
            build::quietly(&mut clippy).map(drop)
        });
        check(&format!("host tests of {workspace}/"), &|| {
            let mut tests = bed.cargo("test", workspace);
            // The programs of this package are for guests only.
            tests.args(["--locked", "--workspace", "--exclude", "guest"]);
            build::quietly(&mut tests).map(drop)
        });
    }
}

/// What a suite has tested in the guests of a job.
struct Part {
    suite: &'static str,
    scenario: &'static Scenario,
}

impl Part {
    fn name(&self) -> String {
        format!("{}/{}", self.suite, self.scenario.name)
    }
}

/// Guests, and what is tested in them one after the other.
struct Job {
    /// At least one; as far as guests go, their scenarios are the same.
    parts: Vec<Part>,
}

impl Job {
    fn scenario(&self) -> &'static Scenario {
        self.parts[0].scenario
    }

    fn seconds(&self) -> u64 {
        self.parts.iter().map(|part| part.scenario.seconds).sum()
    }
}

/// What these suites have tested in a lane, with as few guests as it takes.
fn jobs(lane: Lane, suites: &[&'static Suite]) -> Vec<Job> {
    let mut jobs: Vec<Job> = Vec::new();
    for suite in suites {
        for scenario in suite.scenarios {
            if !scenario.lanes.contains(&lane) {
                continue;
            }
            let part = Part {
                suite: suite.subject,
                scenario,
            };
            let shares = |job: &&mut Job| job.scenario().shares_guests_with(scenario);
            match jobs.iter_mut().find(shares) {
                Some(job) => job.parts.push(part),
                None => jobs.push(Job { parts: vec![part] }),
            }
        }
    }
    // The longest first, lest one of them be all that is left in the end.
    jobs.sort_by_key(|job| Reverse(job.seconds()));
    jobs
}

struct Queue {
    jobs: Vec<Job>,
    /// How many more guests may run.
    free: usize,
}

fn run_lane(bed: &Bed, lane: Lane, suites: &[&'static Suite], tally: &mut Tally) -> Result<()> {
    let jobs = jobs(lane, suites);
    // A guest with devices may load it by itself.
    let needs_module = jobs
        .iter()
        .any(|job| job.scenario().load || job.scenario().device != Device::None);
    let module = thread::scope(|scope| -> Result<Option<Vec<u8>>> {
        let programs = scope.spawn(|| {
            bed.build_test_programs()?;
            bed.build_user_programs()
        });
        let module = needs_module.then(|| bed.module(lane)).transpose();
        programs.join().expect("no thread panics")?;
        module
    })?;
    bed.kernel(lane)?;
    let archive = run::archive(&[], module.as_deref())?;

    // A guest is a processor's worth of work, most of the time; one more has something to do while
    // another waits.
    let slots = thread::available_parallelism().map_or(2, usize::from) + 1;
    let needs = |job: &Job| job.scenario().guests.min(slots);
    let queue = Mutex::new(Queue { jobs, free: slots });
    let changed = Condvar::new();
    let tally = Mutex::new(tally);
    let next = || {
        let mut queue = queue.lock().expect("no thread panics");
        loop {
            if queue.jobs.is_empty() {
                return None;
            }
            let free = queue.free;
            if let Some(at) = queue.jobs.iter().position(|job| needs(job) <= free) {
                let job = queue.jobs.remove(at);
                queue.free -= needs(&job);
                return Some(job);
            }
            queue = changed.wait(queue).expect("no thread panics");
        }
    };
    thread::scope(|scope| {
        for _ in 0..slots {
            scope.spawn(|| {
                while let Some(job) = next() {
                    let started = Instant::now();
                    let outcome = judge(bed, lane, &archive, &job);
                    let took = started.elapsed();
                    tally
                        .lock()
                        .expect("no thread panics")
                        .add(lane, &job, &outcome, took);
                    queue.lock().expect("no thread panics").free += needs(&job);
                    changed.notify_all();
                }
            });
        }
    });
    Ok(())
}

/// A test program's part of an outcome.
struct Tested {
    cases: Vec<ktap::Case>,
    took: Duration,
}

struct Outcome {
    /// One for each of the job's.
    parts: Vec<Tested>,
    /// What is wrong beyond failed cases.
    problems: Vec<String>,
    /// What the guests wrote, each line after the guest's number.
    output: Vec<String>,
}

impl Outcome {
    fn print(&self) {
        for line in &self.output {
            println!("    {line}");
        }
        for problem in &self.problems {
            println!("    {}", problem.replace('\n', "\n    "));
        }
    }
}

impl Tally {
    fn add(&mut self, lane: Lane, job: &Job, outcome: &Result<Outcome>, took: Duration) {
        let say = |part: &Part, took: Duration, passed: bool, what: &str| {
            let verdict = if passed { "ok  " } else { "FAIL" };
            let (lane, name, seconds) = (lane.name(), part.name(), took.as_secs_f32());
            println!("{verdict} {lane:5} {name:40} {seconds:5.1} s  {what}");
        };
        let first = &job.parts[0];
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                say(first, took, false, &format!("{error:#}"));
                self.failed += 1;
                return;
            }
        };
        if let Some(wanted) = job.scenario().must_find {
            // What a guest wrote counts only if a case has failed for the runner as well.
            let mut cases = outcome.parts.iter().flat_map(|part| &part.cases);
            let failed = cases.any(|case| case.verdict == Verdict::Failed);
            let written = outcome.output.iter().filter(|_| failed);
            let mut found = outcome.problems.iter().chain(written);
            let passed = found.any(|problem| problem.contains(wanted));
            say(first, took, passed, &format!("finds \"{wanted}\""));
            self.count(passed);
            if !passed {
                outcome.print();
            }
            return;
        }
        let mut failures = 0;
        for (index, (part, tested)) in job.parts.iter().zip(&outcome.parts).enumerate() {
            let of = |wanted: fn(&Verdict) -> bool| {
                let cases = tested.cases.iter();
                cases.filter(|case| wanted(&case.verdict)).count()
            };
            let passed = of(|verdict| *verdict == Verdict::Passed);
            let skipped = of(|verdict| matches!(verdict, Verdict::Skipped(_)));
            let mut failed = of(|verdict| *verdict == Verdict::Failed);
            // They are looked for in the end.
            if index + 1 == job.parts.len() {
                failed += outcome.problems.len();
            }
            self.passed += passed;
            self.failed += failed;
            failures += failed;
            let skips = if skipped > 0 {
                format!(", {skipped} skipped")
            } else {
                String::new()
            };
            say(
                part,
                tested.took,
                failed == 0,
                &format!("{passed} passed{skips}"),
            );
            for case in &tested.cases {
                if let Verdict::Skipped(why) = &case.verdict {
                    println!("    skipped: {}: {why}", case.name);
                }
            }
        }
        if failures > 0 {
            outcome.print();
        }
    }
}

/// Why a scenario cannot be run on this host.
fn lacking(scenario: &Scenario) -> Option<String> {
    let needed = scenario.huge_pages;
    let number = |name: &str| -> Option<usize> {
        let path = format!("/sys/kernel/mm/hugepages/hugepages-2048kB/{name}_hugepages");
        fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    let free = number("free").unwrap_or(0);
    let free = free.saturating_sub(number("resv").unwrap_or(0));
    // There may be another scenario at the same time that takes as many.
    let enough = 2 * needed;
    (free < needed).then(|| {
        format!(
            "the host has {free} free huge pages, and it takes {needed} \
             (echo {enough} >/proc/sys/vm/nr_hugepages)"
        )
    })
}

fn judge(bed: &Bed, lane: Lane, archive: &Archive, job: &Job) -> Result<Outcome> {
    let scenario = job.scenario();
    if let Some(why) = lacking(scenario) {
        let skipped = |_: &Part| Tested {
            cases: vec![ktap::Case {
                name: "all of it".to_owned(),
                verdict: Verdict::Skipped(why.clone()),
            }],
            took: Duration::ZERO,
        };
        return Ok(Outcome {
            parts: job.parts.iter().map(skipped).collect(),
            problems: Vec::new(),
            output: Vec::new(),
        });
    }
    let mut archive = archive.clone();
    for name in scenario.bed_modules {
        archive.copy(&format!("{name}.ko"), &bed.bed_module(lane, name)?)?;
    }
    let command = match scenario.command {
        Some(command) => command.to_owned(),
        None => {
            archive.file("session", true, include_bytes!("session.sh"));
            archive.directory("tests");
            for part in &job.parts {
                let program = bed.test_program(part.suite);
                archive.copy(&format!("tests/{}", part.suite), &program)?;
            }
            for scenario in job.parts.iter().map(|part| part.scenario) {
                for module in scenario.modules.iter().filter(|_| lane == Lane::Stock) {
                    let name = module.rsplit('/').next().expect("a name");
                    archive.copy(name, &bed.stock_module(module))?;
                }
                for program in scenario.programs {
                    archive.program(Path::new(program))?;
                }
                for program in scenario.user_programs {
                    archive.copy(&format!("bin/{program}"), &bed.user_program(program))?;
                }
                for test in scenario.library_tests {
                    archive.copy(&format!("bin/{test}"), &bed.library_test(test)?)?;
                }
            }
            let names: Vec<String> = job.parts.iter().map(Part::name).collect();
            format!("/session {}", names.join(" "))
        }
    };
    let least = match lane {
        Lane::Stock => 512,
        // The search for leaks takes longer the more there is. With less than 512 MiB of its own, the
        // kernel makes no huge pages.
        Lane::Debug => 768,
    };
    let plan = Plan {
        lane,
        guests: scenario.guests,
        device: scenario.device,
        vectors: scenario.vectors,
        size: scenario.size,
        smp: scenario.smp,
        memory: least + scenario.memory,
        hotplug: scenario.hotplug,
        sleeps: scenario.sleeps,
        old_qemu: scenario.old_qemu,
        qemu_args: scenario.qemu_args.iter().map(ToString::to_string).collect(),
        kernel_args: scenario.kernel_args.to_owned(),
        load: scenario.load,
        module_args: scenario.module_args.to_owned(),
        command,
        interactive: false,
    };
    // This only ends what hangs: it is generous to machines that are slow, or busy.
    let patience = match lane {
        Lane::Stock => 4,
        Lane::Debug => 8,
    };
    let limit = Duration::from_secs(job.seconds() * patience);
    let started = Instant::now();
    let attempt = || -> Result<_> {
        let written = Mutex::new(vec![Vec::new(); plan.guests]);
        let reports = run::run(bed, &plan, &archive, limit, &|guest, line| {
            let line = (started.elapsed(), line.to_owned());
            written.lock().expect("no thread panics")[guest].push(line);
        })?;
        Ok((reports, written.into_inner().expect("no thread panics")))
    };
    let provoked: Vec<Provoked> = job
        .parts
        .iter()
        .map(|part| Provoked {
            mark: mark(part),
            parts: part.scenario.expected,
        })
        .collect();
    let (mut reports, mut written) = attempt()?;
    let innocent = |report: &Report| report.lost_in_boot() || report.trouble(&provoked).is_empty();
    if reports.iter().any(Report::lost_in_boot) && reports.iter().all(innocent) {
        let (lane, name) = (lane.name(), job.parts[0].name());
        println!("     {lane:5} {name}: a guest hung or died while it booted; once more");
        (reports, written) = attempt()?;
    }
    let took = durations(job, &written[0], started.elapsed());
    let tested = |took| Tested {
        cases: Vec::new(),
        took,
    };
    let mut outcome = Outcome {
        parts: took.into_iter().map(tested).collect(),
        problems: Vec::new(),
        output: Vec::new(),
    };
    for (number, (report, written)) in reports.iter().zip(written).enumerate() {
        let mut problems = report.problems(&provoked);
        let mut failed = false;
        let mut lines = written.iter().map(|(_, line)| line.as_str()).peekable();
        if scenario.command.is_none() {
            // Each part's lines end at the next one's mark; what comes before the first mark is the
            // first part's.
            for (at, part) in job.parts.iter().enumerate() {
                let mut ktap = ktap::Report::default();
                let mark = mark(part);
                let next = job.parts.get(at + 1).map(self::mark);
                while let Some(line) = lines.next_if(|line| next.as_deref() != Some(*line)) {
                    if line != mark {
                        ktap.line(line);
                    }
                }
                let faults = ktap.faults().into_iter();
                problems.extend(faults.map(|fault| format!("{}: {fault}", part.name())));
                let mut verdicts = ktap.cases.iter().map(|case| &case.verdict);
                failed |= verdicts.any(|verdict| *verdict == Verdict::Failed);
                outcome.parts[at].cases.extend(ktap.cases);
            }
        }
        match report.status {
            // Failed cases count by themselves.
            Some(status) if status != 0 && !failed => {
                problems.push(format!("the command exited with status {status}"));
            }
            Some(0) if failed => problems.push("failed cases, but status 0".to_owned()),
            _ => {}
        }
        outcome.problems.extend(
            problems
                .iter()
                .map(|text| format!("guest {number}: {text}")),
        );
        outcome
            .output
            .extend(report.log.iter().map(|line| format!("{number}: {line}")));
        let written = written.iter().map(|(_, line)| format!("{number}| {line}"));
        outcome.output.extend(written);
    }
    Ok(outcome)
}

/// What the session says before it starts a part.
fn mark(part: &Part) -> String {
    format!("# {}", part.name())
}

/// How long the parts took; to the first belongs the boot, to the last the end.
fn durations(job: &Job, written: &[(Duration, String)], whole: Duration) -> Vec<Duration> {
    let start = |part: &Part| {
        let mark = mark(part);
        let line = written.iter().find(|(_, line)| *line == mark);
        line.map_or(whole, |(time, _)| *time)
    };
    let mut starts: Vec<Duration> = job.parts.iter().map(start).collect();
    starts[0] = Duration::ZERO;
    starts.push(whole);
    let pairs = starts.windows(2);
    pairs.map(|pair| pair[1].saturating_sub(pair[0])).collect()
}
