//! Turns the kernel program's records into exact numbers for CPUs, cgroups and groups of them.
//!
//! Pure: it names only std, serde and the shared record.

mod cgroups;
mod continuity;
mod features;
mod groups;
mod newcomers;
mod quotas;
mod ranking;
mod reader;
mod saved;
mod sets;
mod snapshot;

pub use cgroups::{CgroupReading, CgroupsSnapshot, Collector};
pub use features::{CGROUPS, CONTEXT_SWITCHES, Feature, RUNQUEUE_LATENCY, is_on};
pub use groups::{Group, Groups, SavedGroups};
pub use quotas::{QuotaCounts, QuotaReading, Quotas};
pub use reader::{Memory, read_cpu};
pub use sched_exporter_ebpf::{CgroupTotals, Counters, Totals};
pub use sets::{Budget, CgroupSets, CgroupValues, SavedSets, SavedShown, SeriesValues, SetValues};
pub use snapshot::{Cpu, Snapshot, Stores, close_open_interval, is_whole};
