// SPDX-License-Identifier: GPL-2.0

//! What a kernel log must not contain. Guests run with `loglevel=5`: what reaches the console is a
//! warning or worse.

/// The first words of the reports of a kernel in trouble.
const REPORTS: &[&str] = &[
    "WARNING:",
    "BUG:",
    "kernel BUG at",
    "Oops:",
    "Oops ",
    "general protection fault",
    "Kernel panic",
    "rust_kernel: panicked",
    "UBSAN:",
    "KASAN:",
    "INFO: task ",
    "INFO: lockdep",
    "INFO: possible",
    "INFO: suspicious",
    "suspicious RCU usage",
    "possible circular locking",
    "possible recursive locking",
    "inconsistent lock state",
    "invalid wait context",
    "stalls on CPUs",
    "self-detected stall",
    "soft lockup",
    "hard LOCKUP",
    "workqueue lockup",
    "page allocation failure",
    "Bad page state",
    "Bad rss-counter",
    "list_add corruption",
    "list_del corruption",
    "refcount_t:",
    "nobody cared",
    "kmemleak:",
    "DEBUG_LOCKS_WARN_ON",
];

/// Not trouble, although it looks like it.
const HARMLESS: &[&str] = &[
    "kmemleak: Kernel memory leak detector",
    "loading out-of-tree module taints kernel",
];

/// The lock of PCIe's hotplug controller, which a scenario that uses it has to expect.
pub const PCIEHP: &str = "(&ctrl->reset_lock)";

/// Reports that are the kernel's own affair, with no driver in them, where they are expected: the
/// first line and one of those that follow it. (Lockdep is off after its report; that the driver
/// takes its locks in order when it is unplugged is shown without this hotplug controller.)
const KNOWN: &[(&str, &str)] = &[("possible circular locking", PCIEHP)];

/// In how many lines a report says what it is about.
const HEAD: usize = 5;

/// Taints that any module built out of the tree causes: out-of-tree and unsigned.
const EXPECTED_TAINT: u64 = (1 << 12) | (1 << 13);

/// What a part of a session provokes.
pub struct Provoked<'a> {
    /// The line that the part begins with. What comes before the first one's belongs to it as well.
    pub mark: String,
    /// Parts of lines.
    pub parts: &'a [&'a str],
}

/// Whether a line of the console is a report, or one of the driver's.
fn trouble(line: &str, expected: &[&str]) -> bool {
    let has = |parts: &[&str]| parts.iter().any(|part| line.contains(part));
    (has(REPORTS) || line.contains("ivshmem")) && !has(expected) && !has(HARMLESS)
}

/// Where in the lines of the console that begins which fails a run.
pub fn first_trouble(lines: &[String], provoked: &[Provoked]) -> Option<usize> {
    let mut parts = provoked.iter().peekable();
    let mut expected = parts.next().map_or(&[][..], |part| part.parts);
    let known = |at: usize, expected: &[&str]| {
        let head = lines.iter().skip(at + 1).take(HEAD);
        KNOWN.iter().any(|(first, other)| {
            expected.contains(other)
                && lines[at].contains(first)
                && head.clone().any(|line| line.contains(other))
        })
    };
    let mut is_verbose = false;
    for (at, line) in lines.iter().enumerate() {
        if let Some(part) = parts.next_if(|part| line.ends_with(&part.mark)) {
            expected = part.parts;
        }
        let is_information = is_verbose && line.contains(" bytes wb by ");
        if is_information || !trouble(line, expected) {
            continue;
        }
        if !known(at, expected) {
            return Some(at);
        }
        // After a report of lockdep the console shows all levels.
        is_verbose = true;
    }
    None
}

/// The taint bits that a run must not have.
pub fn taint(bits: u64) -> Option<String> {
    match bits & !EXPECTED_TAINT {
        0 => None,
        rest => Some(format!(
            "the kernel is tainted: {rest:#x} beyond out-of-tree and unsigned"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::{PCIEHP, Provoked, taint, trouble};

    fn first_trouble(lines: &[String], expected: &[&str]) -> Option<usize> {
        let only = Provoked {
            mark: "# a/b".to_owned(),
            parts: expected,
        };
        super::first_trouble(lines, &[only])
    }

    fn found(line: &str) -> bool {
        trouble(line, &["expected to complain"])
    }

    #[test]
    fn reports_are_found() {
        for line in [
            "[    5.1] WARNING: CPU: 0 PID: 1 at kernel/x.c:1 f+0x1/0x2",
            "[    5.1] BUG: KASAN: slab-use-after-free in f+0x1/0x2",
            "[    5.1] BUG: sleeping function called from invalid context at x.c:1",
            "[    5.1] Oops: Oops: 0000 [#1] SMP",
            "[    5.1] WARNING: possible circular locking dependency detected",
            "[    5.1] UBSAN: shift-out-of-bounds in x.c:1:2",
            "[  125.1] INFO: task a:1 blocked for more than 120 seconds.",
            "[   25.1] rcu: INFO: rcu_sched self-detected stall on CPU",
            "[    5.1] kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
            "[    5.1] irq 11: nobody cared (try booting with the \"irqpoll\" option)",
            "[    5.1] rust_kernel: panicked at x.rs:1:2:",
            "[    5.1] ivshmem 0000:00:03.0: a warning of the driver",
        ] {
            assert!(found(line), "{line}");
        }
    }

    #[test]
    fn the_rest_is_not() {
        for line in [
            "[    0.1] x86/cpu: SGX disabled or unsupported by BIOS.",
            "[    0.1] kmemleak: Kernel memory leak detector initialized (mem pool available: 1)",
            "[    2.8] ivshmem: loading out-of-tree module taints kernel.",
            "[    5.1] ivshmem 0000:00:03.0: expected to complain",
        ] {
            assert!(!found(line), "{line}");
        }
    }

    #[test]
    fn a_part_provokes_nothing_for_another() {
        let provoked = ["a", "b", "c"].map(|name| Provoked {
            mark: format!("# {name}"),
            parts: match name {
                "b" => &["complains"],
                _ => &[],
            },
        });
        let complaint = "[    5.1] ivshmem 0000:00:03.0: complains";
        let found = |order: &[&str]| {
            let lines: Vec<String> = order.iter().map(ToString::to_string).collect();
            super::first_trouble(&lines, &provoked)
        };
        let [a, b, c] = ["[ 1.0] # a", "[ 2.0] # b", "[ 3.0] # c"];
        assert_eq!(found(&[a, b, complaint, complaint, c]), None);
        assert_eq!(found(&[complaint, a, b, c]), Some(0));
        assert_eq!(found(&[a, complaint, b, c]), Some(1));
        assert_eq!(found(&[a, b, complaint, c, complaint]), Some(4));
    }

    #[test]
    fn a_known_report_does_not_hide_another() {
        let report = |lock: &str| {
            [
                "WARNING: possible circular locking dependency detected",
                "7.3.4-debug #1 Tainted: G           O",
                "------------------------------------------------------",
                "irq/24-pciehp/42 is trying to acquire lock:",
                &format!("ffff8880082bf2d8 ({lock}){{.+.+}}-{{4:4}}, at: f+0x1/0x2"),
            ]
            .map(str::to_owned)
        };
        let known = report("&ctrl->reset_lock");
        assert_eq!(first_trouble(&known, &[PCIEHP]), None);
        assert_eq!(first_trouble(&known, &[]), Some(0));
        assert_eq!(first_trouble(&report("&listeners"), &[PCIEHP]), Some(0));
        let both = [known, report("&listeners")].concat();
        assert_eq!(first_trouble(&both, &[PCIEHP]), Some(5));
        let information = "ivshmem 0000:01:00.0: ivshmem0: 4096 bytes wb by record";
        assert_eq!(first_trouble(&[information.to_owned()], &[]), Some(0));
        let after = [&both[..5], &[information.to_owned()]].concat();
        assert_eq!(first_trouble(&after, &[PCIEHP]), None);
    }

    #[test]
    fn taint_of_any_module_is_allowed() {
        assert_eq!(taint(0x3000), None);
        assert!(taint(0x3200).is_some());
    }
}
