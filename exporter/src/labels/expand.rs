//! Computes the labels of the host and of each CPU, within the limits of the configuration.

use std::{
    collections::{BTreeMap, BTreeSet},
    slice,
};

use super::{Expansion, Labels, OTHER, Set, Violation, ViolationKind};
use crate::{
    config::{CPU, Config, CpuMatch, LabelsOn, RESERVED},
    cpu::topology::{CpuLocation, Topology},
    expr::{
        relabel::{self, Rule, TooLarge, is_label_name},
        template::Template,
        values::Values,
    },
};

/// Maximum number of violations reported.
const MAX_VIOLATIONS: usize = 20;

/// Computes the labels of the host and of each CPU. With `trace` it also records the origin of each
/// label, which takes longer.
pub fn expand(config: &Config, values: &Values, topology: &Topology, trace: bool) -> Expansion {
    let mut expander =
        Expander { config, values, trace, violations: Vec::new(), reported: BTreeSet::new() };
    let Some(unlimited_host) = expander.host() else {
        return Expansion { host: None, cpus: Vec::new(), violations: expander.violations };
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
    Expansion { host: Some(host), cpus, violations: expander.violations }
}

/// The state of an expansion.
struct Expander<'a> {
    config: &'a Config,
    values: &'a Values,
    trace: bool,
    violations: Vec<Violation>,
    /// The violations so far, by kind, key and label. Each label is reported once.
    reported: BTreeSet<(ViolationKind, String, String)>,
}

impl Expander<'_> {
    fn reject(&mut self, kind: ViolationKind, key: &str, label: &str, message: impl Into<String>) {
        let is_new = self.reported.insert((kind, key.into(), label.into()));
        if is_new && self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(Violation { kind, key: key.into(), message: message.into() });
        }
    }

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
                Err(error) => self.reject(ViolationKind::Template, &key(), name, error.to_string()),
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
            self.reject(ViolationKind::Labels, list, "", error.to_string());
            Some(labels)
        })
    }

    /// Makes a set valid: removes labels whose names are invalid or too long, replaces values that are
    /// too long, and removes labels over the limit. `host` is `None` for the host's own labels.
    fn fit(&mut self, whose: &str, host: Option<&Set>, labels: &mut Labels) {
        relabel::remove_internal(&mut labels.set);
        let limits = self.config.limits();
        let mut removed = Vec::new();
        for (name, value) in &mut labels.set {
            let is_reserved = RESERVED.contains(&name.as_str()) || (host.is_none() && name == CPU);
            if !is_label_name(name) || is_reserved {
                let message = format!(
                    "the rules give {whose} the label {name:?}, which is invalid or reserved; rename \
                     it, or remove it with labeldrop"
                );
                let is_from_host = host.is_none_or(|host| host.contains_key(name));
                let rules = if is_from_host { "relabel_configs" } else { "cpu_relabel_configs" };
                self.reject(ViolationKind::Name, rules, name, message);
                removed.push(name.clone());
            } else if name.len() > limits.name_bytes {
                let (length, max) = (name.len(), limits.name_bytes);
                let message =
                    format!("the name {name} has {length} bytes, {max} at most; shorten it");
                self.reject(ViolationKind::NameBytes, "limits.name_bytes", name, message);
                removed.push(name.clone());
            } else if value.len() > limits.value_bytes {
                let (length, max) = (value.len(), limits.value_bytes);
                let message = format!(
                    "the value of {name} of {whose} has {length} bytes, {max} at most; shorten it, or \
                     raise the limit"
                );
                self.reject(ViolationKind::ValueBytes, "limits.value_bytes", name, message);
                OTHER.clone_into(value);
            }
        }
        let counted = labels.set.keys().filter(|name| !removed.contains(name) && *name != CPU);
        let excess: Vec<_> = counted.skip(limits.labels).cloned().collect();
        if !excess.is_empty() {
            let max = limits.labels;
            let count = max + excess.len();
            let message = format!("{whose} has {count} labels, {max} at most; remove some");
            self.reject(ViolationKind::Labels, "limits.labels", "", message);
            removed.extend(excess);
        }
        for name in removed {
            labels.set.remove(&name);
        }
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
                let message =
                    format!("{name} has more than {max} values; reduce them, or raise the limit");
                let key = "limits.values_per_label";
                self.reject(ViolationKind::ValuesPerLabel, key, name, message);
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
