//! One generation of the configuration at a time: loading the first, and replacing it whole when
//! its file changes or someone asks. A file that is bad or gone changes nothing but what the log
//! and the reload metrics say.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};

use crate::{
    config::{self, Config, ConfigError, Source},
    signals::ReloadSignals,
    telemetry::{ReloadOutcome, Telemetry},
    watch::Watch,
};

/// A configuration in use. Every scrape is rendered from one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// What the file says.
    pub config: Config,
    /// 1 at start, one more with each that followed.
    pub number: u64,
    /// SHA-256 of the file, in lowercase hex.
    pub sha256: String,
}

/// The generation that is served now.
pub type Live = Arc<ArcSwap<Generation>>;

/// Editors and kubelet change a file in several steps; it is read when there was no event for this
/// long.
const QUIET: Duration = Duration::from_millis(250);

/// It is read after this long even if the events go on.
const MOST_EVENTS: Duration = Duration::from_secs(2);

/// Requests that wait for the reload under way.
const QUEUE: usize = 16;

/// Why the file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// A signal, by name.
    Signal(&'static str),
    /// `/-/reload`.
    Http,
    /// Something changed beside the file.
    Change,
    /// It's time to look.
    Poll,
}

impl Cause {
    /// Whether someone asked, so that even an unchanged file is an answer worth a line.
    fn is_asked(self) -> bool {
        matches!(self, Self::Signal(_) | Self::Http)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Signal(name) => name,
            Self::Http => "/-/reload",
            Self::Change => "file change",
            Self::Poll => "poll",
        }
    }
}

/// How a reload ended: the reason where it failed.
type Outcome = Result<ReloadOutcome, Arc<str>>;

#[derive(Debug)]
struct Request {
    cause: Cause,
    reply: Option<oneshot::Sender<Outcome>>,
}

/// Asks for reloads.
#[derive(Clone, Debug)]
pub struct ReloadHandle(mpsc::Sender<Request>);

impl ReloadHandle {
    /// Reloads, and waits for the outcome. The error is the reason, in one line.
    pub async fn reload(&self) -> Outcome {
        let (reply, outcome) = oneshot::channel();
        let request = Request { cause: Cause::Http, reply: Some(reply) };
        let stopped = || Arc::from("the exporter is shutting down");
        if self.0.send(request).await.is_err() {
            return Err(stopped());
        }
        outcome.await.unwrap_or_else(|_| Err(stopped()))
    }
}

/// Holds the generation and replaces it.
#[derive(Debug)]
pub struct Reloader {
    path: PathBuf,
    live: Live,
    telemetry: Telemetry,
    /// The file as it was when last looked at: its hash, or why it could not be read.
    seen: Result<String, String>,
}

impl Reloader {
    /// Loads the first generation.
    pub fn load(path: &Path, telemetry: Telemetry) -> Result<Self, ConfigError> {
        let source = config::read(path)?;
        let config = source.parse()?;
        let seen = Ok(source.sha256().to_owned());
        let generation = Generation { config, number: 1, sha256: source.sha256().to_owned() };
        telemetry.loaded();
        let live = Arc::new(ArcSwap::from_pointee(generation));
        Ok(Self { path: path.to_owned(), live, telemetry, seen })
    }

    /// The generation that is served.
    pub fn live(&self) -> Live {
        Arc::clone(&self.live)
    }

    /// Starts to reload on signals, on changes of the file, every `poll` (zero: never), and on
    /// request. To be called inside a tokio runtime; ends with it.
    pub fn start(self, signals: ReloadSignals, poll: Duration) -> ReloadHandle {
        let (requests, queue) = mpsc::channel(QUEUE);
        tokio::spawn(forward_signals(signals, requests.clone()));
        if !poll.is_zero() {
            tokio::spawn(forward_ticks(poll, requests.clone()));
        }
        let changes = requests.clone();
        // A change need not be queued twice: the file is read after the one that waits.
        let watch = Watch::new(&self.path, move || {
            let _ = changes.try_send(Request { cause: Cause::Change, reply: None });
        });
        tokio::spawn(self.run(queue, watch));
        ReloadHandle(requests)
    }

    /// One reload at a time; all requests that wait when it begins are answered by it.
    async fn run(mut self, mut queue: mpsc::Receiver<Request>, mut watch: Watch) {
        // The watch began after the first generation was read.
        self.catch_up(&mut watch).await;
        while let Some(request) = queue.recv().await {
            let mut batch = vec![request];
            let latest = Instant::now() + MOST_EVENTS;
            while batch[0].cause == Cause::Change && Instant::now() < latest {
                match timeout(QUIET, queue.recv()).await {
                    Ok(Some(Request { cause: Cause::Change, .. })) => {}
                    Ok(Some(request)) => {
                        batch.push(request);
                        break;
                    }
                    Ok(None) | Err(_) => break,
                }
            }
            while let Ok(request) = queue.try_recv() {
                batch.push(request);
            }
            let asked = batch.iter().map(|request| request.cause).find(|cause| cause.is_asked());
            let outcome = self.reload(asked.unwrap_or(batch[0].cause)).await;
            for reply in batch.into_iter().filter_map(|request| request.reply) {
                let _ = reply.send(outcome.clone());
            }
            if watch.renew() {
                self.catch_up(&mut watch).await;
            }
        }
    }

    /// Looks again, where the file may have changed before its directories were watched.
    async fn catch_up(&mut self, watch: &mut Watch) {
        loop {
            let _ = self.reload(Cause::Change).await;
            if !watch.renew() {
                tracing::debug!(path = %self.path.display(), "watching the configuration");
                return;
            }
        }
    }

    async fn reload(&mut self, cause: Cause) -> Outcome {
        let path = self.path.clone();
        // A file on a filesystem that hangs must not hang scrapes.
        let source = spawn_blocking(move || config::read(&path)).await;
        let source = source.map_err(|error| Arc::from(error.to_string()))?;
        let seen = match &source {
            Ok(source) => Ok(source.sha256().to_owned()),
            Err(error) => Err(error.to_string()),
        };
        if seen == self.seen && !cause.is_asked() {
            return Ok(ReloadOutcome::Unchanged);
        }
        self.seen = seen;
        let outcome = source.and_then(|source| self.replace(&source));
        self.telemetry.reload(*outcome.as_ref().unwrap_or(&ReloadOutcome::Failed));
        let live = self.live.load();
        match outcome {
            Ok(outcome) => {
                tracing::info!(
                    outcome = outcome.name(),
                    cause = cause.name(),
                    generation = live.number,
                    sha256 = live.sha256,
                    "configuration reloaded"
                );
                Ok(outcome)
            }
            Err(error) => {
                let reason = error.one_line();
                tracing::error!(
                    cause = cause.name(),
                    generation = live.number,
                    reason,
                    "configuration refused; the last good one stays"
                );
                Err(Arc::from(reason))
            }
        }
    }

    /// Parses and validates all of it, then swaps one pointer.
    fn replace(&self, source: &Source) -> Result<ReloadOutcome, ConfigError> {
        let current = self.live.load();
        if source.sha256() == current.sha256 {
            return Ok(ReloadOutcome::Unchanged);
        }
        let config = source.parse()?;
        let number = current.number + 1;
        self.live.store(Arc::new(Generation {
            config,
            number,
            sha256: source.sha256().to_owned(),
        }));
        Ok(ReloadOutcome::Applied)
    }
}

async fn forward_signals(mut signals: ReloadSignals, requests: mpsc::Sender<Request>) {
    loop {
        let cause = Cause::Signal(signals.next().await);
        if requests.send(Request { cause, reply: None }).await.is_err() {
            return;
        }
    }
}

async fn forward_ticks(period: Duration, requests: mpsc::Sender<Request>) {
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if requests.send(Request { cause: Cause::Poll, reply: None }).await.is_err() {
            return;
        }
    }
}
