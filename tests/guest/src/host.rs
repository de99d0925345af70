// SPDX-License-Identifier: GPL-2.0

//! Requests to the runner on the host, over a serial line. Each is one line, and so is the answer.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::{Mutex, OnceLock};

use crate::task::until;
use crate::{size, vectors};

fn line() -> &'static Mutex<File> {
    static LINE: OnceLock<Mutex<File>> = OnceLock::new();
    LINE.get_or_init(|| {
        let open = File::options().read(true).write(true).open("/dev/ttyS2");
        Mutex::new(open.expect("the line to the runner"))
    })
}

/// Asks for something; the error is what the host says went wrong.
pub fn ask(request: &str) -> Result<String, String> {
    assert!(!request.contains('\n'), "a request is one line");
    // A case that failed inside leaves the line as it was.
    let mut line = line()
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    line.write_all(format!("{request}\n").as_bytes())
        .expect("the line to the runner");
    let mut answer = Vec::new();
    let mut byte = [0];
    loop {
        line.read_exact(&mut byte).expect("the line to the runner");
        if byte == *b"\n" {
            break;
        }
        answer.push(byte[0]);
    }
    let answer = String::from_utf8(answer).expect("an answer in UTF-8");
    match answer.split_once(' ').unwrap_or((&answer, "")) {
        ("ok", data) => Ok(data.to_owned()),
        (_, error) => Err(error.to_owned()),
    }
}

#[track_caller]
pub fn must(request: &str) -> String {
    ask(request).unwrap_or_else(|error| panic!("{request}: {error}"))
}

/// Waits until every guest of the run is here.
#[track_caller]
pub fn barrier(name: &str) {
    must(&format!("barrier {name}"));
}

/// Executes a QMP command, given as JSON, on this guest's QEMU.
#[track_caller]
pub fn qmp(command: &str) -> String {
    must(&format!("qmp {command}"))
}

/// Plugs a device, given as the JSON object of its properties, into this guest.
#[track_caller]
pub fn device_add(properties: &str) {
    must(&format!("device_add {properties}"));
}

/// Unplugs a device of this guest; returns when it is gone.
#[track_caller]
pub fn device_del(id: &str) {
    try_device_del(id).unwrap_or_else(|error| panic!("{id}: {error}"));
}

/// The same, or the reason why not.
pub fn try_device_del(id: &str) -> Result<(), String> {
    let mut result = Ok(());
    until("the slot is free to be asked", || {
        result = ask(&format!("device_del {id}")).map(drop);
        // A root port that has not yet finished with plugging it in, though its driver is bound.
        !matches!(&result, Err(error) if error.contains("guest is busy"))
    });
    result
}

/// Speaks with the one peer on the host: `join` returns its ID, `ring PEER VECTOR`, `wait VECTOR`
/// returns how often it was rung since the last look (0 if not within 10 s), `leave`; in the memory
/// as it sees it, `fill OFFSET LENGTH VALUE` makes all bytes of a part this value, and
/// `check OFFSET LENGTH VALUE` fails by the first that is another.
#[track_caller]
pub fn peer(request: &str) -> String {
    must(&format!("peer {request}"))
}

/// Has the server of the run killed, `stop`, or another started in its place, `start`.
#[track_caller]
pub fn server(request: &str) {
    must(&format!("server {request}"));
}

/// Plugs a doorbell device, `ivshmem0`, that is a client of the run's server.
#[track_caller]
pub fn plug_doorbell(bus: &str) {
    qmp(
        r#"{"execute":"chardev-add","arguments":{"id":"server","backend":{"type":"socket","data":{"server":false,"addr":{"type":"unix","data":{"path":"{run}/server.sock"}}}}}}"#,
    );
    device_add(&format!(
        r#"{{"driver":"ivshmem-doorbell","id":"ivshmem0","bus":"{bus}","chardev":"server","vectors":{}}}"#,
        vectors()
    ));
}

/// Plugs a plain device with the memory of the run, once the one before is unplugged. QEMU aborts when
/// a memory backend is used a second time, so `unplug_plain` takes that away as well.
#[track_caller]
pub fn plug_plain(id: &str, bus: &str) {
    qmp(&format!(
        r#"{{"execute":"object-add","arguments":{{"qom-type":"memory-backend-file","id":"memory","mem-path":"{{run}}/memory","size":{},"share":true}}}}"#,
        size()
    ));
    device_add(&format!(
        r#"{{"driver":"ivshmem-plain","id":"{id}","bus":"{bus}","memdev":"memory"}}"#
    ));
}

/// Unplugs a plain device, and its memory backend.
#[track_caller]
pub fn unplug_plain(id: &str) {
    device_del(id);
    qmp(r#"{"execute":"object-del","arguments":{"id":"memory"}}"#);
}
