//! The section `runqueue_latency`.

use std::time::Duration;

use super::yaml::{Entry, Report};

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

/// How `sched_runqueue_latency_seconds` is exposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunqueueLatency {
    per_cpu: bool,
    bucket_exponents: Vec<u32>,
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

pub(super) fn runqueue_latency(report: &mut Report<'_>, section: &Entry<'_>) -> RunqueueLatency {
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
        report.error(section, |_| {
            let (min, max) = (Duration::from_nanos(min), Duration::from_nanos(max));
            format!("min {min:?} is above max {max:?}; lower min or raise max")
        });
        return None;
    }
    let exponents = exponents(min, max, factor);
    if exponents.len() > MAX_BUCKETS {
        report.error(section, |_| {
            let count = exponents.len();
            format!("there are {count} buckets, {MAX_BUCKETS} at most; raise factor or lower max")
        });
    }
    Some(exponents)
}

fn bound(report: &mut Report<'_>, entry: &Entry<'_>) -> Option<u64> {
    match entry.string().and_then(nanoseconds) {
        Some(ns) if (1..=MAX_BOUND_NS).contains(&ns) => return Some(ns),
        Some(_) => report.error(entry, |value| {
            format!("{value} is out of range; write a duration from 1ns to 3600s")
        }),
        None => report.error(entry, |value| {
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
    report.error(entry, |value| {
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
