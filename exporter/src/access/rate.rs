//! The rate limit: a token bucket, as in Go's `golang.org/x/time/rate`, which exporter-toolkit uses.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::config::web::RateLimit;

/// A bucket of tokens. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    limit: RateLimit,
    level: Arc<Mutex<Level>>,
}

#[derive(Debug)]
struct Level {
    tokens: u32,
    /// When `tokens` was right. Parts of a token have come back since.
    at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub(super) fn new(limit: RateLimit) -> Self {
        let level = Level { tokens: limit.burst, at: Instant::now() };
        Self { limit, level: Arc::new(Mutex::new(level)) }
    }

    pub(super) const fn limit(&self) -> RateLimit {
        self.limit
    }

    /// Takes a token; returns whether there was one.
    pub(super) fn take(&self) -> bool {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let interval = self.limit.interval.as_nanos();
        let elapsed = level.at.elapsed().as_nanos();
        let back = u32::try_from(elapsed / interval).unwrap_or(u32::MAX);
        if back >= self.limit.burst - level.tokens {
            (level.tokens, level.at) = (self.limit.burst, Instant::now());
        } else {
            level.tokens += back;
            level.at += self.limit.interval * back;
        }
        let Some(left) = level.tokens.checked_sub(1) else { return false };
        level.tokens = left;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    fn taken(bucket: &Bucket) -> usize {
        (0..10).filter(|_| bucket.take()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_come_back_one_at_a_time_up_to_the_burst() {
        let bucket = Bucket::new(RateLimit { interval: Duration::from_secs(1), burst: 3 });
        assert_eq!(taken(&bucket), 3);
        advance(Duration::from_millis(600)).await;
        assert_eq!(taken(&bucket), 0);
        advance(Duration::from_millis(600)).await;
        assert_eq!(taken(&bucket), 1);
        // The rest of the second counts.
        advance(Duration::from_millis(900)).await;
        assert_eq!(taken(&bucket), 1);
        advance(Duration::from_mins(1)).await;
        assert_eq!(taken(&bucket), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_bucket_stays_empty() {
        let bucket = Bucket::new(RateLimit { interval: Duration::from_secs(1), burst: 0 });
        assert_eq!(taken(&bucket), 0);
        advance(Duration::from_mins(1)).await;
        assert_eq!(taken(&bucket), 0);
    }
}
