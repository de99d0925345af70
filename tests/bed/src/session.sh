#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Runs the tests of several suites in one guest, each as if it were alone: the module is loaded anew
# for each but the first. Each of the arguments is a SUBJECT/SCENARIO.
status=0
loaded=
for each in "$@"; do
	echo "# $each"
	# For the console, too: what the kernel has to say is judged by what is being tested.
	echo "<4># $each" >/dev/kmsg
	if [ -n "$loaded" ]; then
		rmmod ivshmem && insmod /ivshmem.ko $IVSHMEM_MODULE_ARGS || exit
	fi
	loaded=$BED_LOAD
	"/tests/${each%/*}" "${each#*/}" || status=1
done
exit $status
