//! The configuration: bytes of a YAML file in, a validated [`Config`] out, or a report of all the
//! mistakes in the file at once.
//!
//! [`read`] is the only function that touches the outside world. Nothing here watches the file or
//! decides when to read it again.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use sha2::{Digest as _, Sha256};

mod relabel;
mod yaml;

use yaml::{Entry, Report};
pub use yaml::{Mistake, Mistakes};

use crate::relabel::{Rule, is_label_name};

/// Size of the largest file that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;

const MAX_LABELS: usize = 32;
const MAX_LABEL_NAME_BYTES: usize = 128;
const MAX_LABEL_VALUE_BYTES: usize = 1024;

/// Labels that the scheduler series have of their own.
const RESERVED_LABELS: [&str; 4] = ["cpu", "le", "mode", "reason"];

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
    labels: BTreeMap<String, String>,
    relabel_configs: Vec<Rule>,
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
    pub fn parse(text: &str) -> Result<Self, Mistakes> {
        let (mut report, root) = yaml::read(text);
        let config = config(&mut report, &Entry::whole_file(&root));
        report.finish(config)
    }

    /// The labels of every scheduler series, by name: valid names, none reserved, none twice, no
    /// value empty.
    pub const fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// The rules for the labels, in their order.
    pub fn relabel_configs(&self) -> &[Rule] {
        &self.relabel_configs
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
    /// The file can't be opened or read.
    #[error("reading `{}`: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// The path leads to a directory, a FIFO, a socket or a device.
    #[error("`{}` is not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file is larger than 1 MiB.
    #[error("`{}` is larger than {MAX_FILE_BYTES} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
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
        mistakes: Mistakes,
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

fn lines(path: &Path, mistakes: &Mistakes) -> String {
    let places = places(path, mistakes).join("\n");
    match mistakes.shown.len() + mistakes.more {
        1 => places,
        count => format!("{count} mistakes in `{}`\n{places}", path.display()),
    }
}

/// Each mistake behind its place, in the form that editors and terminals make a link of.
fn places(path: &Path, mistakes: &Mistakes) -> Vec<String> {
    let shown = mistakes.shown.iter().map(|mistake| format!("{}:{mistake}", path.display()));
    let more = (mistakes.more > 0).then(|| format!("and {} more", mistakes.more));
    shown.chain(more).collect()
}

/// Reads a regular file of at most 1 MiB. Symbolic links are followed; nothing but a regular file
/// is opened, so that a FIFO does not block and a device is left alone.
pub fn read(path: &Path) -> Result<Source, ConfigError> {
    let unreadable = |error| ConfigError::Unreadable { path: path.into(), error };
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(ConfigError::NotAFile { path: path.into() });
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(ConfigError::TooLarge { path: path.into() });
    }
    let mut sha256 = String::new();
    for byte in Sha256::digest(&bytes) {
        write!(sha256, "{byte:02x}").expect("a string takes all that is written to it");
    }
    Ok(Source { path: path.into(), bytes, sha256 })
}

fn config(report: &mut Report<'_>, file: &Entry<'_>) -> Config {
    let mut config = Config::default();
    for entry in report.entries(file) {
        match entry.name {
            "labels" => config.labels = labels(report, &entry),
            "relabel_configs" => config.relabel_configs = relabel::rules(report, &entry),
            "runqueue_latency" => config.runqueue_latency = runqueue_latency(report, &entry),
            _ => report.unknown_key(&entry, &["labels", "relabel_configs", "runqueue_latency"]),
        }
    }
    config
}

fn labels(report: &mut Report<'_>, section: &Entry<'_>) -> BTreeMap<String, String> {
    let entries = report.entries(section);
    if entries.len() > MAX_LABELS {
        report.mistake(section, |_| {
            format!("there are {} labels; keep at most {MAX_LABELS}", entries.len())
        });
    }
    let mut labels = BTreeMap::new();
    for entry in entries {
        label_name(report, &entry);
        if let Some(value) = label_value(report, &entry) {
            labels.insert(entry.name.into(), value.into());
        }
    }
    labels
}

fn label_name(report: &mut Report<'_>, entry: &Entry<'_>) {
    let name = entry.name;
    if !is_label_name(name) {
        report.key_mistake(entry, |name| {
            format!("{name} is not a label name; write letters, digits and _, no digit first")
        });
    } else if name.len() > MAX_LABEL_NAME_BYTES {
        report.key_mistake(entry, |_| {
            format!("the name has {} bytes; keep it to {MAX_LABEL_NAME_BYTES}", name.len())
        });
    } else if name.starts_with("__") {
        report.key_mistake(entry, |_| "names in __ are kept for Prometheus; choose another".into());
    } else if RESERVED_LABELS.contains(&name) {
        report.key_mistake(entry, |_| "the series have this label already; choose another".into());
    }
}

fn label_value<'n>(report: &mut Report<'_>, entry: &Entry<'n>) -> Option<&'n str> {
    let value = report.string(entry)?;
    if value.is_empty() {
        report.mistake(entry, |value| format!("{value} is the same as no label; remove it"));
    } else if value.len() > MAX_LABEL_VALUE_BYTES {
        report.mistake(entry, |printed| {
            format!("{printed} has {} bytes; keep it to {MAX_LABEL_VALUE_BYTES}", value.len())
        });
    }
    Some(value)
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
