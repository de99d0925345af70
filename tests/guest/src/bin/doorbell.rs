// SPDX-License-Identifier: GPL-2.0

//! Rings: who gets them, and which are refused.

use guest::abi::*;
use guest::dev::{Device, NODE, SHORT, delivered};
use guest::{cases, guest, guests, host, vectors};
use rustix::fs::OFlags;
use rustix::io::Errno;

fn peer() -> u32 {
    ((guest() + 1) % guests()) as u32
}

fn to(peer: u32, vector: u32) -> ivshmem_doorbell {
    ivshmem_doorbell { peer, vector }
}

/// Counts of all vectors, with nothing on its way.
fn settled(device: &Device) -> Vec<u64> {
    (0..vectors()).map(|vector| device.settle(vector)).collect()
}

fn one_rings_oneself() {
    let device = Device::open();
    let me = device.info().ivposition as u32;
    let counts = settled(&device);
    for vector in (0..vectors()).rev() {
        assert_eq!(device.ring(me, vector), Ok(()));
        let count = device.moved(vector, counts[vector as usize]);
        assert_eq!(count, counts[vector as usize] + 1);
    }
    let now: Vec<u64> = (0..vectors()).map(|vector| device.count(vector)).collect();
    let once: Vec<u64> = counts.iter().map(|count| count + 1).collect();
    assert_eq!(now, once, "once each");
}

fn a_peer_is_rung() {
    let device = Device::open();
    let counts = settled(&device);
    host::barrier("both listen");
    // Each rings another vector, so that one's own ring could not be taken for the other's.
    let (mine, theirs) = (guest() as u32, peer());
    assert_eq!(device.ring(theirs, theirs), Ok(()));
    assert_eq!(
        device.moved(mine, counts[mine as usize]),
        counts[mine as usize] + 1
    );
    host::barrier("both were rung");
    for vector in (0..vectors()).filter(|vector| *vector != mine) {
        assert_eq!(
            device.count(vector),
            counts[vector as usize],
            "vector {vector} was not"
        );
    }
}

fn absent_peers_are_ignored() {
    let device = Device::open();
    let counts = settled(&device);
    host::barrier("both listen");
    for absent in [2, 3, 255, 256, 300, 65535] {
        for vector in 0..vectors() {
            assert_eq!(device.ring(absent, vector), Ok(()), "{absent} {vector}");
        }
    }
    host::barrier("both have rung");
    // What they rang would have come before this.
    for (vector, before) in (0..).zip(counts) {
        device.ring_self(vector);
        assert_eq!(device.moved(vector, before), before + 1, "vector {vector}");
    }
}

fn what_is_out_of_range_is_refused() {
    let device = Device::open();
    let counts = settled(&device);
    host::barrier("both listen");
    let me = guest() as u32;
    for vector in [vectors(), vectors() + 1, 255, 256, 256 + 1, 65536, u32::MAX] {
        assert_eq!(
            device.ring(me, vector),
            Err(Errno::INVAL),
            "vector {vector}"
        );
        assert_eq!(
            device.ring(peer(), vector),
            Err(Errno::INVAL),
            "vector {vector}"
        );
    }
    for peer in [65536, 65536 + me, 65536 + peer(), u32::MAX] {
        assert_eq!(device.ring(peer, 0), Err(Errno::INVAL), "peer {peer}");
    }
    for vector in [IVSHMEM_VECTOR_ANY, IVSHMEM_VECTOR_STATE] {
        assert_eq!(device.ring(me, vector), Err(Errno::INVAL));
    }
    host::barrier("both have tried");
    for (vector, before) in (0..).zip(counts) {
        assert_eq!(
            device.wait(vector, before, SHORT),
            Err(Errno::TIMEDOUT),
            "vector {vector}"
        );
    }
}

fn many_are_rung_at_once() {
    let device = Device::open();
    let me = guest() as u32;
    let counts = settled(&device);
    let rings: Vec<_> = (0..vectors()).map(|vector| to(me, vector)).collect();
    assert_eq!(device.ring_many(&rings), Ok(vectors()));
    for (vector, before) in (0..).zip(&counts) {
        assert_eq!(device.moved(vector, *before), before + 1);
    }
    // To a peer that is absent, since rings of one vector coalesce.
    let most = vec![to(9, 0); IVSHMEM_MAX_ARRAY as usize];
    assert_eq!(device.ring_many(&most), Ok(IVSHMEM_MAX_ARRAY));
    assert_eq!(device.ring_many(&[to(me, 0)]), Ok(1));
    assert_eq!(device.moved(0, counts[0] + 1), counts[0] + 2);
}

fn one_bad_one_among_many_rings_none() {
    let device = Device::open();
    let me = guest() as u32;
    let counts = settled(&device);
    for bad in [to(me, vectors()), to(65536, 0), to(me, 256)] {
        for place in [0, 1, 63] {
            let mut rings = vec![to(me, 0); 64];
            rings[place] = bad;
            assert_eq!(
                device.ring_many(&rings),
                Err(Errno::INVAL),
                "{bad:?} at {place}"
            );
        }
    }
    assert_eq!(device.wait(0, counts[0], SHORT), Err(Errno::TIMEDOUT));
}

fn none_and_too_many_are_refused() {
    let device = Device::open();
    assert_eq!(device.ring_many(&[]), Err(Errno::INVAL));
    let rings = vec![to(9, 0); IVSHMEM_MAX_ARRAY as usize + 1];
    assert_eq!(device.ring_many(&rings), Err(Errno::INVAL));
}

fn who_may_only_read_may_not_ring() {
    let device = Device::open();
    let counts = settled(&device);
    let me = guest() as u32;
    let reader = Device::open_as(NODE, OFlags::RDONLY).expect("a read-only open");
    assert_eq!(reader.ring(me, 0), Err(Errno::ACCESS));
    assert_eq!(reader.ring_many(&[to(me, 0)]), Err(Errno::ACCESS));
    assert_eq!(device.wait(0, counts[0], SHORT), Err(Errno::TIMEDOUT));
    // It may wait, though.
    let seen = reader.count(0);
    device.ring_self(0);
    assert_eq!(reader.moved(0, seen), seen + 1);

    let writer = Device::open_as(NODE, OFlags::WRONLY).expect("a write-only open");
    assert_eq!(writer.ring(me, 0), Ok(()));
    assert_eq!(reader.moved(0, seen + 1), seen + 2);
}

fn counts_are_those_of_sysfs() {
    let device = Device::open();
    settled(&device);
    for vector in 0..vectors() {
        assert_eq!(device.count(vector), delivered(vector));
    }
}

fn main() {
    guest::run(cases![
        one_rings_oneself,
        a_peer_is_rung,
        absent_peers_are_ignored,
        what_is_out_of_range_is_refused,
        many_are_rung_at_once,
        one_bad_one_among_many_rings_none,
        none_and_too_many_are_refused,
        who_may_only_read_may_not_ring,
        counts_are_those_of_sysfs,
    ])
}
