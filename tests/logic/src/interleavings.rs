// SPDX-License-Identifier: GPL-2.0

//! That no wake-up is lost between look and sleep, whatever the order in which things happen.
//!
//! Loom runs each model in every interleaving of its threads, and with every value that the memory
//! orderings allow a load to return. A sleeper that nobody wakes is a deadlock, which it reports.
//!
//! What is modelled is the kernel's wait queue and, on it, the driver's use of `count.rs`: sources
//! with their queues (`events.rs`), open files with their cursors (`file.rs`), and removal.

use std::convert::Infallible;
// Loom's own would only find leaks, and cannot be dropped once a model has failed.
use std::sync::Arc;

use loom::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use loom::sync::atomic::{AtomicBool, AtomicU64, fence};
use loom::sync::{Condvar, Mutex};
use loom::thread;

use crate::count::{self, Counted, Cursor, Moved, Sleeper, advance, any_moved, retreat};

/// Runs a model in all interleavings in which a running thread is stopped in favour of another no
/// more often than this; all without a limit would take for ever.
fn model(preemptions: usize, run: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(run);
}

/// A task, as the scheduler sees it.
struct Task {
    runs: Mutex<bool>,
    woken: Condvar,
}

impl Task {
    fn wake(&self) {
        *self.runs.lock().unwrap() = true;
        self.woken.notify_one();
    }
}

/// Who is on a wait queue.
enum Entry {
    /// A task that is woken, and taken off the queue unless it is to stay.
    Task { task: Arc<Task>, stays: bool },
    /// An open file whose own queue is woken.
    File(Arc<Queue>),
}

/// A wait queue of the kernel.
struct Queue {
    entries: Mutex<Vec<Entry>>,
    /// Whether there are any, to look at without the lock.
    any: AtomicBool,
}

impl Queue {
    fn new() -> Self {
        Queue {
            entries: Mutex::new(Vec::new()),
            any: AtomicBool::new(false),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Entry>)) {
        let mut entries = self.entries.lock().unwrap();
        change(&mut entries);
        self.any.store(!entries.is_empty(), Relaxed);
    }

    /// Queues an open file for as long as the queue exists.
    fn add(&self, file: &Arc<Queue>) {
        self.change(|entries| entries.push(Entry::File(file.clone())));
        fence(SeqCst);
    }

    fn wake_all(&self) {
        fence(SeqCst);
        if !self.any.load(Relaxed) {
            return;
        }
        self.change(|entries| {
            entries.retain(|entry| match entry {
                Entry::Task { task, stays } => {
                    task.wake();
                    *stays
                }
                Entry::File(queue) => {
                    queue.wake_all();
                    true
                }
            });
        });
    }
}

fn remove(entries: &mut Vec<Entry>, gone: &Arc<Task>) {
    entries.retain(|entry| !matches!(entry, Entry::Task { task, .. } if Arc::ptr_eq(task, gone)));
}

/// The current task as a sleeper on some queues.
struct Asleep<'a> {
    queues: Vec<&'a Queue>,
    /// Whether it stays on a queue that wakes it.
    stays: bool,
    task: Arc<Task>,
}

impl<'a> Asleep<'a> {
    fn new(queues: &[&'a Queue]) -> Self {
        Asleep {
            queues: queues.to_vec(),
            stays: queues.len() > 1,
            task: Arc::new(Task {
                runs: Mutex::new(true),
                woken: Condvar::new(),
            }),
        }
    }
}

impl Sleeper for Asleep<'_> {
    type Error = Infallible;

    fn prepare(&mut self) -> Result<(), Infallible> {
        for queue in &self.queues {
            queue.change(|entries| {
                remove(entries, &self.task);
                entries.push(Entry::Task {
                    task: self.task.clone(),
                    stays: self.stays,
                });
                *self.task.runs.lock().unwrap() = false;
            });
            fence(SeqCst);
        }
        Ok(())
    }

    fn sleep(&mut self) -> Result<(), Infallible> {
        let mut runs = self.task.runs.lock().unwrap();
        while !*runs {
            runs = self.task.woken.wait(runs).unwrap();
        }
        Ok(())
    }
}

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        // A model that has failed cannot go on.
        if std::thread::panicking() {
            return;
        }
        for queue in &self.queues {
            queue.change(|entries| remove(entries, &self.task));
        }
    }
}

fn wait<T>(queues: &[&Queue], look: impl FnMut() -> Option<T>) -> T {
    let Ok(found) = count::wait(&mut Asleep::new(queues), look);
    found
}

/// A vector.
struct Source {
    count: AtomicU64,
    queue: Queue,
}

impl Source {
    fn new() -> Arc<Self> {
        Arc::new(Source {
            count: AtomicU64::new(0),
            queue: Queue::new(),
        })
    }

    fn count(&self) -> u64 {
        self.count.load(Acquire)
    }

    fn deliver(&self) {
        count::deliver(self);
    }

    /// Waits until the count is not the one seen last, and returns it.
    fn moved(&self, seen: u64) -> u64 {
        wait(&[&self.queue], || {
            let count = self.count();
            (count != seen).then_some(count)
        })
    }

    /// Waits, event by event, until the count is this. Counts never go back.
    fn reaches(&self, end: u64) {
        let mut seen = 0;
        while seen != end {
            let count = self.moved(seen);
            assert!(count > seen && count <= end);
            seen = count;
        }
    }
}

impl Counted for Source {
    fn add(&self) {
        self.count.fetch_add(1, Release);
    }

    fn wake(&self) {
        self.queue.wake_all();
    }
}

/// What a file is subscribed to.
struct Subject {
    vector: usize,
    source: Arc<Source>,
}

impl Subject {
    fn count(&self) -> u64 {
        self.source.count()
    }
}

/// An open file that is subscribed to some sources.
struct File {
    cursors: Mutex<(Vec<Cursor<Subject>>, usize)>,
    queue: Arc<Queue>,
}

impl File {
    fn new(sources: &[Arc<Source>]) -> Arc<Self> {
        let file = Arc::new(File {
            cursors: Mutex::new((Vec::new(), 0)),
            queue: Arc::new(Queue::new()),
        });
        for source in sources {
            file.subscribe(source);
        }
        file
    }

    /// Returns the count from which on the file is told of events.
    fn subscribe(&self, source: &Arc<Source>) -> u64 {
        source.queue.add(&self.queue);
        let mut cursors = self.cursors.lock().unwrap();
        let seen = source.count();
        let subject = Subject {
            vector: cursors.0.len(),
            source: source.clone(),
        };
        cursors.0.push(Cursor {
            source: subject,
            seen,
        });
        seen
    }

    fn is_readable(&self) -> bool {
        any_moved(&self.cursors.lock().unwrap().0, Subject::count)
    }

    /// Reads what there is, at most one record: which vector has moved, and how.
    fn try_read(&self) -> Option<(usize, Moved)> {
        let mut cursors = self.cursors.lock().unwrap();
        let (list, next) = &mut *cursors;
        let mut moved = None;
        advance(list, next, 1, Subject::count, |subject, now| {
            moved = Some((subject.vector, now));
        });
        moved
    }

    /// Reads one record; sleeps while there is none.
    fn read(&self) -> (usize, Moved) {
        loop {
            if let Some(moved) = self.try_read() {
                return moved;
            }
            wait(&[&self.queue], || self.is_readable().then_some(()));
        }
    }

    /// Takes a move back that could not be reported.
    fn take_back(&self, (vector, moved): (usize, Moved)) {
        let is_it = |subject: &Subject| subject.vector == vector;
        retreat(&mut self.cursors.lock().unwrap().0, is_it, &moved);
    }

    /// A read whose buffer turns out to be bad. Whoever had looked meanwhile has to look again.
    fn read_in_vain(&self) {
        if let Some(moved) = self.try_read() {
            self.take_back(moved);
            self.queue.wake_all();
        }
    }
}

/// Some rings by each of some peers, and waiters that have to see them all.
fn rings(preemptions: usize, peers: u64, each: u64, waiters: u64) {
    model(preemptions, move || {
        let source = Source::new();
        let all = peers * each;
        let mut threads = Vec::new();
        for _ in 0..peers {
            let source = source.clone();
            threads.push(thread::spawn(move || {
                for _ in 0..each {
                    source.deliver();
                }
            }));
        }
        for _ in 1..waiters {
            let source = source.clone();
            threads.push(thread::spawn(move || source.reaches(all)));
        }
        source.reaches(all);
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn a_waiter_misses_none_of_several_peers() {
    rings(2, 2, 2, 1);
}

#[test]
fn waiters_take_nothing_from_each_other() {
    rings(2, 1, 2, 2);
}

#[test]
fn several_waiters_miss_none_of_several_peers() {
    rings(2, 2, 1, 2);
}

#[test]
fn what_was_written_before_the_ring_is_there_after_the_wait() {
    model(3, || {
        let source = Source::new();
        let memory = Arc::new(AtomicU64::new(0));
        let peer = {
            let (source, memory) = (source.clone(), memory.clone());
            thread::spawn(move || {
                memory.store(42, Relaxed);
                source.deliver();
            })
        };
        source.moved(0);
        assert_eq!(memory.load(Relaxed), 42);
        peer.join().unwrap();
    });
}

#[test]
fn one_wait_for_several_vectors_misses_none() {
    model(3, || {
        let sources = [Source::new(), Source::new()];
        let peers = sources
            .clone()
            .map(|source| thread::spawn(move || source.deliver()));
        let queues = [&sources[0].queue, &sources[1].queue];
        let mut seen = [0, 0];
        while seen != [1, 1] {
            seen = wait(&queues, || {
                let now = [sources[0].count(), sources[1].count()];
                (now != seen).then_some(now)
            });
        }
        peers.into_iter().for_each(|peer| peer.join().unwrap());
    });
}

/// As when another thread that waits for the same vector has to listen again.
fn a_wake_up_for_nothing(stays: bool) {
    model(3, move || {
        let sources = [Source::new(), Source::new()];
        let source = sources[0].clone();
        let other = thread::spawn(move || {
            source.queue.wake_all();
            source.deliver();
        });
        let mut asleep = Asleep::new(&[&sources[0].queue, &sources[1].queue]);
        asleep.stays = stays;
        let look = || (sources[0].count() > 0).then_some(());
        let Ok(()) = count::wait(&mut asleep, look);
        drop(asleep);
        other.join().unwrap();
    });
}

#[test]
fn a_wake_up_for_nothing_does_no_harm() {
    a_wake_up_for_nothing(true);
}

#[test]
fn a_reader_is_told_of_every_vector() {
    model(3, || {
        let sources = [Source::new(), Source::new()];
        let file = File::new(&sources);
        let peers = sources.map(|source| thread::spawn(move || source.deliver()));
        let mut told = [file.read().0, file.read().0];
        told.sort();
        assert_eq!(told, [0, 1]);
        assert!(!file.is_readable());
        peers.into_iter().for_each(|peer| peer.join().unwrap());
    });
}

#[test]
fn two_readers_of_a_file_share_the_events() {
    model(2, || {
        let sources = [Source::new(), Source::new()];
        let file = File::new(&sources);
        let reader = {
            let file = file.clone();
            thread::spawn(move || file.read().0)
        };
        let peer = thread::spawn(move || sources.iter().for_each(|source| source.deliver()));
        let mut told = [file.read().0, reader.join().unwrap()];
        told.sort();
        assert_eq!(told, [0, 1]);
        peer.join().unwrap();
    });
}

#[test]
fn a_reader_that_fails_takes_no_event_from_another() {
    model(3, || {
        let source = Source::new();
        let file = File::new(std::slice::from_ref(&source));
        let failing = {
            let file = file.clone();
            thread::spawn(move || file.read_in_vain())
        };
        let peer = thread::spawn(move || source.deliver());
        let (_, told) = file.read();
        assert_eq!((told.from, told.to), (0, 1));
        failing.join().unwrap();
        peer.join().unwrap();
    });
}

#[test]
fn a_subscription_reaches_who_reads_already() {
    model(3, || {
        let source = Source::new();
        let file = File::new(&[]);
        let reader = {
            let file = file.clone();
            thread::spawn(move || file.read().1.to)
        };
        let peer = {
            let source = source.clone();
            thread::spawn(move || source.deliver())
        };
        if file.subscribe(&source) == 1 {
            // The ring was before: another is the reader's.
            source.deliver();
        }
        assert!(reader.join().unwrap() > 0);
        peer.join().unwrap();
    });
}

#[test]
fn nobody_sleeps_past_removal() {
    model(3, || {
        let source = Source::new();
        let gone = Arc::new(AtomicBool::new(false));
        let remover = {
            let (source, gone) = (source.clone(), gone.clone());
            thread::spawn(move || {
                gone.store(true, Release);
                source.queue.wake_all();
            })
        };
        let peer = {
            let source = source.clone();
            thread::spawn(move || source.deliver())
        };
        let mut seen = 0;
        while wait(&[&source.queue], || {
            if gone.load(Acquire) {
                return Some(false);
            }
            let before = std::mem::replace(&mut seen, source.count());
            (seen != before).then_some(true)
        }) {}
        remover.join().unwrap();
        peer.join().unwrap();
    });
}

/// That these models can fail: each has one step in the wrong place, and Loom finds the sleeper that
/// nobody wakes.
mod controls {
    use super::*;

    #[test]
    #[should_panic(expected = "deadlock")]
    fn looking_before_queueing_loses_a_wake_up() {
        model(3, || {
            let source = Source::new();
            let peer = {
                let source = source.clone();
                thread::spawn(move || source.deliver())
            };
            let mut asleep = Asleep::new(&[&source.queue]);
            while source.count() == 0 {
                let Ok(()) = asleep.prepare();
                let Ok(()) = asleep.sleep();
            }
            drop(asleep);
            peer.join().unwrap();
        });
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn one_of_several_queues_is_left_too_early() {
        super::a_wake_up_for_nothing(false);
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn waking_before_counting_loses_a_wake_up() {
        model(3, || {
            let source = Source::new();
            let peer = {
                let source = source.clone();
                thread::spawn(move || {
                    source.queue.wake_all();
                    source.count.fetch_add(1, Release);
                })
            };
            source.moved(0);
            peer.join().unwrap();
        });
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn a_wake_up_without_a_barrier_is_lost() {
        model(3, || {
            let source = Source::new();
            let peer = {
                let source = source.clone();
                thread::spawn(move || {
                    source.count.fetch_add(1, Release);
                    if source.queue.any.load(Relaxed) {
                        source.queue.wake_all();
                    }
                })
            };
            source.moved(0);
            peer.join().unwrap();
        });
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn a_retreat_without_a_wake_up_hides_an_event() {
        model(3, || {
            let source = Source::new();
            let file = File::new(std::slice::from_ref(&source));
            let failing = {
                let file = file.clone();
                thread::spawn(move || {
                    if let Some(moved) = file.try_read() {
                        file.take_back(moved);
                    }
                })
            };
            let peer = thread::spawn(move || source.deliver());
            file.read();
            failing.join().unwrap();
            peer.join().unwrap();
        });
    }
}
