//! Measurements as numbers: a median with the least and the most.

use std::time::Duration;

/// What repeated measurements of one thing came to.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// The middle one, or the middle between two.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
    /// How many measurements.
    pub count: usize,
}

impl Summary {
    /// Of at least one value; of none, everything is NaN and so meets no target.
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

    /// Of values each divided by the one that was measured beside it.
    pub fn of_ratios(values: &[f64], beside: &[f64]) -> Self {
        Self::of(values.iter().zip(beside).map(|(value, beside)| value / beside))
    }
}

/// The value that `percent` of the values do not exceed; NaN of none.
pub fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let rank = (values.len() * percent).div_ceil(100);
    values.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// Microseconds.
pub fn us(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// Milliseconds.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Counts and sizes, which are far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "exact for what is counted here")]
pub fn number(count: usize) -> f64 {
    count as f64
}
