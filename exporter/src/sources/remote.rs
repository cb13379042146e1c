//! Polls one remote source in the background.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    SourceError, SourceOrigins, answer::Answer, cloud, kubernetes, log_change, origins::Endpoint,
    threads::Threads,
};
use crate::{
    expr::values::{Reading, Source},
    os::{
        http_client::{self, Server},
        jitter::{jittered, random},
    },
};

/// When to poll remote sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Interval between polls of the Kubernetes API, varied by up to 10 %.
    pub node: Duration,
    /// Interval between polls of a cloud's metadata service, varied by up to 10 %.
    pub cloud: Duration,
    /// Timeout of one poll.
    pub timeout: Duration,
    /// Delay after the first failed poll. Until the first answer, it doubles with each failure.
    pub first_retry: Duration,
    /// Maximum of that delay.
    pub max_retry: Duration,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            node: Duration::from_mins(5),
            cloud: Duration::from_mins(10),
            timeout: Duration::from_secs(2),
            first_retry: Duration::from_secs(1),
            max_retry: Duration::from_mins(1),
        }
    }
}

/// For each remote source, the last good values and the error of the last poll.
pub(super) type Answers = BTreeMap<Source, Reading>;

/// A kind of server.
#[derive(Clone, Copy)]
pub(super) enum Service {
    Aws,
    Azure,
    Gcp,
    Kubernetes,
}

impl Service {
    const fn interval(self, schedule: &Schedule) -> Duration {
        match self {
            Self::Aws | Self::Azure | Self::Gcp => schedule.cloud,
            Self::Kubernetes => schedule.node,
        }
    }
}

/// A server and its addresses.
struct Located<'h> {
    host: &'h str,
    port: u16,
    addresses: Vec<SocketAddr>,
}

impl Located<'_> {
    fn server(&self) -> Server<'_> {
        Server { host: self.host, port: self.port, addresses: &self.addresses }
    }
}

/// Polls one source.
pub(super) struct Poll {
    pub(super) source: Source,
    pub(super) service: Service,
    pub(super) keys: BTreeSet<String>,
    pub(super) origins: Arc<SourceOrigins>,
    pub(super) schedule: Schedule,
    pub(super) threads: Threads,
    pub(super) answers: watch::Sender<Answers>,
    pub(super) on_change: Arc<dyn Fn() + Send + Sync>,
}

impl Poll {
    /// Polls until the task is aborted.
    pub(super) async fn run(self) {
        let interval = self.service.interval(&self.schedule);
        let limit = self.schedule.timeout;
        let mut retry = self.schedule.first_retry;
        let mut answered = false;
        loop {
            let answer = match timeout(limit, self.ask()).await {
                Ok(answer) => answer,
                Err(_) => Err(SourceError::AnswerTimeout(limit)),
            };
            answered |= answer.is_ok();
            self.store(answer);
            let pause = if answered { interval } else { retry };
            retry = (retry * 2).min(self.schedule.max_retry);
            sleep(jittered(pause, random())).await;
        }
    }

    async fn ask(&self) -> Answer {
        let Self { origins, keys, threads, .. } = self;
        match self.service {
            Service::Aws => cloud::aws(self.locate(&origins.aws).await?.server(), keys).await,
            Service::Azure => cloud::azure(self.locate(&origins.azure).await?.server(), keys).await,
            Service::Gcp => cloud::gcp(self.locate(&origins.gcp).await?.server(), keys).await,
            Service::Kubernetes => kubernetes::node_labels(origins, keys, threads).await,
        }
    }

    /// Finds a server. Only a name needs a thread, since its resolver may hang.
    async fn locate<'h>(&self, (host, port): &'h Endpoint) -> Result<Located<'h>, SourceError> {
        let port = *port;
        let addresses = if let Ok(address) = host.parse::<IpAddr>() {
            vec![(address, port).into()]
        } else {
            let name = host.clone();
            self.threads.run(self.source, move || http_client::addresses(&name, port)).await??
        };
        Ok(Located { host, port, addresses })
    }

    /// Replaces the last answer with a good one. An error keeps the last good values.
    fn store(&self, answer: Answer) {
        let changed = self.answers.send_if_modified(|answers| {
            let is_first = !answers.contains_key(&self.source);
            let reading = answers.entry(self.source).or_default();
            let before = reading.clone();
            match answer {
                Ok(values) => *reading = Reading::of(values),
                Err(error) => reading.error = Some(error.chain()),
            }
            log_change(self.source, before.error.as_deref(), reading);
            is_first || before != *reading
        });
        if changed {
            (self.on_change)();
        }
    }
}
