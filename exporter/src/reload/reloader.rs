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
    sync::mpsc,
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

use super::{
    build::{BuildJob, BuildOutcome, Candidate, LoadError, generation, locate},
    requests::{
        Cause, Outcome, QUEUE, ReloadHandle, Request, forward_signals, forward_ticks, next_batch,
        on_change,
    },
};
use crate::{
    config::{Config, ConfigFile},
    cpu::{list as cpus, topology::Topology},
    expr::values::Values,
    generation::{Current, Inputs, ReloadOutcome},
    kernel::scheduler::{ReadError, Scheduler},
    labels::Violation,
    metrics::telemetry::Telemetry,
    os::{log, signals::ReloadSignals, systemd, watch::Watch},
    sources::{self, FILE_TIMEOUT, Reader, Schedule, SourceOrigins, Sources, Watches},
};

/// How long it may take to read the file and to make its labels; that takes some hundred milliseconds
/// at most where no filesystem hangs.
const BUILD_TIMEOUT: Duration = Duration::from_secs(10);

/// Holds the generation and replaces it.
#[derive(Debug)]
pub struct Reloader {
    path: PathBuf,
    current: Current,
    telemetry: Telemetry,
    /// The file as it was when last looked at: its hash, or why it could not be read.
    seen: Result<String, String>,
    inputs: Arc<Inputs>,
    sources: Sources,
    /// None while another thread has it, where it may block.
    watched: Option<Watched>,
    /// That thread, where it has not come back in time.
    renewing: Option<JoinHandle<(bool, Watched)>>,
    /// The one that looks at the file, likewise.
    building: Option<JoinHandle<BuildOutcome>>,
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
        source: &ConfigFile,
        config: Config,
        endpoints: SourceOrigins,
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
        let inputs = Inputs { config, sha256, values, topology };
        let generation = generation(&inputs, source.path())?;
        telemetry.loaded();
        telemetry.label_sources(inputs.values.up());
        tell_local(&Values::default(), &inputs.values);
        Ok(Self {
            path: source.path().to_owned(),
            current: Arc::new(ArcSwap::from_pointee(generation)),
            telemetry,
            seen: Ok(inputs.sha256.clone()),
            inputs: Arc::new(inputs),
            watched: Some(Watched { sources: sources.watches(), file: None }),
            renewing: None,
            building: None,
            sources,
            reader,
            requests,
            queue,
        })
    }

    /// Makes the first generation again when every source has answered or failed once. For whoever
    /// looks only once.
    pub async fn wait_for_sources(&mut self) -> Result<(), LoadError> {
        let uses = self.inputs.config.uses();
        self.sources.follow(uses);
        self.reader.first_answers(uses).await;
        let values = self.reader.read(uses);
        let inputs = Inputs { values, ..Inputs::clone(&self.inputs) };
        self.current.store(Arc::new(generation(&inputs, &self.path)?));
        self.inputs = Arc::new(inputs);
        Ok(())
    }

    /// The generation that is served.
    pub fn current(&self) -> Current {
        Arc::clone(&self.current)
    }

    /// What it was made of.
    pub fn inputs(&self) -> &Inputs {
        &self.inputs
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
        self.check_again();
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
                self.check_again();
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
    fn check_again(&self) {
        on_change(self.requests.clone())();
    }

    /// Follows what matters now, and says whether other files are watched than before. Where a
    /// filesystem hangs, changes are found by polling and on request until it answers.
    async fn renew(&mut self) -> bool {
        self.sources.follow(self.inputs.config.uses());
        let (mut renewing, patience) = match (self.renewing.take(), self.watched.take()) {
            (Some(renewing), _) => (renewing, Duration::ZERO),
            (None, Some(mut watched)) => {
                let config = Arc::clone(&self.inputs.config);
                let renew = move || (watched.renew(&config), watched);
                (spawn_blocking(renew), FILE_TIMEOUT)
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
        let BuildOutcome { seen, mut file, next } = self.build(cause).await;
        self.seen = seen;
        if let Some(next) = next {
            let is_new = matches!(file, Some(Ok(ReloadOutcome::Applied)));
            if let Err(error) = self.serve(next, cause, is_new, scheduler) {
                let error = log::chain(&error);
                tracing::warn!(error, "no snapshot; labels stay as they were for now");
                // It is tried again, though the file stays as it is.
                self.seen = Err(error.clone());
                self.check_again();
                if is_new {
                    file = Some(Err(error));
                }
            }
        }
        file.map_or(Ok(ReloadOutcome::Unchanged), |outcome| self.tell(cause, outcome))
    }

    /// Looks at the file and at what labels are made of, on another thread: a file on a filesystem that
    /// hangs must not hang scrapes, nor stop reloads without a word.
    async fn build(&mut self, cause: Cause) -> BuildOutcome {
        let building = BuildJob {
            path: self.path.clone(),
            seen: self.seen.clone(),
            is_asked: cause.is_asked(),
            inputs: Arc::clone(&self.inputs),
            current: self.current.load_full(),
            reader: self.reader.clone(),
        };
        let hangs = format!("`{}` is not loaded within {BUILD_TIMEOUT:?}", self.path.display());
        let hangs = building.fault(hangs);
        if let Some(mut earlier) = self.building.take()
            && timeout(Duration::ZERO, &mut earlier).await.is_err()
        {
            self.building = Some(earlier);
            return hangs;
        }
        let panicked = building.fault("the thread that loads it panicked".into());
        let mut thread = spawn_blocking(move || building.run());
        let Ok(found) = timeout(BUILD_TIMEOUT, &mut thread).await else {
            self.building = Some(thread);
            return hangs;
        };
        found.unwrap_or(panicked)
    }

    /// Puts a generation in place of that which is served.
    fn serve(
        &mut self,
        next: Candidate,
        cause: Cause,
        is_new: bool,
        scheduler: &Scheduler,
    ) -> Result<(), ReadError> {
        let Candidate { inputs, generation, violations } = next;
        if let Some(mut generation) = generation {
            let current = self.current.load_full();
            generation.number = current.number + 1;
            // No scrape comes between the two: they are on this thread.
            generation.continue_from(&current, &scheduler.snapshot()?);
            if !is_new {
                let number = generation.number;
                tracing::info!(cause = cause.name(), generation = number, "labels changed");
            }
            self.current.store(Arc::new(generation));
            spawn_blocking(move || drop(current));
        }
        for Violation { kind, key, message: problem } in &violations {
            self.telemetry.label_rejected(*kind);
            tracing::warn!(key, problem, "a label can't be as the configuration asks");
        }
        self.telemetry.label_sources(inputs.values.up());
        tell_local(&self.inputs.values, &inputs.values);
        let old = std::mem::replace(&mut self.inputs, Arc::new(inputs));
        // A thousand rules take their time to go, as do the labels of many CPUs above.
        spawn_blocking(move || drop(old));
        Ok(())
    }

    /// Tells how the file was found.
    fn tell(&self, cause: Cause, outcome: Result<ReloadOutcome, String>) -> Outcome {
        self.telemetry.reload(*outcome.as_ref().unwrap_or(&ReloadOutcome::Failed));
        let current = self.current.load();
        match outcome {
            Ok(outcome) => {
                tracing::info!(
                    outcome = outcome.name(),
                    cause = cause.name(),
                    generation = current.number,
                    sha256 = current.sha256,
                    "configuration reloaded"
                );
                Ok(outcome)
            }
            Err(reason) => {
                tracing::error!(
                    cause = cause.name(),
                    generation = current.number,
                    reason,
                    "configuration refused; the last good one stays"
                );
                Err(Arc::from(reason))
            }
        }
    }
}

/// What a service manager is told when all is well.
pub fn serving(path: &Path) -> String {
    format!("serving by {}", path.display())
}

/// Logs what changed of the sources that are read here; those that are asked tell for themselves.
fn tell_local(old: &Values, new: &Values) {
    for (source, reading) in new.readings().filter(|(source, _)| !source.is_remote()) {
        sources::log_change(source, old.error(source), reading);
    }
}
