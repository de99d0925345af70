// SPDX-License-Identifier: GPL-2.0

//! An open file of `/dev/ivshmemN`: the calls of `uapi/ivshmem.h`.
//!
//! Lock order: `interests`, then those of the interrupts. `cursors` is innermost.

use crate::{
    abi,
    abstractions::{
        eventfd::EventFd,
        miscdev::{
            OpenFile,
            POLLERR,
            POLLHUP,
            POLLIN,
            POLLRDNORM, //
        },
        uaccess,
        vma::{
            self,
            Pager, //
        },
        wait::{
            Listener,
            Wait,
            WaitQueue, //
        }, //
    },
    count::{
        self,
        Cursor,
        Moved,
        Patience, //
    },
    device::Device,
    events::{
        self,
        Attachment,
        FileQueue,
        Signal,
        Source,
        Subscription,
        WakeFile, //
    },
    memory::Memory,
    LocalModule, //
};
use core::{
    mem::{
        self,
        offset_of, //
    },
    slice, //
};
use kernel::{
    current,
    fs::{
        file::flags,
        File, //
    },
    iov::IovIterDest,
    mm::virt::VmaNew,
    new_mutex,
    new_spinlock,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full, //
        },
        Arc,
        Mutex,
        SpinLock, //
    },
    task::Pid,
    time::{
        hrtimer::HrTimerExpires,
        Instant,
        Monotonic, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};
use zerocopy::{
    FromBytes,
    Immutable,
    IntoBytes, //
};

/// Where the field that a wait changes is.
const WAIT_COUNT: usize = offset_of!(abi::ivshmem_wait, count);

/// Records that `read()` copies out at once.
const CHUNK: usize = 4;

/// A file's interest in a vector, which keeps its interrupt requested.
struct Listen {
    device: Arc<Device>,
    vector: u32,
}

impl Listen {
    fn new(device: &Arc<Device>, vector: u32) -> Result<Self> {
        device.check()?;
        if vector != abi::IVSHMEM_VECTOR_STATE {
            let interrupts = device.interrupts().ok_or(EOPNOTSUPP)?;
            interrupts.listen(vector, device.sources())?;
        }
        Ok(Self {
            device: device.clone(),
            vector,
        })
    }
}

impl Drop for Listen {
    fn drop(&mut self) {
        if let Some(interrupts) = self.device.interrupts() {
            interrupts.unlisten(self.vector);
        }
    }
}

/// A vector that `poll()` and `read()` speak of.
struct Subscribed {
    // The queue is left before the interrupt may be freed.
    _subscription: Subscription,
    listen: Listen,
}

/// An eventfd and the vector it is attached to.
struct Attached {
    // As above.
    attachment: Attachment,
    listen: Listen,
}

/// Why this file listens to vectors.
#[derive(Default)]
struct Interests {
    waited: KVec<Listen>,
    subscribed: KVec<Subscribed>,
    attached: KVVec<Attached>,
}

/// What a cursor of a file is about.
struct Subject {
    vector: u32,
    source: Arc<Source>,
}

/// How far `read()` has come. There is one cursor for each of `Interests::subscribed`.
struct Cursors {
    list: KVec<Cursor<Subject>>,
    next: usize,
    /// Added to the sum of the counts, this gives the number of events of all subscriptions, of those
    /// that have ended as well. So it stays as it is when the subscription changes.
    offset: u64,
}

/// Undoes [`Device::enter`].
struct Entered(Arc<Device>, Pid);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.exit(self.1);
    }
}

/// An open file.
#[pin_data]
pub(crate) struct Opened {
    /// Wakes the file when the device's state changes or it goes away.
    _state: Subscription,
    /// One bit per vector in `Interests::waited`, to look at without the lock.
    waited: KVec<Atomic<u64>>,
    #[pin]
    interests: Mutex<Interests>,
    #[pin]
    cursors: SpinLock<Cursors>,
    queue: Arc<FileQueue>,
    device: Arc<Device>,
    _entered: Entered,
}

/// What a wait is for.
enum Target<'a> {
    /// A vector or the state.
    Source(&'a Source, u32),
    /// All that the file is subscribed to.
    Any,
}

/// A target and the count that the caller has seen.
struct Wanted<'a> {
    target: Target<'a>,
    seen: u64,
}

/// The timeout of a call.
#[derive(Clone, Copy)]
struct Timeout {
    time: i64,
    absolute: bool,
}

fn now() -> i64 {
    Instant::<Monotonic>::now().as_nanos()
}

impl Timeout {
    fn new(time: i64, flags: u32) -> Result<Self> {
        if flags & !abi::IVSHMEM_WAIT_ABSOLUTE != 0 || time < -1 {
            return Err(EINVAL);
        }
        Ok(Self {
            time,
            absolute: flags & abi::IVSHMEM_WAIT_ABSOLUTE != 0,
        })
    }

    fn patience(self) -> Result<Patience> {
        Patience::new(self.time, self.absolute, now).ok_or(EINVAL)
    }

    /// The same timeout for a call that goes on later, possibly after a signal's handler has taken
    /// its time: the end of a relative one stays where it is.
    fn kept(self, patience: Patience) -> Self {
        match patience {
            Patience::Until(time) => Self {
                time,
                absolute: true,
            },
            _ => self,
        }
    }

    fn flags(self) -> u32 {
        match self.absolute {
            true => abi::IVSHMEM_WAIT_ABSOLUTE,
            false => 0,
        }
    }
}

/// Reads the array that a call refers to.
fn read_array<T: FromBytes + IntoBytes + Immutable + Copy>(
    address: u64,
    nr: u32,
) -> Result<KVVec<T>> {
    if nr == 0 || nr > abi::IVSHMEM_MAX_ARRAY {
        return Err(EINVAL);
    }
    let address = UserPtr::from_addr(usize::try_from(address).map_err(|_| EFAULT)?);
    let mut array = KVVec::from_elem(T::new_zeroed(), nr as usize, GFP_KERNEL_ACCOUNT)?;
    let bytes = array.as_mut_slice().as_mut_bytes();
    UserSlice::new(address, bytes.len())
        .reader()
        .read_slice(bytes)?;
    Ok(array)
}

impl Opened {
    /// The count of the target, if events of it come to this file.
    fn heard(&self, target: &Target<'_>) -> Option<u64> {
        match target {
            Target::Source(source, vector) => self.hears(*vector).then(|| source.count()),
            Target::Any => self.heard_by_subscription(),
        }
    }

    /// The count of all subscriptions. Out of the way of who waits for one vector.
    #[inline(never)]
    fn heard_by_subscription(&self) -> Option<u64> {
        let cursors = self.cursors.lock();
        let counts = cursors
            .list
            .iter()
            .map(|cursor| cursor.source.source.count());
        let sum = counts.reduce(u64::wrapping_add)?;
        Some(sum.wrapping_add(cursors.offset))
    }

    /// Whether events of the vector, or of the state, come to this file.
    fn hears(&self, vector: u32) -> bool {
        self.is_waited(vector) || vector == abi::IVSHMEM_VECTOR_STATE
    }

    fn is_waited(&self, vector: u32) -> bool {
        let word = self.waited.get((vector / u64::BITS) as usize);
        word.is_some_and(|word| word.load(Acquire) & 1 << (vector % u64::BITS) != 0)
    }

    fn set_waited(&self, vector: u32, waited: bool) {
        let Some(word) = self.waited.get((vector / u64::BITS) as usize) else {
            return;
        };
        // Only changed with `interests` locked.
        let bits = word.load(Acquire);
        let bit = 1 << (vector % u64::BITS);
        let bits = if waited { bits | bit } else { bits & !bit };
        word.xchg(bits, Full);
    }

    /// Says that the file does not listen for waits any more. A thread that waits by it has to
    /// listen again.
    fn give_up(&self, listen: &Listen) {
        self.set_waited(listen.vector, false);
        if let Some(source) = self.device.sources().vector(listen.vector) {
            source.look_again();
        }
    }

    /// What is wrong with a call about the subscription if there is none.
    fn unsubscribed(&self) -> Error {
        match self.device.interrupts() {
            Some(_) => EINVAL,
            None => EOPNOTSUPP,
        }
    }

    /// Makes the file a listener of all that a call waits for, or else of nothing more.
    fn listen(&self, wanted: &[Wanted<'_>]) -> Result {
        let is_heard = |wanted: &Wanted<'_>| self.heard(&wanted.target).is_some();
        if wanted.iter().all(is_heard) {
            return Ok(());
        }
        let mut interests = self.interests.lock();
        let before = interests.waited.len();
        let result = wanted.iter().try_for_each(|wanted| {
            if is_heard(wanted) {
                return Ok(());
            }
            let Target::Source(_, vector) = &wanted.target else {
                return Err(self.unsubscribed());
            };
            interests.waited.reserve(1, GFP_KERNEL_ACCOUNT)?;
            let listen = Listen::new(&self.device, *vector)?;
            interests.waited.push(listen, GFP_KERNEL_ACCOUNT)?;
            self.set_waited(*vector, true);
            Ok(())
        });
        while result.is_err() && interests.waited.len() > before {
            if let Some(listen) = interests.waited.pop() {
                self.give_up(&listen);
            }
        }
        result
    }

    /// The same for a call that waits for one thing. Out of the way of who listens already.
    #[inline(never)]
    fn listen_to(&self, target: Target<'_>) -> Result {
        self.listen(&[Wanted { target, seen: 0 }])
    }

    fn target(&self, vector: u32) -> Result<Target<'_>> {
        if vector == abi::IVSHMEM_VECTOR_ANY {
            return Ok(Target::Any);
        }
        Ok(Target::Source(self.device.sources().get(vector)?, vector))
    }

    /// Waits until `look` finds something. It finds `None` if something is not listened to: not
    /// yet, or not any more, because somebody else with this file has unsubscribed from it.
    ///
    /// What came before the device went is told before that it has gone.
    ///
    /// If a signal ends the wait, `timeout` becomes the one to go on with.
    #[inline]
    fn wait<T>(
        &self,
        queues: &mut [Wait<'_>],
        timeout: &mut Timeout,
        listen: impl Fn() -> Result,
        mut look: impl FnMut() -> Option<Option<T>>,
    ) -> Result<T> {
        loop {
            let patience = timeout.patience()?;
            let found = events::wait(queues, patience, || match look() {
                None if self.device.is_gone() => Some(Err(ENODEV)),
                found => found.map(Ok),
            });
            if matches!(found, Err(ERESTARTSYS) | Ok(Ok(None))) {
                *timeout = timeout.kept(patience);
            }
            match found?? {
                Some(found) => return Ok(found),
                None => listen()?,
            }
        }
    }

    fn queue_of<'a>(&'a self, target: &Target<'a>) -> &'a WaitQueue {
        match target {
            Target::Source(source, _) => (*source).as_ref(),
            Target::Any => (*self.queue).as_ref(),
        }
    }

    fn ioctl_info(&self, arg: UserPtr) -> Result {
        let device = &self.device;
        let identity = device.identity();
        // Before what it is the generation of: whoever waits for the next one misses no change.
        let generation = device.sources().state().count();
        let mut features = 0;
        if device.is_ready() {
            features |= u64::from(abi::IVSHMEM_FEATURE_READY);
        }
        if device.memory().has_pages() {
            features |= u64::from(abi::IVSHMEM_FEATURE_PAGES);
        }
        uaccess::write(
            arg,
            &abi::ivshmem_info {
                size: device.memory().size(),
                features,
                generation,
                page_size: device.memory().page_size() as u64,
                ivposition: device.iv_position()?,
                revision: identity.revision.into(),
                interrupt: identity.interrupt,
                vectors: device.sources().vectors(),
                ring_vectors: identity.ring_vectors,
                memory_type: device.memory_type().0,
                mapped_by: device.mapped_by(),
                reserved: [0; 3],
            },
        )
    }

    fn ioctl_ivposition(&self, arg: UserPtr) -> Result {
        let bytes = self.device.iv_position()?.to_ne_bytes();
        UserSlice::new(arg, bytes.len())
            .writer()
            .write_slice(&bytes)
    }

    fn check_writable(file: &File) -> Result {
        if file.flags() & flags::O_ACCMODE == flags::O_RDONLY {
            return Err(EACCES);
        }
        Ok(())
    }

    fn ready(&self, file: &File) -> Result {
        if self.device.is_ready() {
            return Ok(());
        }
        self.device
            .wait_ready(file.flags() & flags::O_NONBLOCK != 0)
    }

    fn ioctl_doorbell(&self, file: &File, arg: UserPtr) -> Result {
        Self::check_writable(file)?;
        let ring: abi::ivshmem_doorbell = uaccess::read(arg)?;
        self.device.check_ring(&ring)?;
        self.ready(file)?;
        self.device.ring(&[ring])
    }

    fn ioctl_doorbells(&self, file: &File, arg: UserPtr) -> Result<isize> {
        Self::check_writable(file)?;
        let call: abi::ivshmem_doorbells = uaccess::read(arg)?;
        if call.reserved != 0 {
            return Err(EINVAL);
        }
        let rings: KVVec<abi::ivshmem_doorbell> = read_array(call.doorbells, call.nr)?;
        for ring in &rings {
            self.device.check_ring(ring)?;
        }
        self.ready(file)?;
        self.device.ring(&rings)?;
        Ok(rings.len() as isize)
    }

    fn ioctl_wait(&self, arg: UserPtr) -> Result {
        let call: abi::ivshmem_wait = uaccess::read(arg)?;
        let timeout = Timeout::new(call.timeout, call.flags)?;
        // What has happened already takes no more than a look.
        if self.is_waited(call.vector) {
            if let Some(source) = self.device.sources().vector(call.vector) {
                let count = source.count();
                if count != call.count {
                    return uaccess::write(arg.wrapping_byte_add(WAIT_COUNT), &count);
                }
            }
        } else {
            self.listen_to(self.target(call.vector)?)?;
        }
        self.ioctl_wait_slowly(arg, call, timeout)
    }

    #[inline(never)]
    fn ioctl_wait_slowly(
        &self,
        arg: UserPtr,
        mut call: abi::ivshmem_wait,
        mut timeout: Timeout,
    ) -> Result {
        let wanted = Wanted {
            target: self.target(call.vector)?,
            seen: call.count,
        };
        let mut queue = Wait::new(self.queue_of(&wanted.target));
        let listen = || self.listen(slice::from_ref(&wanted));
        let look = || match &wanted.target {
            Target::Source(source, vector) => {
                // What has moved has been listened to; it does not matter whether it still is.
                let count = source.count();
                match count == wanted.seen {
                    true => (!self.hears(*vector)).then_some(None),
                    false => Some(Some(count)),
                }
            }
            Target::Any => match self.heard_by_subscription() {
                Some(count) if count == wanted.seen => None,
                found => Some(found),
            },
        };
        match self.wait(slice::from_mut(&mut queue), &mut timeout, listen, look) {
            Ok(count) => uaccess::write(arg.wrapping_byte_add(WAIT_COUNT), &count),
            Err(ERESTARTSYS) => {
                call.flags = timeout.flags();
                call.timeout = timeout.time;
                uaccess::write(arg, &call)?;
                Err(ERESTARTSYS)
            }
            Err(err) => Err(err),
        }
    }

    fn ioctl_waits(&self, arg: UserPtr) -> Result<isize> {
        let mut call: abi::ivshmem_waits = uaccess::read(arg)?;
        let mut timeout = Timeout::new(call.timeout, call.flags)?;
        let mut events: KVVec<abi::ivshmem_event> = read_array(call.events, call.nr)?;
        let mut wanted = KVVec::with_capacity(events.len(), GFP_KERNEL_ACCOUNT)?;
        for event in &events {
            if event.reserved != 0 {
                return Err(EINVAL);
            }
            let target = self.target(event.vector)?;
            let seen = event.count;
            wanted.push(Wanted { target, seen }, GFP_KERNEL_ACCOUNT)?;
        }
        // Once on each queue, however often it is named: all of a queue is gone through when it is
        // woken.
        let vectors = self.device.sources().vectors() as usize;
        let mut named = KVVec::from_elem(false, vectors + 2, GFP_KERNEL_ACCOUNT)?;
        let mut queues = KVVec::with_capacity(wanted.len(), GFP_KERNEL_ACCOUNT)?;
        for (event, wanted) in events.iter().zip(&wanted) {
            let place = match event.vector {
                abi::IVSHMEM_VECTOR_ANY => vectors,
                abi::IVSHMEM_VECTOR_STATE => vectors + 1,
                vector => vector as usize,
            };
            if !mem::replace(named.get_mut(place).ok_or(EINVAL)?, true) {
                let wait = Wait::new(self.queue_of(&wanted.target));
                queues.push(wait, GFP_KERNEL_ACCOUNT)?;
            }
        }
        let listen = || self.listen(&wanted);
        let look = || {
            let mut differ = 0;
            for (event, wanted) in events.iter_mut().zip(&wanted) {
                let Some(count) = self.heard(&wanted.target) else {
                    return Some(None);
                };
                event.count = count;
                differ += isize::from(count != wanted.seen);
            }
            (differ > 0).then_some(Some(differ))
        };
        let differ = match self.wait(&mut queues, &mut timeout, listen, look) {
            Ok(differ) => differ,
            Err(ERESTARTSYS) => {
                call.flags = timeout.flags();
                call.timeout = timeout.time;
                uaccess::write(arg, &call)?;
                return Err(ERESTARTSYS);
            }
            Err(err) => return Err(err),
        };
        let address = UserPtr::from_addr(call.events as usize);
        let bytes = events.as_slice().as_bytes();
        UserSlice::new(address, bytes.len())
            .writer()
            .write_slice(bytes)?;
        Ok(differ)
    }

    fn ioctl_subscribe(&self, arg: UserPtr) -> Result {
        let call: abi::ivshmem_subscribe = uaccess::read(arg)?;
        if call.flags & !abi::IVSHMEM_UNSUBSCRIBE != 0 {
            return Err(EINVAL);
        }
        let remove = call.flags & abi::IVSHMEM_UNSUBSCRIBE != 0;
        let vectors = match (remove, call.nr) {
            (true, 0) => KVVec::new(),
            _ => read_array::<u32>(call.vectors, call.nr)?,
        };
        for vector in &vectors {
            self.device.sources().get(*vector)?;
        }
        match remove {
            false => self.subscribe(&vectors),
            true => self.unsubscribe(&vectors, call.nr == 0),
        }
    }

    fn subscribe(&self, vectors: &[u32]) -> Result {
        let mut interests = self.interests.lock();
        let mut new: KVec<Subscribed> = KVec::new();
        for vector in vectors {
            let is_it = |subscribed: &Subscribed| subscribed.listen.vector == *vector;
            if interests.subscribed.iter().any(is_it) || new.iter().any(is_it) {
                continue;
            }
            let listen = Listen::new(&self.device, *vector)?;
            let source = self.device.sources().get(*vector)?.clone();
            let wake = WakeFile(self.queue.clone());
            let subscription = Listener::new(source, wake, GFP_KERNEL_ACCOUNT)?;
            let subscribed = Subscribed {
                _subscription: subscription,
                listen,
            };
            new.push(subscribed, GFP_KERNEL_ACCOUNT)?;
        }
        let total = interests.subscribed.len() + new.len();
        let list = KVec::with_capacity(total, GFP_KERNEL_ACCOUNT)?;
        interests
            .subscribed
            .reserve(new.len(), GFP_KERNEL_ACCOUNT)?;
        for subscribed in new {
            interests.subscribed.push(subscribed, GFP_KERNEL_ACCOUNT)?;
        }
        self.set_cursors(&interests.subscribed, list);
        Ok(())
    }

    /// Makes the cursors match the subscriptions. `list` is empty and has room for them.
    fn set_cursors(&self, subscribed: &[Subscribed], mut list: KVec<Cursor<Subject>>) {
        let mut cursors = self.cursors.lock();
        // Both are in the order of subscription; what is new comes last.
        let mut old = cursors.list.iter();
        let (mut ended, mut begun) = (0u64, 0u64);
        let mut end = |cursor: &Cursor<Subject>| {
            ended = ended.wrapping_add(cursor.source.source.count());
        };
        for subscribed in subscribed {
            let vector = subscribed.listen.vector;
            let Ok(source) = self.device.sources().get(vector) else {
                continue;
            };
            let known = old.find(|cursor| {
                let is_it = cursor.source.vector == vector;
                if !is_it {
                    end(cursor);
                }
                is_it
            });
            let seen = match known {
                Some(known) => known.seen,
                None => {
                    let count = source.count();
                    begun = begun.wrapping_add(count);
                    count
                }
            };
            let cursor = Cursor {
                seen,
                source: Subject {
                    vector,
                    source: source.clone(),
                },
            };
            // There is room, by the contract of this function.
            let _ = list.push_within_capacity(cursor);
        }
        old.for_each(end);
        mem::swap(&mut cursors.list, &mut list);
        cursors.next = 0;
        cursors.offset = cursors.offset.wrapping_add(ended).wrapping_sub(begun);
        drop(cursors);
        // What is left in `list` is freed here, outside of the lock.
    }

    fn unsubscribe(&self, vectors: &[u32], all: bool) -> Result {
        let mut interests = self.interests.lock();
        let list = KVec::with_capacity(interests.subscribed.len(), GFP_KERNEL_ACCOUNT)?;
        let is_meant = |vector: u32| all || vectors.contains(&vector);
        interests
            .subscribed
            .retain(|subscribed| !is_meant(subscribed.listen.vector));
        self.set_cursors(&interests.subscribed, list);
        interests.waited.retain(|listen| {
            if is_meant(listen.vector) {
                self.give_up(listen);
            }
            !is_meant(listen.vector)
        });
        drop(interests);
        (*self.queue).wake();
        Ok(())
    }

    fn ioctl_eventfd(&self, arg: UserPtr) -> Result {
        let call: abi::ivshmem_eventfd = uaccess::read(arg)?;
        if call.flags & !abi::IVSHMEM_EVENTFD_DETACH != 0 || call.reserved != 0 {
            return Err(EINVAL);
        }
        let source = self.device.sources().get(call.vector)?;
        let eventfd = EventFd::from_fd(call.fd)?;
        let mut interests = self.interests.lock();
        let is_it = |attached: &Attached| {
            attached.listen.vector == call.vector && attached.attachment.action().0 == eventfd
        };
        let place = interests.attached.iter().position(is_it);
        if call.flags & abi::IVSHMEM_EVENTFD_DETACH != 0 {
            let detached = interests.attached.remove(place.ok_or(ENOENT)?);
            drop(detached.map_err(|_| ENOENT)?);
            return Ok(());
        }
        if place.is_some() {
            return Err(EEXIST);
        }
        interests.attached.reserve(1, GFP_KERNEL_ACCOUNT)?;
        let listen = Listen::new(&self.device, call.vector)?;
        let attachment = Listener::new(source.clone(), Signal(eventfd), GFP_KERNEL_ACCOUNT)?;
        // A device that goes away signals what is attached once it is marked as gone.
        self.device.check()?;
        interests
            .attached
            .push(Attached { attachment, listen }, GFP_KERNEL_ACCOUNT)?;
        Ok(())
    }

    fn ioctl_mapping(&self, arg: UserPtr) -> Result {
        let mut call: abi::ivshmem_mapping = uaccess::read(arg)?;
        if call.reserved != 0 {
            return Err(EINVAL);
        }
        let address = usize::try_from(call.addr).map_err(|_| EINVAL)?;
        let task = current!();
        let mm = task.mm().ok_or(EINVAL)?;
        let lock = mm.mmap_read_lock();
        let area = lock.vma_lookup(address).ok_or(EINVAL)?;
        let (offset, leaf) = vma::look_up(area, address, self.device.memory()).ok_or(EINVAL)?;
        drop(lock);
        call.offset = offset;
        call.page_size = 0;
        call.memory_type = abi::IVSHMEM_MEMORY_NONE;
        if let Some(leaf) = leaf {
            call.page_size = leaf.size as u64;
            call.memory_type = leaf.memory_type.0;
        }
        uaccess::write(arg, &call)
    }
}

impl Opened {
    /// Reads up to `room` records of what has moved, without waiting.
    fn read_some(&self, room: usize, to: &mut IovIterDest<'_>) -> Result<usize> {
        const RECORD: usize = size_of::<abi::ivshmem_event>();
        self.device.check()?;
        let mut moved = [Moved::default(); CHUNK];
        let mut records = [abi::ivshmem_event {
            vector: 0,
            reserved: 0,
            count: 0,
        }; CHUNK];
        let mut slots = records.iter_mut().zip(&mut moved);
        let mut cursors = self.cursors.lock();
        if cursors.list.is_empty() {
            return Err(self.unsubscribed());
        }
        let Cursors { list, next, .. } = &mut *cursors;
        let count = |subject: &Subject| subject.source.count();
        let found = count::advance(list, next, room, count, |subject, now| {
            if let Some((record, moved)) = slots.next() {
                record.vector = subject.vector;
                record.count = now.to;
                *moved = now;
            }
        });
        drop(cursors);
        let records = records.get(..found).ok_or(EINVAL)?;
        let copied = to.copy_to_iter(records.as_bytes()) / RECORD;
        if copied == found {
            return Ok(found);
        }
        let mut cursors = self.cursors.lock();
        for (record, moved) in records.iter().zip(&moved).skip(copied) {
            let is_it = |subject: &Subject| subject.vector == record.vector;
            count::retreat(&mut cursors.list, is_it, moved);
        }
        drop(cursors);
        // Others may have looked meanwhile and found nothing.
        self.queue.wake();
        match copied {
            0 => Err(EFAULT),
            _ => Ok(copied),
        }
    }

    #[inline(never)]
    fn other_ioctl(&self, file: &File, cmd: u32, arg: UserPtr) -> Result<isize> {
        match cmd {
            abi::IOC_DOORBELLS => return self.ioctl_doorbells(file, arg),
            abi::IOC_WAITS => return self.ioctl_waits(arg),
            abi::IOC_INFO => self.ioctl_info(arg)?,
            abi::IOC_IVPOSITION => self.ioctl_ivposition(arg)?,
            abi::IOC_SUBSCRIBE => self.ioctl_subscribe(arg)?,
            abi::IOC_EVENTFD => self.ioctl_eventfd(arg)?,
            abi::IOC_MAPPING => self.ioctl_mapping(arg)?,
            _ => return Err(ENOTTY),
        }
        Ok(0)
    }
}

impl OpenFile for Opened {
    type Module = LocalModule;
    type Shared = Device;
    type Pager = Memory;

    fn open(device: &Arc<Device>, file: &File) -> Result<Pin<KBox<Self>>> {
        device.check()?;
        let process = device.enter(file.flags() & flags::O_EXCL != 0)?;
        let entered = Entered(device.clone(), process);
        let queue = FileQueue::new()?;
        let state = device.sources().state().clone();
        let words = device.sources().vectors().div_ceil(u64::BITS) as usize;
        let mut waited = KVec::with_capacity(words, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..words {
            waited.push(Atomic::new(0), GFP_KERNEL_ACCOUNT)?;
        }
        KBox::pin_init(
            try_pin_init!(Self {
                _state: Listener::new(state, WakeFile(queue.clone()), GFP_KERNEL_ACCOUNT)?,
                waited,
                interests <- new_mutex!(Interests::default()),
                cursors <- new_spinlock!(Cursors { list: KVec::new(), next: 0, offset: 0 }),
                queue,
                device: device.clone(),
                _entered: entered,
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    fn pager(&self) -> &Memory {
        self.device.memory()
    }

    fn ioctl(&self, file: &File, cmd: u32, arg: UserPtr) -> Result<isize> {
        // The calls that are made once for each event come first. Ringing looks for itself
        // whether there is a device.
        if cmd == abi::IOC_DOORBELL {
            return match self.ioctl_doorbell(file, arg) {
                Ok(()) => Ok(0),
                Err(err) => self.device.check().and(Err(err)),
            };
        }
        self.device.check()?;
        match cmd {
            abi::IOC_WAIT => self.ioctl_wait(arg).map(|()| 0),
            _ => self.other_ioctl(file, cmd, arg),
        }
    }

    fn read(&self, nonblocking: bool, to: &mut IovIterDest<'_>) -> Result<usize> {
        const RECORD: usize = size_of::<abi::ivshmem_event>();
        if to.len() < RECORD {
            return Err(EINVAL);
        }
        let mut done = 0;
        while to.len() >= RECORD {
            let room = (to.len() / RECORD).min(CHUNK);
            match self.read_some(room, to) {
                Ok(0) if done > 0 => break,
                Ok(0) if nonblocking => return Err(EAGAIN),
                Ok(0) => {
                    let queue = Wait::new((*self.queue).as_ref());
                    events::wait(&mut [queue], Patience::Endless, || {
                        let subscribed = !self.cursors.lock().list.is_empty();
                        (self.poll() != 0 || !subscribed).then_some(())
                    })?;
                }
                Ok(records) => {
                    done += records * RECORD;
                    if records < room {
                        break;
                    }
                }
                // What was read before counts.
                Err(_) if done > 0 => break,
                Err(err) => return Err(err),
            }
        }
        Ok(done)
    }

    fn mmap(&self, vma: &VmaNew) -> Result {
        self.device.check()?;
        // No waiting here: the process's memory map is locked.
        if !self.device.is_ready() {
            // It may have gone just now.
            self.device.check()?;
            return Err(EAGAIN);
        }
        let offset = vma::page_offset(vma) as u64;
        let pages = ((vma.end() - vma.start()) >> PAGE_SHIFT) as u64;
        let end = offset.checked_add(pages).ok_or(EINVAL)?;
        if end > self.device.memory().size() / PAGE_SIZE as u64 {
            return Err(EINVAL);
        }
        Ok(())
    }

    fn poll_queue(&self) -> &WaitQueue {
        (*self.queue).as_ref()
    }

    fn poll(&self) -> u32 {
        if self.device.is_gone() {
            return POLLERR | POLLHUP;
        }
        let cursors = self.cursors.lock();
        match count::any_moved(&cursors.list, |subject| subject.source.count()) {
            true => POLLIN | POLLRDNORM,
            false => 0,
        }
    }

    fn show_fdinfo(&self, m: &SeqFile) {
        let interests = self.interests.lock();
        let cursors = self.cursors.lock();
        for cursor in &cursors.list {
            let Subject { vector, source } = &cursor.source;
            seq_print!(
                m,
                "subscribed:\t{} seen {} count {}\n",
                vector,
                cursor.seen,
                source.count()
            );
        }
        drop(cursors);
        for listen in &interests.waited {
            seq_print!(m, "waited:\t{}\n", listen.vector);
        }
        for attached in &interests.attached {
            seq_print!(m, "eventfd:\t{}\n", attached.listen.vector);
        }
    }
}
