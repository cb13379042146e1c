//! What is counted for each cgroup.

use super::counters::Counters;

/// Everything that a cgroup counts up. Idle tasks belong to no cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CgroupTotals {
    /// Nanoseconds that its tasks ran.
    pub cpu_ns: u64,
    /// Sum of the run-queue waits of its tasks, in nanoseconds.
    pub wait_ns: u64,
    /// Number of run-queue waits.
    pub waits: u64,
    /// Switches away from tasks that blocked.
    pub voluntary: u64,
    /// Switches away from tasks that were still runnable.
    pub preempted: u64,
}

// SAFETY: `repr(C)` and made of `u64` alone.
unsafe impl Counters for CgroupTotals {}
