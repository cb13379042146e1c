//! The record of one CPU, which only that CPU writes.

use super::{
    cgroup::{CgroupState, TABLE},
    counters::Counters,
    wait::WAIT_SLOTS,
};

/// The mode of a CPU: the kind of task that is current on it, by the policy that the task had when it
/// was switched in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Mode {
    /// The idle task, or a task with `PF_IDLE` (idle injection).
    Idle = 0,
    /// A kernel thread (`PF_KTHREAD`), in any scheduling class.
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
    /// The task blocked: the kernel's `nvcsw`.
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

/// Everything that is counted for a CPU, since its first switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Totals {
    /// Nanoseconds in each [`Mode`].
    pub mode_ns: [u64; Mode::ALL.len()],
    /// Switches for each [`Reason`].
    pub switches: [u64; Reason::ALL.len()],
    /// Switches that the hook did not report, as the next one showed.
    pub missed_switches: u64,
    /// Sum of all run-queue waits, from runnable to running, in nanoseconds.
    pub wait_ns: u64,
    /// Run-queue waits by length; see [`wait_slot`](crate::wait_slot). Their sum is the number of waits.
    pub wait_slots: [u64; WAIT_SLOTS],
}

// SAFETY: `repr(C)` and made of `u64` and arrays of it alone.
unsafe impl Counters for Totals {}

/// What the kernel program knows about one CPU. Times are nanoseconds of `CLOCK_MONOTONIC`.
///
/// The program writes `started` first and `done` last. User space copies a record from its start to
/// its end. So no write tore a copy in which both are equal (Lamport, "Concurrent reading and
/// writing", 1977), provided that stores are seen in their order.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CpuRecord {
    /// Number of writes completed.
    pub done: u64,
    /// Start and mode of the open interval, packed into one word so that no reader sees one without
    /// the other; see [`CpuRecord::open`]. Zero until the CPU is seeded.
    pub open: u64,
    /// Address of the task that was switched in last. The next switch must be away from it.
    pub current: u64,
    /// When accounting began on this CPU: its first switch.
    pub seeded_at: u64,
    /// Time that the CPU was offline, which is charged to no mode.
    pub offline_ns: u64,
    /// Totals of the closed intervals. The sum of `mode_ns` plus `offline_ns` is the start of the open
    /// interval minus `seeded_at`.
    pub totals: Totals,
    /// What was poured into the rows of cgroups.
    pub cgroups: CgroupState,
    /// The sum of words that must be of the same write; see [`CpuRecord::check`].
    pub check: u64,
    /// Number of writes begun.
    pub started: u64,
}

/// An entry of the map of records: that of the CPU with this number. It has whole cache lines, so that
/// no CPU writes to another's.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct CpuEntry {
    /// What user space copies.
    pub record: CpuRecord,
    /// The cgroups seen last and their slots, by [`CgroupState::pack`], each at one of two places.
    pub table: [u64; TABLE],
}

const _: () = assert!(Mode::ALL.len() as u64 == CpuRecord::MAY_GO_OFFLINE);
const _: () =
    assert!(size_of::<CpuRecord>() == 8 * (5 + 2) + size_of::<Totals>() + size_of::<CgroupState>());

/// Low bits of [`CpuRecord::open`] that hold the mode and [`CpuRecord::MAY_GO_OFFLINE`]. The other 60
/// bits hold nanoseconds, which last for 36 years of uptime.
const MODE_BITS: u32 = 4;

impl CpuRecord {
    /// An unseeded record, as the kernel creates it.
    pub const ZERO: Self = Self {
        done: 0,
        open: 0,
        current: 0,
        seeded_at: 0,
        offline_ns: 0,
        totals: Totals::ZERO,
        cgroups: CgroupState::ZERO,
        check: 0,
        started: 0,
    };

    /// Marks an open interval of the stopper thread, during which the CPU may go offline.
    pub const MAY_GO_OFFLINE: u64 = 1 << (MODE_BITS - 1);

    /// The most of an interval with [`CpuRecord::MAY_GO_OFFLINE`] that is charged to its mode if the
    /// CPU does go offline; the rest is offline time. Readers charge no more than this while the
    /// interval is open, so that no counter has to go back.
    pub const STOPPER_NS: u64 = 1_000_000;

    /// What [`CpuRecord::check`] must be: the sum, modulo 2^64, of the number of the write, the open
    /// interval, and the sum of the last pour. On a CPU that reorders stores, it shows words of
    /// different writes, even if `started` and `done` are equal. It is kept with
    /// [`Global::KeepChecks`](crate::Global::KeepChecks).
    #[inline(always)]
    pub const fn checksum(&self) -> u64 {
        self.started.wrapping_add(self.open).wrapping_add(self.cgroups.sum)
    }

    /// Packs an interval that began at `since` into a word. `mode` can include
    /// [`CpuRecord::MAY_GO_OFFLINE`].
    #[inline(always)]
    pub const fn pack_open(since: u64, mode: u64) -> u64 {
        since << MODE_BITS | mode
    }

    /// Unpacks the start of an interval and its mode, an index into [`Totals::mode_ns`].
    #[inline(always)]
    pub const fn open(word: u64) -> (u64, u64) {
        (word >> MODE_BITS, word & (Self::MAY_GO_OFFLINE - 1))
    }
}
