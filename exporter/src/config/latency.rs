//! The section `runqueue_latency`.

use std::time::Duration;

use super::yaml::{Entry, Report};

/// Maximum number of buckets. Each of them is a series of each CPU.
const MAX_BUCKETS: usize = 40;

/// Largest bound. It is below 2^42 ns, so that one more step of the largest factor stays below 2^62,
/// the last bucket that has an upper end.
const MAX_BOUND: Duration = Duration::from_hours(1);

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
    /// Whether each CPU has its own histogram. Otherwise one histogram covers all CPUs.
    pub const fn per_cpu(&self) -> bool {
        self.per_cpu
    }

    /// The buckets, as exponents: `e` is the bucket whose `le` is 2^e nanoseconds. There is at least
    /// one; they ascend, and none is above 62.
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

/// Parses the section.
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
    let mut min = Some(DEFAULT_MIN_NS);
    let mut max = Some(DEFAULT_MAX_NS);
    let mut factor = Some(DEFAULT_FACTOR);
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

/// Parses a bound, in nanoseconds.
fn bound(report: &mut Report<'_>, entry: &Entry<'_>) -> Option<u64> {
    match entry.string().map(humantime::parse_duration) {
        Some(Ok(bound)) if !bound.is_zero() && bound <= MAX_BOUND => {
            return u64::try_from(bound.as_nanos()).ok();
        }
        Some(Ok(_) | Err(humantime::DurationError::NumberOverflow)) => {
            report.error(entry, |value| {
                format!("{value} is out of range; write a duration from 1ns to 3600s")
            });
        }
        Some(Err(_)) | None => report.error(entry, |value| {
            format!("{value} is not a duration; write a number and ns, us, ms or s, like 10us")
        }),
    }
    None
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

/// Returns the buckets from `min` by steps of `factor` up to the first that reaches `max`. All three
/// are rounded up to powers of two, since the kernel program counts by powers of two.
///
/// For 1 µs, 10 µs and 4 these are 2^10, 2^12 and 2^14 ns: 1.024, 4.096 and 16.384 µs.
fn exponents(min_ns: u64, max_ns: u64, factor: u64) -> Vec<u32> {
    let [first, last, step] = [min_ns, max_ns, factor].map(|n| n.next_power_of_two().ilog2());
    (0..=(last - first).div_ceil(step)).map(|i| first + i * step).collect()
}
