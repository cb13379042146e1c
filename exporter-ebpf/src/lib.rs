//! What the kernel program and user space share: the record of each CPU, and the names of the map,
//! the hook and the globals.
//!
//! A record is `repr(C)` and made of `u64` alone, so both sides see the same bytes. The kernel program
//! itself is `src/bin/sched.rs`.

#![no_std]
#![expect(clippy::inline_always, reason = "BPF functions are inlined into their program")]

mod record;

pub use record::{
    cgroup::CgroupTotals,
    counters::Counters,
    cpu::{CpuRecord, Mode, Reason, Totals},
    wait::{WAIT_SLOTS, wait_slot, wait_slot_of_index},
};

/// Name of the map: a per-CPU array of one [`CpuRecord`].
pub const MAP: &str = "CPU";

/// Name of the hook, a BTF tracepoint, and of the program attached to it.
pub const HOOK: &str = "sched_switch";

/// Names of the globals that user space sets before loading.
///
/// Offsets are in bytes from the start of the struct, as the running kernel's BTF gives them. Switches
/// are 0 or 1; the verifier removes the code that a switch turns off.
pub mod global {
    /// Offset of `task_struct.flags`.
    pub const TASK_FLAGS: &str = "TASK_FLAGS";
    /// Offset of `task_struct.prio`.
    pub const TASK_PRIO: &str = "TASK_PRIO";
    /// Offset of `task_struct.policy`.
    pub const TASK_POLICY: &str = "TASK_POLICY";
    /// Offset of `task_struct.__state` (`state` before 5.14).
    pub const TASK_STATE: &str = "TASK_STATE";
    /// Offset of `task_struct.sched_info.last_queued`.
    pub const TASK_LAST_QUEUED: &str = "TASK_LAST_QUEUED";
    /// Offset of `task_struct.se.cfs_rq`.
    pub const TASK_CFS_RQ: &str = "TASK_CFS_RQ";
    /// Offset of `cfs_rq.rq`.
    pub const CFS_RQ_RQ: &str = "CFS_RQ_RQ";
    /// Offset of `rq.clock`.
    pub const RQ_CLOCK: &str = "RQ_CLOCK";
    /// Switch: the hook passes `prev_state` (5.18 and later).
    pub const HOOK_HAS_PREV_STATE: &str = "HOOK_HAS_PREV_STATE";
    /// Switch: count context switches by reason.
    pub const COUNT_SWITCHES: &str = "COUNT_SWITCHES";
    /// Switch: measure run-queue waits.
    pub const MEASURE_WAITS: &str = "MEASURE_WAITS";
    /// aya-log's own level: 0 removes every log statement.
    pub const LOG_LEVEL: &str = "AYA_LOG_LEVEL";
}
