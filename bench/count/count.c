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
#include <linux/pci_regs.h>
#include <linux/vfio.h>
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
/* So many system calls later, an interrupt has usually come before the first of them. */
#define TURNS 1000
#define BATCH 64
#define IDLE_OPENERS 1000

/* The vectors: of the waiters, of the idle openers, and one that nobody listens to. */
enum { WAITED, IDLE, UNHEARD };

/* What vfio-pci's read() took when it was measured for the first time, on the same kernel. */
#define ASLEEP_LIMIT 7645
#define THERE_LIMIT 1422

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

static long ring_waited(void)
{
	struct ivshmem_doorbell doorbell = { self, WAITED };

	return must(ioctl(watcher, IVSHMEM_IOC_DOORBELL, &doorbell), "DOORBELL");
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
 * The same device under vfio-pci: its registers are mapped, and its interrupt signals an eventfd,
 * with nothing between the two.
 */
static int vfio_eventfd;
static volatile uint32_t *vfio_registers;
static uint32_t vfio_id, vfio_ring;

/* The registers of a device, by number. */
enum { IV_POSITION = 2, DOORBELL = 3 };

static long ring_vfio(void)
{
	vfio_registers[DOORBELL] = vfio_ring;
	return 0;
}

static void set_up_vfio(const char *group_path, const char *address)
{
	struct vfio_region_info bar0 = {
		.argsz = sizeof(bar0), .index = VFIO_PCI_BAR0_REGION_INDEX,
	};
	struct vfio_region_info config = {
		.argsz = sizeof(config), .index = VFIO_PCI_CONFIG_REGION_INDEX,
	};
	const uint16_t command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	struct {
		struct vfio_irq_set set;
		int fd;
	} irq = {
		.set = {
			.argsz = sizeof(irq), .count = 1, .index = VFIO_PCI_MSIX_IRQ_INDEX,
			.flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
		},
	};
	int container = must(open("/dev/vfio/vfio", O_RDWR), "/dev/vfio/vfio");
	int group = must(open(group_path, O_RDWR), group_path);
	void *registers;
	int vfio;

	must(ioctl(group, VFIO_GROUP_SET_CONTAINER, &container), "VFIO_GROUP_SET_CONTAINER");
	must(ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU), "VFIO_SET_IOMMU");
	vfio = must(ioctl(group, VFIO_GROUP_GET_DEVICE_FD, address), address);
	must(ioctl(vfio, VFIO_DEVICE_GET_REGION_INFO, &config), "VFIO_DEVICE_GET_REGION_INFO");
	must(pwrite(vfio, &command, sizeof(command), config.offset + PCI_COMMAND), "PCI_COMMAND");
	irq.fd = vfio_eventfd = must(eventfd(0, 0), "eventfd");
	must(ioctl(vfio, VFIO_DEVICE_SET_IRQS, &irq), "VFIO_DEVICE_SET_IRQS");
	must(ioctl(vfio, VFIO_DEVICE_GET_REGION_INFO, &bar0), "VFIO_DEVICE_GET_REGION_INFO");
	registers = mmap(NULL, getpagesize(), PROT_READ | PROT_WRITE, MAP_SHARED, vfio, bar0.offset);
	must(registers == MAP_FAILED ? -1 : 0, "mmap of BAR0");
	vfio_registers = registers;
	vfio_id = vfio_registers[IV_POSITION];
}

static void vfio_aim(uint32_t vector)
{
	vfio_ring = vfio_id << 16 | vector;
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

static void open_vfio(void)
{
	file = must(dup(vfio_eventfd), "dup");
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

enum {
	VFIO_READ, VFIO_POLL, VFIO_EPOLL, WAIT, POLL, EPOLL, EVENTFD_READ, EVENTFD_POLL, EVENTFD_EPOLL,
};

struct way {
	const char *name;
	call_fn ring;
	void (*open)(void);
	void (*watch)(void);
	call_fn wait;
	/* Which of vfio-pci's ways it is compared with, which make the same calls. */
	unsigned int vfio;
};

#define VFIO(name, watch, wait, vfio) \
	{ "vfio-pci, " name, ring_vfio, open_vfio, watch, wait, vfio }
#define DRIVER(name, open, watch, wait, vfio) { name, ring_waited, open, watch, wait, vfio }

static const struct way ways[] = {
	[VFIO_READ] = VFIO("read", watch_nothing, wait_read, VFIO_READ),
	[VFIO_POLL] = VFIO("poll + read", watch_poll, wait_poll, VFIO_POLL),
	[VFIO_EPOLL] = VFIO("epoll_wait + read", watch_epoll, wait_epoll, VFIO_EPOLL),
	[WAIT] = DRIVER("WAIT", open_itself, watch_count, wait_ioctl, VFIO_READ),
	[POLL] = DRIVER("poll + read", open_subscribed, watch_poll, wait_poll, VFIO_POLL),
	[EPOLL] = DRIVER("epoll_wait + read", open_subscribed, watch_epoll, wait_epoll, VFIO_EPOLL),
	[EVENTFD_READ] = DRIVER("eventfd, read", open_eventfd, watch_nothing, wait_read, VFIO_READ),
	[EVENTFD_POLL] = DRIVER("eventfd, poll + read", open_eventfd, watch_poll, wait_poll,
				VFIO_POLL),
	[EVENTFD_EPOLL] = DRIVER("eventfd, epoll_wait + read", open_eventfd, watch_epoll,
				 wait_epoll, VFIO_EPOLL),
};

#define WAYS (sizeof(ways) / sizeof(ways[0]))

static long sleeps(void)
{
	struct rusage usage;

	must(getrusage(RUSAGE_SELF, &usage), "getrusage");
	return usage.ru_nvcsw;
}

/* Whether the wait that is over was for one event: by the driver's count, or by the eventfd's. */
static bool was_one(const struct way *way, uint64_t before)
{
	uint64_t count;

	if (way->ring != ring_vfio)
		return look() == before + 1;
	memcpy(&count, &event, sizeof(count));
	return count == 1;
}

static void asleep(const struct way *way, struct series *series)
{
	while (!full(series)) {
		uint64_t before = look();
		long slept = sleeps();
		struct counts counts;

		way->ring();
		counts = cost(way->wait, way->name);
		/* Not those whose interrupt came before they slept. */
		if (sleeps() != slept && was_one(way, before))
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

		way->ring();
		/* Nothing but the interrupt takes these turns into a module. */
		do
			caught = cost(ppid, "getppid");
		while (caught.module == 0 && ++turns < TURNS);
		caught.user -= call;

		counts = cost(way->wait, way->name);
		/* Unless it came before the first turn. */
		if (caught.module != 0 && was_one(way, before)) {
			sample(interrupt, caught);
			sample(wait, counts);
			sample(both, plus(caught, counts));
		}
	}
}

/* Everything that is measured. */
struct results {
	struct series system_call, bare_ioctl, vfio_ring, ring, batch;
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
	vfio_aim(UNHEARD);
	fill(&results->vfio_ring, ring_vfio, "a store");
	vfio_aim(WAITED);
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
		if (ways[i].watch == watch_epoll)
			close(epoll_fd);
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
 * A limit of 0: there is none. A floor is the same calls without the driver, measured in this run:
 * if the limit is below it, which no driver can reach, what the driver adds is limited instead.
 * Whether open files make a difference is told by the same statistic: the smallest counts of what
 * begins asleep have two values some 500 apart, of which one may not come up in a series.
 */
static void row(const char *name, const struct series *alone, const struct series *crowded,
		unsigned int per, const struct series *vfio, uint64_t limit,
		const struct series *floor)
{
	struct counts median = percentile(alone, 50);
	uint64_t least = total(percentile(alone, 0));
	uint64_t cost = total(median), beside = total(percentile(crowded, 50));
	uint64_t difference = beside > cost ? beside - cost : cost - beside;

	printf("%-28s %7lu %7lu %7lu %7lu %7lu", name, least / per, cost / per,
	       total(percentile(alone, 90)) / per, median.module / per, beside / per);
	if (limit != 0) {
		uint64_t bottom = floor ? total(percentile(floor, 50)) : 0;
		bool within_reach = bottom < limit * per;
		bool beaten = within_reach ? cost < limit * per : cost <= bottom + bottom / SHARE;

		printf(" %8lu %8lu  ", total(percentile(vfio, 50)), limit);
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
	printf("Instructions of a guest with one CPU. In \"driver\" are those of the p50 that are in\n"
	       "modules; in \"openers\", the p50 beside %d open files that listen to another vector.\n"
	       "vfio-pci has a device of the same kind in this guest: its doorbell is a store to a\n"
	       "mapping, its interrupts go to an eventfd. Its column has the p50 of the same calls.\n\n",
	       IDLE_OPENERS);
	printf("%-28s %7s %7s %7s %7s %7s %8s %8s\n", "", "min", "p50", "p90", "driver", "openers",
	       "vfio-pci", "to beat");
	row("getppid", &alone->system_call, &crowded->system_call, 1, NULL, 0, NULL);
	row("ioctl that does nothing", &alone->bare_ioctl, &crowded->bare_ioctl, 1, NULL, 0, NULL);
	row("DOORBELL", &alone->ring, &crowded->ring, 1, &alone->vfio_ring, RING_LIMIT,
	    &alone->bare_ioctl);
	row("DOORBELLS of 64, each", &alone->batch, &crowded->batch, BATCH, &alone->vfio_ring,
	    BATCH_LIMIT, NULL);
	printf("\nasleep to awake\n");
	for (size_t i = 0; i < WAYS; i++)
		row(ways[i].name, &alone->ways[i].asleep, &crowded->ways[i].asleep, 1,
		    &alone->ways[ways[i].vfio].asleep, ways[i].vfio == i ? 0 : ASLEEP_LIMIT,
		    ways[i].vfio == VFIO_READ ? NULL : &alone->ways[ways[i].vfio].asleep);
	printf("\nalready there\n");
	for (size_t i = 0; i < WAYS; i++)
		row(ways[i].name, &alone->ways[i].there, &crowded->ways[i].there, 1, NULL, 0, NULL);
	printf("\nthe interrupt before it\n");
	for (size_t i = 0; i < WAYS; i++)
		row(ways[i].name, &alone->ways[i].interrupt, &crowded->ways[i].interrupt, 1, NULL, 0, NULL);
	printf("\nboth together\n");
	for (size_t i = 0; i < WAYS; i++)
		row(ways[i].name, &alone->ways[i].both, &crowded->ways[i].both, 1,
		    &alone->ways[ways[i].vfio].both, ways[i].vfio == i ? 0 : THERE_LIMIT,
		    ways[i].vfio == VFIO_READ ? NULL : &alone->ways[ways[i].vfio].both);
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

int main(int argc, char **argv)
{
	static struct results alone, crowded;

	if (argc != 3) {
		fprintf(stderr, "usage: count VFIO_GROUP PCI_ADDRESS\n");
		return 2;
	}
	calibrate();
	watcher = must(open(DEVICE, O_RDWR), DEVICE);
	must(ioctl(watcher, IVSHMEM_IOC_IVPOSITION, &self), "IVPOSITION");
	set_up_vfio(argv[1], argv[2]);
	eventfd_of_nobody = must(eventfd(0, 0), "eventfd");
	/* From here on, and until the end, this listens to what is waited for. */
	look();
	measure(&alone);
	open_idle();
	measure(&crowded);
	report(&alone, &crowded);
	return missed;
}
