// SPDX-License-Identifier: GPL-2.0
/*
 * What one event costs, in instructions of the guest. Runs in a guest with one CPU, under the
 * plugin beside it; rings the guest's own vectors.
 *
 * An interrupt that a program rings itself comes a moment later, from QEMU's main loop: a wait that
 * begins at once usually sleeps, and one that begins after the interrupt was seen never does.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "../../uapi/ivshmem.h"
#include "marker.h"

#define DEVICE "/dev/ivshmem0"

#define SAMPLES 500
#define BATCH 64
#define IDLE_OPENERS 1000

/* The vectors: of the waiters, of the idle openers, and one that nobody listens to. */
enum { WAITED, IDLE, UNHEARD };

/* vfio-pci behind an IOMMU, the same kernel, measured once: see the output. */
#define VFIO_ASLEEP 7645
#define VFIO_THERE 1422
#define VFIO_RING 4

#define RING_LIMIT 600
#define BATCH_LIMIT 60

/* Work that is done for each opener is at least an instruction for each. */
#define SAME (IDLE_OPENERS / 10)

/* Where a limit cannot be met, the driver must not add more than one part in so many. */
#define SHARE 8

static volatile struct counts *const page = (struct counts *)MARKER_PAGE;

/* An open file that waits for nothing, to look at counts and to ring with. */
static int watcher;
static uint32_t self;

static long must(long result, const char *what)
{
	if (result < 0) {
		fprintf(stderr, "count: %s: %s\n", what, strerror(errno));
		exit(2);
	}
	return result;
}

static inline struct counts mark(void)
{
	asm volatile(".byte 0x0f, 0x1f, 0x80\n\t.long %c0" : : "i"(MARKER_DISPLACEMENT) : "memory");
	return *page;
}

static uint64_t total(struct counts counts)
{
	return counts.user + counts.kernel + counts.module;
}

static struct counts plus(struct counts a, struct counts b)
{
	return (struct counts){ a.user + b.user, a.kernel + b.kernel, a.module + b.module };
}

static struct counts minus(struct counts a, struct counts b)
{
	return (struct counts){ a.user - b.user, a.kernel - b.kernel, a.module - b.module };
}

/* What is measured is called this way, so that all have the same instructions around them. */
typedef long (*call_fn)(void);

static long nothing(void)
{
	return 0;
}

/* What the markers and the call of nothing cost. */
static struct counts overhead;

static struct counts cost(call_fn call, const char *what)
{
	struct counts from, to;
	long result;

	from = mark();
	result = call();
	to = mark();
	must(result, what);
	return minus(minus(to, from), overhead);
}

/* The samples of one thing. */
struct series {
	size_t length;
	struct counts samples[SAMPLES];
};

static int by_total(const void *a, const void *b)
{
	uint64_t x = total(*(const struct counts *)a), y = total(*(const struct counts *)b);

	return (x > y) - (x < y);
}

static void sample(struct series *series, struct counts counts)
{
	series->samples[series->length++] = counts;
	if (series->length == SAMPLES)
		qsort(series->samples, SAMPLES, sizeof(counts), by_total);
}

static bool full(const struct series *series)
{
	return series->length == SAMPLES;
}

static struct counts percentile(const struct series *series, int percent)
{
	return series->samples[(SAMPLES - 1) * percent / 100];
}

/* The calls that are measured do no more than the system calls; what they need is out here. */

static long ppid(void)
{
	return getppid();
}

/* The least that any ioctl costs on this kernel: one that an eventfd does not know. */
static int eventfd_of_nobody;

static long bare_ioctl(void)
{
	ioctl(eventfd_of_nobody, IVSHMEM_IOC_INFO, &page);
	return 0;
}

static struct ivshmem_doorbell doorbells[BATCH];
static struct ivshmem_doorbells batch = { .nr = BATCH };

static long ring_one(void)
{
	return ioctl(watcher, IVSHMEM_IOC_DOORBELL, &doorbells[0]);
}

static long ring_batch(void)
{
	return ioctl(watcher, IVSHMEM_IOC_DOORBELLS, &batch);
}

static void aim(uint32_t vector)
{
	for (int i = 0; i < BATCH; i++)
		doorbells[i] = (struct ivshmem_doorbell){ self, vector };
	batch.doorbells = (uintptr_t)doorbells;
}

static void ring_waited(void)
{
	struct ivshmem_doorbell doorbell = { self, WAITED };

	must(ioctl(watcher, IVSHMEM_IOC_DOORBELL, &doorbell), "DOORBELL");
}

/* The count of the waiters' vector. */
static uint64_t look(void)
{
	struct ivshmem_wait look = { .vector = WAITED };

	if (ioctl(watcher, IVSHMEM_IOC_WAIT, &look) < 0 && errno != ETIMEDOUT)
		must(-1, "WAIT");
	return look.count;
}

/*
 * The ways to wait. Each has an open file of the device, which is the only one that waits, and the
 * file it waits with: the same, or an eventfd.
 */
static int device, file, epoll_fd;
static struct ivshmem_wait wait_args = {
	.vector = WAITED, .timeout = IVSHMEM_WAIT_INFINITE,
};
static struct pollfd poll_args = { .events = POLLIN };
static struct epoll_event epoll_event;

/* What is read of the device, or half of it of an eventfd. */
static struct ivshmem_event event;

static void subscribe(int fd, uint32_t vector)
{
	struct ivshmem_subscribe subscribe = { .vectors = (uintptr_t)&vector, .nr = 1 };

	must(ioctl(fd, IVSHMEM_IOC_SUBSCRIBE, &subscribe), "SUBSCRIBE");
}

static void open_itself(void)
{
	file = device;
}

static void open_subscribed(void)
{
	file = device;
	subscribe(device, WAITED);
}

static void open_eventfd(void)
{
	struct ivshmem_eventfd attach = { .vector = WAITED };

	attach.fd = file = must(eventfd(0, 0), "eventfd");
	must(ioctl(device, IVSHMEM_IOC_EVENTFD, &attach), "EVENTFD");
}

static void watch_count(void)
{
	wait_args.count = look();
}

static void watch_nothing(void)
{
}

static void watch_poll(void)
{
	poll_args.fd = file;
}

static void watch_epoll(void)
{
	struct epoll_event interest = { .events = EPOLLIN };

	epoll_fd = must(epoll_create1(0), "epoll_create1");
	must(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, file, &interest), "epoll_ctl");
}

/* Leaves the count where the next call says what it has seen. */
static long wait_ioctl(void)
{
	return ioctl(device, IVSHMEM_IOC_WAIT, &wait_args);
}

static long wait_read(void)
{
	return read(file, &event, sizeof(event));
}

static long wait_poll(void)
{
	poll(&poll_args, 1, -1);
	return read(file, &event, sizeof(event));
}

static long wait_epoll(void)
{
	epoll_wait(epoll_fd, &epoll_event, 1, -1);
	return read(file, &event, sizeof(event));
}

struct way {
	const char *name;
	void (*open)(void);
	void (*watch)(void);
	call_fn wait;
	/* Which way makes the same calls without the driver; 0 if none does. */
	unsigned int plain;
};

static const struct way ways[] = {
	{ "WAIT", open_itself, watch_count, wait_ioctl, 0 },
	{ "poll + read", open_subscribed, watch_poll, wait_poll, 4 },
	{ "epoll_wait + read", open_subscribed, watch_epoll, wait_epoll, 5 },
	/* What is left of the driver here is its interrupt: so would a user of vfio-pci wait. */
	{ "eventfd, read", open_eventfd, watch_nothing, wait_read, 0 },
	{ "eventfd, poll + read", open_eventfd, watch_poll, wait_poll, 4 },
	{ "eventfd, epoll_wait + read", open_eventfd, watch_epoll, wait_epoll, 5 },
};

#define WAYS (sizeof(ways) / sizeof(ways[0]))

static long sleeps(void)
{
	struct rusage usage;

	must(getrusage(RUSAGE_SELF, &usage), "getrusage");
	return usage.ru_nvcsw;
}

static void asleep(const struct way *way, struct series *series)
{
	while (!full(series)) {
		uint64_t before = look();
		long slept = sleeps();
		struct counts counts;

		ring_waited();
		counts = cost(way->wait, way->name);
		/* Not those whose interrupt came before they slept. */
		if (sleeps() != slept && look() == before + 1)
			sample(series, counts);
	}
}

/*
 * The wait for an event that has been counted already, the interrupt that counted it, and both. The
 * interrupt comes into a system call that costs "call" by itself.
 */
static void there(const struct way *way, uint64_t call, struct series *wait,
		  struct series *interrupt, struct series *both)
{
	while (!full(wait)) {
		uint64_t before = look();
		struct counts caught, counts;
		int turns = 0;

		ring_waited();
		/* Nothing but the interrupt takes these turns into the driver. */
		do
			caught = cost(ppid, "getppid");
		while (caught.module == 0 && (++turns % 10000 != 0 || look() == before));
		caught.user -= call;

		counts = cost(way->wait, way->name);
		/* Unless it came before the first turn. */
		if (caught.module != 0 && look() == before + 1) {
			sample(interrupt, caught);
			sample(wait, counts);
			sample(both, plus(caught, counts));
		}
	}
}

/* Everything that is measured. */
struct results {
	struct series system_call, bare_ioctl, ring, batch;
	struct {
		struct series asleep, there, interrupt, both;
	} ways[WAYS];
};

static void fill(struct series *series, call_fn call, const char *what)
{
	while (!full(series))
		sample(series, cost(call, what));
}

static void measure(struct results *results)
{
	fill(&results->system_call, ppid, "getppid");
	fill(&results->bare_ioctl, bare_ioctl, "ioctl");
	aim(UNHEARD);
	fill(&results->ring, ring_one, "DOORBELL");
	fill(&results->batch, ring_batch, "DOORBELLS");
	for (size_t i = 0; i < WAYS; i++) {
		device = must(open(DEVICE, O_RDWR), DEVICE);
		ways[i].open();
		ways[i].watch();
		asleep(&ways[i], &results->ways[i].asleep);
		there(&ways[i], total(percentile(&results->system_call, 50)),
		      &results->ways[i].there, &results->ways[i].interrupt,
		      &results->ways[i].both);
		close(file);
		if (file != device)
			close(device);
	}
}

static void open_idle(void)
{
	struct rlimit files = { IDLE_OPENERS + 100, IDLE_OPENERS + 100 };

	must(setrlimit(RLIMIT_NOFILE, &files), "setrlimit");
	for (int i = 0; i < IDLE_OPENERS; i++)
		subscribe(must(open(DEVICE, O_RDWR), DEVICE), IDLE);
}

static bool missed;

/*
 * A limit of 0: there is none. A floor is the same without a driver, measured in this run: if the
 * limit is below it, which no driver can reach, what the driver adds is limited instead. Whether
 * open files make a difference is told by the smallest counts, which have no ticks of the clock in
 * them.
 */
static void row(const char *name, const struct series *alone, const struct series *crowded,
		unsigned int per, uint64_t reference, uint64_t limit, const struct series *floor)
{
	struct counts median = percentile(alone, 50);
	uint64_t cost = total(median);
	uint64_t least = total(percentile(alone, 0)), beside = total(percentile(crowded, 0));
	uint64_t difference = beside > least ? beside - least : least - beside;

	printf("%-28s %7lu %7lu %7lu %7lu %7lu", name, least / per,
	       cost / per, total(percentile(alone, 90)) / per, median.module / per, beside / per);
	if (reference != 0)
		printf(" %8lu", reference);
	else if (limit != 0)
		printf(" %8s", "");
	if (limit != 0) {
		uint64_t bottom = floor ? total(percentile(floor, 50)) : 0;
		bool within_reach = bottom < limit * per;
		bool beaten = within_reach ? cost < limit * per : cost <= bottom + bottom / SHARE;

		printf(" %8lu  ", limit);
		if (!beaten || difference >= SAME) {
			printf("MISSED");
			missed = true;
		} else {
			printf("ok");
		}
		if (!within_reach)
			printf(" (floor %lu)", bottom);
	}
	printf("\n");
}

static void report(const struct results *alone, const struct results *crowded)
{
	printf("Instructions of a guest with one CPU. In \"driver\" are those of the p50 that are the\n"
	       "module's own; in \"openers\", the min beside %d open files that listen to another\n"
	       "vector. vfio-pci was measured before, with a doorbell that is a store to a mapping,\n"
	       "read() of its eventfd, and the interrupt in what was already there.\n\n",
	       IDLE_OPENERS);
	printf("%-28s %7s %7s %7s %7s %7s %8s %8s\n", "", "min", "p50", "p90", "driver", "openers",
	       "vfio-pci", "to beat");
	row("getppid", &alone->system_call, &crowded->system_call, 1, 0, 0, NULL);
	row("ioctl that does nothing", &alone->bare_ioctl, &crowded->bare_ioctl, 1, 0, 0, NULL);
	row("DOORBELL", &alone->ring, &crowded->ring, 1, VFIO_RING, RING_LIMIT,
	    &alone->bare_ioctl);
	row("DOORBELLS of 64, each", &alone->batch, &crowded->batch, BATCH, 0, BATCH_LIMIT, NULL);
	printf("\nasleep to awake\n");
	for (size_t i = 0; i < WAYS; i++)
		row(ways[i].name, &alone->ways[i].asleep, &crowded->ways[i].asleep, 1, VFIO_ASLEEP,
		    VFIO_ASLEEP, ways[i].plain ? &alone->ways[ways[i].plain].asleep : NULL);
	printf("\nalready there\n");
	for (size_t i = 0; i < WAYS; i++)
		row(ways[i].name, &alone->ways[i].there, &crowded->ways[i].there, 1, 0, 0, NULL);
	printf("\nthe interrupt before it\n");
	for (size_t i = 0; i < WAYS; i++)
		row(ways[i].name, &alone->ways[i].interrupt, &crowded->ways[i].interrupt, 1, 0, 0, NULL);
	printf("\nboth together\n");
	for (size_t i = 0; i < WAYS; i++)
		row(ways[i].name, &alone->ways[i].both, &crowded->ways[i].both, 1, VFIO_THERE,
		    VFIO_THERE, ways[i].plain ? &alone->ways[ways[i].plain].both : NULL);
}

static void calibrate(void)
{
	if (mmap((void *)page, sizeof(*page), PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != page)
		must(-1, "mmap");
	memset((void *)page, 0, sizeof(*page));
	/* Once more, for the first may have pages to fault in. */
	cost(nothing, "nothing");
	overhead = cost(nothing, "nothing");
	if (overhead.user == 0) {
		fprintf(stderr, "count: this is not a guest with the plugin\n");
		exit(2);
	}
}

int main(void)
{
	static struct results alone, crowded;

	calibrate();
	watcher = must(open(DEVICE, O_RDWR), DEVICE);
	must(ioctl(watcher, IVSHMEM_IOC_IVPOSITION, &self), "IVPOSITION");
	eventfd_of_nobody = must(eventfd(0, 0), "eventfd");
	/* From here on, and until the end, this listens to what is waited for. */
	look();
	measure(&alone);
	open_idle();
	measure(&crowded);
	report(&alone, &crowded);
	return missed;
}
