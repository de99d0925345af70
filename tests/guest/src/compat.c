// SPDX-License-Identifier: GPL-2.0
/*
 * Every call of the interface, from a 32-bit program: compat SUBJECT. Says what was wrong, and then
 * ends with 1.
 */
#define _FILE_OFFSET_BITS 64
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#define CHECK(condition)							\
	do {									\
		if (!(condition)) {						\
			printf("line %d: %s (errno %d)\n", __LINE__, #condition, errno);	\
			exit(1);						\
		}								\
	} while (0)

#define FAILS(call, error) CHECK((call) == -1 && errno == (error))

static const long long second = 1000000000LL;
static int fd;
static struct ivshmem_info info;

static __u64 address(const void *pointer)
{
	return (unsigned long)pointer;
}

/* The count of a vector now. */
static __u64 count(__u32 vector)
{
	struct ivshmem_wait wait = { .vector = vector, .count = -1ULL };

	CHECK(ioctl(fd, IVSHMEM_IOC_WAIT, &wait) == 0);
	return wait.count;
}

static void ring(__u32 vector)
{
	struct ivshmem_doorbell doorbell = { .peer = info.ivposition, .vector = vector };

	CHECK(ioctl(fd, IVSHMEM_IOC_DOORBELL, &doorbell) == 0);
}

/* Rings a vector and waits until that is delivered. */
static __u64 deliver(__u32 vector)
{
	struct ivshmem_wait wait = {
		.vector = vector, .count = count(vector), .timeout = 30 * second,
	};
	__u64 before = wait.count;

	ring(vector);
	CHECK(ioctl(fd, IVSHMEM_IOC_WAIT, &wait) == 0);
	CHECK(wait.count > before);
	return wait.count;
}

static void layout(void)
{
	CHECK(sizeof(void *) == 4);
	CHECK(sizeof(struct ivshmem_info) == 72);
	CHECK(sizeof(struct ivshmem_doorbell) == 8);
	CHECK(sizeof(struct ivshmem_doorbells) == 16);
	CHECK(sizeof(struct ivshmem_event) == 16);
	CHECK(sizeof(struct ivshmem_wait) == 24);
	CHECK(sizeof(struct ivshmem_waits) == 24);
	CHECK(sizeof(struct ivshmem_subscribe) == 16);
	CHECK(sizeof(struct ivshmem_eventfd) == 16);
	CHECK(sizeof(struct ivshmem_mapping) == 32);
}

static void infos(void)
{
	__s32 position = -2;

	CHECK(info.size == 16 << 20);
	CHECK(info.features & IVSHMEM_FEATURE_READY);
	CHECK(info.generation == 1);
	CHECK(info.revision == 1);
	CHECK(info.interrupt == IVSHMEM_INTERRUPT_MSIX);
	CHECK(info.vectors == 4 && info.ring_vectors == 4);
	CHECK(info.memory_type == IVSHMEM_MEMORY_WB);
	CHECK(ioctl(fd, IVSHMEM_IOC_IVPOSITION, &position) == 0);
	CHECK(position == info.ivposition);
	FAILS(ioctl(fd, IVSHMEM_IOC_INFO, NULL), EFAULT);
	FAILS(ioctl(fd, IVSHMEM_IOC_INFO, 0xfffff000), EFAULT);
	FAILS(ioctl(fd, _IO(IVSHMEM_IOC_TYPE, 0x00), &info), ENOTTY);
	FAILS(ioctl(fd, _IOR(IVSHMEM_IOC_TYPE, 0x09, struct ivshmem_info), &info), ENOTTY);
}

static void doorbells(void)
{
	struct ivshmem_doorbell list[3] = {
		{ info.ivposition, 0 }, { info.ivposition, 1 }, { info.ivposition, 2 },
	};
	struct ivshmem_doorbells call = { .doorbells = address(list), .nr = 3 };
	__u64 before[3] = { count(0), count(1), count(2) };

	CHECK(ioctl(fd, IVSHMEM_IOC_DOORBELLS, &call) == 3);
	for (__u32 vector = 0; vector < 3; vector++) {
		struct ivshmem_wait wait = {
			.vector = vector, .count = before[vector], .timeout = 30 * second,
		};

		CHECK(ioctl(fd, IVSHMEM_IOC_WAIT, &wait) == 0);
		CHECK(wait.count > before[vector]);
	}
	list[1].vector = 4;
	FAILS(ioctl(fd, IVSHMEM_IOC_DOORBELLS, &call), EINVAL);
	call.reserved = 1;
	FAILS(ioctl(fd, IVSHMEM_IOC_DOORBELLS, &call), EINVAL);
	/* An address that this program cannot have. */
	call.reserved = 0;
	call.doorbells = 1ULL << 32 | address(list);
	FAILS(ioctl(fd, IVSHMEM_IOC_DOORBELLS, &call), EFAULT);
}

static void handler(int signal)
{
	(void)signal;
}

static void waits(void)
{
	struct ivshmem_event events[3] = {
		{ .vector = 0, .count = count(0) },
		{ .vector = 1, .count = count(1) },
		{ .vector = IVSHMEM_VECTOR_STATE, .count = info.generation },
	};
	struct ivshmem_waits call = { .events = address(events), .nr = 3, .timeout = 1000000 };
	struct ivshmem_wait wait = { .vector = 0, .count = events[0].count };
	/* Again and again, for the first may come before the wait. */
	struct itimerval timer = { .it_value.tv_usec = 20000, .it_interval.tv_usec = 20000 };
	struct itimerval never = { .it_value.tv_usec = 0 };
	struct sigaction action = { .sa_handler = handler };

	FAILS(ioctl(fd, IVSHMEM_IOC_WAITS, &call), ETIMEDOUT);
	ring(1);
	call.timeout = IVSHMEM_WAIT_INFINITE;
	CHECK(ioctl(fd, IVSHMEM_IOC_WAITS, &call) == 1);
	CHECK(events[1].count == count(1));
	events[0].count = -1ULL;
	events[1].count = 1ULL << 40;
	CHECK(ioctl(fd, IVSHMEM_IOC_WAITS, &call) == 2);

	/* The end of a timeout of more than 32 bits. */
	wait.timeout = 1000 * second;
	CHECK(sigaction(SIGALRM, &action, NULL) == 0);
	CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0);
	FAILS(ioctl(fd, IVSHMEM_IOC_WAIT, &wait), EINTR);
	CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
	CHECK(wait.flags == IVSHMEM_WAIT_ABSOLUTE && wait.timeout > 1000 * second);
	wait.timeout = -2;
	FAILS(ioctl(fd, IVSHMEM_IOC_WAIT, &wait), EINVAL);
}

static void subscriptions(void)
{
	__u32 vectors[2] = { 0, 3 };
	struct ivshmem_subscribe call = { .vectors = address(vectors), .nr = 2 };
	struct pollfd poller = { .fd = fd, .events = POLLIN };
	struct ivshmem_event events[4];
	__u64 before, now;

	deliver(0);
	before = deliver(3);
	CHECK(ioctl(fd, IVSHMEM_IOC_SUBSCRIBE, &call) == 0);
	CHECK(poll(&poller, 1, 0) == 0);
	now = deliver(3);
	CHECK(poll(&poller, 1, 0) == 1 && poller.revents == POLLIN);
	FAILS(read(fd, events, sizeof(events[0]) - 1), EINVAL);
	CHECK(read(fd, events, sizeof(events)) == sizeof(events[0]));
	CHECK(events[0].vector == 3 && events[0].reserved == 0 && events[0].count == now);
	CHECK(count(IVSHMEM_VECTOR_ANY) == now - before);
	call.flags = IVSHMEM_UNSUBSCRIBE;
	call.nr = 0;
	CHECK(ioctl(fd, IVSHMEM_IOC_SUBSCRIBE, &call) == 0);
	FAILS(read(fd, events, sizeof(events)), EINVAL);
}

static void eventfds(void)
{
	int efd = eventfd(0, 0);
	struct ivshmem_eventfd call = { .vector = 1, .fd = efd };
	struct pollfd poller = { .fd = efd, .events = POLLIN };
	eventfd_t value, sum = 0;

	CHECK(efd >= 0);
	deliver(1);
	CHECK(ioctl(fd, IVSHMEM_IOC_EVENTFD, &call) == 0);
	FAILS(ioctl(fd, IVSHMEM_IOC_EVENTFD, &call), EEXIST);
	deliver(1);
	deliver(1);
	/* They are signalled after the count has moved. */
	while (sum < 2) {
		CHECK(eventfd_read(efd, &value) == 0);
		sum += value;
	}
	CHECK(sum == 2 && poll(&poller, 1, 0) == 0);
	call.flags = IVSHMEM_EVENTFD_DETACH;
	CHECK(ioctl(fd, IVSHMEM_IOC_EVENTFD, &call) == 0);
	FAILS(ioctl(fd, IVSHMEM_IOC_EVENTFD, &call), ENOENT);
	call.fd = -1;
	FAILS(ioctl(fd, IVSHMEM_IOC_EVENTFD, &call), EBADF);
}

static void mappings(void)
{
	int prot = PROT_READ | PROT_WRITE;
	char *whole = mmap(NULL, info.size, prot, MAP_SHARED, fd, 0);
	char *last = mmap(NULL, 4096, prot, MAP_SHARED, fd, info.size - 4096);
	struct ivshmem_mapping call = { .addr = address(last) };

	CHECK(whole != MAP_FAILED && last != MAP_FAILED);
	strcpy(last, "the last page");
	CHECK(strcmp(whole + info.size - 4096, "the last page") == 0);
	CHECK(ioctl(fd, IVSHMEM_IOC_MAPPING, &call) == 0);
	CHECK(call.offset == info.size - 4096);
	CHECK(call.memory_type == info.memory_type && call.page_size >= 4096);
	call = (struct ivshmem_mapping){ .addr = 1ULL << 32 | address(last) };
	FAILS(ioctl(fd, IVSHMEM_IOC_MAPPING, &call), EINVAL);
	/* Offsets have 64 bits. */
	CHECK(mmap(NULL, 4096, prot, MAP_SHARED, fd, 1LL << 32) == MAP_FAILED && errno == EINVAL);
	CHECK(mmap(NULL, 4096, prot, MAP_PRIVATE, fd, 0) == MAP_FAILED && errno == EINVAL);
}

static const struct {
	const char *name;
	void (*run)(void);
} subjects[] = {
	{ "layout", layout },
	{ "info", infos },
	{ "doorbells", doorbells },
	{ "waits", waits },
	{ "subscriptions", subscriptions },
	{ "eventfds", eventfds },
	{ "mappings", mappings },
};

int main(int argc, char **argv)
{
	CHECK(argc == 2);
	fd = open("/dev/ivshmem0", O_RDWR);
	CHECK(fd >= 0);
	CHECK(ioctl(fd, IVSHMEM_IOC_INFO, &info) == 0);
	for (unsigned int i = 0; i < sizeof(subjects) / sizeof(subjects[0]); i++) {
		if (strcmp(subjects[i].name, argv[1]) == 0) {
			subjects[i].run();
			return 0;
		}
	}
	printf("no subject %s\n", argv[1]);
	return 1;
}
