// SPDX-License-Identifier: GPL-2.0

//! The device models that the tests ask for: one process per device.

use std::collections::BTreeMap;
use std::io::{BufReader, Write};
use std::path::PathBuf;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow, bail};

use crate::run::{self, Process};

struct Model {
    process: Process,
    answers: BufReader<ChildStdout>,
}

/// The models of a run, by guest and name.
pub struct Models {
    program: PathBuf,
    scratch: PathBuf,
    running: Mutex<BTreeMap<(usize, String), Model>>,
}

impl Model {
    /// The answer to a command, or to having been started.
    fn answer(&mut self) -> Result<String> {
        match run::answer(&mut self.answers)?
            .trim_end_matches('\n')
            .split_once(' ')
        {
            Some(("ok", data)) => Ok(data.to_owned()),
            Some(("err", error)) => Err(anyhow!("{error}")),
            _ => bail!("the model is gone"),
        }
    }

    fn tell(&mut self, command: &str) -> Result<String> {
        let stdin = self.process.0.stdin.as_mut().expect("a pipe");
        writeln!(stdin, "{command}").context("the model is gone")?;
        self.answer()
    }
}

impl Models {
    pub fn new(program: PathBuf, scratch: PathBuf) -> Self {
        Models {
            program,
            scratch,
            running: Mutex::default(),
        }
    }

    /// Starts a model, in the place of the one that had this name; returns the path of its socket.
    pub fn start(&self, guest: usize, request: &str) -> Result<String> {
        let mut words = request.split_whitespace();
        let name = words.next().context("a name for the model")?;
        self.end(guest, name);
        let socket = self.scratch.join(format!("model-{guest}-{name}.sock"));
        // A model that was killed has left it there.
        let _ = std::fs::remove_file(&socket);
        let mut process = Command::new(&self.program)
            .arg("--socket")
            .arg(&socket)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map(Process)
            .context("cannot start device-model")?;
        let answers = BufReader::new(process.0.stdout.take().expect("a pipe"));
        let mut model = Model { process, answers };
        model.answer()?;
        let key = (guest, name.to_owned());
        self.running
            .lock()
            .expect("no thread panics")
            .insert(key, model);
        Ok(socket.to_string_lossy().into_owned())
    }

    /// Passes a command on; returns its answer.
    pub fn tell(&self, guest: usize, request: &str) -> Result<String> {
        let (name, command) = request.split_once(' ').context("a model and a command")?;
        let mut running = self.running.lock().expect("no thread panics");
        let model = running.get_mut(&(guest, name.to_owned()));
        model.context("there is no such model")?.tell(command)
    }

    /// Kills a model, if it is there.
    pub fn end(&self, guest: usize, name: &str) {
        let key = (guest, name.to_owned());
        self.running.lock().expect("no thread panics").remove(&key);
    }
}
