//! Turns the kernel program's records into exact numbers for CPUs and groups of CPUs.
//!
//! Pure: it names only std and the shared record.

mod continuity;
mod features;
mod groups;
mod snapshot;

pub use features::{CONTEXT_SWITCHES, Feature, RUNQUEUE_LATENCY, is_on};
pub use groups::{Group, Groups};
pub use sched_exporter_ebpf::{CgroupTotals, Counters, Totals};
pub use snapshot::{Cpu, Snapshot, close_open_interval, is_whole};
