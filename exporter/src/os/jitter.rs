//! Spreads pauses, so that hosts that started together do not act together.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Duration,
};

/// Varies a pause by up to 10 %.
pub(crate) fn jittered(pause: Duration, random: u32) -> Duration {
    pause.mul_f64(0.9 + 0.2 * f64::from(random) / f64::from(u32::MAX))
}

/// Returns a random number from the standard library's hash seeds: good enough to spread requests.
pub(crate) fn random() -> u32 {
    let [a, b, c, d, ..] = RandomState::new().build_hasher().finish().to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn jitter_is_ten_percent() {
        let period = Duration::from_mins(5);
        assert_eq!(jittered(period, 0), Duration::from_secs(270));
        assert_eq!(jittered(period, u32::MAX), Duration::from_secs(330));
        let seconds: Vec<_> = (0..100).map(|_| jittered(period, random()).as_secs()).collect();
        assert!(seconds.iter().all(|seconds| (270..=330).contains(seconds)), "{seconds:?}");
        let distinct: BTreeSet<_> = seconds.iter().collect();
        assert!(distinct.len() > 20, "{seconds:?}");
    }
}
