//! Which labels each series has: what the configuration says, made for this machine. Pure.
//!
//! ```text
//! labels ─> relabel_configs ─> host labels ┬─> target_info
//!                                          └─> each CPU: + cpu, cpus, cpu_relabel_configs
//!                                                └─> without ─> equal sets are one group
//! ```

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    config::{Attach, Config},
    exposition,
    relabel::{self, Rule},
    sources::Values,
    topology::{Place, Topology},
};

/// Label values by name. None is empty.
pub type Set = BTreeMap<String, String>;

/// The label that a CPU's set begins with, beside those of the host.
pub const CPU: &str = "cpu";

/// Labels that some of the series have of their own.
pub const RESERVED: [&str; 3] = ["le", "mode", "reason"];

/// The value of a label that has more values than it may.
pub const OTHER: &str = "other";

/// The labels of all series, ready to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSets {
    /// The pairs of `target_info`; none where that is not shown.
    pub target_info: Option<exposition::Labels>,
    /// The sets of the scheduler's series.
    pub groups: Vec<Group>,
    /// Those of the run-queue latency, where it has fewer.
    pub latency: Option<Vec<Group>>,
    /// Labels that had more values than they may, with how many of them became [`OTHER`].
    pub exceeded: BTreeMap<String, usize>,
}

/// CPUs that share a set of labels. Their values are summed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The pairs.
    pub labels: exposition::Labels,
    /// The CPUs, ascending.
    pub cpus: Vec<u32>,
}
