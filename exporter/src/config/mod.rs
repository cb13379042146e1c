//! The configuration: bytes of a YAML file in, a validated [`Config`] out, or a report of all the
//! mistakes in the file at once.
//!
//! [`read`] is the only function that touches the outside world. Nothing here watches the file or
//! decides when to read it again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use sha2::{Digest as _, Sha256};

mod labels;
mod relabel;
mod yaml;

pub use labels::{CPU, CpuLabels, CpuMatch, LabelsOn, Limits, RESERVED};
pub use yaml::{Diagnostic, Diagnostics};
use yaml::{Entry, Report};

use crate::{
    expr::{relabel::Rule, template::Template, values::Uses},
    os::files::{self, FileError},
};

/// Size of the largest file that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Every bucket is a series of each CPU.
const MAX_BUCKETS: usize = 40;

/// No bound is above this hour. It is below 2^42 ns, so that even one step of the largest factor
/// beyond it stays below 2^62, the last bucket that has an end.
const MAX_BOUND_NS: u64 = 3600 * 1_000_000_000;

/// Largest ratio of neighboring buckets.
const MAX_FACTOR: u64 = 1024;

const DEFAULT_MIN_NS: u64 = 1_000;
const DEFAULT_MAX_NS: u64 = 10 * 1_000_000_000;
const DEFAULT_FACTOR: u64 = 4;

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

/// How `sched_runqueue_latency_seconds` is exposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunqueueLatency {
    per_cpu: bool,
    bucket_exponents: Vec<u32>,
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

impl RunqueueLatency {
    /// Whether each CPU has a histogram; if not, there is one for all CPUs.
    pub const fn per_cpu(&self) -> bool {
        self.per_cpu
    }

    /// The buckets, strictly ascending and at least one: `e` is the bucket whose `le` is 2^e
    /// nanoseconds. None is above 62.
    pub fn bucket_exponents(&self) -> &[u32] {
        &self.bucket_exponents
    }
}

impl Default for RunqueueLatency {
    fn default() -> Self {
        Self {
            per_cpu: true,
            bucket_exponents: exponents(DEFAULT_MIN_NS, DEFAULT_MAX_NS, DEFAULT_FACTOR),
        }
    }
}

/// A file as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    path: PathBuf,
    bytes: Vec<u8>,
    sha256: String,
}

impl Source {
    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The SHA-256 of the file in lowercase hexadecimal digits.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Validates the file. Fails if it is not UTF-8 or has mistakes.
    pub fn parse(&self) -> Result<Config, ConfigError> {
        let path = || self.path.clone();
        let text = str::from_utf8(&self.bytes)
            .map_err(|error| ConfigError::NotUtf8 { path: path(), offset: error.valid_up_to() })?;
        Config::parse(text).map_err(|mistakes| ConfigError::Invalid { path: path(), mistakes })
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read, or is larger than 1 MiB.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not UTF-8.
    #[error("`{}` is not UTF-8 at byte {offset}", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// How many bytes are UTF-8 before the first that is not.
        offset: usize,
    },
    /// The file has mistakes. The message has a line for each.
    #[error("{}", lines(path, mistakes))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Its mistakes.
        mistakes: Diagnostics,
    },
}

impl ConfigError {
    /// The message in one line, for the log.
    pub fn one_line(&self) -> String {
        match self {
            Self::Invalid { path, mistakes } => places(path, mistakes).join("; "),
            _ => self.to_string(),
        }
    }
}

fn lines(path: &Path, mistakes: &Diagnostics) -> String {
    let places = places(path, mistakes).join("\n");
    match mistakes.shown.len() + mistakes.more {
        1 => places,
        count => format!("{count} mistakes in `{}`\n{places}", path.display()),
    }
}

/// Each mistake behind its place, in the form that editors and terminals make a link of.
fn places(path: &Path, mistakes: &Diagnostics) -> Vec<String> {
    let shown = mistakes.shown.iter().map(|mistake| format!("{}:{mistake}", path.display()));
    let more = (mistakes.more > 0).then(|| format!("and {} more", mistakes.more));
    shown.chain(more).collect()
}

/// Reads a regular file of at most 1 MiB.
pub fn read(path: &Path) -> Result<Source, ConfigError> {
    let bytes = files::read(path, MAX_FILE_BYTES)?;
    let mut sha256 = String::new();
    for byte in Sha256::digest(&bytes) {
        write!(sha256, "{byte:02x}").expect("a string takes all that is written to it");
    }
    Ok(Source { path: path.into(), bytes, sha256 })
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
            "attach" => report.key_mistake(entry, |_| "unknown key; write labels_on".into()),
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
            "runqueue_latency" => config.runqueue_latency = runqueue_latency(report, entry),
            _ => {}
        }
    }
    let of_cpus = config.cpus.iter().flat_map(|entry| entry.labels.values());
    for template in config.labels.values().chain(of_cpus) {
        config.uses.extend(template.uses());
    }
    config
}

fn runqueue_latency(report: &mut Report<'_>, section: &Entry<'_>) -> RunqueueLatency {
    let mut latency = RunqueueLatency::default();
    for entry in report.entries(section) {
        match entry.name {
            "per_cpu" => latency.per_cpu = report.boolean(&entry),
            "buckets" => latency.bucket_exponents = buckets(report, &entry).unwrap_or_default(),
            _ => report.unknown_key(&entry, &["per_cpu", "buckets"]),
        }
    }
    latency
}

fn buckets(report: &mut Report<'_>, section: &Entry<'_>) -> Option<Vec<u32>> {
    let (mut min, mut max, mut factor) =
        (Some(DEFAULT_MIN_NS), Some(DEFAULT_MAX_NS), Some(DEFAULT_FACTOR));
    for entry in report.entries(section) {
        match entry.name {
            "min" => min = bound(report, &entry),
            "max" => max = bound(report, &entry),
            "factor" => factor = bucket_factor(report, &entry),
            _ => report.unknown_key(&entry, &["min", "max", "factor"]),
        }
    }
    let (min, max, factor) = (min?, max?, factor?);
    if min > max {
        report.mistake(section, |_| {
            let (min, max) = (Duration::from_nanos(min), Duration::from_nanos(max));
            format!("min {min:?} is above max {max:?}; lower min or raise max")
        });
        return None;
    }
    let exponents = exponents(min, max, factor);
    if exponents.len() > MAX_BUCKETS {
        report.mistake(section, |_| {
            let count = exponents.len();
            format!("there are {count} buckets, {MAX_BUCKETS} at most; raise factor or lower max")
        });
    }
    Some(exponents)
}

fn bound(report: &mut Report<'_>, entry: &Entry<'_>) -> Option<u64> {
    match entry.string().and_then(nanoseconds) {
        Some(ns) if (1..=MAX_BOUND_NS).contains(&ns) => return Some(ns),
        Some(_) => report.mistake(entry, |value| {
            format!("{value} is out of range; write a duration from 1ns to 3600s")
        }),
        None => report.mistake(entry, |value| {
            format!("{value} is not a duration; write digits and ns, us, ms or s, like 10us")
        }),
    }
    None
}

/// Parses `10us`. A number beyond `u64` gives the largest.
fn nanoseconds(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let scale = match unit {
        "ns" => 1,
        "us" | "µs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        _ => return None,
    };
    (!digits.is_empty()).then(|| digits.parse().unwrap_or(u64::MAX).saturating_mul(scale))
}

fn bucket_factor(report: &mut Report<'_>, entry: &Entry<'_>) -> Option<u64> {
    let factor = report.integer(entry)?;
    if factor.is_power_of_two() && (2..=MAX_FACTOR).contains(&factor) {
        return Some(factor);
    }
    report.mistake(entry, |value| {
        format!("{value} is not a power of two from 2 to {MAX_FACTOR}; write 2, 4, 8 and so on")
    });
    None
}

/// From `min` by steps of `factor` to the first bucket that reaches `max`. Both are rounded up to a
/// power of two, since the kernel program counts by powers of two.
fn exponents(min_ns: u64, max_ns: u64, factor: u64) -> Vec<u32> {
    let [first, last, step] = [min_ns, max_ns, factor].map(|n| n.next_power_of_two().ilog2());
    (0..=(last - first).div_ceil(step)).map(|i| first + i * step).collect()
}

#[cfg(test)]
mod tests;
