//! What each cgroup used, at the instant of a snapshot.

use sched_exporter_ebpf::CgroupTotals;

/// The cgroups at one instant: that of the [`Snapshot`](super::Snapshot) which holds this. The CPU time of
/// all, with `other` and `removed`, is the sum of the busy modes of all CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupsSnapshot {
    /// The cgroups that have a slot, ascending by serial number.
    pub cgroups: Vec<CgroupReading>,
    /// What cgroups used that found no slot.
    pub other: CgroupTotals,
    /// What cgroups used that are removed and have given back their slot.
    pub removed: CgroupTotals,
}

/// One cgroup at the instant of its snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupReading {
    /// The serial number, which no other cgroup ever has. The root of the unified hierarchy has 0.
    pub serial: u64,
    /// The inode number of the cgroup's directory.
    pub id: u64,
    /// Whether it is removed. Tasks that are ending can still add to its totals until it gives back its
    /// slot; what they use later is in [`CgroupsSnapshot::removed`].
    pub is_removed: bool,
    /// What it used, with the open interval of each CPU.
    pub totals: CgroupTotals,
}
