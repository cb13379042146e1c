//! Asks one remote source in the background.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{SourceOrigins, cloud, kubernetes, tell};
use crate::expr::values::{Reading, Source};

/// When remote sources are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// How long an answer is good, give or take 10 %.
    pub node: Duration,
    /// The same for cloud metadata.
    pub cloud: Duration,
    /// An answer must be there after this long.
    pub timeout: Duration,
    /// The pause after the first failure before there was any answer. It doubles at each.
    pub first_retry: Duration,
    /// The longest such pause.
    pub last_retry: Duration,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            node: Duration::from_mins(5),
            cloud: Duration::from_mins(10),
            timeout: Duration::from_secs(2),
            first_retry: Duration::from_secs(1),
            last_retry: Duration::from_mins(1),
        }
    }
}

pub(super) type Remote = BTreeMap<Source, Reading>;

/// Asks one remote source.
pub(super) struct Ask {
    pub(super) source: Source,
    pub(super) keys: BTreeSet<String>,
    pub(super) endpoints: Arc<SourceOrigins>,
    pub(super) schedule: Schedule,
    pub(super) remote: watch::Sender<Remote>,
    pub(super) on_change: Arc<dyn Fn() + Send + Sync>,
}

impl Ask {
    pub(super) async fn run(self) {
        let period = match self.source {
            Source::NodeLabels => self.schedule.node,
            _ => self.schedule.cloud,
        };
        let mut retry = self.schedule.first_retry;
        let mut answered = false;
        loop {
            let limit = self.schedule.timeout;
            let answer = timeout(limit, self.ask()).await;
            let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")));
            answered |= answer.is_ok();
            self.keep(answer);
            let pause = if answered { period } else { retry };
            retry = (retry * 2).min(self.schedule.last_retry);
            sleep(jittered(pause, random())).await;
        }
    }

    /// The values, or why there are none.
    async fn ask(&self) -> Result<BTreeMap<String, String>, String> {
        let (endpoints, keys) = (&self.endpoints, &self.keys);
        match self.source {
            Source::Aws => cloud::aws(&endpoints.aws, keys).await,
            Source::Azure => cloud::azure(&endpoints.azure, keys).await,
            Source::Gcp => cloud::gcp(&endpoints.gcp, keys).await,
            _ => kubernetes::node_labels(endpoints, keys).await,
        }
    }

    /// Takes a good answer in place of the last; a failure leaves that as it is.
    fn keep(&self, answer: Result<BTreeMap<String, String>, String>) {
        let changed = self.remote.send_if_modified(|remote| {
            // Nothing was said of it yet.
            let first = !remote.contains_key(&self.source);
            let known = remote.entry(self.source).or_default();
            let before = known.clone();
            match answer {
                Ok(values) => *known = Reading::of(values),
                Err(reason) => known.fault = Some(reason),
            }
            tell(self.source, before.fault.as_deref(), known);
            first || before != *known
        });
        if changed {
            (self.on_change)();
        }
    }
}

/// A pause of 90 % to 110 %, so that a fleet that started at once does not ask at once.
pub(super) fn jittered(pause: Duration, random: u32) -> Duration {
    pause.mul_f64(0.9 + 0.2 * f64::from(random) / f64::from(u32::MAX))
}

/// Good enough to spread requests: the standard library's seeds for hash maps.
pub(super) fn random() -> u32 {
    let [a, b, c, d, ..] = RandomState::new().build_hasher().finish().to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}
