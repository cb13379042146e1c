//! The reloader: owns the current generation, and replaces it as a whole.

use std::{mem, path::PathBuf, sync::Arc, thread, time::Duration};

use arc_swap::ArcSwap;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use super::{
    build::{BuildJob, BuildOutcome, Candidate, LoadError, generation, locate},
    report::{self, Reporter},
    requests::{
        Cause, Outcome, Pending, QUEUE, ReloadHandle, Request, UNFINISHED_TIMEOUT, forward_signals,
        forward_ticks, next_batch, on_change,
    },
    saved::{self, ContinueError},
};
use crate::{
    config::{Config, ConfigFile},
    cpu::{list, topology::Topology},
    expr::values::{Uses, Values},
    generation::{Current, Generation, Inputs, ReloadOutcome},
    kernel::scheduler::{ReadError, Scheduler},
    metrics::telemetry::Telemetry,
    os::{
        blocking::{BlockingSlot, JobStatus},
        log,
        signals::ReloadSignals,
        systemd::Notifier,
        watch::FileWatch,
    },
    sources::{FILE_TIMEOUT, Reader, Schedule, SourceOrigins, Sources},
    tracker::Tracked,
};

/// Time limit for building a generation. It takes a few hundred milliseconds at most, unless a
/// filesystem hangs.
const BUILD_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause before a reload is tried again that failed, but not because of the file.
const RETRY: Duration = Duration::from_secs(2);

/// How long a start that continues counts waits for the first answers of remote sources.
const FIRST_ANSWERS: Duration = Duration::from_secs(3);

/// Owns the current generation and replaces it.
#[derive(Debug)]
pub struct Reloader {
    path: PathBuf,
    current: Current,
    /// What the current generation was built from.
    inputs: Arc<Inputs>,
    /// The file as last seen: its hash, or why it could not be loaded.
    seen: Result<String, String>,
    /// What it names, if it was rejected because of the values of its sources.
    rejected_uses: Uses,
    sources: Sources,
    reader: Reader,
    watch: FileWatch,
    renewing: BlockingSlot<bool>,
    /// Why the last renewal failed.
    not_renewed: Option<String>,
    building: BlockingSlot<BuildOutcome>,
    /// When to try again, if the last reload ran out of time or resources.
    retry: Option<Instant>,
    requests: mpsc::Sender<Request>,
    queue: mpsc::Receiver<Request>,
    report: Reporter,
    /// The cgroups to regroup, if they are accounted for.
    tracked: Option<Tracked>,
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
        let watch = FileWatch::new(on_change(requests.clone()));
        // What was there at the start is taken as it was. Later writes are noticed.
        watch.completed(source.path(), source.stamp());
        let reader = sources.reader(watch.clone());
        let topology = locate(&config, &Topology::of(list::possible()?))?;
        let values = reader.read(config.uses(), &Values::default(), true);
        let sha256 = source.sha256().to_owned();
        let inputs = Inputs { config: Arc::new(config), sha256, values, topology };
        let generation = generation(&inputs, source.path())?;
        let report = Reporter::new(source.path(), telemetry);
        report.loaded(&inputs.values);
        Ok(Self {
            path: source.path().to_owned(),
            current: Arc::new(ArcSwap::from_pointee(generation)),
            seen: Ok(inputs.sha256.clone()),
            rejected_uses: Uses::default(),
            inputs: Arc::new(inputs),
            watch,
            sources,
            reader,
            renewing: BlockingSlot::new("watch"),
            not_renewed: None,
            building: BlockingSlot::new("reload"),
            retry: None,
            requests,
            queue,
            report,
            tracked: None,
        })
    }

    /// Waits until every source has answered or failed, and rebuilds the first generation. For one-shot
    /// modes.
    pub async fn wait_for_sources(&mut self) -> Result<(), LoadError> {
        let uses = self.inputs.config.uses();
        self.sources.follow(uses);
        self.reader.first_answers(uses).await;
        let values = self.reader.read(uses, &self.inputs.values, true);
        let inputs = Inputs { values, ..Inputs::clone(&self.inputs) };
        self.current.store(Arc::new(generation(&inputs, &self.path)?));
        self.inputs = Arc::new(inputs);
        Ok(())
    }

    /// Continues the series of the last process if counts continue, and from now on saves them for the next one.
    /// Waits a moment for remote sources, so that series keep the labels that they had. Call it before the first
    /// scrape.
    pub async fn continue_last(&mut self, scheduler: &Scheduler) -> Result<(), ContinueError> {
        if scheduler.start().continues() {
            match timeout(FIRST_ANSWERS, self.wait_for_sources()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(error = log::chain(&error), "starting without remote sources");
                }
                Err(_) => tracing::info!("starting before all remote sources have answered"),
            }
        }
        let mut generation = Generation::clone(&self.current.load());
        saved::continue_last(&mut generation, scheduler)?;
        saved::save(&generation, scheduler.state());
        self.current.store(Arc::new(generation));
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
    /// (unless zero), and on request, and tells the service manager. Call it inside a tokio runtime; it runs
    /// as long as the runtime. Regroups the cgroups in `tracked`.
    pub fn start(
        mut self,
        signals: ReloadSignals,
        poll: Duration,
        scheduler: Arc<Scheduler>,
        notifier: Notifier,
        tracked: Option<Tracked>,
    ) -> ReloadHandle {
        self.report.notify(notifier);
        self.tracked = tracked;
        let requests = self.requests.clone();
        tokio::spawn(forward_signals(signals, requests.clone()));
        if !poll.is_zero() {
            tokio::spawn(forward_ticks(poll, requests.clone()));
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
        let mut pending = Pending::default();
        let mut due = None;
        while let Some(batch) = next_batch(&mut self.queue, due).await {
            if pending.extend(batch) {
                self.report.begin(pending.cause());
            }
            if let Some(outcome) = self.reload(&pending, &scheduler).await {
                self.report.end(pending.cause(), &outcome);
                pending.answer(&outcome);
            }
            if self.renew_watches().await {
                is_behind = true;
                self.check_again();
            } else if mem::take(&mut is_behind) {
                self.report.watching();
            }
            let unfinished = self.watch.take_due().map(Instant::from_std);
            due = [unfinished, self.retry, pending.deadline()].into_iter().flatten().min();
        }
    }

    /// Queues a check of the file and the sources.
    fn check_again(&self) {
        on_change(self.requests.clone())();
    }

    /// Builds the next generation, if anything changed, and serves it. Returns `None` while a writer is
    /// at work on the file and the requests can wait for it.
    async fn reload(&mut self, pending: &Pending, scheduler: &Scheduler) -> Option<Outcome> {
        let cause = pending.cause();
        let outcome = self.build(cause).await;
        let BuildOutcome { seen, mut file, is_unfinished, rejected_uses, next } = outcome;
        (self.seen, self.rejected_uses) = (seen, rejected_uses);
        if let Some(next) = next {
            let is_new_file = matches!(file, Some(Ok(ReloadOutcome::Applied)));
            if let Err(error) = self.serve(next, cause, is_new_file, scheduler) {
                let error = log::chain(&error);
                report::labels_kept(&error);
                // Try again, even if the file does not change.
                self.seen = Err(error.clone());
                self.retry = Some(Instant::now() + RETRY);
                if is_new_file {
                    file = Some(Err(error));
                }
            }
        }
        if is_unfinished {
            if pending.deadline().is_none_or(|deadline| Instant::now() < deadline) {
                return None;
            }
            let path = self.path.display();
            file =
                Some(Err(format!("`{path}` is still being written after {UNFINISHED_TIMEOUT:?}")));
        }
        let Some(file) = file else { return Some(Ok(ReloadOutcome::Unchanged)) };
        Some(self.report.file(cause, &self.current.load(), file))
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
            watch: self.watch.clone(),
            cgroups: self.tracked.as_ref().map(Tracked::names).unwrap_or_default(),
        };
        let failed = job.failure();
        let status = self.building.run(BUILD_TIMEOUT, move || job.run()).await;
        self.retry = None;
        let reason = match status {
            JobStatus::Done(outcome) => return outcome,
            JobStatus::Running => format!("loading timed out after {BUILD_TIMEOUT:?}"),
            JobStatus::Panicked => "loading panicked".into(),
            JobStatus::NotStarted(error) => format!("cannot start a thread to load it: {error}"),
        };
        self.retry = Some(Instant::now() + RETRY);
        failed(format!("`{}`: {reason}", self.path.display()))
    }

    /// Replaces the current generation and its inputs.
    fn serve(
        &mut self,
        next: Candidate,
        cause: Cause,
        is_new_file: bool,
        scheduler: &Scheduler,
    ) -> Result<(), ReadError> {
        let Candidate { inputs, generation, violations, cgroup_labels } = next;
        if let Some(mut generation) = generation {
            let current = self.current.load_full();
            generation.number = current.number + 1;
            // No scrape can come between snapshot and swap: scrapes run on this thread.
            let snapshot = scheduler.snapshot()?;
            generation.continue_from(&current, &snapshot);
            saved::save(&generation, scheduler.state());
            if let Some(tracked) = &self.tracked {
                tracked.regroup(&snapshot, &generation, &cgroup_labels);
            }
            if !is_new_file {
                report::labels_changed(cause, generation.number);
            }
            self.current.store(Arc::new(generation));
            drop_elsewhere(current);
        }
        if is_new_file {
            report::warnings(&self.path, &inputs.config);
        }
        self.report.violations(&violations);
        self.report.sources(&self.inputs.values, &inputs.values);
        drop_elsewhere(mem::replace(&mut self.inputs, Arc::new(inputs)));
        Ok(())
    }

    /// Polls the remote sources and watches the files of the current configuration, and watches those of one
    /// that was rejected because of what is in them. Returns whether the watches changed. If a filesystem
    /// hangs, only polling and requests detect changes until it responds.
    async fn renew_watches(&mut self) -> bool {
        let uses = self.inputs.config.uses();
        self.sources.follow(uses);
        match self.renewing.earlier() {
            None | Some(JobStatus::Panicked | JobStatus::NotStarted(_)) => {}
            Some(JobStatus::Running) => return false,
            // The configuration may have changed since that renewal began.
            Some(JobStatus::Done(_)) => return true,
        }
        // The configuration first: it must be watched even if the file of a label hangs.
        let mut files = vec![self.path.clone()];
        files.extend(self.sources.files(uses));
        files.extend(self.sources.files(&self.rejected_uses));
        let watch = self.watch.clone();
        let reason = match self.renewing.run(FILE_TIMEOUT, move || watch.renew(&files)).await {
            JobStatus::Done(is_renewed) => {
                self.not_renewed = None;
                return is_renewed;
            }
            JobStatus::Running => "a watched directory does not respond".into(),
            JobStatus::Panicked => "renewing the watches panicked".into(),
            JobStatus::NotStarted(error) => format!("cannot start a thread: {error}"),
        };
        if self.not_renewed.as_ref() != Some(&reason) {
            report::not_watching(&reason);
        }
        self.not_renewed = Some(reason);
        false
    }
}

/// Drops what may take long, such as the labels of many CPUs, off the reactor if possible.
fn drop_elsewhere<T: Send + Sync + 'static>(old: Arc<T>) {
    // If no thread can be started, this drops it here.
    let _ = thread::Builder::new().name("drop".into()).spawn(move || drop(old));
}
