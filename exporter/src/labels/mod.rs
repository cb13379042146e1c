//! Decides which labels each series has, from the configuration and this machine.
//!
//! Pure. May name `expr`, `config`, `cpu`, `accounting` and the `Labels` of `exposition`.
//!
//! ```text
//! labels ─> relabel_configs ─> the host's ┬─> target_info
//!                                         └─> + cpu, cpus ─> cpu_relabel_configs ─> each CPU's
//!                                               ─> without ─> equal sets are one group
//!                         + cgroups.labels ─> cgroups.relabel_configs ─> each cgroup's, or `other`
//! ```
//!
//! Labels that violate a limit, or have an invalid name, are dropped or become `other` before CPUs are
//! grouped: CPUs whose labels are then equal are summed, so no time is lost.

use std::{collections::BTreeMap, fmt};

use crate::{accounting::Groups, exposition};

mod cgroups;
mod expand;
mod fit;
mod groups;
mod limits;
mod series;
mod violations;

pub use cgroups::{CgroupBatch, CgroupLabeller, CgroupsByLabels};
pub use expand::expand;
pub use limits::SeriesCounts;
pub use series::group;
pub use violations::Violations;

/// Label values by name. Only those of cgroups can be empty, because every series of theirs has the same labels.
pub type Set = BTreeMap<String, String>;

/// Replaces values that are too long or too many.
pub const OTHER: &str = "other";

/// The labels of all series, ready to be rendered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSets {
    /// The labels of `target_info`, if that is exposed.
    pub target_info: Option<exposition::Labels>,
    /// The groups of CPUs that share series of times and switches.
    pub groups: Groups<exposition::Labels>,
    /// The groups of CPUs that share a histogram of run-queue latency. They may be larger.
    pub latency: Groups<exposition::Labels>,
    /// Whether the exporter's own series about CPUs are summed over all CPUs.
    pub without_cpu: bool,
    /// What labels cgroups. `None` if the rules drop the host.
    pub cgroups: Option<CgroupLabeller>,
}

impl LabelSets {
    /// Whether all series have the same labels and CPUs as in `other`.
    pub fn is_like(&self, other: &Self) -> bool {
        self.target_info == other.target_info
            && self.without_cpu == other.without_cpu
            && self.cgroups == other.cgroups
            && self.groups.is_like(&other.groups)
            && self.latency.is_like(&other.latency)
    }
}

/// Why labels are dropped or replaced on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ViolationKind {
    /// A template cannot be rendered with the current values.
    Template,
    /// Rules produce an invalid or reserved name.
    Name,
    /// A series has too many labels.
    Labels,
    /// A name is too long.
    NameBytes,
    /// A value is too long.
    ValueBytes,
    /// A label has too many values.
    ValuesPerLabel,
    /// There are too many series.
    Series,
}

impl ViolationKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Template,
        Self::Name,
        Self::Labels,
        Self::NameBytes,
        Self::ValueBytes,
        Self::ValuesPerLabel,
        Self::Series,
    ];

    /// The value of the label `reason`: for a limit, its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Template => "template",
            Self::Name => "name",
            Self::Labels => "labels",
            Self::NameBytes => "name_bytes",
            Self::ValueBytes => "value_bytes",
            Self::ValuesPerLabel => "values_per_label",
            Self::Series => "series",
        }
    }
}

/// Labels that must be dropped or replaced on this machine, although the configuration is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The kind of violation.
    pub kind: ViolationKind,
    /// The configuration key of the label or of the limit.
    pub key: String,
    /// What is wrong, and how to fix it.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

/// A set of labels, with the origin of each if they are traced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// The values by name.
    pub set: Set,
    /// The configuration key that set each value, by name. Empty without tracing.
    pub origins: BTreeMap<String, String>,
}

/// The labels of the host and its CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expansion {
    /// The labels of the host. `None` if the rules drop it, and with it all series.
    pub host: Option<Labels>,
    /// The CPUs that the rules keep, ascending, with the labels of their series.
    pub cpus: Vec<(u32, Labels)>,
    /// What labels cgroups. `None` if the rules drop the host.
    pub cgroups: Option<CgroupLabeller>,
    /// The labels that were dropped or replaced, and why.
    pub violations: Vec<Violation>,
}

#[cfg(test)]
mod tests;
