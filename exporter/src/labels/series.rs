//! Groups CPUs whose series have the same labels.

use super::{
    CgroupLabeller, Expansion, LabelSets, Set, Violation,
    groups::{CpuGroup, merge},
    limits::{SeriesCounts, limit_series},
};
use crate::{
    accounting::Groups,
    config::{CPU, Config, LabelsOn},
    exposition,
};

/// Groups the CPUs with equal labels, within the limit on series.
pub fn group(
    config: &Config,
    expansion: Expansion,
    series: SeriesCounts,
) -> (LabelSets, Vec<Violation>) {
    let Expansion { host, cpus, mut cgroups, mut violations } = expansion;
    let host = host.unwrap_or_default().set;
    let singles =
        cpus.into_iter().map(|(cpu, labels)| CpuGroup { set: labels.set, cpus: vec![cpu] });
    let mut groups = merge(singles.collect());
    let mut latency = groups.clone();
    if !config.runqueue_latency().per_cpu() {
        for group in &mut latency {
            group.set.remove(CPU);
        }
        latency = merge(latency);
    }
    let buckets = config.runqueue_latency().bucket_indices().len();
    violations.extend(limit_series(
        config.limits(),
        series,
        buckets,
        &host,
        &mut groups,
        &mut latency,
        cgroups.as_mut().map(CgroupLabeller::max_sets_mut),
    ));
    let shows_info = config.labels_on() != LabelsOn::Series && !host.is_empty();
    let sets = LabelSets {
        target_info: shows_info.then(|| pairs(&host)),
        groups: finish(groups),
        latency: finish(latency),
        without_cpu: config.without().contains(CPU),
        cgroups,
    };
    (sets, violations)
}

fn finish(groups: Vec<CpuGroup>) -> Groups<exposition::Labels> {
    Groups::new(groups.into_iter().map(|CpuGroup { set, cpus }| (pairs(&set), cpus)))
}

/// Label pairs sorted by name, `cpu` last.
fn pairs(set: &Set) -> exposition::Labels {
    let cpu = set.get_key_value(CPU);
    let others = set.iter().filter(|(name, _)| *name != CPU);
    others.chain(cpu).map(|(name, value)| (name.as_str(), value.as_str())).collect()
}
