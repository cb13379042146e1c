//! Summaries of measurements: median, minimum and maximum.

use std::time::Duration;

/// A summary of repeated measurements.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// The median; for an even count, the mean of the middle two.
    pub median: f64,
    /// The minimum.
    pub min: f64,
    /// The maximum.
    pub max: f64,
    /// Number of measurements.
    pub count: usize,
}

impl Summary {
    /// Summarizes values. Without any, everything is NaN and so meets no target.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_unstable_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let count = values.len();
        let last = count.saturating_sub(1);
        Self {
            median: f64::midpoint(at(last / 2), at(count / 2)),
            min: at(0),
            max: at(last),
            count,
        }
    }

    /// Summarizes the ratios of values to those measured in the same round.
    pub fn of_ratios(values: &[f64], divisors: &[f64]) -> Self {
        Self::of(values.iter().zip(divisors).map(|(value, divisor)| value / divisor))
    }
}

/// The value that `percent` of the values do not exceed; NaN if there are none.
pub fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let rank = (values.len() * percent).div_ceil(100);
    values.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// Converts to microseconds.
pub fn us(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// Converts to milliseconds.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Converts a count or size, which is far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
pub fn number(count: usize) -> f64 {
    count as f64
}
