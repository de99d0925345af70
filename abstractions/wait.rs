// SPDX-License-Identifier: GPL-2.0

//! Wait queues.
//!
//! `kernel::sync::CondVar` ties a wait queue to a lock and cannot wait for several of them, nor to
//! an absolute time, nor run a callback instead of waking a task. This is the wait queue itself.
//!
//! C header: [`include/linux/wait.h`](srctree/include/linux/wait.h)

use core::{
    marker::PhantomPinned,
    ptr, //
};
use kernel::{
    bindings,
    ffi,
    prelude::*,
    sync::{
        barrier::{
            ordering::Full,
            smp_mb, //
        },
        Arc,
        LockClassKey, //
    },
    types::Opaque, //
};

#[allow(improper_ctypes, reason = "the types are those of `kernel::bindings`")]
extern "C" {
    /// `helpers.c`: wakes all that are on a queue, if there are any.
    fn ivshmem_helper_wake_all(queue: *mut bindings::wait_queue_head);
}

/// A queue of sleepers and listeners; wraps `struct wait_queue_head`.
#[pin_data]
pub(crate) struct WaitQueue {
    #[pin]
    head: Opaque<bindings::wait_queue_head>,
}

// SAFETY: A `struct wait_queue_head` may be used and freed on any thread.
unsafe impl Send for WaitQueue {}
// SAFETY: A `struct wait_queue_head` has a lock of its own.
unsafe impl Sync for WaitQueue {}

/// Creates a [`WaitQueue`] initialiser with a lock class of its own.
macro_rules! new_wait_queue {
    ($name:literal) => {
        $crate::abstractions::wait::WaitQueue::new(
            ::kernel::c_str!($name),
            ::kernel::static_lock_class!(),
        )
    };
}
pub(crate) use new_wait_queue;

impl WaitQueue {
    /// Creates an empty queue. Queues that are woken from within another's listener need a lock
    /// class other than that one's.
    pub(crate) fn new(name: &'static CStr, key: Pin<&'static LockClassKey>) -> impl PinInit<Self> {
        pin_init!(Self {
            head <- Opaque::ffi_init(|head| {
                // SAFETY: `head` points to memory for a `struct wait_queue_head` that is pinned;
                // `name` and `key` are static.
                unsafe { bindings::__init_waitqueue_head(head, name.as_char_ptr(), key.as_ptr()) }
            }),
        })
    }

    /// Wakes every sleeper and runs every listener. May be called from hard interrupt context.
    ///
    /// Whoever was queued before looks at a condition that was changed before is either woken or
    /// sees the change.
    pub(crate) fn wake_all(&self) {
        // SAFETY: `head` was initialised and is pinned.
        unsafe { ivshmem_helper_wake_all(self.head.get()) };
    }

    /// Wakes every sleeper, so that it looks at its condition again. Nothing has happened that
    /// listeners should hear of.
    pub(crate) fn wake_sleepers(&self) {
        let no_key = ptr::null_mut();
        // SAFETY: `head` was initialised and is pinned.
        unsafe { bindings::__wake_up(self.head.get(), bindings::TASK_NORMAL, 0, no_key) };
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::wait_queue_head {
        self.head.get()
    }
}

/// When a sleep ends at the latest, on `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deadline {
    /// At this time in nanoseconds.
    At(i64),
    /// Not by itself.
    Never,
}

/// One queue that a task is about to sleep on.
pub(crate) struct Wait<'a> {
    queue: &'a WaitQueue,
    entry: Opaque<bindings::wait_queue_entry>,
}

impl<'a> Wait<'a> {
    /// Names the queue. Nothing is queued yet.
    pub(crate) fn new(queue: &'a WaitQueue) -> Self {
        Self {
            queue,
            entry: Opaque::uninit(),
        }
    }
}

/// The current task as a sleeper on one or several queues.
///
/// # Invariants
///
/// All entries are initialised, belong to the current task, and stay where they are as long as
/// this value exists. It is dropped before they go.
pub(crate) struct Sleeper<'a, 'b> {
    waits: &'a mut [Wait<'b>],
}

/// Calls `f` with the current task as a sleeper on `waits`. It is queued by [`Sleeper::prepare`],
/// and on no queue any more when this returns.
#[inline]
pub(crate) fn with_sleeper<R>(
    waits: &mut [Wait<'_>],
    f: impl FnOnce(&mut Sleeper<'_, '_>) -> R,
) -> R {
    let several = waits.len() > 1;
    for wait in waits.iter() {
        let entry = wait.entry.get();
        // SAFETY: The entry is owned by us and may be written.
        unsafe { bindings::init_wait_entry(entry, 0) };
        if several {
            // By default a wake-up takes the entry off its queue. One that comes before the task is
            // on the other queues does not end its sleep, and must not cost it this queue.
            //
            // SAFETY: As above.
            unsafe { (*entry).func = Some(bindings::default_wake_function) };
        }
    }
    // INVARIANT: Just initialised for the current task; the slice is borrowed mutably for as long
    // as the sleeper lives, so that nobody moves its elements. It does not leave this function.
    f(&mut Sleeper { waits })
}

impl Sleeper<'_, '_> {
    /// Queues the task on all queues. A wake-up on one of them after this call ends the next
    /// [`Self::sleep`], so that a condition looked at after this call cannot be missed.
    ///
    /// Returns `ERESTARTSYS` when a signal is pending; the task may not sleep then.
    pub(crate) fn prepare(&mut self) -> Result {
        let state = (bindings::TASK_INTERRUPTIBLE | bindings::TASK_FREEZABLE) as ffi::c_int;
        let mut result = Ok(());
        for wait in self.waits.iter() {
            // SAFETY: The queue is initialised and outlives the entry, which by the type
            // invariants is initialised, the current task's, and does not move while queued.
            let ret = unsafe {
                bindings::prepare_to_wait_event(wait.queue.as_ptr(), wait.entry.get(), state)
            };
            if ret != 0 {
                result = Err(ERESTARTSYS);
            }
        }
        result
    }

    /// Sleeps until a wake-up, a signal or the deadline. Returns `ETIMEDOUT` for the last.
    pub(crate) fn sleep(&mut self, deadline: Deadline) -> Result {
        let Deadline::At(mut time) = deadline else {
            // SAFETY: Process context; the task is queued, or runs and then does not sleep.
            unsafe { bindings::schedule() };
            return Ok(());
        };
        // SAFETY: The current task exists while it runs this code.
        let slack = unsafe { (*bindings::get_current()).timer_slack_ns };
        let mode = bindings::hrtimer_mode_HRTIMER_MODE_ABS;
        // SAFETY: Process context; `time` lives for the duration of the call.
        match unsafe { bindings::schedule_hrtimeout_range(&mut time, slack, mode) } {
            0 => Err(ETIMEDOUT),
            _ => Ok(()),
        }
    }
}

impl Drop for Sleeper<'_, '_> {
    fn drop(&mut self) {
        for wait in self.waits.iter() {
            // SAFETY: The queue outlives the entry, which is initialised by the type invariants.
            unsafe { bindings::finish_wait(wait.queue.as_ptr(), wait.entry.get()) };
        }
    }
}

/// What a [`Listener`] does when there is something to hear.
pub(crate) trait Action: Send + Sync {
    /// Runs with interrupts off and the queue locked, possibly in hard interrupt context.
    fn run(&self);
}

/// Runs an [`Action`] each time something is to be heard on a queue, for as long as it exists.
///
/// `Q` owns the queue. Dropping a listener waits for its action to be over.
#[pin_data(PinnedDrop)]
pub(crate) struct Listener<Q: AsRef<WaitQueue>, A: Action> {
    #[pin]
    entry: Opaque<bindings::wait_queue_entry>,
    owner: Arc<Q>,
    action: A,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: The entry is only touched by the C side under the queue's lock.
unsafe impl<Q: AsRef<WaitQueue> + Send + Sync, A: Action> Send for Listener<Q, A> {}
// SAFETY: As above; `owner` and `action` are `Sync`.
unsafe impl<Q: AsRef<WaitQueue> + Send + Sync, A: Action> Sync for Listener<Q, A> {}

impl<Q: AsRef<WaitQueue>, A: Action> Listener<Q, A> {
    /// Starts to listen.
    pub(crate) fn new(
        owner: Arc<Q>,
        action: A,
        flags: kernel::alloc::Flags,
    ) -> Result<Pin<KBox<Self>>> {
        let this = KBox::pin_init(
            pin_init!(Self {
                entry <- Opaque::ffi_init(|entry: *mut bindings::wait_queue_entry| {
                    // SAFETY: `entry` points to memory for a `struct wait_queue_entry`.
                    unsafe {
                        entry.write(bindings::wait_queue_entry {
                            func: Some(Self::wake),
                            ..pin_init::zeroed()
                        })
                    };
                }),
                owner,
                action,
                _pin: PhantomPinned,
            }),
            flags,
        )?;
        let queue = (*this.owner).as_ref().as_ptr();
        // SAFETY: The queue is kept alive by `owner`, the entry is initialised but for its list
        // node, which this call writes, and both stay in place until `drop` removes the entry.
        unsafe { bindings::add_wait_queue(queue, this.entry.get()) };
        // For `wake_all`, which looks at the queue without its lock: either it sees the entry, or
        // whoever looks at the condition from here on sees the change.
        smp_mb(Full);
        Ok(this)
    }

    /// What this listener does.
    pub(crate) fn action(&self) -> &A {
        &self.action
    }

    /// # Safety
    ///
    /// `entry` must be the entry of a `Self` on a queue whose lock is held.
    unsafe extern "C" fn wake(
        entry: *mut bindings::wait_queue_entry,
        _mode: ffi::c_uint,
        _flags: ffi::c_int,
        key: *mut ffi::c_void,
    ) -> ffi::c_int {
        // From `wake_sleepers`.
        if key.is_null() {
            return 0;
        }
        let entry = entry.cast::<Opaque<bindings::wait_queue_entry>>();
        // SAFETY: By the safety requirements `entry` is the field of a `Self`.
        let this = unsafe { kernel::container_of!(entry, Self, entry) };
        // SAFETY: `drop` takes the queue's lock to remove the entry, so `this` is alive.
        unsafe { (*this).action.run() };
        0
    }
}

#[pinned_drop]
impl<Q: AsRef<WaitQueue>, A: Action> PinnedDrop for Listener<Q, A> {
    fn drop(self: Pin<&mut Self>) {
        let queue = (*self.owner).as_ref().as_ptr();
        // SAFETY: `new` has put the entry on this queue.
        unsafe { bindings::remove_wait_queue(queue, self.entry.get()) };
    }
}
