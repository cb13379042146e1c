//! The labels of the host and of each CPU.

use std::collections::{BTreeMap, BTreeSet};

use super::{Expansion, Labels, OTHER, Set, Violation, ViolationKind};
use crate::{
    config::{CPU, Config, CpuMatch, LabelsOn, RESERVED},
    cpu::topology::{CpuLocation, Topology},
    expr::{
        relabel::{self, Rule, is_label_name},
        template::Template,
        values::Values,
    },
};

/// What is told of misfits in full.
const MAX_VIOLATIONS: usize = 20;

/// Makes the labels of the host and of each CPU. With `trace` each has its origin, which takes longer.
pub fn expand(config: &Config, values: &Values, topology: &Topology, trace: bool) -> Expansion {
    let mut expander =
        Expander { config, values, trace, violations: Vec::new(), told: BTreeSet::new() };
    let mut host = expander.host();
    let rules_see = host.clone();
    if let Some(host) = &mut host {
        expander.fit("the host", None, host);
    }
    let mut cpus = rules_see.map(|host| expander.cpus(&host, topology)).unwrap_or_default();
    expander.limit_values(&mut cpus);
    if let (LabelsOn::TargetInfo, Some(host)) = (config.labels_on(), &host) {
        for (_, Labels { set, origins }) in &mut cpus {
            set.retain(|name, value| host.set.get(name) != Some(value));
            origins.retain(|name, _| set.contains_key(name));
        }
    }
    Expansion { host, cpus, violations: expander.violations }
}

struct Expander<'a> {
    config: &'a Config,
    values: &'a Values,
    trace: bool,
    violations: Vec<Violation>,
    /// What of them is told already: of each label once.
    told: BTreeSet<(ViolationKind, String, String)>,
}

impl Expander<'_> {
    fn reject(&mut self, kind: ViolationKind, key: &str, label: &str, message: impl Into<String>) {
        let is_new = self.told.insert((kind, key.into(), label.into()));
        if is_new && self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(Violation { kind, key: key.into(), message: message.into() });
        }
    }

    /// The labels of the host, those in `__` too. None where a rule drops them.
    fn host(&mut self) -> Option<Labels> {
        let mut host = Labels::default();
        self.render("labels", self.config.labels(), &Set::new(), &mut host);
        self.relabel("relabel_configs", self.config.relabel_configs(), host)
    }

    /// The labels of the CPUs that no rule drops.
    fn cpus(&mut self, host: &Labels, topology: &Topology) -> Vec<(u32, Labels)> {
        let config = self.config;
        let mut of_entries = Vec::new();
        for (place, entry) in config.cpus().iter().enumerate() {
            let mut labels = Labels::default();
            let key = format!("cpus[{place}].labels");
            self.render(&key, &entry.labels, &host.set, &mut labels);
            of_entries.push((&entry.matches, labels));
        }
        let rules = config.cpu_relabel_configs();
        let mut cpus = Vec::new();
        for (cpu, place) in topology.iter() {
            let mut labels = host.clone();
            self.set(&mut labels, CPU, cpu.to_string(), || "the CPU".into());
            for (_, of_entry) in of_entries.iter().filter(|(it, _)| matches(it, cpu, place)) {
                labels.set.extend(of_entry.set.clone());
                labels.origins.extend(of_entry.origins.clone());
            }
            if !rules.is_empty() {
                labels.set.extend(meta(cpu, place));
                match self.relabel("cpu_relabel_configs", rules, labels) {
                    Some(kept) => labels = kept,
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

    /// Adds what templates give. One that gives nothing leaves the label as it was.
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

    /// Applies rules; if they make too much of a set, it stays as it was. To find who gave a label
    /// its value, they are applied one by one.
    fn relabel(&mut self, list: &str, rules: &[Rule], mut labels: Labels) -> Option<Labels> {
        let size = if self.trace { 1 } else { rules.len().max(1) };
        let before_all = labels.clone();
        for (place, rules) in rules.chunks(size).enumerate() {
            let before = if self.trace { labels.set.clone() } else { Set::new() };
            match relabel::apply(rules, labels.set) {
                Ok(set) => labels.set = set?,
                Err(error) => {
                    self.reject(ViolationKind::Labels, list, "", error.to_string());
                    return Some(before_all);
                }
            }
            let changed = |(name, value): &(&String, &String)| before.get(*name) != Some(*value);
            if self.trace {
                for (name, _) in labels.set.iter().filter(changed) {
                    labels.origins.insert(name.clone(), format!("{list}[{place}]"));
                }
            }
        }
        Some(labels)
    }

    /// Makes a set one that series can have: the host's, or that of a CPU of this host.
    fn fit(&mut self, whose: &str, host: Option<&Set>, labels: &mut Labels) {
        relabel::remove_internal(&mut labels.set);
        let limits = self.config.limits();
        let mut removed = Vec::new();
        for (name, value) in &mut labels.set {
            let key = |limit: &str| format!("limits.{limit}");
            let is_taken = RESERVED.contains(&name.as_str()) || host.is_none() && name == CPU;
            if !is_label_name(name) || is_taken {
                let message = format!(
                    "the rules give {whose} a label {name:?}, which no series can have here; name it \
                     otherwise, or remove it by labeldrop"
                );
                let is_hosts = host.is_none_or(|host| host.contains_key(name));
                let rules = if is_hosts { "relabel_configs" } else { "cpu_relabel_configs" };
                self.reject(ViolationKind::Name, rules, name, message);
                removed.push(name.clone());
            } else if name.len() > limits.name_bytes {
                let message = format!(
                    "the name {name} has {} bytes, {} at most",
                    name.len(),
                    limits.name_bytes
                );
                self.reject(ViolationKind::NameBytes, &key("name_bytes"), name, message);
                removed.push(name.clone());
            } else if value.len() > limits.value_bytes {
                let message = format!(
                    "the value of {name} of {whose} has {} bytes, {} at most",
                    value.len(),
                    limits.value_bytes
                );
                self.reject(ViolationKind::ValueBytes, &key("value_bytes"), name, message);
                OTHER.clone_into(value);
            }
        }
        let fitting = labels.set.keys().filter(|name| !removed.contains(name) && *name != CPU);
        let over: Vec<_> = fitting.skip(limits.labels).cloned().collect();
        if !over.is_empty() {
            let (found, max) = (limits.labels + over.len(), limits.labels);
            let message = format!("{whose} has {found} labels, {max} at most; remove some");
            self.reject(ViolationKind::Labels, "limits.labels", "", message);
            removed.extend(over);
        }
        for name in removed {
            labels.set.remove(&name);
        }
        labels.origins.retain(|name, _| labels.set.contains_key(name));
    }

    /// Keeps the first values of each label. The CPU's numbers are as many as there are CPUs.
    fn limit_values(&mut self, cpus: &mut [(u32, Labels)]) {
        let max = self.config.limits().values_per_label;
        let mut values: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (_, labels) in cpus {
            for (name, value) in labels.set.iter_mut().filter(|(name, _)| *name != CPU) {
                if !values.contains_key(name) {
                    values.insert(name.clone(), BTreeSet::new());
                }
                let Some(known) = values.get_mut(name) else { continue };
                if known.contains(value) {
                    continue;
                }
                if known.len() < max {
                    known.insert(value.clone());
                    continue;
                }
                OTHER.clone_into(value);
                let message = format!("{name} has more than {max} values");
                self.reject(
                    ViolationKind::ValuesPerLabel,
                    "limits.values_per_label",
                    name,
                    message,
                );
            }
        }
    }
}

fn matches(choice: &CpuMatch, cpu: u32, place: &CpuLocation) -> bool {
    let among = |numbers: &[u32], number: Option<u32>| {
        number.is_some_and(|number| numbers.binary_search(&number).is_ok())
    };
    match choice {
        CpuMatch::Cpus(cpus) => among(cpus, Some(cpu)),
        CpuMatch::NumaNodes(nodes) => among(nodes, place.numa_node),
        CpuMatch::Packages(packages) => among(packages, place.package),
        CpuMatch::Clusters(clusters) => among(clusters, place.cluster),
        CpuMatch::Isolated => place.isolated,
    }
}

/// What rules can tell CPUs apart by. What the kernel does not tell is left out.
fn meta(cpu: u32, place: &CpuLocation) -> impl Iterator<Item = (String, String)> {
    let number = |number: Option<u32>| number.map(|number| number.to_string());
    let pairs = [
        ("__cpu__", number(Some(cpu))),
        ("__meta_numa_node", number(place.numa_node)),
        ("__meta_package", number(place.package)),
        ("__meta_core", number(place.core)),
        ("__meta_cluster", number(place.cluster)),
        ("__meta_smt_sibling", number(place.smt_sibling)),
        ("__meta_isolated", Some(place.isolated.to_string())),
    ];
    pairs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)))
}
