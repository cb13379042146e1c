//! The section `runqueue_latency`.

use std::{ops::RangeInclusive, time::Duration};

use super::yaml::{Entry, Report};

/// The bounds that the kernel program can distinguish, as powers of two of a second.
const BOUNDS: RangeInclusive<i32> = -24..=6;

/// Largest ratio of neighboring buckets.
const MAX_FACTOR: u64 = 1024;

/// How many bounds the kernel program has for each doubling.
const PER_OCTAVE: i32 = 8;

const DEFAULT_MIN_NS: u64 = 1_000;
const DEFAULT_MAX_NS: u64 = 64 * 1_000_000_000;
/// The step of a factor of 4.
const DEFAULT_STEP: i32 = 2 * PER_OCTAVE;

/// How `sched_runqueue_latency_seconds` is exposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunqueueLatency {
    per_cpu: bool,
    bucket_indices: Vec<i32>,
}

impl RunqueueLatency {
    /// Whether each CPU has its own histogram. Otherwise one histogram covers all CPUs.
    pub const fn per_cpu(&self) -> bool {
        self.per_cpu
    }

    /// The buckets: `i` is the one whose `le` is `2^(i/8)` seconds, as in a native histogram of schema
    /// 3. There is at least one; they ascend, from -192 to 48.
    pub fn bucket_indices(&self) -> &[i32] {
        &self.bucket_indices
    }
}

impl Default for RunqueueLatency {
    fn default() -> Self {
        Self {
            per_cpu: true,
            bucket_indices: indices(DEFAULT_MIN_NS, DEFAULT_MAX_NS, DEFAULT_STEP),
        }
    }
}

/// Parses the section.
pub(super) fn runqueue_latency(report: &mut Report<'_>, section: &Entry<'_>) -> RunqueueLatency {
    let mut latency = RunqueueLatency::default();
    for entry in report.entries(section) {
        match entry.name {
            "per_cpu" => latency.per_cpu = report.boolean(&entry),
            "buckets" => latency.bucket_indices = buckets(report, &entry).unwrap_or_default(),
            _ => report.unknown_key(&entry, &["per_cpu", "buckets"]),
        }
    }
    latency
}

fn buckets(report: &mut Report<'_>, section: &Entry<'_>) -> Option<Vec<i32>> {
    let mut min = Some(DEFAULT_MIN_NS);
    let mut max = Some(DEFAULT_MAX_NS);
    let mut step = Some(DEFAULT_STEP);
    let mut given = None;
    for entry in report.entries(section) {
        match entry.name {
            "min" => min = bound(report, &entry),
            "max" => max = bound(report, &entry),
            "factor" | "per_octave" if given.is_some() => {
                report.error(&entry, |_| "factor and per_octave are both given; keep one".into());
                step = None;
            }
            "factor" => (step, given) = (factor(report, &entry), Some(())),
            "per_octave" => (step, given) = (per_octave(report, &entry), Some(())),
            _ => report.unknown_key(&entry, &["min", "max", "factor", "per_octave"]),
        }
    }
    let (min, max, step) = (min?, max?, step?);
    if min > max {
        report.error(section, |_| {
            let (min, max) = (Duration::from_nanos(min), Duration::from_nanos(max));
            format!("min {min:?} is above max {max:?}; lower min or raise max")
        });
        return None;
    }
    Some(indices(min, max, step))
}

/// Parses a bound, in nanoseconds.
fn bound(report: &mut Report<'_>, entry: &Entry<'_>) -> Option<u64> {
    /// 2^-24 s is 59.6 ns.
    const RANGE: RangeInclusive<Duration> = Duration::from_nanos(60)..=Duration::from_secs(64);
    match entry.string().map(humantime::parse_duration) {
        Some(Ok(bound)) if RANGE.contains(&bound) => return u64::try_from(bound.as_nanos()).ok(),
        Some(Ok(_) | Err(humantime::DurationError::NumberOverflow)) => {
            report.error(entry, |value| {
                format!("{value} is out of range; write a duration from 60ns to 64s")
            });
        }
        Some(Err(_)) | None => report.error(entry, |value| {
            format!("{value} is not a duration; write a number and ns, us, ms or s, like 10us")
        }),
    }
    None
}

/// Parses `factor`; returns the step between indices.
fn factor(report: &mut Report<'_>, entry: &Entry<'_>) -> Option<i32> {
    let factor = report.integer(entry)?;
    if factor.is_power_of_two() && (2..=MAX_FACTOR).contains(&factor) {
        return Some(factor.ilog2().cast_signed() * PER_OCTAVE);
    }
    report.error(entry, |value| {
        format!("{value} is not a power of two from 2 to {MAX_FACTOR}; write 2, 4, 8 and so on")
    });
    None
}

/// Parses `per_octave`; returns the step between indices.
fn per_octave(report: &mut Report<'_>, entry: &Entry<'_>) -> Option<i32> {
    let step = match report.integer(entry)? {
        2 => PER_OCTAVE / 2,
        4 => PER_OCTAVE / 4,
        8 => 1,
        _ => {
            report.error(entry, |value| {
                format!("{value} is not a number of bounds for each doubling; write 2, 4 or 8")
            });
            return None;
        }
    };
    Some(step)
}

/// Returns the buckets from `min` by `step` up to the first that reaches `max`, but none above
/// [`BOUNDS`]. `min` is rounded down to a power of two of a second, and `max` up.
///
/// For 1 µs, 10 µs and a step of 16 these are -160, -144 and -128: 2^-20, 2^-18 and 2^-16 s, or 0.954,
/// 3.81 and 15.3 µs.
fn indices(min_ns: u64, max_ns: u64, step: i32) -> Vec<i32> {
    const NS_PER_SECOND: u64 = 1_000_000_000;
    let (lowest, highest) = (*BOUNDS.start(), *BOUNDS.end());
    // In units of the lowest bound: at most 2^30 of them, so that nothing overflows.
    let [min, max] = [min_ns, max_ns].map(|ns| ns << lowest.unsigned_abs());
    let min = (min / NS_PER_SECOND).ilog2().cast_signed() + lowest;
    let max = max.div_ceil(NS_PER_SECOND).next_power_of_two().ilog2().cast_signed() + lowest;
    let [first, last, limit] = [min, max, highest].map(|exponent| exponent * PER_OCTAVE);
    let steps = (last - first + step - 1) / step;
    (0..=steps).map(|n| (first + n * step).min(limit)).collect()
}
