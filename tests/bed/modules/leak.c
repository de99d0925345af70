// SPDX-License-Identifier: GPL-2.0
/*
 * Leaks memory, so that a test of the bed can see that leaks are found.
 */

#include <linux/module.h>
#include <linux/slab.h>

static int __init leak(void)
{
	int i;

	/*
	 * Many, for a stack may still have the address of one, and the
	 * allocator's array of objects for this processor those of the last.
	 */
	for (i = 0; i < 200; i++) {
		void *memory = kmalloc(100, GFP_KERNEL);

		OPTIMIZER_HIDE_VAR(memory);
		if (!memory)
			return -ENOMEM;
	}
	return 0;
}

static void __exit nothing(void)
{
}

module_init(leak);
module_exit(nothing);
MODULE_DESCRIPTION("Leaks memory");
MODULE_LICENSE("GPL");
