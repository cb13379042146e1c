//! Limits the number of series.

use std::mem;

use super::{
    OTHER, Set, Violation, ViolationKind,
    groups::{CpuGroup, merge},
};
use crate::config::Limits;

/// Folds groups together if they have too many series, and returns the violation.
///
/// For 4 CPUs with 11 series each in `groups` and 17 in `latency`, a limit of 95 leaves 48 series for
/// `groups`, which has 44, and 51 for `latency`: there, CPUs 0 and 1 keep theirs, and 2 and 3 share one
/// set.
pub(super) fn limit_series(
    limits: &Limits,
    series: SeriesCounts,
    buckets: usize,
    host: &Set,
    groups: &mut Vec<CpuGroup>,
    latency: &mut Vec<CpuGroup>,
) -> Option<Violation> {
    let of_group = series.totals;
    let of_latency = series.latency(buckets);
    let max = limits.series;
    let wanted_groups = groups.len() * of_group;
    let wanted_latency = latency.len() * of_latency;
    let wanted = wanted_groups + wanted_latency;
    if wanted <= max {
        return None;
    }
    // Each may use half of the limit, plus whatever the other leaves of its half.
    let for_groups = max - wanted_latency.min(max / 2);
    let for_latency = max - wanted_groups.min(max / 2);
    fold(host, groups, (for_groups / of_group).max(1));
    fold(host, latency, (for_latency / of_latency).max(1));
    Some(Violation {
        kind: ViolationKind::Series,
        key: "limits.series".into(),
        message: format!(
            "there are {wanted} series, {max} at most; sum over labels with without, or raise the \
             limit"
        ),
    })
}

/// The number of series of one group of CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesCounts {
    /// Series of totals.
    pub totals: usize,
    /// Series of the run-queue latency histogram, besides its configured buckets.
    pub latency: usize,
}

impl SeriesCounts {
    /// Series of the run-queue latency histogram with this number of configured buckets.
    pub const fn latency(self, buckets: usize) -> usize {
        buckets + self.latency
    }
}

/// Keeps at most `max` groups. The last one absorbs the rest, and keeps only labels equal to the
/// host's; the others become `other`.
fn fold(host: &Set, groups: &mut Vec<CpuGroup>, max: usize) {
    if groups.len() <= max {
        return;
    }
    let excess = groups.split_off(max - 1);
    let mut folded = CpuGroup { set: Set::new(), cpus: Vec::new() };
    for CpuGroup { set, cpus } in excess {
        for (name, value) in set {
            let value = if host.get(&name) == Some(&value) { value } else { OTHER.into() };
            let known = folded.set.entry(name).or_insert_with(|| value.clone());
            if *known != value {
                OTHER.clone_into(known);
            }
        }
        folded.cpus.extend(cpus);
    }
    groups.push(folded);
    // The folded group may equal one that was kept.
    *groups = merge(mem::take(groups));
}
