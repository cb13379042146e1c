//! Which labels each series has: what the configuration asks for, made for this machine. Pure.
//!
//! ```text
//! labels ─> relabel_configs ─> the host's ┬─> target_info
//!                                         └─> + cpu, cpus ─> cpu_relabel_configs ─> each CPU's
//!                                               ─> without ─> equal sets are one group
//! ```
//!
//! What does not fit, as a name that no label can have, is left out or becomes `other`, so that no
//! time is lost by it; sets that are equal then are summed like any others.

use std::{collections::BTreeMap, fmt};

use crate::{accounting::Groups, exposition};

mod expand;
mod limits;
mod series;

pub use expand::expand;
pub use limits::SeriesCounts;
pub use series::group;

/// Label values by name. None is empty.
pub type Set = BTreeMap<String, String>;

/// The value in place of values that are too long or too many.
pub const OTHER: &str = "other";

/// The labels of all series, ready to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSets {
    /// The pairs of `target_info`; none where that is not shown.
    pub target_info: Option<exposition::Labels>,
    /// The sets of the scheduler's series.
    pub groups: Groups<exposition::Labels>,
    /// Those of run-queue latency, which may be summed where the others are not.
    pub latency: Groups<exposition::Labels>,
    /// Whether what the exporter says of CPUs is summed over them too.
    pub without_cpu: bool,
}

impl LabelSets {
    /// Whether all series have the same labels and CPUs as those of `other`.
    pub fn is_like(&self, other: &Self) -> bool {
        self.target_info == other.target_info
            && self.without_cpu == other.without_cpu
            && self.groups.is_like(&other.groups)
            && self.latency.is_like(&other.latency)
    }
}

/// Why a label can't be as the configuration asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ViolationKind {
    /// A template gives no text with the values that there are.
    Template,
    /// Rules make a name that no label can have, or that is taken.
    Name,
    /// A set has too many labels.
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
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Template,
        Self::Name,
        Self::Labels,
        Self::NameBytes,
        Self::ValueBytes,
        Self::ValuesPerLabel,
        Self::Series,
    ];

    /// As the label `reason` has it: the limit's own name, where there is one.
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

/// A label that can't be as the configuration asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Why.
    pub kind: ViolationKind,
    /// The key of the configuration that gives it, or the limit.
    pub key: String,
    /// What is wrong, and what to do.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

/// A set of labels, and where each has its value from where that is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// The values.
    pub set: Set,
    /// By name, the key of the configuration that gave the value.
    pub origins: BTreeMap<String, String>,
}

/// The labels of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expansion {
    /// Those of the host; none where the rules drop it, and with it all series.
    pub host: Option<Labels>,
    /// Those on the series of each CPU that the rules keep, ascending.
    pub cpus: Vec<(u32, Labels)>,
    /// What does not fit.
    pub violations: Vec<Violation>,
}

#[cfg(test)]
mod tests;
