#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The first process of a guest. Lines: ttyS0 is the kernel's console, ttyS1 takes the output of the
# command, ttyS2 speaks with the runner.
export PATH=/bin HOME=/
mount -t devtmpfs none /dev
mkdir /dev/pts /dev/shm
mount -t devpts none /dev/pts
mount -t tmpfs none /dev/shm
mount -t tmpfs none /tmp
mount -t proc none /proc
mount -t sysfs none /sys
mount -t debugfs none /sys/kernel/debug
ip link set lo up 2>/dev/null
. /environment

finish() {
	poweroff -f
}

load() {
	[ -z "$BED_LOAD" ] || insmod /ivshmem.ko $IVSHMEM_MODULE_ARGS
}

if [ -n "$BED_INTERACTIVE" ]; then
	load
	echo "Guest $IVSHMEM_GUEST of $IVSHMEM_GUESTS, kernel $(uname -r). Devices: $(ls /dev/ivshmem* 2>/dev/null | xargs)"
	PS1="guest$IVSHMEM_GUEST:\w# " setsid cttyhack sh
	finish
fi

stty raw -echo </dev/ttyS1
stty raw -echo </dev/ttyS2
exec 3>/dev/ttyS2
echo booted >&3

# The load is part of what the command is judged by.
{ load && sh -c "$BED_COMMAND"; } >/dev/ttyS1 2>&1 </dev/null
status=$?
[ $status = 0 ] || dmesg | tail -n 40 | sed 's/^/log /' >&3

# Whatever the command did, the module must be free to go.
if [ -n "$BED_LOAD" ] && grep -q '^ivshmem ' /proc/modules; then
	rmmod ivshmem 2>/dev/null || echo "stuck $(grep '^ivshmem ' /proc/modules)" >&3
fi

# kmemleak reports what it saw unreferenced twice, and is older than 5 s.
leaks=/sys/kernel/debug/kmemleak
if [ "$IVSHMEM_LANE" = debug ]; then
	{ echo scan >$leaks && sleep 5 && echo scan >$leaks && sed 's/^/leak /' $leaks >&3; } ||
		echo "leak unknown: kmemleak does not work" >&3
fi
echo "tainted $(cat /proc/sys/kernel/tainted)" >&3
echo "exit $status" >&3
exec 3>&-
finish
