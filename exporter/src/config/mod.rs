//! Parses the configuration file into a validated [`Config`], or reports every error in it at once.
//!
//! May name `expr` and `cpu`, and in `file.rs` also `os`: only [`read`] and [`read_if_complete`] do I/O. It
//! does not decide when to read the file again; `reload` does.

use std::collections::{BTreeMap, BTreeSet};

mod cgroups;
mod diagnostics;
mod file;
mod go_duration;
mod labels;
mod latency;
mod relabel;
pub mod web;
mod yaml;

pub use cgroups::Cgroups;
pub use diagnostics::{Diagnostic, Diagnostics};
pub use file::{ConfigError, ConfigFile, hex, read, read_if_complete};
pub use labels::{CPU, CpuLabels, CpuMatch, LabelsOn, Limits, RESERVED};
pub use latency::RunqueueLatency;
use yaml::{Entry, Report};

use crate::expr::{relabel::Rule, template::Template, values::Uses};

/// A valid configuration. It never changes; a reload replaces it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    labels: BTreeMap<String, Template>,
    relabel_configs: Vec<Rule>,
    cpus: Vec<CpuLabels>,
    cpu_relabel_configs: Vec<Rule>,
    cgroups: Cgroups,
    labels_on: LabelsOn,
    without: BTreeSet<String>,
    limits: Limits,
    uses: Uses,
    runqueue_latency: RunqueueLatency,
    warnings: Diagnostics,
}

impl Config {
    /// Parses and validates the text of a file. Missing keys have their defaults, so an empty text
    /// is the default configuration; [`ConfigFile::parse`] rejects it.
    pub fn parse(text: &str) -> Result<Self, Diagnostics> {
        let (mut report, root) = yaml::read(text);
        let config = config(&mut report, &Entry::whole_file(&root));
        Ok(Self { warnings: report.finish()?, ..config })
    }

    /// The labels of the host, by name. The names are valid, unique and not reserved.
    pub const fn labels(&self) -> &BTreeMap<String, Template> {
        &self.labels
    }

    /// The rules for the labels of the host, in order.
    pub fn relabel_configs(&self) -> &[Rule] {
        &self.relabel_configs
    }

    /// The labels of some CPUs. If several entries match a CPU, the last one wins.
    pub fn cpus(&self) -> &[CpuLabels] {
        &self.cpus
    }

    /// The rules for the labels of each CPU, in order.
    pub fn cpu_relabel_configs(&self) -> &[Rule] {
        &self.cpu_relabel_configs
    }

    /// The labels of cgroups.
    pub const fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    /// The series that have the labels of the host.
    pub const fn labels_on(&self) -> LabelsOn {
        self.labels_on
    }

    /// The labels to remove. CPUs that differ only in these are summed.
    pub const fn without(&self) -> &BTreeSet<String> {
        &self.without
    }

    /// The limits of labels and series.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The values that the templates use.
    pub const fn uses(&self) -> &Uses {
        &self.uses
    }

    /// How run-queue latency is exposed.
    pub const fn runqueue_latency(&self) -> &RunqueueLatency {
        &self.runqueue_latency
    }

    /// What is valid in the file, but probably not meant.
    pub const fn warnings(&self) -> &Diagnostics {
        &self.warnings
    }
}

const KEYS: [&str; 9] = [
    "labels",
    "relabel_configs",
    "cpus",
    "cpu_relabel_configs",
    "cgroups",
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
    let rules = ["relabel_configs", "cpus", "cpu_relabel_configs", "cgroups"];
    let has_rules = entries.iter().any(|entry| rules.contains(&entry.name));
    // In order of dependency, not in file order: labels are checked against the limits, and the
    // templates of CPUs and cgroups can name labels that the host has, or gets from its rules.
    for key in ["limits", "labels", "relabel_configs", "cpus", "cpu_relabel_configs", "cgroups"] {
        for entry in entries.iter().filter(|entry| entry.name == key) {
            let Config { limits, labels, relabel_configs, .. } = &config;
            match key {
                "limits" => config.limits = labels::limits(report, entry),
                "labels" => config.labels = labels::host(report, entry, limits, has_rules),
                "relabel_configs" => config.relabel_configs = relabel::rules(report, entry),
                "cpus" => {
                    config.cpus = labels::cpus(report, entry, labels, relabel_configs, limits);
                }
                "cpu_relabel_configs" => config.cpu_relabel_configs = relabel::rules(report, entry),
                _ => {
                    let host = labels::names(labels, relabel_configs);
                    config.cgroups = cgroups::cgroups(report, entry, &host, limits);
                }
            }
        }
    }
    for entry in &entries {
        match entry.name {
            "labels_on" => config.labels_on = labels::labels_on(report, entry),
            "without" => config.without = labels::without(report, entry),
            "runqueue_latency" => {
                config.runqueue_latency = latency::runqueue_latency(report, entry);
            }
            _ => {}
        }
    }
    let of_cpus = config.cpus.iter().flat_map(|entry| entry.labels.values());
    let of_cgroups = config.cgroups.labels.values();
    for template in config.labels.values().chain(of_cpus).chain(of_cgroups) {
        config.uses.extend(template.uses());
    }
    config
}

#[cfg(test)]
mod tests;
