// SPDX-License-Identifier: GPL-2.0 OR MIT

// Made by the script generate from uapi/ivshmem.h, which explains all of it.

pub const IVSHMEM_VECTOR_ANY: u32 = 4294967295;
pub const IVSHMEM_VECTOR_STATE: u32 = 4294967294;
pub const IVSHMEM_MAX_ARRAY: u32 = 4096;
pub const IVSHMEM_INTERRUPT_NONE: u32 = 0;
pub const IVSHMEM_INTERRUPT_INTX: u32 = 1;
pub const IVSHMEM_INTERRUPT_MSIX: u32 = 2;
pub const IVSHMEM_MEMORY_NONE: u32 = 0;
pub const IVSHMEM_MEMORY_WB: u32 = 1;
pub const IVSHMEM_MEMORY_WC: u32 = 2;
pub const IVSHMEM_MEMORY_UC: u32 = 3;
pub const IVSHMEM_MEMORY_OTHER: u32 = 4;
pub const IVSHMEM_MAPPED_BY_NONE: u32 = 0;
pub const IVSHMEM_MAPPED_BY_RECORD: u32 = 1;
pub const IVSHMEM_MAPPED_BY_ENTRY: u32 = 2;
pub const IVSHMEM_MAPPED_BY_PAGE: u32 = 3;
pub const IVSHMEM_FEATURE_READY: u32 = 1;
pub const IVSHMEM_FEATURE_PAGES: u32 = 2;
pub const IVSHMEM_WAIT_ABSOLUTE: u32 = 1;
pub const IVSHMEM_WAIT_INFINITE: i32 = -1;
pub const IVSHMEM_UNSUBSCRIBE: u32 = 1;
pub const IVSHMEM_EVENTFD_DETACH: u32 = 1;
pub const IVSHMEM_IOC_TYPE: u32 = 187;
pub type __s32 = ::core::ffi::c_int;
pub type __u32 = ::core::ffi::c_uint;
pub type __s64 = ::core::ffi::c_longlong;
pub type __u64 = ::core::ffi::c_ulonglong;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct ivshmem_info {
    pub size: __u64,
    pub features: __u64,
    pub generation: __u64,
    pub page_size: __u64,
    pub ivposition: __s32,
    pub revision: __u32,
    pub interrupt: __u32,
    pub vectors: __u32,
    pub ring_vectors: __u32,
    pub memory_type: __u32,
    pub mapped_by: __u32,
    pub reserved: [__u32; 3usize],
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct ivshmem_doorbell {
    pub peer: __u32,
    pub vector: __u32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct ivshmem_doorbells {
    pub doorbells: __u64,
    pub nr: __u32,
    pub reserved: __u32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct ivshmem_event {
    pub vector: __u32,
    pub reserved: __u32,
    pub count: __u64,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct ivshmem_wait {
    pub vector: __u32,
    pub flags: __u32,
    pub count: __u64,
    pub timeout: __s64,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct ivshmem_waits {
    pub events: __u64,
    pub nr: __u32,
    pub flags: __u32,
    pub timeout: __s64,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct ivshmem_subscribe {
    pub vectors: __u64,
    pub nr: __u32,
    pub flags: __u32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct ivshmem_eventfd {
    pub vector: __u32,
    pub fd: __s32,
    pub flags: __u32,
    pub reserved: __u32,
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct ivshmem_mapping {
    pub addr: __u64,
    pub page_size: __u64,
    pub offset: __u64,
    pub memory_type: __u32,
    pub reserved: __u32,
}
pub const IVSHMEM_IOC_INFO: __u32 = 2152250112;
pub const IVSHMEM_IOC_IVPOSITION: __u32 = 2147793665;
pub const IVSHMEM_IOC_DOORBELL: __u32 = 1074313986;
pub const IVSHMEM_IOC_DOORBELLS: __u32 = 1074838275;
pub const IVSHMEM_IOC_WAIT: __u32 = 3222846212;
pub const IVSHMEM_IOC_WAITS: __u32 = 3222846213;
pub const IVSHMEM_IOC_SUBSCRIBE: __u32 = 1074838278;
pub const IVSHMEM_IOC_EVENTFD: __u32 = 1074838279;
pub const IVSHMEM_IOC_MAPPING: __u32 = 3223370504;
