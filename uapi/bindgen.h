/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * What bindgen reads: the interface, and the ioctl numbers as constants, which
 * it cannot get from the macros.
 */
#include "ivshmem.h"

static const __u32 IOC_INFO = IVSHMEM_IOC_INFO;
static const __u32 IOC_IVPOSITION = IVSHMEM_IOC_IVPOSITION;
static const __u32 IOC_DOORBELL = IVSHMEM_IOC_DOORBELL;
static const __u32 IOC_DOORBELLS = IVSHMEM_IOC_DOORBELLS;
static const __u32 IOC_WAIT = IVSHMEM_IOC_WAIT;
static const __u32 IOC_WAITS = IVSHMEM_IOC_WAITS;
static const __u32 IOC_SUBSCRIBE = IVSHMEM_IOC_SUBSCRIBE;
static const __u32 IOC_EVENTFD = IVSHMEM_IOC_EVENTFD;
static const __u32 IOC_MAPPING = IVSHMEM_IOC_MAPPING;
