//! Computes the labels of the host and of each CPU, within the limits of the configuration.

use std::{
    collections::{BTreeMap, BTreeSet},
    slice,
};

use super::{
    CgroupLabeller, Expansion, Labels, OTHER, Set, ViolationKind, Violations,
    fit::{LabelLimit, Owner, fit, limit_labels},
};
use crate::{
    config::{CPU, Config, CpuMatch, LabelsOn},
    cpu::topology::{CpuLocation, Topology},
    expr::{
        relabel::{self, Rule, TooLarge},
        template::Template,
        values::Values,
    },
};

/// Computes the labels of the host and of each CPU, and prepares those of cgroups. With `trace` it also
/// records the origin of each label, which takes longer.
pub fn expand(config: &Config, values: &Values, topology: &Topology, trace: bool) -> Expansion {
    let mut expander = Expander { config, values, trace, violations: Violations::default() };
    let Some(unlimited_host) = expander.host() else {
        return Expansion { violations: expander.violations.take(), ..Expansion::default() };
    };
    let mut host = unlimited_host.clone();
    expander.fit("the host", None, &mut host);
    // The templates and rules of CPUs see all labels of the host, including those that start with
    // `__` and those that exceed a limit.
    let mut cpus = expander.cpus(&unlimited_host, topology);
    expander.limit_values(&mut cpus);
    if config.labels_on() == LabelsOn::TargetInfo {
        for (_, Labels { set, origins }) in &mut cpus {
            set.retain(|name, value| host.set.get(name) != Some(value));
            origins.retain(|name, _| set.contains_key(name));
        }
    }
    let violations = expander.violations.take();
    // With the violations so far, so that those of the host's labels are not reported again.
    let seen = expander.violations;
    let cgroups = CgroupLabeller::new(config, values, unlimited_host.set, &host.set, seen);
    Expansion { host: Some(host), cpus, cgroups: Some(cgroups), violations }
}

/// The state of an expansion.
struct Expander<'a> {
    config: &'a Config,
    values: &'a Values,
    trace: bool,
    violations: Violations,
}

impl Expander<'_> {
    /// Computes the labels of the host, including those that start with `__`. Returns `None` if a rule
    /// drops them.
    fn host(&mut self) -> Option<Labels> {
        let mut host = Labels::default();
        self.render("labels", self.config.labels(), &Set::new(), &mut host);
        self.relabel("relabel_configs", self.config.relabel_configs(), host)
    }

    /// Computes the labels of each CPU that the rules keep.
    fn cpus(&mut self, host: &Labels, topology: &Topology) -> Vec<(u32, Labels)> {
        let config = self.config;
        // The labels of an entry are the same for all its CPUs.
        let mut entries = Vec::new();
        for (index, entry) in config.cpus().iter().enumerate() {
            let mut labels = Labels::default();
            let key = format!("cpus[{index}].labels");
            self.render(&key, &entry.labels, &host.set, &mut labels);
            entries.push((&entry.matches, labels));
        }
        let rules = config.cpu_relabel_configs();
        let mut cpus = Vec::new();
        for (cpu, location) in topology.iter() {
            let mut labels = host.clone();
            self.set(&mut labels, CPU, cpu.to_string(), || "the CPU".into());
            for (selection, of_entry) in &entries {
                if matches(selection, cpu, location) {
                    labels.set.extend(of_entry.set.clone());
                    labels.origins.extend(of_entry.origins.clone());
                }
            }
            if !rules.is_empty() {
                labels.set.extend(meta_labels(cpu, location));
                match self.relabel("cpu_relabel_configs", rules, labels) {
                    Some(relabelled) => labels = relabelled,
                    None => continue,
                }
            }
            labels.set.retain(|name, _| !config.without().contains(name));
            self.fit(&format!("cpu {cpu}"), Some(&host.set), &mut labels);
            cpus.push((cpu, labels));
        }
        cpus
    }

    fn set(&self, labels: &mut Labels, name: &str, value: String, origin: impl Fn() -> String) {
        labels.set.insert(name.into(), value);
        if self.trace {
            labels.origins.insert(name.into(), origin());
        }
    }

    /// Renders templates into labels. If a value is unavailable, the label stays unchanged.
    fn render(
        &mut self,
        section: &str,
        templates: &BTreeMap<String, Template>,
        known: &Set,
        labels: &mut Labels,
    ) {
        for (name, template) in templates {
            let key = || format!("{section}.{name}");
            match template.render(self.values, known) {
                Ok(Some(text)) => self.set(labels, name, text, key),
                Ok(None) => {}
                Err(error) => {
                    self.violations
                        .add(ViolationKind::Template, &key(), name, || error.to_string());
                }
            }
        }
    }

    /// Applies rules. Returns `None` if one of them drops the set. If the rules make it too large,
    /// that is a violation and the set stays unchanged.
    fn relabel(&mut self, list: &str, rules: &[Rule], labels: Labels) -> Option<Labels> {
        let relabelled = if self.trace {
            apply_traced(list, rules, labels.clone())
        } else {
            apply(rules, labels.set.clone())
        };
        relabelled.unwrap_or_else(|error| {
            self.violations.add(ViolationKind::Labels, list, "", || error.to_string());
            Some(labels)
        })
    }

    /// Makes a set valid, within the limits. `host` is `None` for the host's own labels.
    fn fit(&mut self, whose: &str, host: Option<&Set>, labels: &mut Labels) {
        let rules = |name: &str| match host {
            Some(host) if !host.contains_key(name) => "cpu_relabel_configs",
            _ => "relabel_configs",
        };
        let reserved: &[_] = if host.is_none() { &[CPU] } else { &[] };
        let owner = Owner { name: whose, reserved, rules: &rules };
        let limits = self.config.limits();
        fit(&mut labels.set, &owner, limits, &mut self.violations);
        let violations = &mut self.violations;
        let limit =
            LabelLimit { max: limits.labels, is_exempt: &|it| it == CPU, is_first: &|_| true };
        limit_labels(&mut labels.set, &owner, &limit, limits, violations);
        labels.origins.retain(|name, _| labels.set.contains_key(name));
    }

    /// Keeps the first values of each label, up to the limit, and replaces the others. The number of
    /// the CPU is exempt.
    fn limit_values(&mut self, cpus: &mut [(u32, Labels)]) {
        let max = self.config.limits().values_per_label;
        let mut kept_values: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (_, labels) in cpus {
            for (name, value) in labels.set.iter_mut().filter(|(name, _)| *name != CPU) {
                let kept = match kept_values.get_mut(name) {
                    Some(kept) => kept,
                    None => kept_values.entry(name.clone()).or_default(),
                };
                if kept.contains(value) {
                    continue;
                }
                if kept.len() < max {
                    kept.insert(value.clone());
                    continue;
                }
                OTHER.clone_into(value);
                let key = "limits.values_per_label";
                self.violations.add(ViolationKind::ValuesPerLabel, key, name, || {
                    format!("{name} has more than {max} values; reduce them, or raise the limit")
                });
            }
        }
    }
}

/// Applies rules without tracing origins.
fn apply(rules: &[Rule], set: Set) -> Result<Option<Labels>, TooLarge> {
    let set = relabel::apply(rules, set)?;
    Ok(set.map(|set| Labels { set, origins: BTreeMap::new() }))
}

/// Applies rules one by one, and records for each label the last rule that changed its value.
fn apply_traced(list: &str, rules: &[Rule], labels: Labels) -> Result<Option<Labels>, TooLarge> {
    let Labels { mut set, mut origins } = labels;
    for (index, rule) in rules.iter().enumerate() {
        let before = set.clone();
        match relabel::apply(slice::from_ref(rule), set)? {
            Some(after) => set = after,
            None => return Ok(None),
        }
        for (name, value) in &set {
            if before.get(name) != Some(value) {
                origins.insert(name.clone(), format!("{list}[{index}]"));
            }
        }
    }
    Ok(Some(Labels { set, origins }))
}

/// Whether a CPU is among those that an entry of `cpus` selects.
fn matches(selection: &CpuMatch, cpu: u32, location: &CpuLocation) -> bool {
    let (selected, number) = match selection {
        CpuMatch::Cpus(cpus) => (cpus, Some(cpu)),
        CpuMatch::NumaNodes(nodes) => (nodes, location.numa_node),
        CpuMatch::Packages(packages) => (packages, location.package),
        CpuMatch::Clusters(clusters) => (clusters, location.cluster),
        CpuMatch::Isolated => return location.isolated,
    };
    number.is_some_and(|number| selected.binary_search(&number).is_ok())
}

/// The labels that describe a CPU to the rules. Facts that the kernel does not report are left out.
fn meta_labels(cpu: u32, location: &CpuLocation) -> Set {
    let numbers = [
        ("__cpu__", Some(cpu)),
        ("__meta_numa_node", location.numa_node),
        ("__meta_package", location.package),
        ("__meta_core", location.core),
        ("__meta_cluster", location.cluster),
        ("__meta_smt_sibling", location.smt_sibling),
    ];
    let mut labels = Set::new();
    for (name, number) in numbers {
        if let Some(number) = number {
            labels.insert(name.into(), number.to_string());
        }
    }
    labels.insert("__meta_isolated".into(), location.isolated.to_string());
    labels
}
