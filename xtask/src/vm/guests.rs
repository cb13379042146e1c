//! The matrix of kernels and machines.

use crate::arch::Arch;

/// What a guest mounts at `/sys/fs/cgroup`, as systemd does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hierarchy {
    /// Version 2.
    V2,
    /// Version 2 without controllers, and `cpu` with `cpuacct` in version 1.
    Hybrid,
    /// Only version 1.
    V1,
}

impl Hierarchy {
    /// Its name on the page, and on the kernel's command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::Hybrid => "hybrid",
            Self::V1 => "v1",
        }
    }

    /// Tests that need a hierarchy which is not mounted.
    pub(crate) const fn skip(self) -> &'static [&'static str] {
        const RENAMES: &str = "kernel::cgroup_births::a_renamed_cgroup";
        const PART: &str = "kernel::cgroup_births::names_begin_at_the_root_of_a_mount";
        const OTHERS: &str = "kernel::cgroup_births::cgroups_of_other_hierarchies";
        match self {
            Self::V2 => &[RENAMES, OTHERS],
            Self::Hybrid => &[],
            Self::V1 => &[PART, OTHERS],
        }
    }
}

/// Tests of files, sockets and limits rather than the scheduler. A quick run skips them.
pub(crate) const NOT_OF_THE_SCHEDULER: &[&str] = &[
    "kernel::cgroup_sets::",
    "kernel::connections::",
    "kernel::http::",
    "kernel::labels::",
    "kernel::log::",
    "kernel::notify::",
    "kernel::reload::",
    "kernel::scrapes::",
    "kernel::shortage::",
    "kernel::sockets::",
    "kernel::tls::",
    "kernel::web::",
    "kernel::writers::",
];

/// A virtual machine.
pub(crate) struct Guest {
    pub name: &'static str,
    /// How it differs from the others.
    pub what: &'static str,
    pub arch: Arch,
    /// The Debian release, and its package that depends on the current kernel.
    pub suite: &'static str,
    pub package: &'static str,
    pub hierarchy: Hierarchy,
    /// The number of CPUs, for QEMU's `-smp`.
    pub cpus: &'static str,
    /// Appended to the kernel's command line.
    pub append: &'static str,
    /// Tests that it skips.
    pub skip: &'static [&'static str],
}

/// Two CPUs with Debian's kernel for clouds.
const X86_64: Guest = Guest {
    name: "",
    what: "2 CPUs",
    arch: Arch::X86_64,
    suite: "",
    package: "linux-image-cloud-amd64",
    hierarchy: Hierarchy::V2,
    cpus: "2",
    append: "",
    skip: &[],
};
const AARCH64: Guest = Guest { arch: Arch::Aarch64, package: "linux-image-cloud-arm64", ..X86_64 };

pub(crate) const GUESTS: [Guest; 12] = [
    Guest { name: "5.10", suite: "bullseye", hierarchy: Hierarchy::V1, ..X86_64 },
    Guest { name: "5.10-v2", suite: "bullseye", ..X86_64 },
    Guest { name: "6.1", suite: "bookworm", ..X86_64 },
    Guest { name: "6.12", suite: "trixie", hierarchy: Hierarchy::Hybrid, ..X86_64 },
    Guest {
        name: "6.12-rt",
        what: "PREEMPT_RT, 2 CPUs",
        suite: "trixie",
        package: "linux-image-rt-amd64",
        ..X86_64
    },
    Guest { name: "newest", suite: "trixie-backports", ..X86_64 },
    Guest {
        name: "16-cpus",
        what: "16 CPUs",
        suite: "trixie",
        cpus: "16",
        // Sixteen CPUs on one of the host's serve clients too slowly.
        skip: NOT_OF_THE_SCHEDULER,
        ..X86_64
    },
    Guest {
        name: "maxcpus",
        what: "2 CPUs of 4, the others offline since boot",
        suite: "trixie",
        cpus: "4",
        append: "maxcpus=2",
        ..X86_64
    },
    Guest {
        name: "nohz_full",
        what: "2 CPUs, one without ticks and isolated",
        suite: "trixie",
        append: "nohz_full=1 isolcpus=domain,managed_irq,1 rcu_nocbs=1",
        // The kernel does not let CPUs go offline that do work for the isolated ones.
        skip: &["unplug::"],
        ..X86_64
    },
    Guest { name: "6.1-aarch64", suite: "bookworm", hierarchy: Hierarchy::V1, ..AARCH64 },
    Guest { name: "6.12-aarch64", suite: "trixie", hierarchy: Hierarchy::Hybrid, ..AARCH64 },
    Guest { name: "newest-aarch64", suite: "trixie-backports", ..AARCH64 },
];

/// The guests of a quick run: the oldest kernel, the newest, and one in between with another hierarchy, which runs
/// only tests whose path contains this.
const QUICK: [(&str, &[&str]); 3] = [("5.10", &[]), ("6.12", &["cgroup"]), ("newest", &[])];

impl Guest {
    /// Filters of the tests that it runs in a quick run; `None` if it is not part of one.
    pub(crate) fn quick(&self) -> Option<&'static [&'static str]> {
        QUICK.iter().find(|(name, _)| *name == self.name).map(|(_, filters)| *filters)
    }
}

/// The names of all guests.
pub(crate) fn names() -> Vec<&'static str> {
    GUESTS.iter().map(|guest| guest.name).collect()
}
