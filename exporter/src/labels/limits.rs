//! Limits the number of series.

use std::mem;

use super::{
    OTHER, Set, Violation, ViolationKind,
    groups::{CpuGroup, merge},
};
use crate::config::Limits;

/// Folds groups together, and lowers the number of sets of cgroups, if they have too many series; returns
/// the violation.
///
/// For 4 CPUs with 11 series each in `groups` and 17 in `latency`, no cgroups and a limit of 95, this
/// leaves 48 series for `groups`, which has 44, and 51 for `latency`: there, CPUs 0 and 1 keep theirs, and
/// 2 and 3 share one set.
pub(super) fn limit_series(
    limits: &Limits,
    series: SeriesCounts,
    buckets: usize,
    host: &Set,
    groups: &mut Vec<CpuGroup>,
    latency: &mut Vec<CpuGroup>,
    cgroup_sets: Option<&mut usize>,
) -> Option<Violation> {
    let of_group = series.totals;
    let of_latency = series.latency(buckets);
    let max = limits.series;
    let wanted_groups = groups.len() * of_group;
    let wanted_latency = latency.len() * of_latency;
    let wanted_cpus = wanted_groups + wanted_latency;
    let wanted_sets = cgroup_sets.as_deref().map_or(0, |sets| series.cgroups(*sets));
    let wanted = wanted_cpus + wanted_sets;
    if wanted <= max {
        return None;
    }
    let (for_cpus, for_sets) = share(max, wanted_cpus, wanted_sets);
    let (for_groups, for_latency) = share(for_cpus, wanted_groups, wanted_latency);
    fold(host, groups, (for_groups / of_group).max(1));
    fold(host, latency, (for_latency / of_latency).max(1));
    if let Some(sets) = cgroup_sets {
        let fitting = for_sets.checked_div(series.cgroup).unwrap_or(usize::MAX);
        *sets = (*sets).min(fitting.saturating_sub(1));
    }
    Some(Violation {
        kind: ViolationKind::Series,
        key: "limits.series".into(),
        message: format!(
            "there are {wanted} series, {max} at most; sum over labels with without, lower \
             limits.cgroups, or raise the limit"
        ),
    })
}

/// Shares `max` between two: each may use half, plus whatever the other leaves of its half.
fn share(max: usize, wanted_first: usize, wanted_second: usize) -> (usize, usize) {
    (max - wanted_second.min(max / 2), max - wanted_first.min(max / 2))
}

/// The number of series of one set of labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesCounts {
    /// Series of totals, for a group of CPUs.
    pub totals: usize,
    /// Series of the run-queue latency histogram of a group of CPUs, besides its configured buckets.
    pub latency: usize,
    /// Series of a set of cgroups, some of which have a quota.
    pub cgroup: usize,
}

impl SeriesCounts {
    /// Series of the run-queue latency histogram with this number of configured buckets.
    pub const fn latency(self, buckets: usize) -> usize {
        buckets + self.latency
    }

    /// Series of all cgroups, with this number of sets besides `other`.
    pub const fn cgroups(self, sets: usize) -> usize {
        (sets + 1) * self.cgroup
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
