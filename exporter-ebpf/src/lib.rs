//! What the kernel program and user space share: the values of the maps, the names of the maps and
//! the hooks, and the constants that user space sets.
//!
//! A value is `repr(C)` and made of integers, so both sides see the same bytes. The kernel program
//! itself is `src/bin/sched.rs`.

#![no_std]
#![expect(clippy::inline_always, reason = "BPF functions are inlined into their program")]

mod record;

pub use record::{
    birth::{BIRTH_PATH, BIRTHS_BYTES, CgroupBirth},
    cgroup::{
        CgroupMeta, CgroupRow, CgroupState, CgroupTotals, FIRST_SLOT, JOURNAL, MAX_SLOTS,
        SLOT_OTHER, SLOT_REMOVED, SLOT_ROOT, TABLE,
    },
    counters::Counters,
    cpu::{CpuEntry, CpuRecord, Mode, Reason, Totals},
    wait::{WAIT_SLOTS, wait_slot, wait_slot_of_index},
};

/// Name of the map of records: an array with a [`CpuEntry`] for each CPU number, which user space maps.
pub const MAP: &str = "CPU";

/// Name of the map of rows: an array with a [`CgroupRow`] for each CPU number and slot, which user space
/// maps.
pub const CGROUP_ROWS: &str = "CGROUP_ROWS";

/// Name of the map of slots: an array with a [`CgroupMeta`] for each, which user space maps.
pub const CGROUP_META: &str = "CGROUP_META";

/// Name of the hash map of slots by cgroup, which user space does not read.
pub const CGROUP_SLOTS: &str = "CGROUP_SLOTS";

/// Name of the stack of free slots, the only map that user space writes once the program is attached.
pub const CGROUP_FREE: &str = "CGROUP_FREE";

/// Name of the ring buffer that wakes user space when slots are taken, and when their cgroups are removed.
pub const CGROUP_EVENTS: &str = "CGROUP_EVENTS";

/// Name of the ring buffer of [`CgroupBirth`]s.
pub const CGROUP_BIRTHS: &str = "CGROUP_BIRTHS";

/// Name of the array with one word: until when two versions of the program may be attached, in nanoseconds of
/// `CLOCK_MONOTONIC`. User space writes it when one takes over the maps of the other.
pub const HANDOVER: &str = "HANDOVER";

/// The maps that a later version of the program can take over.
pub const SHARED_MAPS: [&str; 8] = [
    MAP,
    CGROUP_ROWS,
    CGROUP_META,
    CGROUP_SLOTS,
    CGROUP_FREE,
    CGROUP_EVENTS,
    CGROUP_BIRTHS,
    HANDOVER,
];

/// Number of the meaning of what is in [`SHARED_MAPS`]. Raise it with each change that neither the size nor
/// the place of a field shows, so that no version of the program takes over what it would misread.
pub const MEANING: u32 = 1;

/// Name of the hook at which new cgroups are seen, a BTF tracepoint, and of the program attached to it.
pub const BIRTH_HOOK: &str = "cgroup_mkdir";

/// Name of the hook at which renamed cgroups are seen, a BTF tracepoint, and of the program attached to it.
pub const RENAME_HOOK: &str = "cgroup_rename";

/// Name of the hook at which removed cgroups are seen, a BTF tracepoint, and of the program attached to it.
pub const REMOVAL_HOOK: &str = "cgroup_rmdir";

/// Name of the hook at which CPUs switch tasks, a BTF tracepoint, and of the program attached to it.
pub const HOOK: &str = "sched_switch";

/// Name of aya-log's own level, a variable of the object: 0 removes every log statement.
pub const LOG_LEVEL: &str = "AYA_LOG_LEVEL";

/// Declares the constants of the kernel program that user space sets before loading.
macro_rules! globals {
    ($($(#[doc = $doc:literal])* $name:ident)*) => {
        /// A constant of the kernel program that user space sets before loading.
        ///
        /// Offsets are in bytes from the start of the struct, as the running kernel's BTF gives them.
        /// Switches are 0 or 1; the verifier removes the code that a switch turns off.
        ///
        /// In the object, each is the immediate of one or more `mov` instructions, and holds
        /// [`Global::placeholder`] until user space writes the value over it. An object in which one is
        /// left cannot be loaded: no kernel struct has a field at such an offset.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Global {
            $($(#[doc = $doc])* $name),*
        }

        impl Global {
            /// Every constant.
            pub const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

globals! {
    /// Offset of `task_struct.flags`.
    TaskFlags
    /// Offset of `task_struct.prio`.
    TaskPrio
    /// Offset of `task_struct.policy`.
    TaskPolicy
    /// Offset of `task_struct.__state` (`state` before 5.14).
    TaskState
    /// Offset of `task_struct.sched_info.last_queued`.
    TaskLastQueued
    /// Offset of `task_struct.se.cfs_rq`.
    TaskCfsRq
    /// Offset of `cfs_rq.rq`.
    CfsRqRq
    /// Offset of `rq.clock`.
    RqClock
    /// Switch: the hook passes `prev_state` (5.18 and later).
    HookHasPrevState
    /// Switch: count context switches by reason.
    CountSwitches
    /// Switch: measure run-queue waits.
    MeasureWaits
    /// Switch: keep the sums that show in which order stores were seen; needed where the CPU reorders
    /// them.
    KeepChecks
    /// Switch: charge cgroups.
    CountCgroups
    /// Switch: the program is attached to [`REMOVAL_HOOK`].
    HasRemovalHook
    /// Number of slots for cgroups.
    CgroupSlots
    /// Number of the hierarchy whose cgroups are accounted for.
    HierarchyId
    /// Offset of `task_struct.cgroups`.
    TaskCgroups
    /// Offset of the pointer to the cgroup's `cgroup_subsys_state` in `css_set`: of `dfl_cgrp`, which
    /// begins with it, or of `subsys[cpu_cgrp_id]`.
    CssSetCss
    /// Offset of `cgroup_subsys_state.serial_nr`.
    CssSerial
    /// Offset of `cgroup_subsys_state.cgroup`.
    CssCgroup
    /// Offset of `cgroup.self.flags`.
    CgroupFlags
    /// Offset of `cgroup.kn`.
    CgroupNode
    /// Offset of `cgroup.root`.
    CgroupRoot
    /// Offset of `cgroup_root.hierarchy_id`.
    CgroupRootHierarchy
    /// Offset of `kernfs_node.id`.
    KernfsNodeId
}

impl Global {
    /// The immediate that stands in the object for the value. It is positive, because the instruction
    /// extends the sign of its 32 bits.
    #[inline(always)]
    pub const fn placeholder(self) -> i32 {
        0x5ced_0000 + self as i32
    }
}
