//! The limit of series.

use super::{OTHER, Set, Violation, ViolationKind, series::merge};
use crate::config::Limits;

/// Makes one group of those that are too many.
pub(super) fn limit_series(
    limits: &Limits,
    series: SeriesCounts,
    buckets: usize,
    host: &Set,
    groups: &mut Vec<(Set, Vec<u32>)>,
    latency: &mut Vec<(Set, Vec<u32>)>,
) -> Option<Violation> {
    let (of_group, of_latency) = (series.totals, series.latency(buckets));
    let max = limits.series;
    let wanted = groups.len() * of_group + latency.len() * of_latency;
    if wanted <= max {
        return None;
    }
    // Each has its share, and what the other leaves of its own.
    let least = |groups: usize, each: usize| (groups * each).min(max / 2);
    let (for_groups, for_latency) =
        (max - least(latency.len(), of_latency), max - least(groups.len(), of_group));
    fold(host, groups, (for_groups / of_group).max(1));
    fold(host, latency, (for_latency / of_latency).max(1));
    Some(Violation {
        kind: ViolationKind::Series,
        key: "limits.series".into(),
        message: format!(
            "there are {wanted} series, {max} at most; sum over labels by without, or raise the \
             limit"
        ),
    })
}

/// How many series a set of labels has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesCounts {
    /// Series of totals in each group of CPUs.
    pub totals: usize,
    /// Series of a run-queue latency histogram, besides its configured buckets.
    pub latency: usize,
}

impl SeriesCounts {
    /// Series of a run-queue latency histogram with this number of configured buckets.
    pub const fn latency(self, buckets: usize) -> usize {
        buckets + self.latency
    }
}

/// Keeps so many groups, of which the last takes all that are over. Of their labels the host's stay.
fn fold(host: &Set, groups: &mut Vec<(Set, Vec<u32>)>, max: usize) {
    if groups.len() <= max {
        return;
    }
    let over = groups.split_off(max - 1);
    let mut folded = (Set::new(), Vec::new());
    for (set, cpus) in over {
        for (name, value) in set {
            let value = if host.get(&name) == Some(&value) { value } else { OTHER.into() };
            let known = folded.0.entry(name).or_insert_with(|| value.clone());
            if *known != value {
                *known = OTHER.into();
            }
        }
        folded.1.extend(cpus);
    }
    groups.push(folded);
    *groups = merge(std::mem::take(groups));
}
