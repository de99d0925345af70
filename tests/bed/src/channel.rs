// SPDX-License-Identifier: GPL-2.0

//! What the programs in the guests may ask of the host, a line at a time, each answered with
//! `ok [DATA]` or `err TEXT`.

use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};

use anyhow::{Context, Result, anyhow, bail};

use crate::guest::Monitor;
use crate::migration::Processes;
use crate::model::Models;
use crate::server::Server;

/// Barriers of this name prefix are where a test case begins. A guest that failed a case goes on to
/// the next one's, and must not leave the others waiting inside the failed case for ever.
const CASE: &str = "case:";

pub struct Channel<'a> {
    monitors: Vec<Mutex<Monitor>>,
    models: Models,
    server: Option<Server>,
    processes: &'a Processes<'a>,
    scratch: PathBuf,
    barriers: Mutex<Vec<Place>>,
    moved: Condvar,
}

/// Where a guest is, as far as barriers go.
#[derive(Clone)]
enum Place {
    Running,
    At(String),
    /// It was let go, with this verdict.
    Left(Result<(), String>),
    Ended,
}

impl<'a> Channel<'a> {
    pub fn new(
        monitors: Vec<Monitor>,
        models: Models,
        server: Option<Server>,
        processes: &'a Processes<'a>,
        scratch: &Path,
    ) -> Self {
        Channel {
            barriers: Mutex::new(vec![Place::Running; monitors.len()]),
            monitors: monitors.into_iter().map(Mutex::new).collect(),
            models,
            server,
            processes,
            scratch: scratch.to_owned(),
            moved: Condvar::new(),
        }
    }

    /// Answers one request of a guest.
    pub fn answer(&self, guest: usize, line: &str) -> String {
        match self.request(guest, line) {
            Ok(data) if data.is_empty() => "ok".to_owned(),
            Ok(data) => format!("ok {data}"),
            Err(error) => format!("err {error:#}").replace('\n', " "),
        }
    }

    fn request(&self, guest: usize, line: &str) -> Result<String> {
        // A directory that the guests do not know the name of.
        let line = line.replace("{run}", &self.scratch.to_string_lossy());
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let monitor = || self.monitors[guest].lock().expect("no thread panics");
        let server = || self.server.as_ref().context("the run has no server");
        match verb {
            "peer" => return server()?.peer(rest),
            "server" => server()?.request(rest)?,
            "barrier" => self.barrier(guest, rest)?,
            "qmp" => return Ok(monitor().raw(rest)?.to_string()),
            "device_add" => monitor().device_add(rest)?,
            "device_del" => monitor().device_del(rest)?,
            "migrate" => self.processes.migrate(guest, &mut monitor())?,
            "wakeup" => monitor().wakeup()?,
            "model" => return self.models.start(guest, rest),
            "tell" => return self.models.tell(guest, rest),
            "kill" => self.models.end(guest, rest),
            // What is to be done then is in `afterwards`.
            "sleep" => {}
            _ => bail!("no such request: {verb}"),
        }
        Ok(String::new())
    }

    /// What follows an answer: a guest that said it would go to sleep is woken once it does, after
    /// a request it wants carried out while it sleeps.
    pub fn afterwards(&self, guest: usize, line: &str) -> Result<()> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        if verb == "sleep" {
            let monitor = || self.monitors[guest].lock().expect("no thread panics");
            monitor().suspended()?;
            if !rest.is_empty() {
                self.request(guest, rest)?;
            }
            monitor().wakeup()?;
        }
        Ok(())
    }

    /// Waits until all guests are at the barrier of this name.
    fn barrier(&self, guest: usize, name: &str) -> Result<()> {
        let mut places = self.barriers.lock().expect("no thread panics");
        places[guest] = Place::At(name.to_owned());
        settle(&mut places);
        self.moved.notify_all();
        let mut places = self
            .moved
            .wait_while(places, |places| matches!(places[guest], Place::At(_)))
            .expect("no thread panics");
        match std::mem::replace(&mut places[guest], Place::Running) {
            Place::Left(verdict) => verdict.map_err(|error| anyhow!(error)),
            _ => bail!("the guest has ended"),
        }
    }

    /// The guest will ask nothing any more.
    pub fn ended(&self, guest: usize) {
        let mut places = self.barriers.lock().expect("no thread panics");
        places[guest] = Place::Ended;
        settle(&mut places);
        self.moved.notify_all();
    }
}

/// Lets guests go once none is running: all if they agree; else those that wait inside a case, in
/// vain.
fn settle(places: &mut [Place]) {
    if places
        .iter()
        .any(|place| matches!(place, Place::Running | Place::Left(_)))
    {
        return;
    }
    let names: Vec<&str> = places
        .iter()
        .map(|place| {
            if let Place::At(name) = place {
                name
            } else {
                "the end"
            }
        })
        .collect();
    let agree = names.iter().all(|name| *name == names[0]);
    let all_at_cases = names.iter().all(|name| name.starts_with(CASE));
    let where_they_are = names.join(", ");
    for place in places.iter_mut() {
        match place {
            Place::At(_) if agree => *place = Place::Left(Ok(())),
            Place::At(name) if all_at_cases || !name.starts_with(CASE) => {
                *place = Place::Left(Err(format!("the guests are at: {where_they_are}")));
            }
            _ => {}
        }
    }
    // What is left waits at the beginning of a case for one that has no cases any more.
    let stuck = !places
        .iter()
        .any(|place| matches!(place, Place::Running | Place::Left(_)));
    for place in places.iter_mut().filter(|_| stuck) {
        if matches!(place, Place::At(_)) {
            *place = Place::Left(Err("another guest has ended".to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Place, settle};

    fn settled(places: &[&str]) -> String {
        let mut places: Vec<Place> = places
            .iter()
            .map(|name| match *name {
                "running" => Place::Running,
                "ended" => Place::Ended,
                name => Place::At(name.to_owned()),
            })
            .collect();
        settle(&mut places);
        places
            .iter()
            .map(|place| match place {
                Place::Running => 'r',
                Place::At(_) => 'w',
                Place::Left(Ok(())) => '+',
                Place::Left(Err(_)) => '-',
                Place::Ended => 'e',
            })
            .collect()
    }

    #[test]
    fn guests_meet() {
        assert_eq!(settled(&["a", "running"]), "wr");
        assert_eq!(settled(&["a", "a"]), "++");
        assert_eq!(settled(&["case:1", "case:1"]), "++");
    }

    #[test]
    fn nobody_waits_in_vain() {
        assert_eq!(settled(&["a", "b"]), "--");
        assert_eq!(settled(&["a", "case:2"]), "-w");
        assert_eq!(settled(&["a", "ended"]), "-e");
        assert_eq!(settled(&["case:2", "ended"]), "-e");
        assert_eq!(settled(&["case:1", "case:2"]), "--");
    }
}
