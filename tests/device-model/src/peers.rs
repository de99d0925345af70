// SPDX-License-Identifier: GPL-2.0

//! The peers that the device has when it joins an ivshmem server.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use ivshmem_server::Client;
use rustix::event::{PollFd, PollFlags, poll};

use crate::device::{Device, Peers, Ring};

/// The device's place among the clients of a server.
#[derive(Clone)]
pub struct Membership(Arc<Mutex<Client>>);

impl Peers for Membership {
    fn ring(&mut self, ring: Ring) {
        // A peer that is absent, or has no such vector, is not interrupted; nobody hears of it.
        let _ = self
            .0
            .lock()
            .expect("no thread panics")
            .ring(ring.peer, ring.vector);
    }
}

impl Membership {
    pub fn join(server: &Path, vectors: u16) -> Result<Self> {
        let client = Client::connect(server, vectors, Some(Duration::from_secs(10)))?;
        Ok(Membership(Arc::new(Mutex::new(client))))
    }

    pub fn position(&self) -> u16 {
        self.0.lock().expect("no thread panics").id()
    }

    pub fn memory(&self) -> Result<(OwnedFd, u64)> {
        let client = self.0.lock().expect("no thread panics");
        let memory = client
            .memory()
            .try_clone_to_owned()
            .context("the shared memory")?;
        Ok((memory, client.size()))
    }

    /// Follows what the peers do, until the server is gone.
    pub fn follow(&self, device: &Mutex<Device>) -> Result<()> {
        let mut files = Vec::new();
        {
            let client = self.0.lock().expect("no thread panics");
            files.push(client.as_fd().try_clone_to_owned()?);
            for vector in client.vectors() {
                files.push(vector.try_clone()?);
            }
        }
        let now = Some(Duration::ZERO);
        loop {
            let mut polled: Vec<_> = files
                .iter()
                .map(|file| PollFd::new(file, PollFlags::IN))
                .collect();
            poll(&mut polled, None)?;
            while self
                .0
                .lock()
                .expect("no thread panics")
                .notice(now)?
                .is_some()
            {}
            for vector in 0..files.len() - 1 {
                // Not both locks at once: a ring takes them in the other order.
                let count = self
                    .0
                    .lock()
                    .expect("no thread panics")
                    .wait(vector as u16, now)?;
                if count > 0 {
                    device
                        .lock()
                        .expect("no thread panics")
                        .interrupt(vector, count);
                }
            }
        }
    }
}
