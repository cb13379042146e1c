//! The groups of CPUs whose series have the same labels.

use std::collections::HashMap;

use super::{
    Expansion, LabelSets, Set, Violation,
    limits::{SeriesCounts, limit_series},
};
use crate::{
    accounting::Groups,
    config::{CPU, Config, LabelsOn},
    exposition,
};

/// Makes the groups of CPUs whose series have the same labels.
pub fn group(
    config: &Config,
    expansion: Expansion,
    series: SeriesCounts,
) -> (LabelSets, Vec<Violation>) {
    let Expansion { host, cpus, mut violations } = expansion;
    let host = host.unwrap_or_default().set;
    let sets = cpus.into_iter().map(|(cpu, labels)| (labels.set, vec![cpu]));
    let mut groups = merge(sets.collect());
    let mut latency = groups.clone();
    if !config.runqueue_latency().per_cpu() {
        for (set, _) in &mut latency {
            set.remove(CPU);
        }
        latency = merge(latency);
    }
    let buckets = config.runqueue_latency().bucket_exponents().len();
    violations.extend(limit_series(
        config.limits(),
        series,
        buckets,
        &host,
        &mut groups,
        &mut latency,
    ));
    let finish = |groups: Vec<(Set, Vec<u32>)>| {
        Groups::new(groups.into_iter().map(|(set, cpus)| (pairs(&set), cpus)))
    };
    let shows_info = config.labels_on() != LabelsOn::Series && !host.is_empty();
    let sets = LabelSets {
        target_info: shows_info.then(|| pairs(&host)),
        groups: finish(groups),
        latency: finish(latency),
        without_cpu: config.without().contains(CPU),
    };
    (sets, violations)
}

/// The pairs of a set by name, and the CPU at last.
fn pairs(set: &Set) -> exposition::Labels {
    let cpu = set.get_key_value(CPU);
    let others = set.iter().filter(|(name, _)| *name != CPU);
    others.chain(cpu).map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// Sets with their CPUs, equal sets made one, in the order of their first CPUs.
pub(super) fn merge(sets: Vec<(Set, Vec<u32>)>) -> Vec<(Set, Vec<u32>)> {
    let mut merged: Vec<(Set, Vec<u32>)> = Vec::with_capacity(sets.len());
    let mut places = HashMap::new();
    for (set, cpus) in sets {
        let place = *places.entry(set.clone()).or_insert(merged.len());
        match merged.get_mut(place) {
            Some((_, known)) => known.extend(cpus),
            None => merged.push((set, cpus)),
        }
    }
    for (_, cpus) in &mut merged {
        cpus.sort_unstable();
    }
    merged
}
