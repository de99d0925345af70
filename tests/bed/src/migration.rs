// SPDX-License-Identifier: GPL-2.0

//! The QEMU processes of a run, and how a guest gets from one to another.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, Result};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::build::Bed;
use crate::guest::{LINES, Monitor, Plan, qemu};
use crate::run::Process;

/// By guest. One that migrates gets another.
pub struct Processes<'a> {
    bed: &'a Bed,
    plan: &'a Plan,
    scratch: &'a Path,
    /// None are left when the run is over.
    running: Mutex<Vec<Process>>,
}

impl<'a> Processes<'a> {
    pub fn new(bed: &'a Bed, plan: &'a Plan, scratch: &'a Path, running: Vec<Process>) -> Self {
        Processes {
            bed,
            plan,
            scratch,
            running: Mutex::new(running),
        }
    }

    pub fn end(&self) {
        self.running.lock().expect("no thread panics").clear();
    }

    /// Migrates a guest to another QEMU, which gets the other one's ends of the serial lines, and a
    /// file of its own for the memory of a plain device, as if it were on another host. Devices that
    /// were unplugged are not there. The guest must write nothing to its lines meanwhile.
    pub fn migrate(&self, number: usize, monitor: &mut Monitor) -> Result<()> {
        let lines = {
            let running = self.running.lock().expect("no thread panics");
            let source = running.get(number).context("the run is over")?;
            let source = pidfd_open(Pid::from_child(&source.0), PidfdFlags::empty())?;
            LINES
                .iter()
                .map(|(descriptor, ..)| pidfd_getfd(&source, *descriptor, PidfdGetfdFlags::empty()))
                .collect::<Result<_, _>>()?
        };
        let plugged = monitor.plugged()?;
        let mut devices = self.plan.devices();
        devices.retain(|device| plugged.contains(&device.id()));
        match fs::remove_file(self.scratch.join("memory")) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let way = format!("unix:{}/migration-{number}.sock", self.scratch.display());
        let mut arguments = self.plan.arguments(number, self.scratch, &devices);
        arguments.extend(["-incoming".to_owned(), way.clone()]);
        let (process, mut destination) =
            qemu(self.bed, self.plan, number, self.scratch, lines, &arguments)?;
        monitor.migrate(&way)?;
        if let Some(running) = self
            .running
            .lock()
            .expect("no thread panics")
            .get_mut(number)
        {
            // Ends the source.
            *running = process;
        }
        destination.resumed()?;
        *monitor = destination;
        Ok(())
    }
}
