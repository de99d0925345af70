// SPDX-License-Identifier: GPL-2.0

//! The server that the guests of a run share, and a peer of theirs on the host.

use std::fs::{self, File};
use std::io::BufReader;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ivshmem_server::Client;

use crate::run::{self, Process};

/// Within which the server must have done what it was asked for.
const PROMPTLY: Option<Duration> = Some(Duration::from_secs(10));

pub struct Server {
    program: PathBuf,
    scratch: PathBuf,
    size: u64,
    vectors: u32,
    process: Mutex<Option<Process>>,
    peer: Mutex<Option<Client>>,
}

impl Server {
    pub fn start(program: PathBuf, scratch: &Path, size: u64, vectors: u32) -> Result<Self> {
        let server = Server {
            program,
            scratch: scratch.to_owned(),
            size,
            vectors,
            process: Mutex::default(),
            peer: Mutex::default(),
        };
        server.launch()?;
        Ok(server)
    }

    fn socket(&self) -> PathBuf {
        self.scratch.join("server.sock")
    }

    fn launch(&self) -> Result<()> {
        let log_path = self.scratch.join("server.log");
        let mut process = Command::new(&self.program)
            .arg("--socket")
            .arg(self.socket())
            .args(["--size", &self.size.to_string()])
            .args(["--vectors", &self.vectors.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log_path)?)
            .spawn()
            .map(Process)
            .context("cannot start ivshmem-server")?;
        // One line says that it is ready; if it fails there is none.
        let mut output = BufReader::new(process.0.stdout.take().expect("a pipe"));
        let line = run::answer(&mut output)?;
        ensure!(
            line.starts_with("listening"),
            "ivshmem-server: {}",
            fs::read_to_string(log_path)?.trim()
        );
        *self.process.lock().expect("no thread panics") = Some(process);
        Ok(())
    }

    /// `stop` kills the server, `start` starts another at the same place: for new clients only.
    pub fn request(&self, request: &str) -> Result<()> {
        match request {
            "stop" => drop(self.process.lock().expect("no thread panics").take()),
            "start" => self.launch()?,
            _ => bail!("no such request to the server: {request}"),
        }
        Ok(())
    }

    /// The peer on the host: `join` returns its ID, `ring PEER VECTOR`, `wait VECTOR` returns how
    /// often it was rung since the last look, 0 if not within 10 s, `leave`; of the memory it sees,
    /// `fill OFFSET LENGTH VALUE` makes all bytes of a part this value, and `check OFFSET LENGTH
    /// VALUE` fails by the first that is another.
    pub fn peer(&self, request: &str) -> Result<String> {
        let words: Vec<&str> = request.split_whitespace().collect();
        let mut peer = self.peer.lock().expect("no thread panics");
        if words == ["join"] {
            let vectors = self.vectors.try_into()?;
            let client = Client::connect(self.socket(), vectors, PROMPTLY)?;
            let id = client.id();
            *peer = Some(client);
            return Ok(id.to_string());
        }
        let client = peer.as_mut().context("the peer has not joined")?;
        match words[..] {
            ["ring", id, vector] => {
                let (id, vector): (u16, u16) = (id.parse()?, vector.parse()?);
                if id != client.id() {
                    // The peer may have come after this one, or be about to.
                    client.wait_for_peer(id, vector.saturating_add(1), PROMPTLY)?;
                }
                client.ring(id, vector)?;
            }
            ["wait", vector] => return Ok(client.wait(vector.parse()?, PROMPTLY)?.to_string()),
            ["fill", offset, length, value] => {
                let (memory, offset, bytes) = part(client, offset, length, value)?;
                memory.write_all_at(&bytes, offset)?;
            }
            ["check", offset, length, value] => {
                let (memory, offset, wanted) = part(client, offset, length, value)?;
                let mut bytes = vec![0; wanted.len()];
                memory.read_exact_at(&mut bytes, offset)?;
                let mut pairs = bytes.iter().zip(&wanted);
                if let Some(at) = pairs.position(|(byte, wanted)| byte != wanted) {
                    let (byte, wanted) = (bytes[at], wanted[at]);
                    bail!("byte {} is {byte}, not {wanted}", offset + at as u64);
                }
            }
            ["leave"] => *peer = None,
            _ => bail!("no such request to the peer: {request}"),
        }
        Ok(String::new())
    }
}

/// The memory as a client has it, where a part of it begins, and what that is to be: so many bytes
/// of this value.
fn part(client: &Client, offset: &str, length: &str, value: &str) -> Result<(File, u64, Vec<u8>)> {
    let (offset, length): (u64, usize) = (offset.parse()?, length.parse()?);
    let (size, end) = (client.size(), offset.checked_add(length as u64));
    ensure!(
        end.is_some_and(|end| end <= size),
        "the memory ends at {size}"
    );
    let memory = client.memory().try_clone_to_owned()?;
    Ok((memory.into(), offset, vec![value.parse()?; length]))
}
