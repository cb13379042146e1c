//! The reloader: owns the current generation, and replaces it as a whole.

use std::{mem, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{sync::mpsc, task::spawn_blocking};

use super::{
    blocking::{BlockingSlot, JobStatus},
    build::{BuildJob, BuildOutcome, Candidate, LoadError, generation, locate},
    report::{self, Reporter},
    requests::{
        Cause, Outcome, QUEUE, ReloadHandle, Request, forward_signals, forward_ticks, next_batch,
        on_change,
    },
};
use crate::{
    config::{Config, ConfigFile},
    cpu::{list, topology::Topology},
    generation::{Current, Inputs, ReloadOutcome},
    kernel::scheduler::{ReadError, Scheduler},
    metrics::telemetry::Telemetry,
    os::{log, signals::ReloadSignals, systemd::Notifier, watch::Watch},
    sources::{FILE_TIMEOUT, Reader, Schedule, SourceOrigins, Sources, Watches},
};

/// Time limit for building a generation. It takes a few hundred milliseconds at most, unless a
/// filesystem hangs.
const BUILD_TIMEOUT: Duration = Duration::from_secs(10);

/// Owns the current generation and replaces it.
#[derive(Debug)]
pub struct Reloader {
    path: PathBuf,
    current: Current,
    /// What the current generation was built from.
    inputs: Arc<Inputs>,
    /// The file as last seen: its hash, or why it could not be loaded.
    seen: Result<String, String>,
    sources: Sources,
    reader: Reader,
    /// `None` while a renewal is running, which owns them.
    watched: Option<Watched>,
    renewing: BlockingSlot<(bool, Watched)>,
    building: BlockingSlot<BuildOutcome>,
    requests: mpsc::Sender<Request>,
    queue: mpsc::Receiver<Request>,
    report: Reporter,
}

/// Watches that detect changes of files.
#[derive(Debug)]
struct Watched {
    sources: Watches,
    /// The configuration file, once [`Reloader::start`] has been called.
    file: Option<Watch>,
}

impl Watched {
    /// Updates the directories that are watched. Returns whether they changed: if so, a change may have
    /// gone unnoticed. It may block.
    fn renew(&mut self, config: &Config) -> bool {
        let file = self.file.as_mut().is_some_and(Watch::renew);
        self.sources.renew(config.uses()) || file
    }
}

impl Reloader {
    /// Builds the first generation from `source`, parsed as `config`, with the values that are
    /// available at once. Call it inside a tokio runtime.
    pub fn new(
        source: &ConfigFile,
        config: Config,
        origins: SourceOrigins,
        telemetry: Telemetry,
    ) -> Result<Self, LoadError> {
        let (requests, queue) = mpsc::channel(QUEUE);
        let sources = Sources::new(origins, Schedule::default(), on_change(requests.clone()));
        let reader = sources.reader();
        let topology = locate(&config, &Topology::of(list::possible()?))?;
        let values = reader.read(config.uses());
        let sha256 = source.sha256().to_owned();
        let inputs = Inputs { config: Arc::new(config), sha256, values, topology };
        let generation = generation(&inputs, source.path())?;
        let report = Reporter::new(source.path(), telemetry);
        report.loaded(&inputs.values);
        Ok(Self {
            path: source.path().to_owned(),
            current: Arc::new(ArcSwap::from_pointee(generation)),
            seen: Ok(inputs.sha256.clone()),
            inputs: Arc::new(inputs),
            watched: Some(Watched { sources: sources.watches(), file: None }),
            sources,
            reader,
            renewing: BlockingSlot::Idle,
            building: BlockingSlot::Idle,
            requests,
            queue,
            report,
        })
    }

    /// Waits until every source has answered or failed, and rebuilds the first generation. For one-shot
    /// modes.
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

    /// The current generation.
    pub fn current(&self) -> Current {
        Arc::clone(&self.current)
    }

    /// What the current generation was built from.
    pub fn inputs(&self) -> &Inputs {
        &self.inputs
    }

    /// Starts reloading: on signals, on changes of the file or of the sources of its labels, every `poll`
    /// (unless zero), and on request, and tells the service manager. Call it inside a tokio runtime; it runs as long as the runtime.
    pub fn start(
        mut self,
        signals: ReloadSignals,
        poll: Duration,
        scheduler: Arc<Scheduler>,
        notifier: Notifier,
    ) -> ReloadHandle {
        self.report.notify(notifier);
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

    /// Serves requests, one batch at a time.
    async fn run(mut self, scheduler: Arc<Scheduler>) {
        self.renew_watches().await;
        // The file may have changed after it was read and before it was watched.
        self.check_again();
        let mut is_behind = true;
        while let Some(batch) = next_batch(&mut self.queue).await {
            let explicit = batch.iter().find(|request| request.cause.is_explicit());
            let cause = explicit.unwrap_or(&batch[0]).cause;
            self.report.begin(cause);
            let outcome = self.reload(cause, &scheduler).await;
            self.report.end(cause, &outcome);
            for reply in batch.into_iter().filter_map(|request| request.reply) {
                let _ = reply.send(outcome.clone());
            }
            if self.renew_watches().await {
                is_behind = true;
                self.check_again();
            } else if mem::take(&mut is_behind) {
                self.report.watching();
            }
        }
    }

    /// Queues a check of the file and the sources.
    fn check_again(&self) {
        on_change(self.requests.clone())();
    }

    /// Builds the next generation, if anything changed, and serves it.
    async fn reload(&mut self, cause: Cause, scheduler: &Scheduler) -> Outcome {
        let BuildOutcome { seen, mut file, next } = self.build(cause).await;
        self.seen = seen;
        if let Some(next) = next {
            let is_new_file = matches!(file, Some(Ok(ReloadOutcome::Applied)));
            if let Err(error) = self.serve(next, cause, is_new_file, scheduler) {
                let error = log::chain(&error);
                report::labels_kept(&error);
                // Retry, even if the file does not change again.
                self.seen = Err(error.clone());
                self.check_again();
                if is_new_file {
                    file = Some(Err(error));
                }
            }
        }
        let Some(file) = file else { return Ok(ReloadOutcome::Unchanged) };
        self.report.file(cause, &self.current.load(), file)
    }

    /// Reads the file and the sources and builds the next generation, on another thread: a filesystem
    /// that hangs must neither block scrapes nor silently stop reloads.
    async fn build(&mut self, cause: Cause) -> BuildOutcome {
        let job = BuildJob {
            path: self.path.clone(),
            seen: self.seen.clone(),
            is_explicit: cause.is_explicit(),
            inputs: Arc::clone(&self.inputs),
            current: self.current.load_full(),
            reader: self.reader.clone(),
        };
        let path = self.path.display();
        let timed_out = job.failed(format!("`{path}`: loading timed out after {BUILD_TIMEOUT:?}"));
        let panicked = job.failed(format!("`{path}`: loading panicked"));
        match self.building.run(BUILD_TIMEOUT, move || job.run()).await {
            JobStatus::Done(outcome) => outcome,
            JobStatus::Running => timed_out,
            JobStatus::Panicked => panicked,
        }
    }

    /// Replaces the current generation and its inputs.
    fn serve(
        &mut self,
        next: Candidate,
        cause: Cause,
        is_new_file: bool,
        scheduler: &Scheduler,
    ) -> Result<(), ReadError> {
        let Candidate { inputs, generation, violations } = next;
        if let Some(mut generation) = generation {
            let current = self.current.load_full();
            generation.number = current.number + 1;
            // No scrape can come between snapshot and swap: scrapes run on this thread.
            generation.continue_from(&current, &scheduler.snapshot()?);
            if !is_new_file {
                report::labels_changed(cause, generation.number);
            }
            self.current.store(Arc::new(generation));
            // Dropping the labels of many CPUs is slow; do it off the reactor.
            spawn_blocking(move || drop(current));
        }
        if is_new_file {
            report::warnings(&self.path, &inputs.config);
        }
        self.report.violations(&violations);
        self.report.sources(&self.inputs.values, &inputs.values);
        let old = mem::replace(&mut self.inputs, Arc::new(inputs));
        // Dropping a large configuration is slow, too.
        spawn_blocking(move || drop(old));
        Ok(())
    }

    /// Polls the remote sources and watches the files of the current configuration. Returns whether the
    /// watches changed. If a filesystem hangs, only polling and requests detect changes until it
    /// responds.
    async fn renew_watches(&mut self) -> bool {
        self.sources.follow(self.inputs.config.uses());
        match self.renewing.earlier().await {
            None => {}
            Some(JobStatus::Running | JobStatus::Panicked) => return false,
            Some(JobStatus::Done((_, watched))) => {
                self.watched = Some(watched);
                // The configuration may have changed since that renewal began.
                return true;
            }
        }
        // The watches are lost if a renewal panicked.
        let Some(mut watched) = self.watched.take() else { return false };
        let config = Arc::clone(&self.inputs.config);
        let renew = move || (watched.renew(&config), watched);
        match self.renewing.run(FILE_TIMEOUT, renew).await {
            JobStatus::Done((is_renewed, watched)) => {
                self.watched = Some(watched);
                is_renewed
            }
            JobStatus::Running => {
                report::not_watching();
                false
            }
            JobStatus::Panicked => false,
        }
    }
}
