//! How far the quantiles that Prometheus estimates from our buckets are off. Computed from distributions
//! with known quantiles, so that the result is the same on every machine.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the numbers are positive and far below 2^52"
)]

use std::fmt::Write as _;

use sched_exporter::{config::Config, exposition::le};
use sched_exporter_ebpf::{WAIT_SLOTS, wait_slot, wait_slot_of_index};

/// The heading of [`section`].
pub const HEADING: &str = "## Quantiles from buckets";

const TEXT: &str = "
Prometheus's `histogram_quantile` finds the bucket that contains the quantile, and interpolates within
it as if its waits were spread evenly. So an estimate is off by the width of a bucket at most: 300 % too
high or 75 % too low with a factor of 4; 100 % or 50 % with 2; and 41 % or 29 %, 19 % or 16 %, 9 % or 8 %
with two, four and eight buckets per octave.

These figures are computed, not measured: 100,000 waits of a distribution whose quantiles are known are
counted by the code of the kernel program, and exposed with the default `min` and `max`. What an
estimate is off depends on where the quantile lies in its bucket. So this is repeated for 64
distributions of the same shape, with medians from 20 to 80 µs. The figures are the median of how far
the estimate is off, up or down, and the largest, in parentheses. *Series* are those of a CPU.";

/// Waits of each distribution.
const WAITS: usize = 100_000;

/// Distributions of each shape: their medians are within a factor of 4, the largest width of a bucket.
const SCALES: usize = 64;

/// The shortest median in nanoseconds.
const MEDIAN_NS: f64 = 20_000.0;

const QUANTILES: [f64; 4] = [0.5, 0.9, 0.99, 0.999];

const BUCKETS: [&str; 5] =
    ["factor: 4", "factor: 2", "per_octave: 2", "per_octave: 4", "per_octave: 8"];

/// A shape of distributions.
struct Shape {
    text: &'static str,
    /// The quantile for a share from 0 to 1, in units of the median.
    quantile: fn(f64) -> f64,
}

const SHAPES: [Shape; 3] = [
    Shape {
        text: "Exponential waits: the 99th percentile is 7 times the median.",
        quantile: |share| -(1.0 - share).log2(),
    },
    Shape {
        text: "A heavy tail (log-logistic): the 99th percentile is 99 times the median.",
        quantile: |share| share / (1.0 - share),
    },
    Shape {
        text: "The worst shape: all waits are within 5 % of the median.",
        quantile: |share| 0.95 + 0.1 * share,
    },
];

/// The section of docs/accuracy.md.
pub fn section() -> String {
    let mut text = format!("{HEADING}\n{TEXT}\n");
    for Shape { text: title, quantile } in SHAPES {
        let _ = write!(text, "\n{title}\n\n| buckets | series | p50 | p90 | p99 | p99.9 |\n");
        text.push_str("|---|--:|--:|--:|--:|--:|\n");
        let shares = (0..WAITS).map(|wait| (wait as f64 + 0.5) / WAITS as f64);
        let units: Vec<_> = shares.map(quantile).collect();
        let histograms: Vec<_> = (0..SCALES)
            .map(|scale| {
                let median = MEDIAN_NS * (2.0 * scale as f64 / SCALES as f64).exp2();
                (median, count(units.iter().map(|unit| unit * median)))
            })
            .collect();
        for buckets in BUCKETS {
            let bounds = bounds(buckets);
            let _ = write!(text, "| `{buckets}` | {} |", bounds.len() + 3);
            for share in QUANTILES {
                let mut off: Vec<_> = histograms
                    .iter()
                    .map(|(median, slots)| {
                        let exact = quantile(share) * median / 1e9;
                        (estimate(slots, &bounds, share) / exact - 1.0).abs()
                    })
                    .collect();
                off.sort_by(f64::total_cmp);
                let (typical, largest) = (off[SCALES / 2], off[SCALES - 1]);
                let _ = write!(text, " {} ({}) |", percent(typical), percent(largest));
            }
            text.push('\n');
        }
    }
    text
}

/// Counts waits in nanoseconds as the kernel program does.
fn count(waits: impl Iterator<Item = f64>) -> [u64; WAIT_SLOTS] {
    let mut slots = [0; WAIT_SLOTS];
    waits.for_each(|wait| slots[wait_slot(wait as u64)] += 1);
    slots
}

/// The bounds of a configuration: index, and seconds as in the exposition.
fn bounds(buckets: &str) -> Vec<(i32, f64)> {
    let config = Config::parse(&format!("runqueue_latency: {{buckets: {{{buckets}}}}}\n")).unwrap();
    let indices = config.runqueue_latency().bucket_indices();
    indices.iter().map(|index| (*index, le(*index).parse().unwrap())).collect()
}

/// `histogram_quantile` of Prometheus, in seconds.
/// <https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile>
fn estimate(slots: &[u64; WAIT_SLOTS], bounds: &[(i32, f64)], share: f64) -> f64 {
    let rank = share * slots.iter().sum::<u64>() as f64;
    let (mut start, mut before) = (0.0, 0.0);
    for (index, end) in bounds {
        let up_to = slots[..=wait_slot_of_index(*index)].iter().sum::<u64>() as f64;
        if up_to >= rank {
            return start + (end - start) * (rank - before) / (up_to - before);
        }
        (start, before) = (*end, up_to);
    }
    start
}

fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent < 9.95 { format!("{percent:.1} %") } else { format!("{percent:.0} %") }
}
