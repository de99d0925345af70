# SPDX-License-Identifier: GPL-2.0
#
# The driver itself is built by Kbuild; this is for people. Everything runs in the test bed, which
# makes what it needs (see tests/bed/bed).

BED := tests/bed/bed

help:
	@echo 'make demo                  two guests share memory and talk'
	@echo 'make test                  all checks, both lanes'
	@echo 'make test-stock            the guest suites on the kernel of Debian'
	@echo 'make test-debug            the guest suites on the debug kernel'
	@echo '                           SUITE=subject runs one of them'
	@echo 'make run CMD=.. FILES=..   boots a guest and runs a command in it; FILES are in /files'
	@echo '                           (any failure is status 2 of make; $(BED) run exits with'
	@echo '                           the status of the command)'
	@echo 'make shell                 boots a guest with this terminal as its console'
	@echo '                           LANE=stock|debug DEVICE=plain|doorbell GUESTS=n VECTORS=n SIZE=n'
	@echo '                           SMP=n QEMU=binary QEMU_ARGS=.. MODULE_ARGS=.. choose the guest'
	@echo '                           ACCEL=kvm asks for KVM, if a guest boots with it here'
	@echo 'make count                 the cost of an event in guest instructions, against its targets'
	@echo 'make module                builds ivshmem.ko for the running kernel, or KVER='

demo test run shell:
	@$(BED) $@

test-stock test-debug:
	@$(BED) test --lane $(@:test-%=%)

count:
	@$(BED) exec /src/bench/count/run

module:
	@tests/bed/module

.PHONY: help demo test test-stock test-debug run shell count module
