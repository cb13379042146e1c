//! What is counted for each cgroup, and where.
//!
//! A cgroup that runs gets a slot, which is the same on all CPUs. Each CPU has a [`CgroupRow`] for each
//! slot.

use super::counters::Counters;

/// Everything that is counted for a cgroup. Idle tasks belong to no cgroup.
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

impl CgroupTotals {
    /// The sum of all fields, modulo 2^64. It has no unit, and serves as a checksum.
    #[inline(always)]
    pub const fn sum(&self) -> u64 {
        let times = self.cpu_ns.wrapping_add(self.wait_ns);
        let switches = self.voluntary.wrapping_add(self.preempted);
        times.wrapping_add(self.waits).wrapping_add(switches)
    }
}

/// The root of the unified hierarchy, whose serial number is 0.
pub const SLOT_ROOT: u32 = 0;
/// Cgroups that found no slot.
pub const SLOT_OTHER: u32 = 1;
/// Cgroups that are removed, and whose slot has a new owner.
pub const SLOT_REMOVED: u32 = 2;
/// The first slot for any cgroup.
pub const FIRST_SLOT: u32 = 3;

/// Bits of a slot in [`CgroupState::pack`].
const SLOT_BITS: u32 = 16;
/// Maximum number of slots.
pub const MAX_SLOTS: u32 = 4096;
/// Places in the table of a CPU.
pub const TABLE: usize = 512;
/// Pours that the journal of a CPU holds.
pub const JOURNAL: usize = 64;

const _: () = assert!(MAX_SLOTS <= 1 << SLOT_BITS);

/// What one cgroup used of one CPU: a cache line that only this CPU writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct CgroupRow {
    /// Serial number of the cgroup; 0 if no cgroup has had the row, and in the rows below [`FIRST_SLOT`].
    pub serial: u64,
    /// What it used, up to the last pour.
    pub totals: CgroupTotals,
    /// [`CgroupRow::checksum`] of the same pour.
    pub check: u64,
    /// Fills the cache line.
    pub spare: u64,
}

impl CgroupRow {
    /// A row that nothing was poured into yet.
    pub const ZERO: Self = Self { serial: 0, totals: CgroupTotals::ZERO, check: 0, spare: 0 };

    /// What [`CgroupRow::check`] must be, modulo 2^64. On a CPU that reorders stores, it shows words of
    /// different pours.
    #[inline(always)]
    pub const fn checksum(&self) -> u64 {
        self.serial.wrapping_add(self.totals.sum())
    }
}

/// The owner of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CgroupMeta {
    /// Serial number of the owner, from its `cgroup_subsys_state`: never used for another. Zero if the
    /// slot has had no owner.
    pub serial: u64,
    /// Number of the cgroup's directory (`kernfs_node.id`), which is its inode number.
    pub id: u64,
    /// Equal to `id` once the cgroup is removed.
    pub removed: u64,
    /// Number of its hierarchy, because directories of two hierarchies can have the same number.
    pub hierarchy: u64,
    /// [`CgroupMeta::check`] of `serial` and `id`, which shows that both are of the same owner.
    pub check: u64,
}

impl CgroupMeta {
    /// Of a slot that has had no owner.
    pub const ZERO: Self = Self { serial: 0, id: 0, removed: 0, hierarchy: 0, check: 0 };

    /// Differs for two pairs that have one number in common. So a reader never takes words of two owners for
    /// those of one, in whatever order it sees them.
    #[inline(always)]
    pub const fn check(serial: u64, id: u64) -> u64 {
        serial ^ id
    }
}

/// The part of a CPU's record for cgroups.
///
/// The sum of a column over the rows of this CPU is what `poured` has in it: each pour adds to both alike,
/// and what a row has only moves to another row of the same CPU. So a copy of the rows can be checked
/// against the record.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CgroupState {
    /// The cgroup of the last task that was not idle, packed into one word so that no reader sees its
    /// serial number without its slot; see [`CgroupState::unpack`].
    pub current: u64,
    /// What all cgroups had used at the last pour. What was counted since then is the current cgroup's.
    pub poured: CgroupTotals,
    /// [`CgroupState::checksum`] as of the last pour.
    pub sum: u64,
    /// Run-queue waits of all cgroups.
    pub waits: u64,
    /// Times that a row was written: the last of them are in `journal`.
    pub pours: u64,
    /// Number of this CPU's first row.
    pub base: u64,
    /// The highest slot whose row this CPU has written.
    pub last_slot: u64,
    /// Times that a cgroup found no slot.
    pub refused: u64,
    /// When cgroups that found no slot may try again.
    pub retry_at: u64,
    /// The slot whose row pour `n` wrote, at `n % JOURNAL`.
    pub journal: [u32; JOURNAL],
}

impl CgroupState {
    /// Before the first switch.
    pub const ZERO: Self = Self {
        current: 0,
        poured: CgroupTotals::ZERO,
        sum: 0,
        waits: 0,
        pours: 0,
        base: 0,
        last_slot: 0,
        refused: 0,
        retry_at: 0,
        journal: [0; JOURNAL],
    };

    /// The sum, modulo 2^64, of the words that a pour changes and that must be of the same pour.
    #[inline(always)]
    pub const fn checksum(&self) -> u64 {
        self.current.wrapping_add(self.poured.sum())
    }

    /// Packs a serial number, which must have at most 48 bits, and a slot.
    #[inline(always)]
    pub const fn pack(serial: u64, slot: u32) -> u64 {
        serial << SLOT_BITS | slot as u64
    }

    /// Unpacks a serial number and a slot.
    #[inline(always)]
    pub const fn unpack(word: u64) -> (u64, u32) {
        (word >> SLOT_BITS, (word & ((1 << SLOT_BITS) - 1)) as u32)
    }
}
