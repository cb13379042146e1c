//! CPUs that share a set of labels.

use std::collections::HashMap;

use super::Set;

/// CPUs with the same labels, which share one set of series.
#[derive(Clone)]
pub(super) struct CpuGroup {
    pub(super) set: Set,
    /// The CPUs, ascending.
    pub(super) cpus: Vec<u32>,
}

/// Merges the groups with equal labels, in the order of their first occurrence.
pub(super) fn merge(groups: Vec<CpuGroup>) -> Vec<CpuGroup> {
    let mut merged: Vec<CpuGroup> = Vec::with_capacity(groups.len());
    let mut index_of_set = HashMap::new();
    for CpuGroup { set, cpus } in groups {
        let index = *index_of_set.entry(set.clone()).or_insert(merged.len());
        match merged.get_mut(index) {
            Some(group) => group.cpus.extend(cpus),
            None => merged.push(CpuGroup { set, cpus }),
        }
    }
    for group in &mut merged {
        group.cpus.sort_unstable();
    }
    merged
}
