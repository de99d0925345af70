// SPDX-License-Identifier: GPL-2.0

//! open(): who gets in, and with which rights.

use guest::cases;
use guest::dev::{Device, NODE, PAGE, READ, SHORT, WRITE};
use guest::task::{LIVES, fork};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mm::MapFlags;
use rustix::process::{Resource, Rlimit, setrlimit};

fn open(flags: OFlags) -> Result<Device, Errno> {
    Device::open_as(NODE, flags)
}

fn exclusive() -> Result<Device, Errno> {
    open(OFlags::RDWR | OFlags::EXCL)
}

fn busy(result: Result<Device, Errno>) -> bool {
    result.err() == Some(Errno::BUSY)
}

fn the_only_user_keeps_others_out() {
    let only = exclusive().expect("nobody else is there");
    for flags in [OFlags::RDWR, OFlags::RDONLY, OFlags::WRONLY] {
        assert!(busy(open(flags)));
        assert!(busy(open(flags | OFlags::EXCL)));
        assert!(
            busy(open(flags | OFlags::NONBLOCK)),
            "it does not wait, anyway"
        );
    }
    only.settle(0);
    drop(only);
    assert!(open(OFlags::RDWR).is_ok());
    assert!(exclusive().is_ok());
}

fn nobody_is_the_only_user_when_others_are_there() {
    for flags in [OFlags::RDWR, OFlags::RDONLY, OFlags::WRONLY] {
        let first = open(flags).expect("open");
        assert!(busy(exclusive()));
        let second = open(OFlags::RDWR).expect("the failed one has left nothing");
        drop(first);
        assert!(busy(exclusive()), "there is one yet");
        drop(second);
        assert!(exclusive().is_ok());
    }
}

fn copies_and_mappings_are_users() {
    let only = exclusive().expect("open");
    let copy = rustix::io::dup(&only).expect("dup");
    drop(only);
    assert!(busy(open(OFlags::RDWR)));
    let map = Device::from(copy).map(0, PAGE);
    assert!(busy(open(OFlags::RDWR)), "a mapping holds the file");
    drop(map);
    assert!(open(OFlags::RDWR).is_ok());
    let child = fork(|| assert!(exclusive().is_ok()));
    assert_eq!(child.wait(), LIVES, "and the end of a process closes all");
    assert!(exclusive().is_ok());
}

fn a_reader_looks_but_does_not_touch() {
    let device = Device::open();
    let counts = device.settle(0);
    let reader = open(OFlags::RDONLY).expect("open");
    assert_eq!(reader.info(), device.info());
    assert_eq!(reader.ivposition(), device.ivposition());
    assert_eq!(reader.ring(0, 0), Err(Errno::ACCESS));
    assert_eq!(reader.wait(0, counts, SHORT), Err(Errno::TIMEDOUT));
    assert!(reader.map_as(0, PAGE, READ, MapFlags::SHARED).is_ok());
    let refused = reader.map_as(0, PAGE, WRITE, MapFlags::SHARED);
    assert_eq!(refused.err(), Some(Errno::ACCESS));
}

fn a_writer_rings_but_reads_nothing() {
    let writer = open(OFlags::WRONLY).expect("open");
    writer.settle(0);
    assert_eq!(writer.read(1), Err(Errno::BADF));
    let refused = writer.map_as(0, PAGE, READ, MapFlags::SHARED);
    assert_eq!(refused.err(), Some(Errno::ACCESS));
}

fn flags_without_a_meaning_do_no_harm() {
    for flags in [
        OFlags::NONBLOCK,
        OFlags::APPEND,
        OFlags::NOCTTY,
        OFlags::SYNC,
        OFlags::TRUNC,
    ] {
        open(OFlags::RDWR | flags).expect("open").settle(0);
    }
    assert_eq!(
        open(OFlags::RDWR | OFlags::DIRECTORY).err(),
        Some(Errno::NOTDIR)
    );
}

fn there_may_be_a_thousand() {
    const NUMBER: usize = 1000;
    let limit = Rlimit {
        current: Some(4096),
        maximum: Some(4096),
    };
    setrlimit(Resource::Nofile, limit).expect("setrlimit");
    let devices: Vec<Device> = (0..NUMBER).map(|_| Device::open()).collect();
    for device in &devices {
        device.subscribe(&[0]).expect("SUBSCRIBE");
    }
    let seen = devices[0].settle(0);
    devices[NUMBER - 1].ring_self(0);
    for device in &devices {
        assert_eq!(device.moved(0, seen), seen + 1);
        assert!(!device.ready().is_empty());
        assert_eq!(device.read(1).expect("read")[0].count, seen + 1);
    }
    assert!(busy(exclusive()));
    drop(devices);
    assert!(exclusive().is_ok());
}

fn main() {
    guest::run(cases![
        the_only_user_keeps_others_out,
        nobody_is_the_only_user_when_others_are_there,
        copies_and_mappings_are_users,
        a_reader_looks_but_does_not_touch,
        a_writer_rings_but_reads_nothing,
        flags_without_a_meaning_do_no_harm,
        there_may_be_a_thousand,
    ])
}
