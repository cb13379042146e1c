//! Computes the labels of cgroups, one after another: cgroups come and go all the time, and a machine can
//! have tens of thousands of them. So everything that does not depend on the cgroup is prepared once.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
    path::PathBuf,
    time::Duration,
};

use super::{
    OTHER, Set, ViolationKind, Violations,
    fit::{LabelLimit, Owner, fit, limit_labels},
};
use crate::{
    config::{CPU, Cgroups, Config, LabelsOn, Limits},
    exposition,
    expr::{
        cgroup::{CgroupName, CgroupNames, CgroupUses},
        relabel::{self, Rule, Scratch, names_after},
        template::CgroupRenderer,
        values::{Uses, Values},
    },
};

const LABELS: &str = "cgroups.labels";

const RULES: &str = "cgroups.relabel_configs";

const OWNER: Owner<'_> = Owner { name: "a cgroup", reserved: &[CPU], rules: &|_| RULES };

/// Labels cgroups under one generation.
///
/// Cgroups whose labels are equal share a set of series. `other` is the set of the cgroups that have no
/// labels but the host's, or that a rule drops.
///
/// Every series has every label whose name does not depend on values; those that do not apply are empty. So a
/// server that honors the labels of series does not fill in those of its target, such as the pod in which the
/// exporter runs. <https://github.com/prometheus/prometheus/blob/v3.9.1/scrape/scrape.go#L694>
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupLabeller {
    config: Cgroups,
    limits: Limits,
    without: BTreeSet<String>,
    labels_on: LabelsOn,
    /// The values that the templates use.
    values: Values,
    /// The labels of the host for templates and rules, which see even those that exceed a limit.
    host: Set,
    /// The labels of the host within the limits.
    shown_host: Set,
    /// The violations of the host and of `other`.
    violations: Violations,
    max_sets: usize,
    /// What templates and rules use of cgroups.
    uses: CgroupUses,
    /// The names of the labels that series have, unless the names depend on values.
    names: BTreeSet<String>,
    other: exposition::Labels,
}

impl CgroupLabeller {
    /// Prepares the labels of cgroups. `seen` are the violations of `host`, the labels of the host.
    pub(super) fn new(
        config: &Config,
        values: &Values,
        host: Set,
        shown_host: &Set,
        seen: Violations,
    ) -> Self {
        let mut labeller = Self {
            names: label_names(config.cgroups(), &host),
            config: config.cgroups().clone(),
            limits: config.limits().clone(),
            without: config.without().clone(),
            labels_on: config.labels_on(),
            values: used_values(config.cgroups(), values),
            host,
            shown_host: shown_host.clone(),
            violations: seen,
            max_sets: config.limits().cgroups,
            uses: config.cgroups().uses(),
            other: exposition::Labels::default(),
        };
        let mut violations = labeller.violations.clone();
        labeller.other = joined(&[], &labeller.set_of_other(&mut violations));
        labeller.violations = violations;
        labeller
    }

    /// Starts labelling cgroups. `violations` are those so far, from [`CgroupLabeller::violations`].
    pub fn batch<'a>(&'a self, violations: &'a mut Violations) -> CgroupBatch<'a> {
        let names = names_for(&self.config.relabel_configs);
        let is_seen = |name: &str| names.as_ref().is_none_or(|names| names.contains(name));
        // A label of cgroups replaces the host's, even if it is empty.
        let is_of_host =
            |name: &str| self.host.contains_key(name) && !self.config.labels.contains_key(name);
        let host = self.host.iter().filter(|(name, _)| is_of_host(name) && is_seen(name));
        let shown = self.shown_host.iter().filter(|(name, _)| {
            let is_shown = self.labels_on != LabelsOn::TargetInfo && !self.without.contains(*name);
            is_shown && is_of_host(name) && !is_seen(name)
        });
        let names = self.names.iter().map(String::as_str);
        let templates = self.config.labels.values();
        CgroupBatch {
            labeller: self,
            renderer: CgroupRenderer::new(templates, &self.values, &self.host),
            seen_host: host.map(|(name, value)| (name.clone(), value.clone())).collect(),
            read_names: self.uses.names_in_rules().collect(),
            reads_pods: self.uses.pods_in_rules(),
            filled: names.filter(|name| !is_of_host(name) || is_seen(name)).collect(),
            unseen_host: shown.map(|(name, value)| (name.as_str(), value.as_str())).collect(),
            scratch: Scratch::default(),
            violations,
        }
    }

    /// The violations before the first cgroup is labelled. Each batch adds to them, so that each is reported once.
    pub fn violations(&self) -> Violations {
        self.violations.clone()
    }

    /// The labels of `other`.
    pub const fn other(&self) -> &exposition::Labels {
        &self.other
    }

    /// What templates and rules use of cgroups.
    pub const fn uses(&self) -> &CgroupUses {
        &self.uses
    }

    /// The sockets of the container runtimes to ask for names; `None` for those at the usual paths.
    pub fn runtimes(&self) -> Option<&[PathBuf]> {
        self.config.runtimes.as_deref()
    }

    /// Whether to ask the Kubernetes API for names.
    pub const fn asks_kubernetes(&self) -> bool {
        self.config.kubernetes_pods
    }

    /// Maximum number of sets that are shown, besides `other`.
    pub const fn max_sets(&self) -> usize {
        self.max_sets
    }

    pub(super) const fn max_sets_mut(&mut self) -> &mut usize {
        &mut self.max_sets
    }

    /// How long a set is shown after its last cgroup ended.
    pub const fn keep(&self) -> Duration {
        self.config.keep
    }

    /// Groups cgroups by their labels, for a report.
    pub fn group<'a>(&self, cgroups: impl IntoIterator<Item = &'a CgroupNames>) -> CgroupsByLabels {
        let mut violations = self.violations();
        let other = self.set_of_other(&mut violations);
        let mut groups = CgroupsByLabels { other: self.of_cgroup(other), ..Default::default() };
        let mut batch = self.batch(&mut violations);
        for (index, cgroup) in cgroups.into_iter().enumerate() {
            let set = batch.set(cgroup).map(|set| self.of_cgroup(set));
            match set.filter(|set| *set != groups.other) {
                Some(set) => groups.sets.entry(set).or_default().push(index),
                None => groups.in_other.push(index),
            }
        }
        groups
    }

    /// Removes empty labels and the pairs that the host has too.
    fn of_cgroup(&self, mut set: Set) -> Set {
        set.retain(|name, value| !value.is_empty() && self.shown_host.get(name) != Some(value));
        set
    }

    /// Computes the labels of `other`: each label that a cgroup can have has the value `other`, and those
    /// of the host are kept, unless the rules delete them.
    fn set_of_other(&self, violations: &mut Violations) -> Set {
        let mut set = Set::new();
        for name in &self.names {
            let of_host = self.host.get(name).filter(|_| !self.config.labels.contains_key(name));
            set.insert(name.clone(), of_host.map_or(OTHER, String::as_str).to_owned());
        }
        self.fit(&mut set, &[], violations);
        set
    }

    /// Makes a set valid, within the limits. `unseen_host` are the further labels of its series.
    fn fit(&self, set: &mut Set, unseen_host: &[(&str, &str)], violations: &mut Violations) {
        let is_dropped = |name: &String| {
            let is_of_template = || self.config.labels.contains_key(name);
            self.host.contains_key(name) && !self.shown_host.contains_key(name) && !is_of_template()
        };
        set.retain(|name, _| !self.without.contains(name) && !is_dropped(name));
        fit(set, &OWNER, &self.limits, violations);
        if self.labels_on == LabelsOn::TargetInfo {
            set.retain(|name, value| self.shown_host.get(name) != Some(value));
        }
        // The labels of the host, which are within the limit, come first.
        let is_of_host = |name: &str| self.shown_host.contains_key(name);
        let unseen = unseen_host.iter().filter(|(name, _)| !set.contains_key(*name)).count();
        let of_host = unseen + set.keys().filter(|name| is_of_host(name)).count();
        let max = self.limits.labels.saturating_sub(of_host);
        let limit =
            LabelLimit { max, is_exempt: &is_of_host, is_first: &|it| self.names.contains(it) };
        limit_labels(set, &OWNER, &limit, &self.limits, violations);
    }

    /// Whether a set has a label that the host lacks, or one from the templates with another value.
    fn is_of_cgroup(&self, set: &Set) -> bool {
        set.iter().filter(|(_, value)| !value.is_empty()).any(|(name, value)| {
            let is_of_template = || self.config.labels.contains_key(name);
            !self.host.contains_key(name)
                || is_of_template() && self.shown_host.get(name) != Some(value)
        })
    }
}

/// Cgroups by their labels, without those of the host. Each is known by its place in the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupsByLabels {
    /// Those with labels of their own.
    pub sets: BTreeMap<Set, Vec<usize>>,
    /// The labels of `other`.
    pub other: Set,
    /// Those in `other`.
    pub in_other: Vec<usize>,
}

/// Labels one cgroup after another.
#[derive(Debug)]
pub struct CgroupBatch<'a> {
    labeller: &'a CgroupLabeller,
    renderer: CgroupRenderer<'a>,
    /// The labels of the host that the rules see.
    seen_host: Set,
    /// The names of a cgroup that the rules read.
    read_names: Vec<CgroupName>,
    /// Whether the rules may read labels or annotations of pods.
    reads_pods: bool,
    /// The labels that are empty if a cgroup lacks them.
    filled: Vec<&'a str>,
    /// The labels of the host that no rule changes, ascending by name.
    unseen_host: Vec<(&'a str, &'a str)>,
    scratch: Scratch,
    violations: &'a mut Violations,
}

impl CgroupBatch<'_> {
    /// Returns the labels of a cgroup's series; `None` if it belongs to `other`.
    pub fn labels(&mut self, cgroup: &CgroupNames) -> Option<exposition::Labels> {
        let set = self.set(cgroup)?;
        let labels = joined(&self.unseen_host, &set);
        (labels != self.labeller.other).then_some(labels)
    }

    /// Returns the labels of a cgroup, besides `unseen_host`.
    fn set(&mut self, cgroup: &CgroupNames) -> Option<Set> {
        let labeller = self.labeller;
        let mut set = self.seen_host.clone();
        self.render(cgroup, &mut set);
        let rules = &labeller.config.relabel_configs;
        if !rules.is_empty() {
            for name in &self.read_names {
                set.insert(name.meta_label().into(), cgroup.get(*name).into());
            }
            if self.reads_pods {
                for (map, key, value) in cgroup.pod_metadata() {
                    let [label, present] = map.meta_labels(key);
                    set.extend([(label, value.to_owned()), (present, "true".to_owned())]);
                }
            }
            match relabel::apply_with(rules, set, &mut self.scratch) {
                Ok(relabelled) => set = relabelled?,
                Err(error) => {
                    self.violations.add(ViolationKind::Labels, RULES, "", || error.to_string());
                    return None;
                }
            }
        }
        for name in &self.filled {
            if !set.contains_key(*name) {
                set.insert((*name).to_owned(), String::new());
            }
        }
        labeller.fit(&mut set, &self.unseen_host, self.violations);
        labeller.is_of_cgroup(&set).then_some(set)
    }

    /// Renders the templates. If a value is unavailable, there is no label.
    fn render(&mut self, cgroup: &CgroupNames, set: &mut Set) {
        let texts = self.renderer.render(cgroup);
        for (name, text) in self.labeller.config.labels.keys().zip(texts) {
            match text {
                Ok(Some(text)) => {
                    set.insert(name.clone(), text.into_owned());
                }
                Ok(None) => {}
                Err(error) => {
                    let key = format!("{LABELS}.{name}");
                    self.violations.add(ViolationKind::Template, &key, name, || error.to_string());
                }
            }
        }
    }
}

/// The names of the labels that series can have, given the labels of the host. A name that depends on a
/// value, such as that of a pod's label, is left out.
fn label_names(config: &Cgroups, host: &Set) -> BTreeSet<String> {
    let meta = CgroupName::ALL.iter().map(|name| name.meta_label());
    let before = host.keys().chain(config.labels.keys()).map(String::as_str).chain(meta);
    let before = before.map(str::to_owned).collect();
    let mut names = names_after(&config.relabel_configs, before);
    names.retain(|name| !relabel::is_internal(name));
    names
}

/// The labels that rules see; `None` if they see all.
fn names_for(rules: &[Rule]) -> Option<BTreeSet<&str>> {
    let mut names = BTreeSet::new();
    for rule in rules {
        names.extend(rule.names()?);
    }
    Some(names)
}

/// The values that the templates use.
fn used_values(config: &Cgroups, values: &Values) -> Values {
    let mut uses = Uses::default();
    for template in config.labels.values() {
        uses.extend(template.uses());
    }
    let reading = |source, keys| Some((source, values.reading(source)?.restricted_to(keys)));
    uses.iter().filter_map(|(source, keys)| reading(source, keys)).collect()
}

/// Writes the labels of the host and those of a cgroup, which win, in the order of their names.
fn joined(host: &[(&str, &str)], set: &Set) -> exposition::Labels {
    let length = |(name, value): (&str, &str)| name.len() + value.len() + r#","""#.len();
    let pairs = || set.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let bytes = host.iter().copied().chain(pairs()).map(length).sum();
    let mut labels = exposition::Labels::with_capacity(bytes);
    let mut host = host.iter().copied().peekable();
    for (name, value) in pairs() {
        for (name, value) in iter::from_fn(|| host.next_if(|(next, _)| *next < name)) {
            labels.push(name, value);
        }
        host.next_if(|(next, _)| *next == name);
        labels.push(name, value);
    }
    for (name, value) in host {
        labels.push(name, value);
    }
    labels
}

#[cfg(test)]
mod tests;
