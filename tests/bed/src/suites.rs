// SPDX-License-Identifier: GPL-2.0

//! The table of what is tested: per subject the guests it needs. The test program of a subject is
//! `tests/guest/src/bin/SUBJECT.rs`; it gets the name of the scenario as its argument.

use crate::log::PCIEHP;
use crate::{Device, Lane};

pub struct Suite {
    pub subject: &'static str,
    pub scenarios: &'static [Scenario],
}

#[derive(Clone, Copy, PartialEq)]
pub struct Scenario {
    pub name: &'static str,
    pub lanes: &'static [Lane],
    pub guests: usize,
    pub device: Device,
    pub vectors: u32,
    pub size: u64,
    pub smp: u32,
    /// In MiB; what a lane needs at least is added to it.
    pub memory: u32,
    pub hotplug: bool,
    pub sleeps: bool,
    /// Under Debian 12's QEMU, which has no devices by vfio-user.
    pub old_qemu: bool,
    /// How many free huge pages of 2 MiB the host must have; without them it is skipped.
    pub huge_pages: usize,
    /// `{run}` is a directory of this run that all its guests see, `{guest}` the guest's number,
    /// `{kernel}` the kernel it boots.
    pub qemu_args: &'static [&'static str],
    pub kernel_args: &'static str,
    pub load: bool,
    pub module_args: &'static str,
    /// Modules of Debian's kernel for the guest's root directory; the debug kernel has them built
    /// in.
    pub modules: &'static [&'static str],
    /// Modules of the bed's own for the guest's root directory.
    pub bed_modules: &'static [&'static str],
    /// Programs of the bed's Debian for the guest's `/bin`.
    pub programs: &'static [&'static str],
    /// Programs of `user/` for the same place.
    pub user_programs: &'static [&'static str],
    /// Test programs of the library in `user/`, as well.
    pub library_tests: &'static [&'static str],
    /// Seconds it takes at the most on a machine that has nothing else to do.
    pub seconds: u64,
    /// Parts of warnings that the scenario provokes.
    pub expected: &'static [&'static str],
    /// Leaves devices in its guests, which nobody else can have after that.
    pub stays: bool,
    /// A shell command in the place of the test program.
    pub command: Option<&'static str>,
    /// The scenario passes if the runner finds this wrong with it: tests of the bed itself.
    pub must_find: Option<&'static str>,
}

impl Scenario {
    /// Whether the guests of the one can be those of the other as well, one test program after the
    /// other: most of what a scenario takes is their boot, and the search for leaks at their end.
    /// More files do not make another guest.
    pub fn shares_guests_with(&self, other: &Scenario) -> bool {
        let guests = |scenario: &Scenario| Scenario {
            name: "",
            lanes: &[],
            seconds: 0,
            expected: &[],
            modules: &[],
            programs: &[],
            user_programs: &[],
            library_tests: &[],
            ..*scenario
        };
        self.command.is_none()
            && self.must_find.is_none()
            && !self.stays
            && guests(self) == guests(other)
    }
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const BOTH: &[Lane] = &[Lane::Stock, Lane::Debug];

/// What the checkers have nothing to add to: the runner's own doings.
const QUICK: &[Lane] = &[Lane::Stock];

/// Debian's kernel cannot make allocations fail, nor find leaks.
const CHECKED: &[Lane] = &[Lane::Debug];

/// What is said of them.
const FAULTS: &[&str] = &[
    "failed with error -12",
    "failed with error -16",
    "failed with error -28",
    "can't reserve",
    "ioremap memtype_reserve failed -12",
    "cannot enable the device",
    "cannot map BAR0",
    "cannot enable MSI-X",
    "cannot use INTx",
    "cannot claim BAR2",
    "cannot put BAR2's memory type on record",
    "kobject_add_internal failed",
];

/// What the kernel says when it gives up on an interrupt line, and who had it.
const NOBODY: &[&str] = &["nobody cared", "irq6handle"];

/// What a scenario is where it does not say otherwise.
const SCENARIO: Scenario = Scenario {
    name: "",
    lanes: BOTH,
    guests: 1,
    device: Device::Doorbell,
    vectors: 4,
    size: 16 * MIB,
    smp: 2,
    memory: 0,
    hotplug: false,
    sleeps: false,
    old_qemu: false,
    huge_pages: 0,
    qemu_args: &[],
    kernel_args: "",
    load: true,
    module_args: "",
    modules: &[],
    bed_modules: &[],
    programs: &[],
    user_programs: &[],
    library_tests: &[],
    seconds: 60,
    expected: &[],
    stays: false,
    command: None,
    must_find: None,
};

/// A guest without devices and module.
const BARE: Scenario = Scenario {
    device: Device::None,
    load: false,
    ..SCENARIO
};

/// A guest with shared memory alone.
const PLAIN: Scenario = Scenario {
    device: Device::Plain,
    ..SCENARIO
};

/// One with 64 MiB that lie below 4 GiB, and can be taken away.
const BELOW: Scenario = Scenario {
    size: 64 * MIB,
    hotplug: true,
    ..PLAIN
};

/// One with 64 MiB that lie above 4 GiB.
const ABOVE: Scenario = Scenario {
    device: Device::None,
    size: 64 * MIB,
    qemu_args: &[
        "-object",
        "memory-backend-memfd,id=memory,size=64M,share=on",
        "-device",
        "pcie-root-port,id=above,chassis=9,slot=9,pref64-reserve=4G",
        "-device",
        "ivshmem-plain,memdev=memory,bus=above",
    ],
    ..SCENARIO
};

/// A disk needs a file that is there: what the guest booted from, and needs no more.
const DISK: &[&str] = &["-drive", "file={run}/initrd-{guest},format=raw,if=virtio"];

/// As well as the kernel.
const KERNEL: &[&str] = &[
    DISK[0],
    DISK[1],
    "-drive",
    "file={kernel},format=raw,if=virtio,readonly=on",
];

/// Memory with pages, for a disk.
const PAGES: Scenario = Scenario {
    module_args: "pages=1",
    modules: &["drivers/block/virtio_blk.ko.xz"],
    qemu_args: DISK,
    seconds: 120,
    ..SCENARIO
};

/// Under Debian 12's QEMU.
const OLD: Scenario = Scenario {
    name: "qemu-7.2",
    old_qemu: true,
    ..SCENARIO
};

/// A guest that plugs its devices in itself.
const PLUGS: Scenario = Scenario {
    device: Device::None,
    hotplug: true,
    ..SCENARIO
};

/// The root ports' own way to plug and unplug, instead of ACPI's.
const PCIE_HOTPLUG: &[&str] = &[
    "-global",
    "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
];

/// While it migrates, QEMU 11.1 with TCG misses writes to memory that is a multiple of 256 KiB long,
/// unless it is the machine's first: it watches for them at the wrong place.
const MIGRATED: u64 = 128 << 10;

/// With the two that there are anyway: 4 doorbell and 12 plain devices.
const MANY_DEVICES: &[&str] = &[
    "-chardev",
    "socket,id=server1,path={run}/server.sock",
    "-device",
    "ivshmem-doorbell,chardev=server1,vectors=4",
    "-chardev",
    "socket,id=server2,path={run}/server.sock",
    "-device",
    "ivshmem-doorbell,chardev=server2,vectors=4",
    "-chardev",
    "socket,id=server3,path={run}/server.sock",
    "-device",
    "ivshmem-doorbell,chardev=server3,vectors=4",
    "-object",
    "memory-backend-memfd,id=memory1,size=1M",
    "-device",
    "ivshmem-plain,memdev=memory1",
    "-object",
    "memory-backend-memfd,id=memory2,size=1M",
    "-device",
    "ivshmem-plain,memdev=memory2",
    "-object",
    "memory-backend-memfd,id=memory3,size=1M",
    "-device",
    "ivshmem-plain,memdev=memory3",
    "-object",
    "memory-backend-memfd,id=memory4,size=1M",
    "-device",
    "ivshmem-plain,memdev=memory4",
    "-object",
    "memory-backend-memfd,id=memory5,size=1M",
    "-device",
    "ivshmem-plain,memdev=memory5",
    "-object",
    "memory-backend-memfd,id=memory6,size=1M",
    "-device",
    "ivshmem-plain,memdev=memory6",
    "-object",
    "memory-backend-memfd,id=memory7,size=1M",
    "-device",
    "ivshmem-plain,memdev=memory7",
    "-object",
    "memory-backend-memfd,id=memory8,size=1M",
    "-device",
    "ivshmem-plain,memdev=memory8",
    "-object",
    "memory-backend-memfd,id=memory9,size=1M",
    "-device",
    "ivshmem-plain,memdev=memory9",
    "-object",
    "memory-backend-memfd,id=memory10,size=1M",
    "-device",
    "ivshmem-plain,memdev=memory10",
    // Memory that is no file nobody shares, but QEMU makes a device of it, and its own test does.
    "-object",
    "memory-backend-ram,id=memory11,size=1M",
    "-device",
    "ivshmem-plain,memdev=memory11",
];

/// For 68 MiB.
const HUGE_PAGES: usize = 34;

/// A test of hibernation waits so many seconds.
const PM_TEST: &str = "suspend.pm_test_delay=1";

pub const SUITES: &[Suite] = &[
    Suite {
        subject: "bed",
        scenarios: &[
            Scenario {
                name: "alone",
                lanes: QUICK,
                ..BARE
            },
            Scenario {
                name: "together",
                lanes: QUICK,
                guests: 2,
                ..BARE
            },
            Scenario {
                name: "server",
                lanes: QUICK,
                device: Device::Doorbell,
                ..BARE
            },
            Scenario {
                name: "finds-a-failed-case",
                lanes: QUICK,
                must_find: Some("not ok 1 fails as it is told"),
                ..BARE
            },
            Scenario {
                name: "finds-a-forbidden-access",
                lanes: QUICK,
                must_find: Some("read at 0x20"),
                ..PLUGS
            },
            Scenario {
                name: "finds-a-report",
                command: Some("echo '<4>WARNING: CPU: 0 PID: 1 at made up' >/dev/kmsg"),
                must_find: Some("kernel log: "),
                ..BARE
            },
            Scenario {
                name: "finds-a-taint",
                lanes: QUICK,
                command: Some("echo 512 >/proc/sys/kernel/tainted"),
                must_find: Some("the kernel is tainted: 0x200"),
                ..BARE
            },
            Scenario {
                name: "finds-a-leak",
                lanes: CHECKED,
                bed_modules: &["leak"],
                command: Some("insmod /leak.ko"),
                must_find: Some("kmemleak:\nunreferenced object"),
                ..BARE
            },
            Scenario {
                name: "finds-a-module-in-use",
                lanes: QUICK,
                device: Device::Plain,
                command: Some("exec 9</dev/ivshmem0; sleep 1000 >/dev/null 2>&1 &"),
                must_find: Some("the module cannot be unloaded: ivshmem"),
                ..SCENARIO
            },
            Scenario {
                name: "finds-a-crash",
                lanes: QUICK,
                command: Some("echo c >/proc/sysrq-trigger"),
                must_find: Some("the guest ended early"),
                ..BARE
            },
            Scenario {
                name: "finds-a-hang",
                lanes: QUICK,
                command: Some("sleep 1000"),
                seconds: 3,
                must_find: Some("the guest did not end in time"),
                ..BARE
            },
            Scenario {
                name: "finds-a-hang-after-the-end",
                lanes: QUICK,
                command: Some("true"),
                qemu_args: &["-no-shutdown"],
                seconds: 3,
                must_find: Some("the guest did not end in time"),
                ..BARE
            },
        ],
    },
    Suite {
        subject: "probe",
        scenarios: &[
            Scenario {
                name: "doorbell",
                guests: 2,
                ..SCENARIO
            },
            Scenario {
                name: "both",
                device: Device::Both,
                expected: &["memory= is neither", "failed with error -22"],
                ..SCENARIO
            },
            Scenario { guests: 2, ..OLD },
            Scenario {
                name: "qemu-7.2-both",
                device: Device::Both,
                expected: &["memory= is neither", "failed with error -22"],
                ..OLD
            },
        ],
    },
    Suite {
        subject: "registers",
        scenarios: &[
            Scenario {
                name: "pair",
                guests: 2,
                device: Device::Both,
                size: MIB,
                load: false,
                ..SCENARIO
            },
            Scenario {
                guests: 2,
                device: Device::Both,
                size: MIB,
                load: false,
                ..OLD
            },
        ],
    },
    Suite {
        subject: "doorbell",
        scenarios: &[
            Scenario {
                name: "pair",
                guests: 2,
                ..SCENARIO
            },
            Scenario { guests: 2, ..OLD },
        ],
    },
    Suite {
        subject: "intx",
        scenarios: &[
            Scenario {
                name: "alone",
                ..PLUGS
            },
            Scenario {
                name: "peers",
                guests: 2,
                device: Device::Doorbell,
                ..PLUGS
            },
            Scenario {
                name: "stuck",
                expected: NOBODY,
                seconds: 240,
                ..PLUGS
            },
        ],
    },
    Suite {
        subject: "revision0",
        scenarios: &[Scenario {
            name: "alone",
            ..PLUGS
        }],
    },
    Suite {
        subject: "variants",
        scenarios: &[
            Scenario {
                name: "lines",
                expected: &["BAR2", "does not answer"],
                ..PLUGS
            },
            Scenario {
                name: "msix",
                expected: &["no BAR2"],
                stays: true,
                ..PLUGS
            },
        ],
    },
    Suite {
        subject: "unplug",
        scenarios: &[
            Scenario {
                name: "acpi",
                device: Device::Both,
                seconds: 120,
                ..PLUGS
            },
            Scenario {
                name: "pcie",
                device: Device::Both,
                qemu_args: PCIE_HOTPLUG,
                expected: &[PCIEHP],
                seconds: 120,
                ..PLUGS
            },
            Scenario {
                name: "bridge",
                size: MIB,
                qemu_args: &["-device", "pcie-pci-bridge,id=bridge,bus=rp3"],
                ..PLUGS
            },
            Scenario {
                name: "often",
                device: Device::Both,
                seconds: 900,
                ..PLUGS
            },
        ],
    },
    Suite {
        subject: "reset",
        scenarios: &[
            Scenario {
                name: "qemu",
                device: Device::Both,
                expected: &[": resetting"],
                ..PLUGS
            },
            Scenario {
                name: "revision0",
                expected: &[": resetting"],
                ..PLUGS
            },
        ],
    },
    Suite {
        subject: "power",
        scenarios: &[
            Scenario {
                name: "qemu",
                device: Device::Both,
                sleeps: true,
                kernel_args: PM_TEST,
                seconds: 120,
                ..PLUGS
            },
            Scenario {
                name: "revision0",
                sleeps: true,
                kernel_args: PM_TEST,
                seconds: 120,
                // After S3, ACPI's interrupt is not heard any more in here.
                qemu_args: PCIE_HOTPLUG,
                expected: &[PCIEHP],
                ..PLUGS
            },
        ],
    },
    Suite {
        subject: "kexec",
        scenarios: &[Scenario {
            name: "both",
            device: Device::Doorbell,
            load: false,
            memory: 512,
            modules: &["drivers/block/virtio_blk.ko.xz"],
            qemu_args: KERNEL,
            // It boots twice.
            seconds: 120,
            ..PLUGS
        }],
    },
    Suite {
        subject: "migration",
        scenarios: &[
            Scenario {
                name: "plain",
                size: MIGRATED,
                qemu_args: &["-global", "ivshmem-plain.master=on"],
                seconds: 120,
                ..PLAIN
            },
            Scenario {
                name: "master",
                size: MIGRATED,
                qemu_args: &["-global", "ivshmem-doorbell.master=on"],
                seconds: 120,
                ..SCENARIO
            },
            Scenario {
                name: "refused",
                device: Device::Both,
                ..SCENARIO
            },
            Scenario {
                name: "unplugged",
                hotplug: true,
                ..SCENARIO
            },
        ],
    },
    Suite {
        subject: "many",
        scenarios: &[
            Scenario {
                name: "devices",
                device: Device::Both,
                size: MIB,
                qemu_args: MANY_DEVICES,
                ..SCENARIO
            },
            Scenario {
                name: "vectors",
                vectors: 256,
                ..SCENARIO
            },
            Scenario {
                // As QEMU makes it unless it is told otherwise.
                name: "vector",
                vectors: 1,
                ..SCENARIO
            },
            Scenario {
                name: "guests",
                lanes: &[Lane::Stock],
                guests: 8,
                vectors: 8,
                smp: 1,
                seconds: 200,
                ..SCENARIO
            },
            Scenario {
                // Eight of them take eight minutes on this kernel.
                name: "guests-4",
                lanes: &[Lane::Debug],
                guests: 4,
                smp: 1,
                seconds: 200,
                ..SCENARIO
            },
        ],
    },
    Suite {
        subject: "faults",
        scenarios: &[
            Scenario {
                name: "bind",
                lanes: CHECKED,
                device: Device::Both,
                expected: FAULTS,
                seconds: 120,
                ..SCENARIO
            },
            Scenario {
                name: "line",
                lanes: CHECKED,
                expected: FAULTS,
                seconds: 240,
                ..PLUGS
            },
            Scenario {
                name: "pages",
                lanes: CHECKED,
                module_args: "pages=1",
                expected: FAULTS,
                seconds: 120,
                ..SCENARIO
            },
            Scenario {
                name: "calls",
                lanes: CHECKED,
                expected: FAULTS,
                seconds: 120,
                ..SCENARIO
            },
        ],
    },
    Suite {
        subject: "mmap",
        scenarios: &[
            Scenario {
                name: "alone",
                ..SCENARIO
            },
            Scenario {
                name: "pair",
                guests: 2,
                ..SCENARIO
            },
            OLD,
        ],
    },
    Suite {
        subject: "wait",
        scenarios: &[
            Scenario {
                name: "alone",
                ..SCENARIO
            },
            Scenario {
                name: "pair",
                guests: 2,
                ..SCENARIO
            },
            OLD,
        ],
    },
    Suite {
        subject: "ioctl",
        scenarios: &[
            Scenario {
                name: "both",
                device: Device::Both,
                ..SCENARIO
            },
            Scenario {
                device: Device::Both,
                ..OLD
            },
        ],
    },
    Suite {
        subject: "unbind",
        scenarios: &[
            Scenario {
                name: "alone",
                ..SCENARIO
            },
            OLD,
        ],
    },
    Suite {
        subject: "rmmod",
        scenarios: &[
            Scenario {
                name: "alone",
                ..SCENARIO
            },
            OLD,
        ],
    },
    Suite {
        subject: "poll",
        scenarios: &[
            Scenario {
                name: "alone",
                ..SCENARIO
            },
            OLD,
        ],
    },
    Suite {
        subject: "read",
        scenarios: &[
            Scenario {
                name: "alone",
                ..SCENARIO
            },
            OLD,
        ],
    },
    Suite {
        subject: "eventfd",
        scenarios: &[
            Scenario {
                name: "alone",
                ..SCENARIO
            },
            OLD,
        ],
    },
    Suite {
        subject: "open",
        scenarios: &[
            Scenario {
                name: "alone",
                ..SCENARIO
            },
            OLD,
        ],
    },
    Suite {
        subject: "sysfs",
        scenarios: &[
            Scenario {
                name: "both",
                device: Device::Both,
                ..SCENARIO
            },
            Scenario {
                device: Device::Both,
                ..OLD
            },
        ],
    },
    Suite {
        subject: "udev",
        scenarios: &[Scenario {
            name: "both",
            device: Device::Both,
            programs: &["/usr/bin/udevadm"],
            ..PLUGS
        }],
    },
    Suite {
        subject: "user",
        scenarios: &[Scenario {
            name: "alone",
            user_programs: &["ivshmem"],
            library_tests: &["device"],
            ..SCENARIO
        }],
    },
    Suite {
        subject: "vectors",
        scenarios: &[Scenario {
            name: "2048",
            vectors: 2048,
            seconds: 120,
            ..SCENARIO
        }],
    },
    Suite {
        subject: "storm",
        scenarios: &[Scenario {
            name: "pair",
            guests: 2,
            vectors: 8,
            seconds: 120,
            ..SCENARIO
        }],
    },
    Suite {
        subject: "compat",
        scenarios: &[Scenario {
            name: "alone",
            ..SCENARIO
        }],
    },
    Suite {
        subject: "memory-type",
        scenarios: &[
            Scenario {
                name: "below",
                device: Device::None,
                qemu_args: &[
                    "-object",
                    "memory-backend-memfd,id=m0,size=4K,share=on",
                    "-device",
                    "ivshmem-plain,memdev=m0",
                    "-object",
                    "memory-backend-memfd,id=m1,size=1M,share=on",
                    "-device",
                    "ivshmem-plain,memdev=m1",
                    "-object",
                    "memory-backend-memfd,id=m2,size=4M,share=on",
                    "-device",
                    "ivshmem-plain,memdev=m2",
                    "-object",
                    "memory-backend-memfd,id=m3,size=64M,share=on",
                    "-device",
                    "ivshmem-plain,memdev=m3",
                    // More than that the hole has no room for: firmware moves it all above 4 GiB.
                    "-object",
                    "memory-backend-memfd,id=m4,size=512M,share=on",
                    "-device",
                    "ivshmem-plain,memdev=m4",
                ],
                ..SCENARIO
            },
            Scenario {
                name: "above",
                device: Device::None,
                // KASAN has a shadow of an eighth of what the driver maps.
                memory: 1536,
                seconds: 90,
                qemu_args: &[
                    "-object",
                    "memory-backend-memfd,id=m0,size=4K,share=on",
                    "-device",
                    "ivshmem-plain,memdev=m0",
                    "-object",
                    "memory-backend-memfd,id=m1,size=1M,share=on",
                    "-device",
                    "ivshmem-plain,memdev=m1",
                    "-object",
                    "memory-backend-memfd,id=m2,size=4M,share=on",
                    "-device",
                    "ivshmem-plain,memdev=m2",
                    "-object",
                    "memory-backend-memfd,id=m3,size=64M,share=on",
                    "-device",
                    "ivshmem-plain,memdev=m3",
                    "-object",
                    "memory-backend-memfd,id=m4,size=1G,share=on",
                    "-device",
                    "ivshmem-plain,memdev=m4",
                    "-object",
                    "memory-backend-memfd,id=m5,size=8G,share=on",
                    "-device",
                    "ivshmem-plain,memdev=m5",
                ],
                ..SCENARIO
            },
            Scenario {
                name: "below-hugetlb",
                device: Device::None,
                huge_pages: HUGE_PAGES,
                qemu_args: &[
                    "-object",
                    "memory-backend-memfd,id=m0,size=4M,share=on,hugetlb=on,hugetlbsize=2M",
                    "-device",
                    "ivshmem-plain,memdev=m0",
                    "-object",
                    "memory-backend-memfd,id=m1,size=64M,share=on,hugetlb=on,hugetlbsize=2M",
                    "-device",
                    "ivshmem-plain,memdev=m1",
                ],
                ..SCENARIO
            },
            Scenario {
                name: "above-hugetlb",
                device: Device::None,
                huge_pages: HUGE_PAGES,
                qemu_args: &[
                    "-object",
                    "memory-backend-memfd,id=m0,size=4M,share=on,hugetlb=on,hugetlbsize=2M",
                    "-device",
                    "ivshmem-plain,memdev=m0",
                    "-device",
                    "pcie-root-port,id=above,chassis=9,slot=9,pref64-reserve=4G",
                    "-object",
                    "memory-backend-memfd,id=m1,size=64M,share=on,hugetlb=on,hugetlbsize=2M",
                    "-device",
                    "ivshmem-plain,memdev=m1,bus=above",
                ],
                ..SCENARIO
            },
        ],
    },
    Suite {
        subject: "huge",
        scenarios: &[
            Scenario {
                name: "below-64M",
                ..BELOW
            },
            Scenario {
                device: Device::Plain,
                size: 64 * MIB,
                ..OLD
            },
            Scenario {
                name: "above-64M",
                ..ABOVE
            },
            Scenario {
                name: "above-1G",
                size: GIB,
                ..PLAIN
            },
            Scenario {
                name: "above-8G",
                size: 8 * GIB,
                // As above.
                memory: 1536,
                ..PLAIN
            },
        ],
    },
    Suite {
        subject: "revoke",
        scenarios: &[
            Scenario {
                name: "below",
                seconds: 150,
                ..BELOW
            },
            Scenario {
                name: "above",
                seconds: 150,
                ..ABOVE
            },
            Scenario {
                name: "below-pages",
                module_args: "pages=1",
                seconds: 150,
                ..BELOW
            },
            Scenario {
                name: "above-pages",
                module_args: "pages=1",
                seconds: 150,
                ..ABOVE
            },
        ],
    },
    Suite {
        subject: "two-guests",
        scenarios: &[Scenario {
            name: "pair",
            guests: 2,
            size: GIB,
            ..SCENARIO
        }],
    },
    Suite {
        subject: "pages",
        scenarios: &[
            Scenario {
                name: "below",
                qemu_args: &[
                    DISK[0],
                    DISK[1],
                    "-object",
                    "memory-backend-memfd,id=m0,size=4K,share=on",
                    "-device",
                    "ivshmem-plain,memdev=m0",
                    "-object",
                    "memory-backend-memfd,id=m1,size=1M,share=on",
                    "-device",
                    "ivshmem-plain,memdev=m1",
                ],
                ..PAGES
            },
            Scenario {
                name: "above",
                size: GIB,
                ..PAGES
            },
            Scenario {
                name: "hotplug",
                device: Device::Plain,
                hotplug: true,
                module_args: "pages=1",
                ..SCENARIO
            },
        ],
    },
];
