//! What a scrape is rendered under: a configuration, made for this machine at one moment. Pure.

mod inputs;
mod outcome;

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

/// A configuration in use, with all that can be rendered before the scrape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    /// 1 at start, one more with each that followed.
    pub number: u64,
    /// SHA-256 of the file, in lowercase hex.
    pub sha256: String,
    /// The labels of all series.
    pub labels: LabelSets,
    /// The buckets of run-queue latency: exponent and `le`, ascending.
    pub bounds: Vec<(u32, String)>,
}

/// The generation that is served now.
pub type Current = Arc<ArcSwap<Generation>>;

impl Generation {
    /// Makes the first generation of a configuration, and says what of it does not fit the machine.
    pub fn new(
        config: &Config,
        sha256: &str,
        values: &Values,
        topology: &Topology,
        series: SeriesCounts,
    ) -> (Self, Vec<Violation>) {
        let expansion = labels::expand(config, values, topology, false);
        let (labels, violations) = labels::group(config, expansion, series);
        let exponents = config.runqueue_latency().bucket_exponents();
        let bounds = exponents.iter().map(|exponent| (*exponent, exposition::le(*exponent)));
        let generation =
            Self { number: 1, sha256: sha256.into(), labels, bounds: bounds.collect() };
        (generation, violations)
    }

    /// Makes every series go on where it is under `old` at the instant of the snapshot. No scrape
    /// may be rendered under `old` any later.
    pub fn continue_from(&mut self, old: &Self, snapshot: &Snapshot) {
        self.labels.groups.continue_from(&old.labels.groups, snapshot);
        self.labels.latency.continue_from(&old.labels.latency, snapshot);
    }
}
