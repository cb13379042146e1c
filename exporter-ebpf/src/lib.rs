//! What the kernel program and user space share: the record of one CPU, its modes and reasons, and
//! the names by which user space finds the program's map, hook and globals.
//!
//! Everything is `u64` and `repr(C)`, so both sides see the same bytes. The kernel program itself
//! is `src/bin/sched.rs`.

#![no_std]
#![expect(clippy::inline_always, reason = "BPF has no calls worth the name")]

/// What a CPU is doing. A CPU is in the mode of the task that is current on it, as that task was
/// when it was switched in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Mode {
    /// The idle task, or a task with `PF_IDLE` (idle injection).
    Idle = 0,
    /// A kernel thread (`PF_KTHREAD`), whatever its scheduling class.
    Kthread = 1,
    /// A user task of `SCHED_NORMAL`.
    Fair = 2,
    /// A user task of `SCHED_BATCH`.
    Batch = 3,
    /// A user task of `SCHED_IDLE`.
    IdlePolicy = 4,
    /// A user task with a real-time priority (`SCHED_FIFO`, `SCHED_RR`, or boosted to it).
    Realtime = 5,
    /// A user task with a deadline priority (`SCHED_DEADLINE`, or boosted to it).
    Deadline = 6,
    /// A user task of `SCHED_EXT`.
    Ext = 7,
}

impl Mode {
    /// Every mode, at the index of its discriminant.
    pub const ALL: [Self; 8] = [
        Self::Idle,
        Self::Kthread,
        Self::Fair,
        Self::Batch,
        Self::IdlePolicy,
        Self::Realtime,
        Self::Deadline,
        Self::Ext,
    ];
}

/// Why a CPU switched tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Reason {
    /// The task was no longer runnable: the kernel's `nvcsw`.
    Voluntary = 0,
    /// The task was still runnable: the kernel's `nivcsw`.
    Preempted = 1,
    /// The CPU left its idle task.
    Idle = 2,
}

impl Reason {
    /// Every reason, at the index of its discriminant.
    pub const ALL: [Self; 3] = [Self::Voluntary, Self::Preempted, Self::Idle];
}

/// Number of run-queue wait buckets. Bucket `i` counts waits of `2^(i-1) < wait <= 2^i`
/// nanoseconds, bucket 0 those of 0 and 1; the last takes everything above.
pub const WAIT_BUCKETS: usize = 64;

/// What the kernel program knows of one CPU. Times are nanoseconds of `CLOCK_MONOTONIC`.
///
/// The program writes `started` first and `done` last; the kernel copies a value to user space
/// upwards, eight bytes at a time, without barriers. So a copy in which both are equal was not torn by
/// a write (Lamport, "Concurrent reading and writing", 1977), if stores are seen in their order.
/// <https://github.com/torvalds/linux/blob/v6.12/include/linux/bpf.h>, `bpf_long_memcpy`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CpuRecord {
    /// Writes completed.
    pub done: u64,
    /// The open interval: when it began, and its mode, in one word so that no reader can see one
    /// without the other. See [`CpuRecord::open`]. Zero until the CPU is seeded.
    pub open: u64,
    /// Address of the task that was switched in last. The next switch must be away from it.
    pub current: u64,
    /// Switches that the hook did not report, as the next one showed.
    pub missed: u64,
    /// When accounting began on this CPU: its first switch.
    pub seeded_at: u64,
    /// Time during which the CPU was offline, charged to no mode.
    pub offline_ns: u64,
    /// Closed intervals by [`Mode`]. Their sum, and `offline_ns`, is the start of the open interval
    /// minus `seeded_at`.
    pub mode_ns: [u64; Mode::ALL.len()],
    /// Switches by [`Reason`], since the seed.
    pub switches: [u64; Reason::ALL.len()],
    /// Sum of all waits from runnable to running.
    pub wait_ns: u64,
    /// Waits by length.
    pub wait_buckets: [u64; WAIT_BUCKETS],
    /// Writes begun.
    pub started: u64,
}

const _: () = assert!(Mode::ALL.len() as u64 == CpuRecord::MAY_GO_OFFLINE);
const _: () = assert!(size_of::<CpuRecord>() == 8 * (6 + 8 + 3 + 1 + WAIT_BUCKETS + 1));

/// Low bits of the word [`CpuRecord::open`] that hold the mode and [`CpuRecord::MAY_GO_OFFLINE`]; the
/// other 60 bits hold nanoseconds, for 36 years of uptime.
const MODE_BITS: u32 = 4;

impl CpuRecord {
    /// An unseeded record, as the kernel creates it.
    pub const ZERO: Self = Self {
        done: 0,
        open: 0,
        current: 0,
        missed: 0,
        seeded_at: 0,
        offline_ns: 0,
        mode_ns: [0; Mode::ALL.len()],
        switches: [0; Reason::ALL.len()],
        wait_ns: 0,
        wait_buckets: [0; WAIT_BUCKETS],
        started: 0,
    };

    /// Bit of an open interval in which the CPU may turn out to have gone offline: that of the
    /// stopper thread.
    pub const MAY_GO_OFFLINE: u64 = 1 << (MODE_BITS - 1);

    /// How much of an interval in which the CPU goes offline is the stopper's own work; the rest is
    /// time offline. While the interval is open, no more of it is charged: so what readers have
    /// seen never has to be taken back.
    pub const STOPPER_NS: u64 = 1_000_000;

    /// The word for an interval that began at `since`, of the given mode and bit.
    #[inline(always)]
    pub const fn pack_open(since: u64, mode: u64) -> u64 {
        since << MODE_BITS | mode
    }

    /// When the open interval began, and its mode as an index into [`CpuRecord::mode_ns`].
    #[inline(always)]
    pub const fn open(word: u64) -> (u64, u64) {
        (word >> MODE_BITS, word & (Self::MAY_GO_OFFLINE - 1))
    }
}

/// The bucket of [`CpuRecord::wait_buckets`] for a wait.
#[inline(always)]
pub const fn wait_bucket(wait_ns: u64) -> u64 {
    let bucket = 64 - wait_ns.saturating_sub(1).leading_zeros() as u64;
    if bucket < WAIT_BUCKETS as u64 { bucket } else { WAIT_BUCKETS as u64 - 1 }
}

/// Name of the map: a per-CPU array of one [`CpuRecord`].
pub const MAP: &str = "CPU";

/// The hook, and the name of the program on it.
pub const HOOK: &str = "sched_switch";

/// Globals that user space sets before loading. Offsets are bytes from the start of the struct,
/// as the running kernel's BTF gives them; switches are 0 or 1, and the verifier removes what a
/// switch leaves out.
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
