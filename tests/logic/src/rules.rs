// SPDX-License-Identifier: GPL-2.0

//! What each function of the counting and waiting logic promises, one promise per test.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::count::{Cursor, Moved, Patience, Sleeper, advance, any_moved, retreat, wait};

/// A source that is just a number, and which one of them it is.
struct Source {
    index: usize,
    count: u64,
}

/// Cursors on such sources, all seen up to 0.
fn cursors(counts: &[u64]) -> Vec<Cursor<Source>> {
    counts
        .iter()
        .enumerate()
        .map(|(index, &count)| Cursor {
            source: Source { index, count },
            seen: 0,
        })
        .collect()
}

fn any(cursors: &[Cursor<Source>]) -> bool {
    any_moved(cursors, |source| source.count)
}

/// What `advance` reports to a reader with room for `room` records, by the index of the source.
fn read(cursors: &mut [Cursor<Source>], next: &mut usize, room: usize) -> Vec<(usize, Moved)> {
    let mut moved = Vec::new();
    let count = |source: &Source| source.count;
    let report = |source: &Source, now| moved.push((source.index, now));
    let found = advance(cursors, next, room, count, report);
    assert_eq!(moved.len(), found);
    moved
}

fn indices(moved: &[(usize, Moved)]) -> Vec<usize> {
    moved.iter().map(|&(index, _)| index).collect()
}

mod cursors {
    use super::*;

    #[test]
    fn nothing_to_read_without_cursors() {
        let mut next = 0;
        assert_eq!(read(&mut [], &mut next, 4), []);
        assert!(!any(&[]));
    }

    #[test]
    fn what_has_moved_is_told_once_with_both_ends() {
        let mut cursors = cursors(&[0, 7, 0, 2]);
        let mut next = 0;
        assert!(any(&cursors));
        let moved = read(&mut cursors, &mut next, 8);
        let expected = [(1, 7), (3, 2)].map(|(index, to)| (index, Moved { from: 0, to }));
        assert_eq!(moved, expected);
        assert!(!any(&cursors));
        assert_eq!(read(&mut cursors, &mut next, 8), []);
    }

    #[test]
    fn a_cursor_without_room_stays() {
        let mut cursors = cursors(&[1, 1]);
        let mut next = 0;
        assert_eq!(read(&mut cursors, &mut next, 0), []);
        assert_eq!(read(&mut cursors, &mut next, 1).len(), 1);
        assert_eq!([cursors[0].seen, cursors[1].seen], [1, 0]);
        assert!(any(&cursors));
    }

    #[test]
    fn a_source_that_never_rests_does_not_hide_the_others() {
        let mut cursors = cursors(&[0; 5]);
        let mut next = 0;
        let mut told = Vec::new();
        for _ in 0..10 {
            cursors
                .iter_mut()
                .for_each(|cursor| cursor.source.count += 1);
            told.extend(indices(&read(&mut cursors, &mut next, 1)));
        }
        assert_eq!(told, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]);

        // With more room, and one that rests.
        told.clear();
        for _ in 0..4 {
            cursors
                .iter_mut()
                .for_each(|cursor| cursor.source.count += 1);
            cursors[2].source.count = cursors[2].seen;
            told.extend(indices(&read(&mut cursors, &mut next, 2)));
        }
        assert_eq!(told, [0, 1, 3, 4, 0, 1, 3, 4]);
    }

    #[test]
    fn one_read_tells_each_source_at_most_once() {
        let mut cursors = cursors(&[0; 3]);
        let clock = Cell::new(0);
        // Every look finds another count.
        let count = |_: &Source| clock.replace(clock.get() + 1) + 1;
        assert_eq!(advance(&mut cursors, &mut 0, 16, count, |_, _| {}), 3);
    }

    #[test]
    fn next_may_be_left_over_from_a_longer_list() {
        let mut cursors = cursors(&[1, 1]);
        assert_eq!(indices(&read(&mut cursors, &mut 9, 4)), [1, 0]);
    }

    #[test]
    fn counts_wrap() {
        let mut cursors = cursors(&[0]);
        cursors[0].seen = u64::MAX;
        assert!(any(&cursors));
        assert_eq!(read(&mut cursors, &mut 0, 1)[0].1.from, u64::MAX);
        assert_eq!(cursors[0].seen, 0);
    }

    #[test]
    fn what_could_not_be_told_is_told_again() {
        let mut cursors = cursors(&[3, 4]);
        let mut next = 0;
        let moved = read(&mut cursors, &mut next, 2);
        retreat(&mut cursors, |source| source.index == 1, &moved[1].1);
        let again = read(&mut cursors, &mut next, 2);
        assert_eq!(again, [moved[1]]);
    }

    #[test]
    fn a_retreat_finds_a_cursor_that_has_moved_in_the_list() {
        let mut cursors = cursors(&[3, 4, 4]);
        let moved = read(&mut cursors, &mut 0, 3);
        cursors.remove(0);
        retreat(&mut cursors, |source| source.index == 1, &moved[1].1);
        assert_eq!([cursors[0].seen, cursors[1].seen], [0, 4]);
    }

    #[test]
    fn a_retreat_does_not_undo_another_reader() {
        let mut cursors = cursors(&[3]);
        let mut next = 0;
        let mine = read(&mut cursors, &mut next, 1);
        cursors[0].source.count = 5;
        let theirs = read(&mut cursors, &mut next, 1);
        assert_eq!(theirs[0].1, Moved { from: 3, to: 5 });
        retreat(&mut cursors, |_| true, &mine[0].1);
        assert_eq!(cursors[0].seen, 5);
    }

    #[test]
    fn a_retreat_of_a_cursor_that_is_gone_does_nothing() {
        let mut cursors = cursors(&[3, 4]);
        let moved = read(&mut cursors, &mut 0, 2);
        cursors.truncate(1);
        retreat(&mut cursors, |source| source.index == 1, &moved[1].1);
        assert_eq!(cursors[0].seen, 3);
    }
}

mod patience {
    use super::*;

    fn never() -> i64 {
        panic!("the clock is not needed for this")
    }

    #[test]
    fn special_values() {
        for absolute in [false, true] {
            assert_eq!(Patience::new(-1, absolute, never), Some(Patience::Endless));
            assert_eq!(Patience::new(0, absolute, never), Some(Patience::None));
            for negative in [-2, i64::MIN] {
                assert_eq!(Patience::new(negative, absolute, never), None);
            }
        }
    }

    #[test]
    fn relative_counts_from_now() {
        let patience = Patience::new(10, false, || 1000);
        assert_eq!(patience, Some(Patience::Until(1010)));
    }

    #[test]
    fn absolute_is_taken_as_it_is() {
        let patience = Patience::new(10, true, never);
        assert_eq!(patience, Some(Patience::Until(10)));
    }

    #[test]
    fn a_relative_time_beyond_the_end_of_time_is_its_end() {
        let patience = Patience::new(i64::MAX, false, || 1000);
        assert_eq!(patience, Some(Patience::Until(i64::MAX)));
    }
}

mod waiting {
    use super::*;

    /// Plays one step per call of the sleeper or of `look`, and notes it.
    #[derive(Clone, Default)]
    struct Script {
        notes: Rc<RefCell<Vec<&'static str>>>,
        /// Which call of `prepare` fails: a signal is pending.
        signal_at: Option<usize>,
        /// Which call of `sleep` fails: the time is over.
        timeout_at: Option<usize>,
        prepared: usize,
        slept: usize,
    }

    impl Sleeper for Script {
        type Error = &'static str;

        fn prepare(&mut self) -> Result<(), Self::Error> {
            self.notes.borrow_mut().push("prepare");
            self.prepared += 1;
            match self.signal_at {
                Some(at) if at == self.prepared => Err("signal"),
                _ => Ok(()),
            }
        }

        fn sleep(&mut self) -> Result<(), Self::Error> {
            self.notes.borrow_mut().push("sleep");
            self.slept += 1;
            match self.timeout_at {
                Some(at) if at == self.slept => Err("timeout"),
                _ => Ok(()),
            }
        }
    }

    /// Waits for the event to be there at the look of this number, if any.
    fn play(mut script: Script, event_at: Option<usize>) -> (Result<usize, &'static str>, String) {
        let notes = script.notes.clone();
        let mut looks = 0;
        let result = wait(&mut script, || {
            notes.borrow_mut().push("look");
            looks += 1;
            event_at.filter(|&at| looks >= at)
        });
        let notes = notes.borrow().join(" ");
        (result, notes)
    }

    #[test]
    fn who_finds_something_does_not_sleep() {
        let (result, notes) = play(Script::default(), Some(1));
        assert_eq!(result, Ok(1));
        assert_eq!(notes, "prepare look");
    }

    #[test]
    fn every_sleep_comes_right_after_a_look_of_one_who_is_queued() {
        let (result, notes) = play(Script::default(), Some(9));
        assert_eq!(result, Ok(9));
        let sleeps = notes.matches("sleep").count();
        assert!(sleeps > 1);
        assert_eq!(notes.matches("prepare look sleep").count(), sleeps);
    }

    #[test]
    fn an_event_goes_before_a_signal() {
        let script = Script {
            signal_at: Some(1),
            ..Script::default()
        };
        assert_eq!(play(script, Some(1)).0, Ok(1));
    }

    #[test]
    fn who_has_a_signal_does_not_sleep() {
        let script = Script {
            signal_at: Some(2),
            ..Script::default()
        };
        let (result, notes) = play(script, None);
        assert_eq!(result, Err("signal"));
        assert_eq!(notes.matches("sleep").count(), 1);
    }

    #[test]
    fn an_event_goes_before_a_timeout() {
        let script = Script {
            timeout_at: Some(1),
            ..Script::default()
        };
        let (result, notes) = play(script, Some(2));
        assert_eq!(result, Ok(2));
        assert_eq!(notes, "prepare look sleep look");
    }

    #[test]
    fn a_timeout_ends_the_wait() {
        let script = Script {
            timeout_at: Some(2),
            ..Script::default()
        };
        assert_eq!(play(script, None).0, Err("timeout"));
    }

    #[test]
    fn a_signal_goes_before_a_timeout_that_has_not_been_slept_for() {
        let script = Script {
            signal_at: Some(1),
            timeout_at: Some(1),
            ..Script::default()
        };
        assert_eq!(play(script, None).0, Err("signal"));
    }
}
