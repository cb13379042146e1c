//! Prepares generations: the configuration applied to this machine at one moment, for scrapes to use.
//! Pure. May name `labels`, `config`, `expr`, `cpu`, `accounting` and `exposition`.

mod inputs;
mod outcome;
mod saved;

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::{
    accounting::Snapshot,
    config::Config,
    cpu::topology::Topology,
    exposition,
    expr::values::Values,
    labels::{self, LabelSets, SeriesCounts, Violation},
};

pub use inputs::Inputs;
pub use outcome::ReloadOutcome;
pub use saved::{SavedByLabels, SavedSeries};

/// A configuration in use, with everything that can be prepared before a scrape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    /// 1 at start, incremented by each replacement.
    pub number: u64,
    /// SHA-256 of the file, in lowercase hex.
    pub sha256: String,
    /// The labels of all series.
    pub labels: LabelSets,
    /// The buckets of run-queue latency, ascending: `i`, for a bound of `2^(i/8)` seconds, and its `le`.
    pub bounds: Vec<(i32, String)>,
}

/// The current generation, replaced by reloads.
pub type Current = Arc<ArcSwap<Generation>>;

impl Generation {
    /// Applies a configuration to this machine, as generation 1. Also returns the violations.
    pub fn new(
        config: &Config,
        sha256: &str,
        values: &Values,
        topology: &Topology,
        series: SeriesCounts,
    ) -> (Self, Vec<Violation>) {
        let expansion = labels::expand(config, values, topology, false);
        let (labels, violations) = labels::group(config, expansion, series);
        let indices = config.runqueue_latency().bucket_indices();
        let bounds = indices.iter().map(|index| (*index, exposition::le(*index)));
        let generation =
            Self { number: 1, sha256: sha256.into(), labels, bounds: bounds.collect() };
        (generation, violations)
    }

    /// Continues every series from its value under `old` at `snapshot`. `old` must not be rendered after
    /// this.
    pub fn continue_from(&mut self, old: &Self, snapshot: &Snapshot) {
        self.labels.groups.continue_from(&old.labels.groups, snapshot);
        self.labels.latency.continue_from(&old.labels.latency, snapshot);
    }
}
