// SPDX-License-Identifier: GPL-2.0

//! Counting and waiting: the part of it that is logic, in plain `core` Rust.
//!
//! Events are counted, not flagged. A source's count only grows; whoever waits says which count it
//! saw last. That makes a look repeatable, keeps waiters independent of each other, and leaves one
//! rule to get right: queue first, look second, sleep third.
//!
//! Nothing here knows the kernel, so that host tests can run it and a model checker can try all
//! interleavings.

/// A source of events.
pub(crate) trait Counted {
    /// Adds one to the count. Whoever sees the new one sees what was done before.
    fn add(&self);

    /// Wakes all who are queued.
    fn wake(&self);
}

/// Counts an event and wakes who waits for it, in this order: who is woken finds it counted.
pub(crate) fn deliver(source: &impl Counted) {
    source.add();
    source.wake();
}

/// A place to sleep until an event.
pub(crate) trait Sleeper {
    /// Why a sleep could not begin, or ended other than by a wake-up.
    type Error;

    /// Queues the caller for wake-ups. One that comes after this, even before [`Self::sleep`],
    /// ends that sleep.
    fn prepare(&mut self) -> Result<(), Self::Error>;

    /// Sleeps until a wake-up.
    fn sleep(&mut self) -> Result<(), Self::Error>;
}

/// Sleeps until `look` finds something.
///
/// `look` is asked after the caller was queued, so that an event is either seen by it or ends the
/// sleep that follows. What it finds takes precedence over a signal and over a timeout.
pub(crate) fn wait<S: Sleeper, T>(
    sleeper: &mut S,
    mut look: impl FnMut() -> Option<T>,
) -> Result<T, S::Error> {
    loop {
        let prepared = sleeper.prepare();
        if let Some(found) = look() {
            return Ok(found);
        }
        prepared?;
        let slept = sleeper.sleep();
        if let Some(found) = look() {
            return Ok(found);
        }
        slept?;
    }
}

/// How far a reader has come with one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor<S> {
    /// The source.
    pub(crate) source: S,
    /// Its count when it was last read.
    pub(crate) seen: u64,
}

/// A source that has moved past its cursor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    /// Where the cursor was.
    pub(crate) from: u64,
    /// Where it is now: the count of the source.
    pub(crate) to: u64,
}

/// Moves cursors to the counts of their sources, up to `room` of them, and reports those that had to
/// go anywhere. Returns how many there were.
///
/// The search begins at `*next`, and `*next` is left behind the last one found, so that a source
/// that never rests does not hide the others from a reader with a small buffer.
pub(crate) fn advance<S>(
    cursors: &mut [Cursor<S>],
    next: &mut usize,
    room: usize,
    count: impl Fn(&S) -> u64,
    mut report: impl FnMut(&S, Moved),
) -> usize {
    let len = cursors.len();
    let start = *next;
    let mut found = 0;
    for step in 0..len {
        let index = (start % len + step) % len;
        if found == room {
            break;
        }
        let Some(cursor) = cursors.get_mut(index) else {
            break;
        };
        let to = count(&cursor.source);
        if to != cursor.seen {
            let from = cursor.seen;
            cursor.seen = to;
            report(&cursor.source, Moved { from, to });
            *next = index + 1;
            found += 1;
        }
    }
    found
}

/// Takes a move back that could not be reported, unless another reader has moved on since. The
/// event is then reported again: never lost, at worst told twice.
///
/// The source is asked for by what it is, because the cursors may have changed places.
pub(crate) fn retreat<S>(cursors: &mut [Cursor<S>], is_it: impl Fn(&S) -> bool, moved: &Moved) {
    for cursor in cursors {
        if is_it(&cursor.source) && cursor.seen == moved.to {
            cursor.seen = moved.from;
        }
    }
}

/// Whether a source has moved past its cursor.
pub(crate) fn any_moved<S>(cursors: &[Cursor<S>], count: impl Fn(&S) -> u64) -> bool {
    cursors
        .iter()
        .any(|cursor| count(&cursor.source) != cursor.seen)
}

/// How long a caller is willing to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// It only wants to look.
    None,
    /// Until this time, in nanoseconds.
    Until(i64),
    /// As long as it takes.
    Endless,
}

impl Patience {
    /// Reads the timeout of a call: relative or absolute nanoseconds, 0 to only look, -1 for no
    /// limit. `None` for other negative values.
    pub(crate) fn new(timeout: i64, absolute: bool, now: impl FnOnce() -> i64) -> Option<Self> {
        match timeout {
            -1 => Some(Self::Endless),
            ..=-2 => None,
            0 => Some(Self::None),
            _ if absolute => Some(Self::Until(timeout)),
            _ => Some(Self::Until(now().saturating_add(timeout))),
        }
    }
}
