// SPDX-License-Identifier: GPL-2.0

//! Events: the counts of the vectors and of the device's state, and who waits for them.

use crate::{
    abi,
    abstractions::{
        eventfd::EventFd,
        wait::{
            new_wait_queue,
            with_sleeper,
            Action,
            Deadline,
            Listener,
            Sleeper,
            Wait,
            WaitQueue, //
        }, //
    },
    count::{
        self,
        Counted,
        Patience, //
    }, //
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Release, //
        },
        Arc, //
    }, //
};

/// A source of events: a count, and those who wait for it to move.
#[pin_data]
pub(crate) struct Source {
    count: Atomic<u64>,
    #[pin]
    queue: WaitQueue,
}

impl Source {
    fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                count: Atomic::new(0),
                queue <- new_wait_queue!("ivshmem_source"),
            }),
            GFP_KERNEL,
        )
    }

    /// The count now. What was written to the shared memory before the ring can be read after it.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Acquire)
    }

    /// Counts an event and wakes who waits for it. May be called from hard interrupt context.
    pub(crate) fn deliver(&self) {
        count::deliver(self);
    }

    /// Makes the tasks that wait look again.
    pub(crate) fn look_again(&self) {
        self.queue.wake_sleepers();
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

impl AsRef<WaitQueue> for Source {
    fn as_ref(&self) -> &WaitQueue {
        &self.queue
    }
}

/// All sources of a device.
pub(crate) struct Sources {
    vectors: KVVec<Arc<Source>>,
    state: Arc<Source>,
}

impl Sources {
    /// Sources for this number of vectors, and for the state.
    pub(crate) fn new(vectors: u32) -> Result<Self> {
        let mut sources = KVVec::with_capacity(vectors as usize, GFP_KERNEL)?;
        for _ in 0..vectors {
            sources.push(Source::new()?, GFP_KERNEL)?;
        }
        Ok(Self {
            vectors: sources,
            state: Source::new()?,
        })
    }

    /// The number of vectors.
    pub(crate) fn vectors(&self) -> u32 {
        self.vectors.len() as u32
    }

    /// The source of a vector.
    pub(crate) fn vector(&self, vector: u32) -> Option<&Arc<Source>> {
        self.vectors.get(vector as usize)
    }

    /// The source of changes of the device's state; its count is the generation.
    pub(crate) fn state(&self) -> &Arc<Source> {
        &self.state
    }

    /// The source that a call names: a vector, or the state.
    pub(crate) fn get(&self, vector: u32) -> Result<&Arc<Source>> {
        if vector == abi::IVSHMEM_VECTOR_STATE {
            return Ok(&self.state);
        }
        if self.vectors.is_empty() {
            return Err(EOPNOTSUPP);
        }
        self.vector(vector).ok_or(EINVAL)
    }

    /// Wakes everybody.
    pub(crate) fn wake_all(&self) {
        for source in &self.vectors {
            source.wake();
        }
        self.state.wake();
    }
}

/// The queue of an open file, for `poll()` and `read()`. A file has one whatever it is subscribed
/// to: io_uring, for one, polls no more than two.
#[pin_data]
pub(crate) struct FileQueue {
    #[pin]
    queue: WaitQueue,
}

impl FileQueue {
    /// An empty queue.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                queue <- new_wait_queue!("ivshmem_file"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }
}

impl FileQueue {
    /// Wakes who waits for the file, so that they look again.
    pub(crate) fn wake(&self) {
        self.queue.wake_all();
    }
}

impl AsRef<WaitQueue> for FileQueue {
    fn as_ref(&self) -> &WaitQueue {
        &self.queue
    }
}

/// Wakes an open file when a source delivers.
pub(crate) struct WakeFile(pub(crate) Arc<FileQueue>);

impl Action for WakeFile {
    fn run(&self) {
        self.0.wake();
    }
}

/// Signals an eventfd when a source delivers.
pub(crate) struct Signal(pub(crate) EventFd);

impl Action for Signal {
    fn run(&self) {
        self.0.signal();
    }
}

/// A subscription of an open file to a source.
pub(crate) type Subscription = Pin<KBox<Listener<Source, WakeFile>>>;

/// An eventfd attached to a source.
pub(crate) type Attachment = Pin<KBox<Listener<Source, Signal>>>;

/// The current task, asleep on queues until a deadline.
struct Asleep<'s, 'a, 'b> {
    sleeper: &'s mut Sleeper<'a, 'b>,
    deadline: Deadline,
}

impl count::Sleeper for Asleep<'_, '_, '_> {
    type Error = Error;

    fn prepare(&mut self) -> Result {
        self.sleeper.prepare()
    }

    fn sleep(&mut self) -> Result {
        self.sleeper.sleep(self.deadline)
    }
}

/// Waits on `queues` until `look` finds something.
///
/// `ETIMEDOUT` when the patience is at its end, `ERESTARTSYS` for a signal.
pub(crate) fn wait<T>(
    queues: &mut [Wait<'_>],
    patience: Patience,
    mut look: impl FnMut() -> Option<T>,
) -> Result<T> {
    let deadline = match patience {
        Patience::None => return look().ok_or(ETIMEDOUT),
        Patience::Until(time) => Deadline::At(time),
        Patience::Endless => Deadline::Never,
    };
    with_sleeper(queues, |sleeper| {
        count::wait(&mut Asleep { sleeper, deadline }, look)
    })
}
