/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * Inter-VM shared memory: the interface of /dev/ivshmemN.
 *
 * One device node speaks for one ivshmem PCI device (1af4:1110). The words
 * are those of QEMU's "Device Specification for Inter-VM shared memory
 * device": IVPosition is this guest's own ID, a peer is any client of the same
 * ivshmem server, and a vector is one of a peer's interrupt vectors.
 *
 * Rules that hold for every call:
 *
 * - All structures have one layout for 32-bit and 64-bit callers. Sizes,
 *   offsets and counts are 64 bits wide. A later version that needs a larger
 *   structure gets an ioctl number of its own (the number carries the size).
 * - Reserved fields and undefined flag bits must be zero, else EINVAL.
 * - ENOTTY: not an ioctl of this interface. EFAULT: a bad pointer; what the
 *   call was to do has not been done, except where it says otherwise.
 * - ENODEV: the device is gone (unplugged or its driver unbound). This is
 *   final for the open file: sleepers wake with it (unless what they wait for
 *   has come just before, which is told first), poll() reports
 *   EPOLLERR | EPOLLHUP, and touching a mapping raises SIGBUS.
 * - EOPNOTSUPP: the device has no interrupts (ivshmem-plain).
 * - EINTR: a signal came while the call waited. ENOMEM: the kernel has no
 *   memory for the call, which has done nothing then.
 * - O_NONBLOCK is about read(), and about rings of a device that is not ready.
 *   WAIT and WAITS have their timeout instead.
 *
 * Events are counted, not flagged. Each vector has a 64-bit count of the
 * interrupts delivered to it since the device was bound. Rings coalesce in the
 * device: several of them may be delivered as one interrupt, never as none. A
 * waiter says which count it saw last; after a ring that happens after that
 * look it wakes, and no waiter's look takes an event from another.
 *
 * A vector uses an interrupt of the system only while an open file listens to
 * it. A file becomes a listener of a vector when it first waits for it,
 * subscribes to it or attaches an eventfd to it, and remains one until it
 * unsubscribes from it, has detached its eventfds from it, or is closed. A ring
 * that arrives while nobody listens may be delivered to the first listener
 * afterwards, once, or be lost: do not build on either. ENOSPC: the system has
 * no interrupt left for the vector; nobody else is affected.
 *
 * A device that comes back from a sleep state or a reset may have lost rings.
 * Each vector that is listened to then counts one more event, so that whoever
 * waits looks at what the ring would have been about.
 */
#ifndef _UAPI_LINUX_IVSHMEM_H
#define _UAPI_LINUX_IVSHMEM_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Vectors with a meaning of their own, where a call says that it takes them. */

/*
 * Every vector this file has subscribed to. The count is that of their events,
 * of each since it was subscribed to: it begins at 0 for an open file, and
 * stays as it is when the subscription changes.
 */
#define IVSHMEM_VECTOR_ANY	0xffffffffU
/*
 * The state of the device. The count is the generation in struct
 * ivshmem_info: it moves when the device becomes ready, and when it comes back
 * from a sleep state or a reset (read INFO again: IVPosition may have changed,
 * and rings may have been lost). Works on devices without interrupts as well.
 */
#define IVSHMEM_VECTOR_STATE	0xfffffffeU

/* The most elements an array argument may have. */
#define IVSHMEM_MAX_ARRAY	4096U

/* How the device interrupts: ivshmem_info.interrupt. */
#define IVSHMEM_INTERRUPT_NONE	0U	/* not at all (ivshmem-plain) */
#define IVSHMEM_INTERRUPT_INTX	1U	/* INTx, one vector (revision 0 without MSI-X) */
#define IVSHMEM_INTERRUPT_MSIX	2U	/* MSI-X */

/* The memory type of a mapping, as the processor will treat it. */
#define IVSHMEM_MEMORY_NONE	0U	/* none: not ready, or not touched yet */
#define IVSHMEM_MEMORY_WB	1U	/* write-back: cached as ordinary memory */
#define IVSHMEM_MEMORY_WC	2U	/* write-combining */
#define IVSHMEM_MEMORY_UC	3U	/* uncached (UC or UC-) */
#define IVSHMEM_MEMORY_OTHER	4U	/* another type (WT, WP) */

/* How a mapping is made: ivshmem_info.mapped_by. */
#define IVSHMEM_MAPPED_BY_NONE	0U	/* not at all: not ready yet */
/*
 * By frame number, with the memory type that the kernel has on record; uncached
 * without one.
 */
#define IVSHMEM_MAPPED_BY_RECORD	1U
/*
 * By page-table entries that the driver writes itself: firmware has marked the
 * addresses of BAR2 as uncached, so there cannot be such a record. Leaves have
 * 4 KiB.
 */
#define IVSHMEM_MAPPED_BY_ENTRY	2U
/* By struct pages: IVSHMEM_FEATURE_PAGES. */
#define IVSHMEM_MAPPED_BY_PAGE	3U

/* ivshmem_info.features */
#define IVSHMEM_FEATURE_READY	(1ULL << 0)	/* IVPosition and shared memory are valid */
#define IVSHMEM_FEATURE_PAGES	(1ULL << 1)	/* the memory is backed by pages: O_DIRECT, RDMA ... work on it */

/**
 * struct ivshmem_info - what the device is and has
 * @size: bytes of shared memory (the size of BAR2).
 * @features: IVSHMEM_FEATURE_*.
 * @generation: changes each time the fields of this structure may have; the
 *	count of IVSHMEM_VECTOR_STATE. Starts at 1 for a device that is ready
 *	when bound, and at 0 for one that is not.
 * @page_size: bytes covered by the largest leaf a mapping may use.
 * @ivposition: this guest's ID, 0 to 65535; 0 also when the device is not
 *	configured for interrupts. -1 while a revision 0 device is not ready.
 * @revision: PCI revision: 0 before QEMU 2.6.0, else 1.
 * @interrupt: IVSHMEM_INTERRUPT_*.
 * @vectors: vectors this guest can wait for, 0 to 2048.
 * @ring_vectors: a doorbell takes vectors below this, 0 to 256. It is what the
 *	device itself has, which "vectors=" does not reduce. QEMU decodes eight
 *	bits of the vector, so a larger one would ring another.
 * @memory_type: IVSHMEM_MEMORY_* that a mapping gets.
 * @mapped_by: IVSHMEM_MAPPED_BY_*.
 * @reserved: zero.
 */
struct ivshmem_info {
	__u64 size;
	__u64 features;
	__u64 generation;
	__u64 page_size;
	__s32 ivposition;
	__u32 revision;
	__u32 interrupt;
	__u32 vectors;
	__u32 ring_vectors;
	__u32 memory_type;
	__u32 mapped_by;
	__u32 reserved[3];
};

/**
 * struct ivshmem_doorbell - one ring
 * @peer: ID of the peer to interrupt, 0 to 65535. One's own ID is allowed.
 * @vector: the peer's vector, below ivshmem_info.ring_vectors.
 *
 * A peer that is absent or has fewer vectors cannot be told from one that was
 * interrupted: the device ignores the ring.
 */
struct ivshmem_doorbell {
	__u32 peer;
	__u32 vector;
};

/**
 * struct ivshmem_doorbells - several rings in one call
 * @doorbells: address of an array of struct ivshmem_doorbell.
 * @nr: its elements, 1 to IVSHMEM_MAX_ARRAY.
 * @reserved: zero.
 *
 * All elements are checked before the first is rung.
 */
struct ivshmem_doorbells {
	__u64 doorbells;
	__u32 nr;
	__u32 reserved;
};

/**
 * struct ivshmem_event - a vector and its count, as read() returns it
 * @vector: a vector of this guest, or IVSHMEM_VECTOR_STATE.
 * @reserved: zero.
 * @count: its count.
 */
struct ivshmem_event {
	__u32 vector;
	__u32 reserved;
	__u64 count;
};

/* The timeout is a time of CLOCK_MONOTONIC, not one relative to now. */
#define IVSHMEM_WAIT_ABSOLUTE	(1U << 0)

/* A timeout that never comes. */
#define IVSHMEM_WAIT_INFINITE	(-1LL)

/**
 * struct ivshmem_wait - wait until a vector's count differs from the one last seen
 * @vector: one of this guest's vectors, IVSHMEM_VECTOR_ANY or
 *	IVSHMEM_VECTOR_STATE.
 * @flags: IVSHMEM_WAIT_ABSOLUTE or 0.
 * @count: in: the count last seen. Out: the count now (also with ETIMEDOUT).
 * @timeout: nanoseconds; 0 and absolute times that have passed only look;
 *	IVSHMEM_WAIT_INFINITE waits without limit; other negative values are
 *	EINVAL.
 *
 * When a signal comes, @timeout and @flags are changed to the absolute time at
 * which a relative timeout ends. Calling again with the same structure, as
 * SA_RESTART does, thus goes on as if there had been no signal.
 */
struct ivshmem_wait {
	__u32 vector;
	__u32 flags;
	__u64 count;
	__s64 timeout;
};

/**
 * struct ivshmem_waits - wait until one of several counts differs
 * @events: address of an array of struct ivshmem_event. In: the counts last
 *	seen. Out: the counts now (also with ETIMEDOUT). IVSHMEM_VECTOR_ANY and
 *	IVSHMEM_VECTOR_STATE are allowed among the vectors.
 * @nr: its elements, 1 to IVSHMEM_MAX_ARRAY.
 * @flags: as in struct ivshmem_wait.
 * @timeout: as in struct ivshmem_wait.
 */
struct ivshmem_waits {
	__u64 events;
	__u32 nr;
	__u32 flags;
	__s64 timeout;
};

/* Remove from the subscription instead of adding to it. */
#define IVSHMEM_UNSUBSCRIBE	(1U << 0)

/**
 * struct ivshmem_subscribe - which vectors poll() and read() of this file speak of
 * @vectors: address of an array of __u32: vectors of this guest, or
 *	IVSHMEM_VECTOR_STATE.
 * @nr: its elements, 1 to IVSHMEM_MAX_ARRAY; 0 is allowed with
 *	IVSHMEM_UNSUBSCRIBE and means all.
 * @flags: IVSHMEM_UNSUBSCRIBE or 0.
 *
 * The file's cursor for a vector starts at the count of this moment: what is
 * rung from now on is an event. Subscribing again leaves the cursor alone.
 * Either all of the call takes effect or, on an error, nothing.
 */
struct ivshmem_subscribe {
	__u64 vectors;
	__u32 nr;
	__u32 flags;
};

/* Detach the eventfd instead of attaching it. */
#define IVSHMEM_EVENTFD_DETACH	(1U << 0)

/**
 * struct ivshmem_eventfd - have an eventfd signalled for each interrupt of a vector
 * @vector: one of this guest's vectors or IVSHMEM_VECTOR_STATE.
 * @fd: the eventfd.
 * @flags: IVSHMEM_EVENTFD_DETACH or 0.
 * @reserved: zero.
 *
 * Any number of eventfds may be attached to a vector, and one eventfd to any
 * number of vectors. Closing the eventfd does not detach it, closing the open
 * file of the device does. When the device goes away, each is signalled once
 * more.
 */
struct ivshmem_eventfd {
	__u32 vector;
	__s32 fd;
	__u32 flags;
	__u32 reserved;
};

/**
 * struct ivshmem_mapping - what a mapping of this device really is
 * @addr: in: an address in a mapping of this device in the calling process.
 * @page_size: out: bytes covered by the page-table leaf at @addr; 0 when the
 *	address has not been touched yet.
 * @offset: out: the offset of @addr's page in the shared memory.
 * @memory_type: out: IVSHMEM_MEMORY_* of that leaf; IVSHMEM_MEMORY_NONE when it
 *	has not been touched yet.
 * @reserved: zero.
 */
struct ivshmem_mapping {
	__u64 addr;
	__u64 page_size;
	__u64 offset;
	__u32 memory_type;
	__u32 reserved;
};

/* 0xBB is not used by another driver. */
#define IVSHMEM_IOC_TYPE	0xBB

/*
 * What the device is and has. EIO: the device does not answer, because it is
 * being reset or has been pulled out. In the latter case ENODEV follows. (A
 * device of revision 0 cannot be told from one that is not ready then.)
 */
#define IVSHMEM_IOC_INFO	_IOR(IVSHMEM_IOC_TYPE, 0x00, struct ivshmem_info)

/* Just ivshmem_info.ivposition, read from the device. EIO: as with INFO. */
#define IVSHMEM_IOC_IVPOSITION	_IOR(IVSHMEM_IOC_TYPE, 0x01, __s32)

/*
 * Interrupt a peer. EINVAL: no peer can have this ID, or the vector is not below
 * ivshmem_info.ring_vectors; a peer that is merely absent is no error. EACCES:
 * the file was not opened for writing. EAGAIN: the device is not ready and the
 * file is O_NONBLOCK (else the call waits until it is).
 */
#define IVSHMEM_IOC_DOORBELL	_IOW(IVSHMEM_IOC_TYPE, 0x02, struct ivshmem_doorbell)

/* Interrupt several; returns how many were rung. Errors as DOORBELL. */
#define IVSHMEM_IOC_DOORBELLS	_IOW(IVSHMEM_IOC_TYPE, 0x03, struct ivshmem_doorbells)

/*
 * Wait. 0: the count differs from the one given. ETIMEDOUT: it did not in
 * time. EINTR: a signal came (a handler installed with SA_RESTART lets the
 * call go on until the time it was to end at). EINVAL: no such vector,
 * or IVSHMEM_VECTOR_ANY without a subscription (EOPNOTSUPP if the device has no
 * interrupts), which also ends a wait that has begun with one.
 */
#define IVSHMEM_IOC_WAIT	_IOWR(IVSHMEM_IOC_TYPE, 0x04, struct ivshmem_wait)

/* Wait for one of several; returns how many counts differ. Errors as WAIT. */
#define IVSHMEM_IOC_WAITS	_IOWR(IVSHMEM_IOC_TYPE, 0x05, struct ivshmem_waits)

/*
 * Choose what poll() and read() speak of.
 *
 * poll(): EPOLLIN | EPOLLRDNORM while a subscribed count is past the file's
 * cursor.
 *
 * read(): as many struct ivshmem_event as have moved and fit, and the cursor
 * moves to the counts returned. Blocks while there are none; EAGAIN with
 * O_NONBLOCK; EINVAL when the buffer holds less than one record or nothing is
 * subscribed (EOPNOTSUPP if the device has no interrupts).
 */
#define IVSHMEM_IOC_SUBSCRIBE	_IOW(IVSHMEM_IOC_TYPE, 0x06, struct ivshmem_subscribe)

/*
 * Attach or detach an eventfd. EBADF: not an open file; EINVAL: not an
 * eventfd; EEXIST: this open file has attached it to the vector already;
 * ENOENT: it is not attached.
 */
#define IVSHMEM_IOC_EVENTFD	_IOW(IVSHMEM_IOC_TYPE, 0x07, struct ivshmem_eventfd)

/* Describe a mapping. EINVAL: the address is not in a mapping of this device. */
#define IVSHMEM_IOC_MAPPING	_IOWR(IVSHMEM_IOC_TYPE, 0x08, struct ivshmem_mapping)

/*
 * mmap(): any page-aligned part of the shared memory; the offset counts from
 * its beginning. EINVAL: beyond the end, or private and writable. EACCES: a
 * writable mapping of a file not opened for writing, or any of one not opened
 * for reading. EAGAIN: the device is not ready; this call does not wait, because
 * that would hold up all threads of the process. Wait for IVSHMEM_VECTOR_STATE
 * first. A revision 0 device that is not ready any more after a reset keeps its
 * mappings: what they access means nothing until it is ready again.
 *
 * open(): O_EXCL asks to be the only user: EBUSY when there is another, and
 * everybody else gets EBUSY until this file is closed.
 */

#endif /* _UAPI_LINUX_IVSHMEM_H */
