//! What the kernel program and user space share: the record of each CPU, the names of the map and
//! the hook, and the constants that user space sets.
//!
//! A record is `repr(C)` and made of `u64` alone, so both sides see the same bytes. The kernel program
//! itself is `src/bin/sched.rs`.

#![no_std]
#![expect(clippy::inline_always, reason = "BPF functions are inlined into their program")]

mod record;

pub use record::{
    cgroup::CgroupTotals,
    counters::Counters,
    cpu::{CpuEntry, CpuRecord, Mode, Reason, Totals},
    wait::{WAIT_SLOTS, wait_slot, wait_slot_of_index},
};

/// Name of the map of records: an array with a [`CpuEntry`] for each CPU number, which user space maps.
pub const MAP: &str = "CPU";

/// Name of the hook, a BTF tracepoint, and of the program attached to it.
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
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

impl Global {
    /// The immediate that stands in the object for the value. It is positive, because the instruction
    /// extends the sign of its 32 bits.
    #[inline(always)]
    pub const fn placeholder(self) -> i32 {
        0x5ced_0000 + self as i32
    }
}
