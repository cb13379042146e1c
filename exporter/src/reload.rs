//! One generation of the configuration at a time: loading the first, and replacing it whole when
//! its file changes, someone asks, or the machine has other values for its labels. A file that is
//! bad or gone changes nothing but what the log and the reload metrics say.
//!
//! Files are read, and labels made, on another thread. The reactor, which scrapes run on, takes a
//! snapshot, so that every series goes on, and swaps a pointer.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinHandle, spawn_blocking},
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};

use crate::{
    config::{self, Config, ConfigError, Source},
    cpus::{self, CpuListError},
    ebpf::{ReadError, Scheduler},
    generation::{Generation, Live},
    labels::Unfit,
    log,
    signals::ReloadSignals,
    sources::{self, Endpoints, FILE_PATIENCE, Reader, Schedule, Sources, Values, Watches},
    systemd,
    telemetry::{ReloadOutcome, Telemetry},
    topology::{SYSFS, Topology, TopologyError},
    watch::Watch,
};

/// Editors and kubelet change a file in several steps; it is read when there was no event for this
/// long.
const QUIET: Duration = Duration::from_millis(250);

/// It is read after this long even if the events go on.
const MOST_EVENTS: Duration = Duration::from_secs(2);

/// How long it may take to read the file and to make its labels; that takes some hundred milliseconds
/// at most where no filesystem hangs.
const LOOK_PATIENCE: Duration = Duration::from_secs(10);

/// Requests that wait for the reload under way.
const QUEUE: usize = 16;

/// Why the file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// A signal, by name.
    Signal(&'static str),
    /// `/-/reload`.
    Http,
    /// The file, or what labels are made of, may have changed.
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
            Self::Change => "change",
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

/// Why there is no first generation.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is bad.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What the file says does not fit this machine. The message has a line for each misfit.
    #[error("{}", misfits(path, unfit).join("\n"))]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What does not fit; one at least.
        unfit: Vec<Unfit>,
    },
    /// It is not known which CPUs there are.
    #[error(transparent)]
    CpuList(#[from] CpuListError),
    /// It is not known where they are.
    #[error(transparent)]
    Topology(#[from] TopologyError),
}

impl LoadError {
    /// The message in one line, for the log.
    fn one_line(&self) -> String {
        match self {
            Self::Config(error) => error.one_line(),
            Self::Unfit { path, unfit } => misfits(path, unfit).join("; "),
            Self::CpuList(_) | Self::Topology(_) => self.to_string(),
        }
    }
}

fn misfits(path: &Path, unfit: &[Unfit]) -> Vec<String> {
    unfit.iter().map(|unfit| format!("{}: {unfit}", path.display())).collect()
}

/// What the generation that is served was made of.
#[derive(Clone, Debug, Default)]
pub struct Made {
    /// The file as it was understood.
    pub config: Arc<Config>,
    /// Its SHA-256, in lowercase hex.
    pub sha256: String,
    /// The values of its templates.
    pub values: Values,
    /// Where the CPUs are, as far as it matters.
    pub topology: Topology,
}

/// Holds the generation and replaces it.
#[derive(Debug)]
pub struct Reloader {
    path: PathBuf,
    live: Live,
    telemetry: Telemetry,
    /// The file as it was when last looked at: its hash, or why it could not be read.
    seen: Result<String, String>,
    made: Arc<Made>,
    sources: Sources,
    /// None while another thread has it, where it may block.
    watched: Option<Watched>,
    /// That thread, where it has not come back in time.
    renewing: Option<JoinHandle<(bool, Watched)>>,
    /// The one that looks at the file, likewise.
    looking: Option<JoinHandle<Found>>,
    reader: Reader,
    requests: mpsc::Sender<Request>,
    queue: mpsc::Receiver<Request>,
}

/// What tells of changes of files.
#[derive(Debug)]
struct Watched {
    sources: Watches,
    /// On the configuration, once it is followed.
    file: Option<Watch>,
}

impl Watched {
    /// Watches what matters now, and says whether that is something else than before.
    fn renew(&mut self, config: &Config) -> bool {
        let file = self.file.as_mut().is_some_and(Watch::renew);
        self.sources.renew(config.uses()) || file
    }
}

impl Reloader {
    /// Makes the first generation of `source`, understood as `config`, with the values that can be
    /// had at once. To be called inside a tokio runtime.
    pub fn new(
        source: &Source,
        config: Config,
        endpoints: Endpoints,
        telemetry: Telemetry,
    ) -> Result<Self, LoadError> {
        let (requests, queue) = mpsc::channel(QUEUE);
        let on_change = on_change(requests.clone());
        let sources = Sources::new(endpoints, Schedule::default(), on_change);
        let config = Arc::new(config);
        let topology = locate(&config, &Topology::of(cpus::possible()?))?;
        let reader = sources.reader();
        let values = reader.read(config.uses());
        let sha256 = source.sha256().to_owned();
        let made = Made { config, sha256, values, topology };
        let generation = made.generation(source.path())?;
        telemetry.loaded();
        telemetry.label_sources(&made.values);
        tell_local(&Values::default(), &made.values);
        Ok(Self {
            path: source.path().to_owned(),
            live: Arc::new(ArcSwap::from_pointee(generation)),
            telemetry,
            seen: Ok(made.sha256.clone()),
            made: Arc::new(made),
            watched: Some(Watched { sources: sources.watches(), file: None }),
            renewing: None,
            looking: None,
            sources,
            reader,
            requests,
            queue,
        })
    }

    /// Makes the first generation again when every source has answered or failed once. For whoever
    /// looks only once.
    pub async fn settle(&mut self) -> Result<(), LoadError> {
        let uses = self.made.config.uses();
        self.sources.follow(uses);
        self.reader.first_answers(uses).await;
        let values = self.reader.read(uses);
        let made = Made { values, ..Made::clone(&self.made) };
        self.live.store(Arc::new(made.generation(&self.path)?));
        self.made = Arc::new(made);
        Ok(())
    }

    /// The generation that is served.
    pub fn live(&self) -> Live {
        Arc::clone(&self.live)
    }

    /// What it was made of.
    pub fn made(&self) -> &Made {
        &self.made
    }

    /// Starts to reload on signals, on changes of the file and of what its labels are made of, every
    /// `poll` (zero: never), and on request. To be called inside a tokio runtime; ends with it.
    pub fn start(
        mut self,
        signals: ReloadSignals,
        poll: Duration,
        scheduler: Arc<Scheduler>,
    ) -> ReloadHandle {
        let requests = self.requests.clone();
        tokio::spawn(forward_signals(signals, requests.clone()));
        if !poll.is_zero() {
            tokio::spawn(forward_ticks(poll, requests.clone()));
        }
        if let Some(watched) = &mut self.watched {
            watched.file = Some(Watch::new(&self.path, on_change(requests.clone())));
        }
        tokio::spawn(self.run(scheduler));
        ReloadHandle(requests)
    }

    /// One reload at a time; all requests that wait when it begins are answered by it.
    async fn run(mut self, scheduler: Arc<Scheduler>) {
        // The watch began after the first generation was read.
        let mut is_behind = true;
        self.renew().await;
        self.look_again();
        while let Some(batch) = next_batch(&mut self.queue).await {
            let asked = batch.iter().map(|request| request.cause).find(|cause| cause.is_asked());
            if asked.is_some() {
                systemd::reloading();
            }
            let outcome = self.reload(asked.unwrap_or(batch[0].cause), &scheduler).await;
            if asked.is_some() {
                systemd::ready(&self.status(&outcome));
            } else if !matches!(outcome, Ok(ReloadOutcome::Unchanged)) {
                systemd::status(&self.status(&outcome));
            }
            for reply in batch.into_iter().filter_map(|request| request.reply) {
                let _ = reply.send(outcome.clone());
            }
            if self.renew().await {
                is_behind = true;
                self.look_again();
            } else if std::mem::take(&mut is_behind) {
                tracing::debug!(path = %self.path.display(), "watching the configuration");
            }
        }
    }

    /// What is served, in a line for `systemctl status`.
    fn status(&self, outcome: &Outcome) -> String {
        let serving = serving(&self.path);
        match outcome {
            Ok(_) => serving,
            Err(reason) => format!("{serving} as it was; it is refused now: {reason}"),
        }
    }

    /// Asks for another look, where a file may have changed before its directories were watched.
    fn look_again(&self) {
        on_change(self.requests.clone())();
    }

    /// Follows what matters now, and says whether other files are watched than before. Where a
    /// filesystem hangs, changes are found by polling and on request until it answers.
    async fn renew(&mut self) -> bool {
        self.sources.follow(self.made.config.uses());
        let (mut renewing, patience) = match (self.renewing.take(), self.watched.take()) {
            (Some(renewing), _) => (renewing, Duration::ZERO),
            (None, Some(mut watched)) => {
                let config = Arc::clone(&self.made.config);
                let renew = move || (watched.renew(&config), watched);
                (spawn_blocking(renew), FILE_PATIENCE)
            }
            (None, None) => return false,
        };
        let Ok(renewed) = timeout(patience, &mut renewing).await else {
            if !patience.is_zero() {
                let reason = "a directory that is to be watched does not answer";
                tracing::warn!(reason, "changes are found by polling and on request");
            }
            self.renewing = Some(renewing);
            return false;
        };
        renewed.is_ok_and(|(is_other, watched)| {
            self.watched = Some(watched);
            // The configuration may be another by now.
            is_other || patience.is_zero()
        })
    }

    async fn reload(&mut self, cause: Cause, scheduler: &Scheduler) -> Outcome {
        let Found { seen, mut file, next } = self.look(cause).await;
        self.seen = seen;
        if let Some(next) = next {
            let is_new = matches!(file, Some(Ok(ReloadOutcome::Applied)));
            if let Err(error) = self.serve(next, cause, is_new, scheduler) {
                let error = log::chain(&error);
                tracing::warn!(error, "no snapshot; labels stay as they were for now");
                // It is tried again, though the file stays as it is.
                self.seen = Err(error.clone());
                self.look_again();
                if is_new {
                    file = Some(Err(error));
                }
            }
        }
        file.map_or(Ok(ReloadOutcome::Unchanged), |outcome| self.tell(cause, outcome))
    }

    /// Looks at the file and at what labels are made of, on another thread: a file on a filesystem that
    /// hangs must not hang scrapes, nor stop reloads without a word.
    async fn look(&mut self, cause: Cause) -> Found {
        let looking = Looking {
            path: self.path.clone(),
            seen: self.seen.clone(),
            is_asked: cause.is_asked(),
            made: Arc::clone(&self.made),
            live: self.live.load_full(),
            reader: self.reader.clone(),
        };
        let hangs = format!("`{}` is not loaded within {LOOK_PATIENCE:?}", self.path.display());
        let hangs = looking.fault(hangs);
        if let Some(mut earlier) = self.looking.take()
            && timeout(Duration::ZERO, &mut earlier).await.is_err()
        {
            self.looking = Some(earlier);
            return hangs;
        }
        let panicked = looking.fault("the thread that loads it panicked".into());
        let mut thread = spawn_blocking(move || looking.look());
        let Ok(found) = timeout(LOOK_PATIENCE, &mut thread).await else {
            self.looking = Some(thread);
            return hangs;
        };
        found.unwrap_or(panicked)
    }

    /// Puts a generation in place of that which is served.
    fn serve(
        &mut self,
        next: Next,
        cause: Cause,
        is_new: bool,
        scheduler: &Scheduler,
    ) -> Result<(), ReadError> {
        let Next { made, generation, unfit } = next;
        if let Some(mut generation) = generation {
            let live = self.live.load_full();
            generation.number = live.number + 1;
            // No scrape comes between the two: they are on this thread.
            generation.go_on(&live, &scheduler.snapshot()?);
            if !is_new {
                let number = generation.number;
                tracing::info!(cause = cause.name(), generation = number, "labels changed");
            }
            self.live.store(Arc::new(generation));
            spawn_blocking(move || drop(live));
        }
        for Unfit { misfit, key, problem } in &unfit {
            self.telemetry.misfit(*misfit);
            tracing::warn!(key, problem, "a label can't be as the configuration asks");
        }
        self.telemetry.label_sources(&made.values);
        tell_local(&self.made.values, &made.values);
        let old = std::mem::replace(&mut self.made, Arc::new(made));
        // A thousand rules take their time to go, as do the labels of many CPUs above.
        spawn_blocking(move || drop(old));
        Ok(())
    }

    /// Tells how the file was found.
    fn tell(&self, cause: Cause, outcome: Result<ReloadOutcome, String>) -> Outcome {
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
            Err(reason) => {
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
}

impl Made {
    /// The first generation, if all that the configuration asks for fits this machine.
    fn generation(&self, path: &Path) -> Result<Generation, LoadError> {
        let (generation, unfit) =
            Generation::new(&self.config, &self.sha256, &self.values, &self.topology);
        if unfit.is_empty() {
            return Ok(generation);
        }
        Err(LoadError::Unfit { path: path.into(), unfit })
    }
}

/// Looks at the file and at what labels are made of. It blocks.
struct Looking {
    path: PathBuf,
    seen: Result<String, String>,
    is_asked: bool,
    made: Arc<Made>,
    live: Arc<Generation>,
    reader: Reader,
}

#[derive(Debug)]
struct Found {
    seen: Result<String, String>,
    /// How the file is; none where there is nothing new to say of it.
    file: Option<Result<ReloadOutcome, String>>,
    /// What to serve from now on; none where nothing changed.
    next: Option<Next>,
}

#[derive(Debug)]
struct Next {
    made: Made,
    /// None where it would have the labels that it has.
    generation: Option<Generation>,
    unfit: Vec<Unfit>,
}

impl Looking {
    /// What is found where nothing can be.
    fn fault(&self, reason: String) -> Found {
        let seen = Err(reason.clone());
        let file = (self.is_asked || seen != self.seen).then_some(Err(reason));
        Found { seen, file, next: None }
    }

    fn look(self) -> Found {
        let source = config::read(&self.path);
        let mut seen = match &source {
            Ok(source) => Ok(source.sha256().to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let mut file = None;
        let mut next = None;
        if seen != self.seen || self.is_asked {
            let new = source.map_err(LoadError::from).and_then(|source| {
                if source.sha256() == self.made.sha256 {
                    return Ok(None);
                }
                self.make(source.parse()?, source.sha256()).map(Some)
            });
            file = Some(match new {
                Ok(None) => Ok(ReloadOutcome::Unchanged),
                Ok(Some(new)) => {
                    next = Some(new);
                    Ok(ReloadOutcome::Applied)
                }
                Err(error) => {
                    let reason = error.one_line();
                    // Values can change so that it fits, while the file stays as it is.
                    if matches!(error, LoadError::Unfit { .. }) {
                        seen = Err(reason.clone());
                    }
                    Err(reason)
                }
            });
            if seen == self.seen && !self.is_asked {
                file = None;
            }
        }
        // The last good one follows its sources even while the file is bad.
        let next = next.or_else(|| self.refresh());
        Found { seen, file, next }
    }

    /// What a new configuration gives.
    fn make(&self, config: Config, sha256: &str) -> Result<Next, LoadError> {
        let values = self.reader.read(config.uses());
        let topology = self.locate(&config);
        let made = Made { config: Arc::new(config), sha256: sha256.into(), values, topology };
        let generation = made.generation(&self.path)?;
        Ok(Next { made, generation: Some(generation), unfit: Vec::new() })
    }

    /// What the configuration in use gives now, if that is something else.
    fn refresh(&self) -> Option<Next> {
        let Made { config, sha256, .. } = &*self.made;
        let values = self.reader.read(config.uses());
        let topology = self.locate(config);
        if values == self.made.values && topology == self.made.topology {
            return None;
        }
        let (generation, unfit) = Generation::new(config, sha256, &values, &topology);
        let generation =
            Some(generation).filter(|generation| !generation.labels.is_like(&self.live.labels));
        let made = Made { values, topology, ..Made::clone(&self.made) };
        Some(Next { made, generation, unfit })
    }

    /// Where the CPUs are now. What was known stays where it can't be read any more.
    fn locate(&self, config: &Config) -> Topology {
        locate(config, &self.made.topology).unwrap_or_else(|error| {
            tracing::warn!(%error, "the places of CPUs stay as they were");
            self.made.topology.clone()
        })
    }
}

/// What a service manager is told when all is well.
pub fn serving(path: &Path) -> String {
    format!("serving by {}", path.display())
}

/// Where the CPUs of `known` are, if the configuration asks for it.
fn locate(config: &Config, known: &Topology) -> Result<Topology, TopologyError> {
    if config.cpus().is_empty() && config.cpu_relabel_configs().is_empty() {
        return Ok(known.clone());
    }
    known.update(Path::new(SYSFS))
}

/// Logs what changed of the sources that are read here; those that are asked tell for themselves.
fn tell_local(old: &Values, new: &Values) {
    for (source, reading) in new.readings().filter(|(source, _)| !source.is_remote()) {
        sources::tell(source, old.fault(source), reading);
    }
}

/// The requests that the next reload answers. Who asks does not wait; a change does, until the events
/// are over. None where nobody can ask any more.
async fn next_batch(queue: &mut mpsc::Receiver<Request>) -> Option<Vec<Request>> {
    let mut batch = vec![queue.recv().await?];
    let latest = Instant::now() + MOST_EVENTS;
    while !batch[0].cause.is_asked() && Instant::now() < latest {
        match timeout(QUIET, queue.recv()).await {
            Ok(Some(Request { cause: Cause::Change | Cause::Poll, .. })) => {}
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
    Some(batch)
}

/// Asks for a look. It need not be queued twice: the file is read after the one that waits.
fn on_change(requests: mpsc::Sender<Request>) -> impl Fn() + Send + Sync + 'static {
    move || {
        let _ = requests.try_send(Request { cause: Cause::Change, reply: None });
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

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    /// Milliseconds until a batch is complete, and its causes, where these come at these milliseconds.
    async fn batch(causes: Vec<(u64, Cause)>) -> (u128, Vec<Cause>) {
        let (requests, mut queue) = mpsc::channel(QUEUE);
        let started = Instant::now();
        tokio::spawn(async move {
            for (at, cause) in causes {
                sleep(Duration::from_millis(at).saturating_sub(started.elapsed())).await;
                let _ = requests.send(Request { cause, reply: None }).await;
            }
            // No one hangs up in the meantime.
            sleep(Duration::from_mins(1)).await;
        });
        let batch = next_batch(&mut queue).await.unwrap();
        let took = started.elapsed().as_millis();
        (took, batch.into_iter().map(|request| request.cause).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_looked_at_when_the_events_are_over() {
        let changes = [0, 200, 400].map(|at| (at, Cause::Change));
        assert_eq!(batch(changes.into()).await, (650, vec![Cause::Change]));
    }

    #[tokio::test(start_paused = true)]
    async fn events_that_go_on_do_not_put_it_off_for_ever() {
        let changes = (0..100).map(|number| (number * 100, Cause::Change));
        assert_eq!(batch(changes.collect()).await, (2_000, vec![Cause::Change]));
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_does_not_wait_for_events() {
        let changed = vec![(0, Cause::Change), (100, Cause::Http), (150, Cause::Change)];
        assert_eq!(batch(changed).await, (100, vec![Cause::Change, Cause::Http]));
        let asked = vec![(30, Cause::Signal("SIGHUP")), (150, Cause::Change)];
        assert_eq!(batch(asked).await, (30, vec![Cause::Signal("SIGHUP")]));
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_wait_are_in_one_batch() {
        let (requests, mut queue) = mpsc::channel(QUEUE);
        for cause in [Cause::Http, Cause::Signal("SIGHUP"), Cause::Poll, Cause::Http] {
            requests.try_send(Request { cause, reply: None }).unwrap();
        }
        assert_eq!(next_batch(&mut queue).await.unwrap().len(), 4);
        drop(requests);
        assert!(next_batch(&mut queue).await.is_none());
    }
}
