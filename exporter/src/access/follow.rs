//! Replaces what applies when the web configuration or a file that it names changes.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};

use super::{
    Gate, Loaded, WebConfigError,
    load::{Again, load_if_complete},
};
use crate::{
    access,
    metrics::telemetry::Telemetry,
    os::{
        blocking::{BlockingSlot, JobStatus},
        signals::ReloadSignals,
        watch::FileWatch,
    },
};

/// Read again once no event has arrived for this long: a certificate and its key are replaced one after the
/// other.
const DEBOUNCE: Duration = Duration::from_millis(250);

/// Read again after this long even if events keep arriving.
const MAX_DEBOUNCE: Duration = Duration::from_secs(2);

/// Time limit for reading and watching the files.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long after a failure to try again, besides when something changes.
const RETRY: Duration = Duration::from_secs(10);

/// Requests that can wait.
const QUEUE: usize = 16;

/// The outcome of a request; the error is the reason, in one line.
type Outcome = Result<(), Arc<str>>;

/// Requests that the web configuration is read again.
#[derive(Clone, Debug)]
pub struct WebReload(mpsc::Sender<oneshot::Sender<Outcome>>);

impl WebReload {
    /// Requests it, and waits for the outcome.
    pub(super) async fn reload(&self) -> Outcome {
        let stopped = || Arc::from("the exporter is shutting down");
        let (reply, outcome) = oneshot::channel();
        if self.0.send(reply).await.is_err() {
            return Err(stopped());
        }
        outcome.await.unwrap_or_else(|_| Err(stopped()))
    }
}

/// Follows the files of a web configuration.
pub struct Follower {
    path: PathBuf,
    gate: Arc<Gate>,
    telemetry: Telemetry,
    watch: FileWatch,
    changed: Arc<Notify>,
    /// What is applied: the hash of what was read.
    applied: String,
    /// Why the latest was rejected, if it was.
    rejected: Option<Arc<str>>,
    /// The files to watch, the web configuration first.
    files: Vec<PathBuf>,
    reading: BlockingSlot<Again>,
    watching: BlockingSlot<bool>,
}

impl Follower {
    /// Puts what was loaded at the start into force. [`Follower::start`] follows its files.
    pub fn new(path: PathBuf, loaded: Loaded, telemetry: Telemetry) -> Self {
        let changed = Arc::new(Notify::new());
        let watch = {
            let changed = Arc::clone(&changed);
            FileWatch::new(move || changed.notify_one())
        };
        let Loaded { access, warnings, sha256, files, .. } = loaded;
        access::warnings(&path, &warnings);
        for (file, stamp) in &files {
            watch.completed(file, *stamp);
        }
        telemetry.web_config(true);
        Self {
            path,
            gate: Arc::new(Gate::new(access)),
            telemetry,
            watch,
            changed,
            applied: sha256,
            rejected: None,
            files: files.into_iter().map(|(file, _)| file).collect(),
            reading: BlockingSlot::new("web-config"),
            watching: BlockingSlot::new("web-watch"),
        }
    }

    /// What applies.
    pub fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate)
    }

    /// Starts to follow the files: when one changes, every `poll` (unless zero), on signals and on request.
    /// Call it inside a tokio runtime; it runs as long as the runtime.
    pub fn start(self, poll: Duration, signals: ReloadSignals) {
        let (requests, queue) = mpsc::channel(QUEUE);
        // It is started once.
        let _ = self.gate.reload.set(WebReload(requests));
        tokio::spawn(self.run(poll, signals, queue));
    }

    async fn run(
        mut self,
        poll: Duration,
        mut signals: ReloadSignals,
        mut requests: mpsc::Receiver<oneshot::Sender<Outcome>>,
    ) {
        let mut due = None;
        loop {
            if self.renew_watches().await {
                // A file may have changed before it was watched.
                self.changed.notify_one();
            }
            let polled = (!poll.is_zero()).then(|| Instant::now() + poll);
            let mut replies = Vec::new();
            let mut is_requested = false;
            tokio::select! {
                Some(reply) = requests.recv() => replies.push(reply),
                _ = signals.next() => is_requested = true,
                () = self.changed.notified() => self.debounce().await,
                () = at([due, polled].into_iter().flatten().min()) => {}
            }
            while let Ok(reply) = requests.try_recv() {
                replies.push(reply);
            }
            is_requested |= !replies.is_empty();
            let outcome = if is_requested {
                self.read_on_request().await
            } else {
                self.read(false).await.unwrap_or(Ok(()))
            };
            for reply in replies {
                // Fails if nobody waits any more.
                let _ = reply.send(outcome.clone());
            }
            let unfinished = self.watch.take_due().map(Instant::from_std);
            let retry = self.rejected.is_some().then(|| Instant::now() + RETRY);
            due = [unfinished, retry].into_iter().flatten().min();
        }
    }

    /// Waits until no event has arrived for a while.
    async fn debounce(&self) {
        let latest = Instant::now() + MAX_DEBOUNCE;
        while Instant::now() < latest && timeout(DEBOUNCE, self.changed.notified()).await.is_ok() {}
    }

    /// Reads for someone who requested it. Waits for a file that is being written.
    async fn read_on_request(&mut self) -> Outcome {
        let latest = Instant::now() + TIMEOUT;
        loop {
            if let Some(outcome) = self.read(true).await {
                return outcome;
            }
            let ready = self.watch.take_due().map_or(latest, Instant::from_std);
            if ready >= latest {
                return Err("a file is still being written".into());
            }
            sleep_until(ready).await;
        }
    }

    /// Reads everything again, on another thread, and applies it if it changed. `None` if a file is being written.
    async fn read(&mut self, is_requested: bool) -> Option<Outcome> {
        let (path, watch) = (self.path.clone(), self.watch.clone());
        let job = move || load_if_complete(&path, &watch, is_requested);
        let status = self.reading.run(TIMEOUT, job).await;
        let (files, loaded) = match status {
            JobStatus::Done(done) => done,
            other => {
                let reason = format!("cannot read the files: {}", other.reason());
                return Some(self.reject(reason));
            }
        };
        // Those of what applies and those of what is rejected.
        for file in &files {
            if !self.files.contains(file) {
                self.files.push(file.clone());
            }
        }
        match loaded.map(|it| it.map(|loaded| self.check(loaded)).transpose()) {
            Ok(Ok(None)) => None,
            Ok(Ok(Some(loaded))) => {
                self.files = files;
                self.apply(loaded);
                Some(Ok(()))
            }
            Ok(Err(error)) | Err(error) => Some(self.reject(error.one_line())),
        }
    }

    /// Checks what only a start can change.
    fn check(&self, loaded: Loaded) -> Result<Loaded, WebConfigError> {
        let (before, path) = (self.gate.current(), || self.path.clone());
        let on = loaded.access.tls.is_some();
        if loaded.is_empty && !before.is_open() {
            return Err(WebConfigError::Emptied { path: path() });
        }
        if on != before.tls.is_some() {
            return Err(WebConfigError::Switched { path: path(), on });
        }
        Ok(loaded)
    }

    fn apply(&mut self, loaded: Loaded) {
        let Loaded { access, warnings, sha256, files, .. } = loaded;
        for (file, stamp) in &files {
            self.watch.completed(file, *stamp);
        }
        self.telemetry.web_config(true);
        let was_rejected = self.rejected.take().is_some();
        if sha256 == self.applied {
            if was_rejected {
                tracing::info!("web configuration is valid again, and unchanged");
            }
            return;
        }
        access::warnings(&self.path, &warnings);
        self.gate.replace(access);
        tracing::info!(path = %self.path.display(), sha256, "web configuration applied");
        self.applied = sha256;
    }

    /// Keeps what applies. Logs each reason once.
    fn reject(&mut self, reason: String) -> Outcome {
        let reason: Arc<str> = reason.into();
        self.telemetry.web_config(false);
        if self.rejected.as_ref() != Some(&reason) {
            tracing::error!(
                error = &*reason,
                "web configuration rejected; keeping the last good one"
            );
            self.rejected = Some(Arc::clone(&reason));
        }
        Err(reason)
    }

    /// Watches the files. Returns whether the watches changed.
    async fn renew_watches(&mut self) -> bool {
        let (watch, files) = (self.watch.clone(), self.files.clone());
        let job = move || watch.renew(&files);
        // If a filesystem hangs, polling detects changes once it responds.
        matches!(self.watching.run(TIMEOUT, job).await, JobStatus::Done(true))
    }
}

/// Waits until then; forever if there is no instant.
async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
