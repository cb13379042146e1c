//! Groups of CPUs as they are saved for the next process.

use serde::{Deserialize, Serialize};

use super::Generation;
use crate::{accounting::SavedGroups, exposition::Labels, labels::LabelSets};

/// What must be known of a generation to continue its series.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedSeries<L> {
    groups: SavedGroups<L>,
    latency: SavedGroups<L>,
}

impl Generation {
    /// What to save. Series that are not shown at present may be left out if there is no room for them.
    pub fn saved(&self, with_retired: bool) -> SavedSeries<&Labels> {
        SavedSeries {
            groups: self.labels.groups.saved(with_retired),
            latency: self.labels.latency.saved(with_retired),
        }
    }
}

/// [`SavedSeries`] as they are read.
pub type SavedByLabels = SavedSeries<Labels>;

impl SavedByLabels {
    /// A generation that only serves to be [continued from](Generation::continue_from); `None` if it is not
    /// what this version saves.
    pub fn restore(self) -> Option<Generation> {
        let (groups, latency) = (self.groups.restore()?, self.latency.restore()?);
        let labels = LabelSets { groups, latency, ..LabelSets::default() };
        Some(Generation { labels, ..Generation::default() })
    }
}
