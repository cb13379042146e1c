//! The configuration: bytes of a YAML file in, a validated [`Config`] out, or a report of all the
//! mistakes in the file at once.
//!
//! [`read`] is the only function that touches the outside world. Nothing here watches the file or
//! decides when to read it again.

use std::collections::{BTreeMap, BTreeSet};

mod file;
mod labels;
mod latency;
mod relabel;
mod yaml;

pub use file::{ConfigError, Source, read};
pub use labels::{CPU, CpuLabels, CpuMatch, LabelsOn, Limits, RESERVED};
pub use latency::RunqueueLatency;
pub use yaml::{Diagnostic, Diagnostics};
use yaml::{Entry, Report};

use crate::expr::{relabel::Rule, template::Template, values::Uses};

/// What the exporter runs on. It comes from a file through [`Config::parse`], or is the default;
/// once made it does not change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    labels: BTreeMap<String, Template>,
    relabel_configs: Vec<Rule>,
    cpus: Vec<CpuLabels>,
    cpu_relabel_configs: Vec<Rule>,
    labels_on: LabelsOn,
    without: BTreeSet<String>,
    limits: Limits,
    uses: Uses,
    runqueue_latency: RunqueueLatency,
}

impl Config {
    /// Validates the text of a file. What it leaves out has its default, so an empty text gives
    /// the default configuration.
    pub fn parse(text: &str) -> Result<Self, Diagnostics> {
        let (mut report, root) = yaml::read(text);
        let config = config(&mut report, &Entry::whole_file(&root));
        report.finish(config)
    }

    /// The labels of the host, by name: valid names, none reserved, none twice.
    pub const fn labels(&self) -> &BTreeMap<String, Template> {
        &self.labels
    }

    /// The rules for the labels of the host, in their order.
    pub fn relabel_configs(&self) -> &[Rule] {
        &self.relabel_configs
    }

    /// The labels of some CPUs; where several match a CPU, the last wins.
    pub fn cpus(&self) -> &[CpuLabels] {
        &self.cpus
    }

    /// The rules for the labels of each CPU, in their order.
    pub fn cpu_relabel_configs(&self) -> &[Rule] {
        &self.cpu_relabel_configs
    }

    /// Which series have the labels of the host.
    pub const fn labels_on(&self) -> LabelsOn {
        self.labels_on
    }

    /// The labels that are summed over.
    pub const fn without(&self) -> &BTreeSet<String> {
        &self.without
    }

    /// How many labels and series there may be.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What the templates name.
    pub const fn uses(&self) -> &Uses {
        &self.uses
    }

    /// How run-queue latency is exposed.
    pub const fn runqueue_latency(&self) -> &RunqueueLatency {
        &self.runqueue_latency
    }
}

const KEYS: [&str; 8] = [
    "labels",
    "relabel_configs",
    "cpus",
    "cpu_relabel_configs",
    "labels_on",
    "without",
    "limits",
    "runqueue_latency",
];

fn config(report: &mut Report<'_>, file: &Entry<'_>) -> Config {
    let mut config = Config::default();
    let entries = report.entries(file);
    for entry in entries.iter().filter(|entry| !KEYS.contains(&entry.name)) {
        match entry.name {
            "attach" => report.key_error(entry, |_| "unknown key; write labels_on".into()),
            _ => report.unknown_key(entry, &KEYS),
        }
    }
    let rules = ["relabel_configs", "cpus", "cpu_relabel_configs"];
    let has_rules = entries.iter().any(|entry| rules.contains(&entry.name));
    // Not in the order of the file: what follows refers to what is before.
    for key in ["limits", "labels", "relabel_configs", "cpus", "cpu_relabel_configs"] {
        for entry in entries.iter().filter(|entry| entry.name == key) {
            let Config { limits, labels, relabel_configs, .. } = &config;
            match key {
                "limits" => config.limits = labels::limits(report, entry),
                "labels" => config.labels = labels::host(report, entry, limits, has_rules),
                "relabel_configs" => config.relabel_configs = relabel::rules(report, entry),
                "cpus" => {
                    config.cpus = labels::cpus(report, entry, labels, relabel_configs, limits);
                }
                _ => config.cpu_relabel_configs = relabel::rules(report, entry),
            }
        }
    }
    for entry in &entries {
        match entry.name {
            "labels_on" => config.labels_on = labels::labels_on(report, entry),
            "without" => config.without = labels::without(report, entry),
            "runqueue_latency" => {
                config.runqueue_latency = latency::runqueue_latency(report, entry)
            }
            _ => {}
        }
    }
    let of_cpus = config.cpus.iter().flat_map(|entry| entry.labels.values());
    for template in config.labels.values().chain(of_cpus) {
        config.uses.extend(template.uses());
    }
    config
}

#[cfg(test)]
mod tests;
