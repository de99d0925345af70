/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the measuring program in the guest and the plugin in QEMU agree on.
 *
 * A marker is a seven-byte no-operation with a displacement of its own. When one is executed, the
 * plugin writes how many instructions the guest has executed so far into the memory of the program,
 * at a fixed address. To the guest that costs one instruction and no exit from user space.
 */
#ifndef MARKER_H
#define MARKER_H

#include <stdint.h>

#define MARKER_DISPLACEMENT 0x69767368

/* Where the counts go: a page of the program. */
#define MARKER_PAGE 0x690000000000ULL

/* Instructions by where they are. */
struct counts {
	uint64_t user;
	uint64_t kernel;
	uint64_t module;
};

#endif
