// SPDX-License-Identifier: GPL-2.0
/*
 * A QEMU TCG plugin that counts the instructions a guest executes, and gives the counts to the
 * guest program that executes a marker. Debian packages no header for plugins: what is used of
 * their interface, version 7, is declared here.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "marker.h"

#define EXPORT __attribute__((visibility("default")))

struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_scoreboard;
struct qemu_info;

/* A counter that each virtual CPU has one of. */
struct counter {
	struct qemu_plugin_scoreboard *board;
	size_t offset;
};

/* GLib's array of bytes, as far as it is public. */
struct byte_array {
	uint8_t *data;
	unsigned int length;
};

enum { INLINE_ADD };
enum { CALLBACK_WITHOUT_REGISTERS };

typedef void (*translated_fn)(struct qemu_plugin_tb *block, void *data);
typedef void (*executed_fn)(unsigned int cpu, void *data);

void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, translated_fn function, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *insn, void *data, size_t length);
void qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(struct qemu_plugin_insn *insn,
							 int operation, struct counter counter,
							 uint64_t operand);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn, executed_fn function,
					    int flags, void *data);
struct qemu_plugin_scoreboard *qemu_plugin_scoreboard_new(size_t size);
void *qemu_plugin_scoreboard_find(struct qemu_plugin_scoreboard *board, unsigned int cpu);
_Bool qemu_plugin_write_memory_vaddr(uint64_t address, struct byte_array *bytes);

EXPORT int qemu_plugin_version = 7;

/* Where Linux on x86-64 has modules, in the upper half of the addresses, which is the kernel's. */
#define KERNEL_START	0x8000000000000000ULL
#define MODULES_START	0xffffffffc0000000ULL
#define MODULES_END	0xffffffffff000000ULL

static struct qemu_plugin_scoreboard *board;

static struct counter counter_of(uint64_t address)
{
	if (address < KERNEL_START)
		return (struct counter){ board, offsetof(struct counts, user) };
	if (address >= MODULES_START && address < MODULES_END)
		return (struct counter){ board, offsetof(struct counts, module) };
	return (struct counter){ board, offsetof(struct counts, kernel) };
}

static void marker_executed(unsigned int cpu, void *data)
{
	struct byte_array bytes = {
		.data = qemu_plugin_scoreboard_find(board, cpu),
		.length = sizeof(struct counts),
	};

	/* Fails for a program that has no such page: it was not meant for this plugin. */
	(void)qemu_plugin_write_memory_vaddr(MARKER_PAGE, &bytes);
}

static _Bool is_marker(const struct qemu_plugin_insn *insn)
{
	static const uint8_t marker[] = {
		0x0f, 0x1f, 0x80,
		MARKER_DISPLACEMENT & 0xff, MARKER_DISPLACEMENT >> 8 & 0xff,
		MARKER_DISPLACEMENT >> 16 & 0xff, MARKER_DISPLACEMENT >> 24,
	};
	uint8_t bytes[sizeof(marker)];

	return qemu_plugin_insn_data(insn, bytes, sizeof(bytes)) == sizeof(bytes) &&
		memcmp(bytes, marker, sizeof(marker)) == 0;
}

static void block_translated(struct qemu_plugin_tb *block, void *data)
{
	size_t length = qemu_plugin_tb_n_insns(block);

	for (size_t index = 0; index < length; index++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, index);
		struct counter counter = counter_of(qemu_plugin_insn_vaddr(insn));

		qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(insn, INLINE_ADD, counter, 1);
		if (is_marker(insn))
			qemu_plugin_register_vcpu_insn_exec_cb(insn, marker_executed,
							       CALLBACK_WITHOUT_REGISTERS, NULL);
	}
}

EXPORT int qemu_plugin_install(uint64_t id, const struct qemu_info *info, int argc, char **argv)
{
	board = qemu_plugin_scoreboard_new(sizeof(struct counts));
	qemu_plugin_register_vcpu_tb_trans_cb(id, block_translated, NULL);
	return 0;
}
