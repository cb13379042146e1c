//! Which labels each series has: what the configuration asks for, made for this machine. Pure.
//!
//! ```text
//! labels ─> relabel_configs ─> the host's ┬─> target_info
//!                                         └─> + cpu, cpus ─> cpu_relabel_configs ─> each CPU's
//!                                               ─> without ─> equal sets are one group
//! ```
//!
//! What does not fit, as a name that no label can have, is left out or becomes `other`, so that no
//! time is lost by it; sets that are equal then are summed like any others.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
};

use crate::{
    accounting::Groups,
    config::{CPU, Config, CpuMatch, LabelsOn, Limits, RESERVED},
    cpu::topology::{CpuLocation, Topology},
    exposition,
    expr::{
        relabel::{self, Rule, is_label_name},
        template::Template,
        values::Values,
    },
};

/// Label values by name. None is empty.
pub type Set = BTreeMap<String, String>;

/// The value in place of values that are too long or too many.
pub const OTHER: &str = "other";

/// What is told of misfits in full.
const MAX_VIOLATIONS: usize = 20;

/// The labels of all series, ready to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSets {
    /// The pairs of `target_info`; none where that is not shown.
    pub target_info: Option<exposition::Labels>,
    /// The sets of the scheduler's series.
    pub groups: Groups<exposition::Labels>,
    /// Those of run-queue latency, which may be summed where the others are not.
    pub latency: Groups<exposition::Labels>,
    /// Whether what the exporter says of CPUs is summed over them too.
    pub without_cpu: bool,
}

impl LabelSets {
    /// Whether all series have the same labels and CPUs as those of `other`.
    pub fn is_like(&self, other: &Self) -> bool {
        self.target_info == other.target_info
            && self.without_cpu == other.without_cpu
            && self.groups.is_like(&other.groups)
            && self.latency.is_like(&other.latency)
    }
}

/// Why a label can't be as the configuration asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ViolationKind {
    /// A template gives no text with the values that there are.
    Template,
    /// Rules make a name that no label can have, or that is taken.
    Name,
    /// A set has too many labels.
    Labels,
    /// A name is too long.
    NameBytes,
    /// A value is too long.
    ValueBytes,
    /// A label has too many values.
    ValuesPerLabel,
    /// There are too many series.
    Series,
}

impl ViolationKind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Template,
        Self::Name,
        Self::Labels,
        Self::NameBytes,
        Self::ValueBytes,
        Self::ValuesPerLabel,
        Self::Series,
    ];

    /// As the label `reason` has it: the limit's own name, where there is one.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Template => "template",
            Self::Name => "name",
            Self::Labels => "labels",
            Self::NameBytes => "name_bytes",
            Self::ValueBytes => "value_bytes",
            Self::ValuesPerLabel => "values_per_label",
            Self::Series => "series",
        }
    }
}

/// A label that can't be as the configuration asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Why.
    pub kind: ViolationKind,
    /// The key of the configuration that gives it, or the limit.
    pub key: String,
    /// What is wrong, and what to do.
    pub problem: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.problem)
    }
}

/// A set of labels, and where each has its value from where that is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// The values.
    pub set: Set,
    /// By name, the key of the configuration that gave the value.
    pub origins: BTreeMap<String, String>,
}

/// The labels of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expansion {
    /// Those of the host; none where the rules drop it, and with it all series.
    pub host: Option<Labels>,
    /// Those on the series of each CPU that the rules keep, ascending.
    pub cpus: Vec<(u32, Labels)>,
    /// What does not fit.
    pub violations: Vec<Violation>,
}

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
fn merge(sets: Vec<(Set, Vec<u32>)>) -> Vec<(Set, Vec<u32>)> {
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

/// Makes one group of those that are too many.
fn limit_series(
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
        problem: format!(
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

struct Expander<'a> {
    config: &'a Config,
    values: &'a Values,
    trace: bool,
    violations: Vec<Violation>,
    /// What of them is told already: of each label once.
    told: BTreeSet<(ViolationKind, String, String)>,
}

impl Expander<'_> {
    fn reject(&mut self, kind: ViolationKind, key: &str, label: &str, problem: impl Into<String>) {
        let is_new = self.told.insert((kind, key.into(), label.into()));
        if is_new && self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(Violation { kind, key: key.into(), problem: problem.into() });
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
                let problem = format!(
                    "the rules give {whose} a label {name:?}, which no series can have here; name it \
                     otherwise, or remove it by labeldrop"
                );
                let is_hosts = host.is_none_or(|host| host.contains_key(name));
                let rules = if is_hosts { "relabel_configs" } else { "cpu_relabel_configs" };
                self.reject(ViolationKind::Name, rules, name, problem);
                removed.push(name.clone());
            } else if name.len() > limits.name_bytes {
                let problem = format!(
                    "the name {name} has {} bytes, {} at most",
                    name.len(),
                    limits.name_bytes
                );
                self.reject(ViolationKind::NameBytes, &key("name_bytes"), name, problem);
                removed.push(name.clone());
            } else if value.len() > limits.value_bytes {
                let problem = format!(
                    "the value of {name} of {whose} has {} bytes, {} at most",
                    value.len(),
                    limits.value_bytes
                );
                self.reject(ViolationKind::ValueBytes, &key("value_bytes"), name, problem);
                OTHER.clone_into(value);
            }
        }
        let fitting = labels.set.keys().filter(|name| !removed.contains(name) && *name != CPU);
        let over: Vec<_> = fitting.skip(limits.labels).cloned().collect();
        if !over.is_empty() {
            let (found, max) = (limits.labels + over.len(), limits.labels);
            let problem = format!("{whose} has {found} labels, {max} at most; remove some");
            self.reject(ViolationKind::Labels, "limits.labels", "", problem);
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
                let problem = format!("{name} has more than {max} values");
                self.reject(
                    ViolationKind::ValuesPerLabel,
                    "limits.values_per_label",
                    name,
                    problem,
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

#[cfg(test)]
mod tests;
