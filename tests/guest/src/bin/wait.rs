// SPDX-License-Identifier: GPL-2.0

//! WAIT and WAITS: who waits for a count that differs from the one last seen, wakes.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use guest::abi::*;
use guest::dev::{Device, INFINITE, LONG, SHORT};
use guest::task::{self, SIGNALS, Worker, spawn};
use guest::{cases, guest, host, scaled, scenario, vectors};
use rustix::event::{EventfdFlags, PollFlags, eventfd};
use rustix::io::Errno;

const MS: i64 = 1_000_000;

fn event(vector: u32, count: u64) -> ivshmem_event {
    ivshmem_event {
        vector,
        reserved: 0,
        count,
    }
}

/// A device that two threads share, and the counts of its first vectors.
fn settled() -> (Arc<Device>, [u64; 4]) {
    let device = Device::open();
    let counts = [0, 1, 2, 3].map(|vector| device.settle(vector));
    (Arc::new(device), counts)
}

fn waiter(
    device: &Arc<Device>,
    vector: u32,
    seen: u64,
    timeout: i64,
) -> Worker<Result<u64, Errno>> {
    let device = device.clone();
    spawn(move || device.wait(vector, seen, timeout))
}

fn a_ring_before_the_wait_ends_it_at_once() {
    let (device, counts) = settled();
    device.ring_self(1);
    let now = device.moved(1, counts[1]);
    // Looking takes nothing away: whoever has seen less comes back at once, any number of times.
    for timeout in [0, 1, SHORT, INFINITE] {
        assert_eq!(device.wait(1, counts[1], timeout), Ok(now));
    }
    assert_eq!(device.wait(1, now, 0), Err(Errno::TIMEDOUT));
}

fn a_ring_during_the_wait_ends_it() {
    let (device, counts) = settled();
    for timeout in [INFINITE, LONG] {
        let seen = device.count(2);
        let waiter = waiter(&device, 2, seen, timeout);
        waiter.asleep();
        device.ring_self(2);
        assert_eq!(waiter.join(), Ok(seen + 1));
    }
    assert_eq!(device.count(1), counts[1]);
}

fn rings_of_other_vectors_do_not_end_it() {
    let (device, counts) = settled();
    let sleeper = waiter(&device, 0, counts[0], INFINITE);
    sleeper.asleep();
    for vector in [1, 2, 3] {
        device.ring_self(vector);
        device.moved(vector, counts[vector as usize]);
    }
    sleeper.asleep();
    assert!(sleeper.is_out());
    device.ring_self(0);
    assert_eq!(sleeper.join(), Ok(counts[0] + 1));
}

/// A waiter may have seen more than there is, as after a rebind: that is a difference, too.
fn any_difference_counts() {
    let (device, counts) = settled();
    for other in [counts[0] + 1, counts[0] - 1, u64::MAX, 0] {
        assert_eq!(device.wait(0, other, INFINITE), Ok(counts[0]));
    }
}

#[track_caller]
fn times_out(wait: &mut ivshmem_wait, device: &Device) -> i64 {
    let (seen, start) = (wait.count, task::now());
    assert_eq!(device.ioctl(IVSHMEM_IOC_WAIT, wait), Err(Errno::TIMEDOUT));
    assert_eq!(wait.count, seen, "the count now");
    task::now() - start
}

fn a_relative_timeout_ends_it_in_time() {
    let (device, counts) = settled();
    for timeout in [1, 1000, 3 * MS, 50 * MS] {
        let mut wait = ivshmem_wait {
            vector: 0,
            flags: 0,
            count: counts[0],
            timeout,
        };
        assert!(
            times_out(&mut wait, &device) >= timeout,
            "not before its time"
        );
    }
}

fn an_absolute_timeout_ends_it_in_time() {
    let (device, counts) = settled();
    for timeout in [1000, 3 * MS, 50 * MS] {
        let end = task::now() + timeout;
        let mut wait = ivshmem_wait {
            vector: 0,
            flags: IVSHMEM_WAIT_ABSOLUTE,
            count: counts[0],
            timeout: end,
        };
        times_out(&mut wait, &device);
        assert!(task::now() >= end, "not before its time");
        assert_eq!(wait.timeout, end, "it stays what it is");
    }
}

fn no_time_is_only_a_look() {
    let (device, counts) = settled();
    let look = |flags, timeout| ivshmem_wait {
        vector: 0,
        flags,
        count: counts[0],
        timeout,
    };
    for (flags, timeout) in [
        (0, 0),
        (IVSHMEM_WAIT_ABSOLUTE, 0),
        (IVSHMEM_WAIT_ABSOLUTE, 1),
        (IVSHMEM_WAIT_ABSOLUTE, task::now()),
    ] {
        times_out(&mut look(flags, timeout), &device);
        let mut behind = ivshmem_wait {
            count: counts[0] - 1,
            ..look(flags, timeout)
        };
        assert_eq!(device.ioctl(IVSHMEM_IOC_WAIT, &mut behind), Ok(0));
        assert_eq!(behind.count, counts[0]);
    }
}

fn the_longest_timeouts_are_waits() {
    let (device, _) = settled();
    for flags in [0, IVSHMEM_WAIT_ABSOLUTE] {
        let seen = device.count(0);
        let shared = device.clone();
        let sleeper = spawn(move || {
            let mut wait = ivshmem_wait {
                vector: 0,
                flags,
                count: seen,
                timeout: i64::MAX,
            };
            shared
                .ioctl(IVSHMEM_IOC_WAIT, &mut wait)
                .map(|_| wait.count)
        });
        sleeper.asleep();
        device.ring_self(0);
        assert_eq!(sleeper.join(), Ok(seen + 1));
    }
}

fn a_signal_ends_it() {
    let (device, counts) = settled();
    task::handle(libc::SIGUSR1, 0);
    for timeout in [INFINITE, LONG] {
        let sleeper = waiter(&device, 0, counts[0], timeout);
        sleeper.asleep();
        sleeper.signal(libc::SIGUSR1);
        assert_eq!(sleeper.join(), Err(Errno::INTR));
    }
    let shared = device.clone();
    let sleeper = spawn(move || {
        let mut set = [event(0, counts[0]), event(1, counts[1])];
        shared.waits(&mut set, INFINITE)
    });
    sleeper.asleep();
    sleeper.signal(libc::SIGUSR1);
    assert_eq!(sleeper.join(), Err(Errno::INTR));
}

fn a_signal_may_let_it_go_on() {
    let (device, counts) = settled();
    task::handle(libc::SIGUSR1, libc::SA_RESTART);
    for vector in [0, IVSHMEM_VECTOR_ANY] {
        let seen = if vector == 0 {
            counts[0]
        } else {
            device.subscribe(&[0]).expect("SUBSCRIBE");
            device.count(vector)
        };
        let before = SIGNALS.load(SeqCst);
        let sleeper = waiter(&device, vector, seen, INFINITE);
        for signal in 1..=3 {
            sleeper.asleep();
            sleeper.signal(libc::SIGUSR1);
            task::until("the signal is handled", || {
                SIGNALS.load(SeqCst) == before + signal
            });
        }
        sleeper.asleep();
        device.ring_self(0);
        assert_eq!(sleeper.join(), Ok(seen + 1));
    }
}

fn a_signal_may_let_a_set_go_on() {
    let (device, counts) = settled();
    task::handle(libc::SIGUSR1, libc::SA_RESTART);
    for timeout in [INFINITE, LONG] {
        let seen = device.count(1);
        let before = SIGNALS.load(SeqCst);
        let shared = device.clone();
        let sleeper = spawn(move || {
            let mut set = [event(0, counts[0]), event(1, seen)];
            let result = shared.waits(&mut set, timeout);
            (result, set)
        });
        for signal in 1..=3 {
            sleeper.asleep();
            sleeper.signal(libc::SIGUSR1);
            task::until("the signal is handled", || {
                SIGNALS.load(SeqCst) == before + signal
            });
        }
        sleeper.asleep();
        device.ring_self(1);
        let (result, set) = sleeper.join();
        assert_eq!(result, Ok(1));
        assert_eq!(set.map(|event| event.count), [counts[0], seen + 1]);
    }
}

/// Sends signals to a sleeper until its timeout ends it. Each would begin the timeout anew, if it did;
/// then there would be no end.
#[track_caller]
fn disturb<T>(sleeper: Worker<T>, start: i64) -> T {
    while sleeper.is_out() {
        assert!(task::now() - start < LONG, "signals put the end off");
        sleeper.signal(libc::SIGUSR1);
        task::until("it sleeps again or is back", || {
            !sleeper.is_out() || sleeper.is_asleep()
        });
    }
    sleeper.join()
}

/// Signals do not make a relative timeout longer, nor an absolute one.
fn signals_cost_no_time() {
    let (device, counts) = settled();
    task::handle(libc::SIGUSR1, libc::SA_RESTART);
    for flags in [0, IVSHMEM_WAIT_ABSOLUTE] {
        let timeout = 300 * MS;
        let start = task::now();
        let shared = device.clone();
        let sleeper = spawn(move || {
            let mut wait = ivshmem_wait {
                vector: 0,
                flags,
                count: counts[0],
                timeout: if flags == 0 { timeout } else { start + timeout },
            };
            let result = shared.ioctl(IVSHMEM_IOC_WAIT, &mut wait);
            (result, wait, task::now() - start)
        });
        let (result, wait, took) = disturb(sleeper, start);
        assert_eq!(result, Err(Errno::TIMEDOUT));
        assert!(took >= timeout, "{took} ns");
        if flags == 0 {
            let end = wait.timeout - start;
            assert_eq!(wait.flags, IVSHMEM_WAIT_ABSOLUTE);
            assert!((timeout..LONG).contains(&end), "{end}");
        }
    }
}

fn signals_cost_a_set_no_time() {
    let (device, counts) = settled();
    task::handle(libc::SIGUSR1, libc::SA_RESTART);
    for flags in [0, IVSHMEM_WAIT_ABSOLUTE] {
        let timeout = 300 * MS;
        let start = task::now();
        let shared = device.clone();
        let sleeper = spawn(move || {
            let mut set = [event(0, counts[0]), event(1, counts[1])];
            let mut waits = ivshmem_waits {
                events: set.as_mut_ptr() as u64,
                nr: 2,
                flags,
                timeout: if flags == 0 { timeout } else { start + timeout },
            };
            let result = shared.ioctl(IVSHMEM_IOC_WAITS, &mut waits);
            (result, waits, task::now() - start)
        });
        let (result, waits, took) = disturb(sleeper, start);
        assert_eq!(result, Err(Errno::TIMEDOUT));
        assert!(took >= timeout, "{took} ns");
        assert_eq!(waits.flags, IVSHMEM_WAIT_ABSOLUTE);
        let end = waits.timeout - start;
        assert!((timeout..LONG).contains(&end), "{end}");
    }
}

fn a_signal_leaves_the_end_of_the_time() {
    let (device, counts) = settled();
    task::handle(libc::SIGUSR1, 0);
    let shared = device.clone();
    let sleeper = spawn(move || {
        let mut wait = ivshmem_wait {
            vector: 0,
            flags: 0,
            count: counts[0],
            timeout: LONG,
        };
        let result = shared.ioctl(IVSHMEM_IOC_WAIT, &mut wait);
        (result, wait)
    });
    sleeper.asleep();
    let slept = task::now();
    task::until("time passes", || task::now() > slept + 5 * MS);
    sleeper.signal(libc::SIGUSR1);
    let (result, wait) = sleeper.join();
    assert_eq!(result, Err(Errno::INTR));
    assert_eq!(wait.flags, IVSHMEM_WAIT_ABSOLUTE);
    assert!(wait.timeout <= slept + LONG, "{}", wait.timeout);
    assert!(wait.timeout > task::now() + LONG / 2, "{}", wait.timeout);
    assert_eq!(wait.count, counts[0], "what was seen is not lost");
}

fn two_waiters_both_wake() {
    let (device, counts) = settled();
    let other = Arc::new(Device::open());
    let waiters =
        [&device, &device, &other, &other].map(|file| waiter(file, 3, counts[3], INFINITE));
    waiters.iter().for_each(Worker::asleep);
    device.ring_self(3);
    for waiter in waiters {
        assert_eq!(waiter.join(), Ok(counts[3] + 1));
    }
}

fn all_wake_by_one_ring() {
    let (device, counts) = settled();
    let waiters: Vec<_> = (0..64)
        .map(|_| waiter(&device, 3, counts[3], INFINITE))
        .collect();
    waiters.iter().for_each(Worker::asleep);
    device.ring_self(3);
    for waiter in waiters {
        assert_eq!(waiter.join(), Ok(counts[3] + 1));
    }
}

fn any_is_what_is_subscribed_to() {
    let (device, counts) = settled();
    assert_eq!(
        device.wait(IVSHMEM_VECTOR_ANY, 0, 0),
        Err(Errno::INVAL),
        "nothing is"
    );
    device.subscribe(&[0, 2]).expect("SUBSCRIBE");
    assert_eq!(device.wait(IVSHMEM_VECTOR_ANY, 0, 0), Err(Errno::TIMEDOUT));
    assert_eq!(device.wait(IVSHMEM_VECTOR_ANY, 1, 0), Ok(0));
    let sleeper = waiter(&device, IVSHMEM_VECTOR_ANY, 0, INFINITE);
    sleeper.asleep();
    device.ring_self(1);
    device.moved(1, counts[1]);
    sleeper.asleep();
    device.ring_self(2);
    assert_eq!(sleeper.join(), Ok(1));
    device.ring_self(0);
    assert_eq!(device.wait(IVSHMEM_VECTOR_ANY, 1, LONG), Ok(2));
    device.unsubscribe(&[]).expect("SUBSCRIBE");
    assert_eq!(device.wait(IVSHMEM_VECTOR_ANY, 0, 0), Err(Errno::INVAL));
}

/// If the count came to one that it was before, a waiter would sleep over events.
fn any_stays_when_the_subscription_changes() {
    let (device, counts) = settled();
    let nothing = |seen| {
        let result = device.wait(IVSHMEM_VECTOR_ANY, seen, 0);
        assert_eq!(result, Err(Errno::TIMEDOUT));
    };
    device.subscribe(&[0, 1]).expect("SUBSCRIBE");
    device.ring_self(1);
    assert_eq!(device.wait(IVSHMEM_VECTOR_ANY, 0, LONG), Ok(1));
    let sleeper = waiter(&device, IVSHMEM_VECTOR_ANY, 1, INFINITE);
    sleeper.asleep();
    device.unsubscribe(&[1]).expect("SUBSCRIBE");
    nothing(1);
    device.ring_self(1);
    device.moved(1, counts[1] + 1);
    nothing(1);
    device.subscribe(&[2, 1]).expect("SUBSCRIBE");
    nothing(1);
    sleeper.asleep();
    device.ring_self(0);
    assert_eq!(sleeper.join(), Ok(2));
    device.unsubscribe(&[0, 2]).expect("SUBSCRIBE");
    device.ring_self(1);
    assert_eq!(device.wait(IVSHMEM_VECTOR_ANY, 2, LONG), Ok(3));
    device.unsubscribe(&[]).expect("SUBSCRIBE");
    device.subscribe(&[3]).expect("SUBSCRIBE");
    nothing(3);
}

/// Whoever looks while another thread changes what the file is subscribed to.
fn any_is_never_a_part_of_it() {
    let (device, _) = settled();
    device.subscribe(&[0, 2]).expect("SUBSCRIBE");
    for vector in [0, 2] {
        device.ring_self(vector);
    }
    task::until("both are heard", || device.count(IVSHMEM_VECTOR_ANY) == 2);
    let over = Arc::new(AtomicBool::new(false));
    let (shared, end) = (device.clone(), over.clone());
    let changer = spawn(move || {
        while !end.load(SeqCst) {
            shared.unsubscribe(&[0, 2]).expect("SUBSCRIBE");
            shared.subscribe(&[0, 2]).expect("SUBSCRIBE");
        }
    });
    let often = scaled(1000);
    let (mut heard, mut deaf) = (0, 0);
    task::until("both are seen often", || {
        match device.wait(IVSHMEM_VECTOR_ANY, 0, 0) {
            Ok(count) => {
                assert_eq!(count, 2);
                heard += 1;
            }
            Err(err) => {
                assert_eq!(err, Errno::INVAL);
                deaf += 1;
            }
        }
        heard >= often && deaf >= often
    });
    over.store(true, SeqCst);
    changer.join();
}

/// Nobody is left who could wake them.
fn waits_for_any_end_with_the_last_subscription() {
    let (device, counts) = settled();
    let mut nothing = [event(1, counts[1]), event(IVSHMEM_VECTOR_ANY, 0)];
    for timeout in [0, INFINITE] {
        assert_eq!(device.waits(&mut nothing, timeout), Err(Errno::INVAL));
    }
    for vectors in [&[][..], &[0]] {
        device.subscribe(&[0]).expect("SUBSCRIBE");
        let seen = device.count(IVSHMEM_VECTOR_ANY);
        let one = waiter(&device, IVSHMEM_VECTOR_ANY, seen, INFINITE);
        let shared = device.clone();
        let many = spawn(move || {
            let mut set = [event(1, counts[1]), event(IVSHMEM_VECTOR_ANY, seen)];
            shared.waits(&mut set, INFINITE)
        });
        one.asleep();
        many.asleep();
        device.unsubscribe(vectors).expect("SUBSCRIBE");
        assert_eq!(one.join(), Err(Errno::INVAL));
        assert_eq!(many.join(), Err(Errno::INVAL));
        // The file itself can still be waited by.
        assert_eq!(device.wait(1, counts[1], 0), Err(Errno::TIMEDOUT));
    }
}

fn the_state_can_be_waited_for() {
    let (device, _) = settled();
    let generation = device.info().generation;
    assert_eq!(device.count(IVSHMEM_VECTOR_STATE), generation);
    let none = device.wait(IVSHMEM_VECTOR_STATE, generation, SHORT);
    assert_eq!(none, Err(Errno::TIMEDOUT));
}

fn a_set_says_which_have_moved() {
    let (device, counts) = settled();
    let mut set = [0, 1, 2].map(|vector| event(vector, counts[vector as usize]));
    assert_eq!(device.waits(&mut set, 0), Err(Errno::TIMEDOUT));
    assert_eq!(device.waits(&mut set, 5 * MS), Err(Errno::TIMEDOUT));
    let shared = device.clone();
    let sleeper = spawn(move || {
        let result = shared.waits(&mut set, INFINITE);
        (result, set)
    });
    sleeper.asleep();
    device.ring_self(3);
    device.moved(3, counts[3]);
    sleeper.asleep();
    device.ring_self(1);
    let (result, set) = sleeper.join();
    assert_eq!(result, Ok(1));
    let now = [counts[0], counts[1] + 1, counts[2]];
    assert_eq!(set.map(|event| event.count), now);
    device.ring_self(2);
    device.moved(2, counts[2]);
    let mut old = [2, 1, 0, 0].map(|vector| event(vector, counts[vector as usize]));
    assert_eq!(device.waits(&mut old, INFINITE), Ok(2));
    assert_eq!(
        old.map(|event| event.count),
        [counts[2] + 1, counts[1] + 1, counts[0], counts[0]]
    );
}

fn a_set_may_have_any_and_the_state() {
    let (device, counts) = settled();
    device.subscribe(&[3]).expect("SUBSCRIBE");
    let generation = device.count(IVSHMEM_VECTOR_STATE);
    let set = [
        event(IVSHMEM_VECTOR_ANY, 0),
        event(IVSHMEM_VECTOR_STATE, generation),
        event(0, counts[0]),
    ];
    assert_eq!(device.waits(&mut set.clone(), 0), Err(Errno::TIMEDOUT));
    device.ring_self(3);
    let mut moved = set;
    assert_eq!(device.waits(&mut moved, INFINITE), Ok(1));
    assert_eq!(moved[0].count, 1);
}

fn a_set_may_be_large() {
    let (device, counts) = settled();
    let mut set: Vec<_> = (0..IVSHMEM_MAX_ARRAY)
        .map(|index| event(index % vectors(), counts[(index % vectors()) as usize]))
        .collect();
    assert_eq!(device.waits(&mut set, MS), Err(Errno::TIMEDOUT));
    let shared = device.clone();
    let sleeper = spawn(move || shared.waits(&mut set, INFINITE));
    sleeper.asleep();
    device.ring_self(0);
    assert_eq!(sleeper.join(), Ok(IVSHMEM_MAX_ARRAY / vectors()));
}

/// A thread may unsubscribe, which makes the file deaf, while another waits: the one that waits
/// must hear nevertheless.
fn unsubscribing_does_not_deafen_a_waiter() {
    let (device, counts) = settled();
    for vectors in [&[][..], &[0]] {
        let seen = device.count(0);
        device.subscribe(&[0]).expect("SUBSCRIBE");
        let one = waiter(&device, 0, seen, INFINITE);
        let shared = device.clone();
        let many =
            spawn(move || shared.waits(&mut [event(1, counts[1]), event(0, seen)], INFINITE));
        one.asleep();
        many.asleep();
        for _ in 0..scaled(50) {
            device.unsubscribe(vectors).expect("SUBSCRIBE");
        }
        one.asleep();
        many.asleep();
        device.ring_self(0);
        assert_eq!(one.join().map(|count| count > seen), Ok(true));
        assert_eq!(many.join(), Ok(1));
    }
}

/// Closes a descriptor that another thread uses, and has an eventfd that is readable in its place.
fn close(device: &Device) {
    let raw = device.as_fd().as_raw_fd();
    let place = eventfd(1, EventfdFlags::CLOEXEC).expect("eventfd");
    // SAFETY: The descriptor is replaced by one that may be closed in its place.
    let replaced = unsafe { libc::dup2(place.as_raw_fd(), raw) };
    assert_eq!(replaced, raw);
}

/// The file lives on until the last call on it ends.
fn closing_does_not_hurt_a_waiter() {
    let (device, counts) = settled();
    let other = Device::open();
    let second = rustix::io::dup(&other).expect("dup");
    let fd = Arc::new(other);
    let sleeper = waiter(&fd, 0, counts[0], INFINITE);
    sleeper.asleep();
    // Both descriptors of the file, one of them while the thread waits by it.
    drop(second);
    close(&fd);
    sleeper.asleep();
    device.ring_self(0);
    assert_eq!(sleeper.join(), Ok(counts[0] + 1));
}

fn closing_does_not_hurt_a_reader() {
    let (device, counts) = settled();
    let fd = Arc::new(Device::open());
    fd.subscribe(&[0]).expect("SUBSCRIBE");
    let shared = fd.clone();
    let sleeper = spawn(move || shared.read(4));
    sleeper.asleep();
    close(&fd);
    sleeper.asleep();
    device.ring_self(0);
    assert_eq!(sleeper.join(), Ok(vec![event(0, counts[0] + 1)]));
}

fn closing_does_not_hurt_a_sleeper_in_poll() {
    let (device, _) = settled();
    let fd = Arc::new(Device::open());
    fd.subscribe(&[0]).expect("SUBSCRIBE");
    let shared = fd.clone();
    // Longer than the ring has time to wake it.
    let sleeper = spawn(move || shared.ready_within(2 * LONG));
    sleeper.asleep();
    close(&fd);
    sleeper.asleep();
    device.ring_self(0);
    // When it wakes, poll looks at what the descriptor is now.
    assert_eq!(sleeper.join(), Ok(PollFlags::IN));
}

/// 100 000 rings, in bursts. Who has seen the last one but sleeps would sleep for ever.
fn a_storm_loses_nothing() {
    const BURSTS: u64 = 2000;
    let device = Device::open();
    let map = device.map(0, 4096);
    let [sent, taken] = [&map.words()[0], &map.words()[64]];
    let rings = vec![ivshmem_doorbell { peer: 1, vector: 0 }; 100];
    if guest() == 1 {
        sent.store(0, SeqCst);
        taken.store(0, SeqCst);
        let mut seen = device.settle(0);
        host::barrier("ready");
        while taken.load(SeqCst) < BURSTS {
            let now = sent.load(SeqCst);
            if now == taken.load(SeqCst) {
                // If there were a burst that this does not see, it would sleep on.
                let count = device.moved(0, seen);
                assert!(count > seen, "counts only grow");
                seen = count;
            } else {
                taken.store(now, SeqCst);
            }
        }
    } else {
        host::barrier("ready");
        let start = task::now();
        for burst in 1..=BURSTS {
            sent.store(burst, SeqCst);
            // Of each length there are bursts, of the shortest the most dangerous ones.
            let length = if burst % 2 == 0 { 1 } else { 99 };
            assert_eq!(device.ring_many(&rings[..length]), Ok(length as u32));
            while taken.load(SeqCst) < burst {
                assert!(
                    task::now() - start < 3 * LONG,
                    "burst {burst} was not heard"
                );
                std::hint::spin_loop();
            }
        }
    }
    host::barrier("over");
}

fn main() {
    match scenario().as_str() {
        "pair" => guest::run(cases![a_storm_loses_nothing]),
        _ => guest::run(cases![
            a_ring_before_the_wait_ends_it_at_once,
            a_ring_during_the_wait_ends_it,
            rings_of_other_vectors_do_not_end_it,
            any_difference_counts,
            a_relative_timeout_ends_it_in_time,
            an_absolute_timeout_ends_it_in_time,
            no_time_is_only_a_look,
            the_longest_timeouts_are_waits,
            a_signal_ends_it,
            a_signal_may_let_it_go_on,
            a_signal_may_let_a_set_go_on,
            signals_cost_no_time,
            signals_cost_a_set_no_time,
            a_signal_leaves_the_end_of_the_time,
            two_waiters_both_wake,
            all_wake_by_one_ring,
            any_is_what_is_subscribed_to,
            any_stays_when_the_subscription_changes,
            any_is_never_a_part_of_it,
            waits_for_any_end_with_the_last_subscription,
            the_state_can_be_waited_for,
            a_set_says_which_have_moved,
            a_set_may_have_any_and_the_state,
            a_set_may_be_large,
            unsubscribing_does_not_deafen_a_waiter,
            closing_does_not_hurt_a_waiter,
            closing_does_not_hurt_a_reader,
            closing_does_not_hurt_a_sleeper_in_poll,
        ]),
    }
}
