//! Reads the values that templates name, from this host and from servers.
//!
//! May name `expr` and `os`.
//!
//! Local values are read on request. Servers are polled in the background, and the last good answer
//! is kept; neither start-up nor a scrape waits for them. A source that no template names is never
//! touched.
//!
//! | file | contents |
//! |---|---|
//! | `host.rs` | names from the kernel, the environment, `/etc` |
//! | `files.rs` | files, and the pod's labels and annotations |
//! | `remote.rs` | polling of servers |
//! | `answer.rs` | what servers answer |
//! | `kubernetes.rs` | the node's labels, from the Kubernetes API |
//! | `cloud.rs` | the metadata services of EC2, Google Cloud and Azure |
//! | `origins.rs` | the directories, addresses and environment that all of these read |
//! | `threads.rs` | threads for reads that may hang |
//! | `error.rs` | the reasons why a source, or one of its values, is unavailable |
//!
//! To add a source, add its row to the table in `expr/values.rs` and its arm to `access`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    sync::{Arc, mpsc},
    time::Duration,
};

use tokio::{sync::watch, task::JoinHandle};

mod answer;
mod cloud;
mod error;
mod files;
mod host;
mod kubernetes;
mod origins;
mod remote;
mod threads;

pub use origins::SourceOrigins;
pub use remote::Schedule;

use error::SourceError;
use files::Rereading;
use remote::{Answers, Poll, Service};
use threads::Threads;

use crate::{
    expr::values::{Reading, Source, Uses, Values},
    os::watch::FileWatch,
};

type Keys = BTreeSet<String>;

/// How to read a source.
enum Access {
    /// Directly.
    Local(fn(&SourceOrigins, &Keys) -> Reading),
    /// On a separate thread, since the filesystem may hang; the files are watched.
    Files {
        read: fn(&SourceOrigins, &Keys, &Rereading) -> Reading,
        paths: fn(&SourceOrigins, &Keys) -> BTreeSet<PathBuf>,
    },
    /// By polling in the background.
    Remote(Service),
}

/// Maps each source to the code that reads it. [`Source::place`] gives the same classification.
fn access(source: Source) -> Access {
    match source {
        Source::Arch => Access::Local(|_, _| single(host::arch())),
        Source::BootId => Access::Local(|origins, _| single(host::boot_id(origins))),
        Source::Env => Access::Local(host::environment),
        Source::Fqdn => Access::Local(|origins, _| single(host::fqdn(origins))),
        Source::Hostname => Access::Local(|_, _| single(host::hostname())),
        Source::KernelRelease => Access::Local(|_, _| single(host::kernel_release())),
        Source::MachineId => Access::Local(|origins, _| single(host::machine_id(origins))),
        Source::Os => Access::Local(host::os_release),
        Source::File => {
            let read = |_: &_, paths: &_, rereading: &_| files::read_all(paths, rereading);
            Access::Files { read, paths: files::paths }
        }
        Source::PodAnnotations => Access::Files {
            read: |origins, keys, rereading| {
                files::pod(&origins.pod_annotations(), keys, rereading)
            },
            paths: |origins, _| [origins.pod_annotations()].into(),
        },
        Source::PodLabels => Access::Files {
            read: |origins, keys, rereading| files::pod(&origins.pod_labels(), keys, rereading),
            paths: |origins, _| [origins.pod_labels()].into(),
        },
        Source::Aws => Access::Remote(Service::Aws),
        Source::Azure => Access::Remote(Service::Azure),
        Source::Gcp => Access::Remote(Service::Gcp),
        Source::NodeLabels => Access::Remote(Service::Kubernetes),
    }
}

/// The reading of a source with a single value.
fn single(value: Result<String, SourceError>) -> Reading {
    match value {
        Ok(value) => Reading::of([(String::new(), value)].into()),
        Err(error) => Reading::failed(error.chain()),
    }
}

/// Polls the remote sources in use.
pub struct Sources {
    origins: Arc<SourceOrigins>,
    schedule: Schedule,
    on_change: Arc<dyn Fn() + Send + Sync>,
    threads: Threads,
    answers: watch::Sender<Answers>,
    polls: BTreeMap<Source, RunningPoll>,
}

/// A task that polls one source.
struct RunningPoll {
    keys: Keys,
    task: JoinHandle<()>,
}

/// Timeout for reading the files of one source. A filesystem that hangs must not delay start-up or
/// reloads any longer.
pub const FILE_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads the current values. It can be cloned and sent to another thread.
#[derive(Clone)]
pub struct Reader {
    origins: Arc<SourceOrigins>,
    answers: watch::Receiver<Answers>,
    watch: FileWatch,
    threads: Threads,
}

impl Sources {
    /// Starts without polling anything. `on_change` is called, on any thread, whenever
    /// [`Reader::read`] may return other values; it must not block.
    pub fn new(
        origins: SourceOrigins,
        schedule: Schedule,
        on_change: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self {
            origins: Arc::new(origins),
            schedule,
            on_change: Arc::new(on_change),
            threads: Threads::default(),
            answers: watch::Sender::default(),
            polls: BTreeMap::new(),
        }
    }

    /// Polls exactly the remote sources in `uses`. Call it inside a tokio runtime.
    pub fn follow(&mut self, uses: &Uses) {
        let mut wanted = BTreeMap::new();
        for (source, keys) in uses.iter() {
            if let Access::Remote(service) = access(source) {
                wanted.insert(source, (service, keys));
            }
        }
        self.polls.retain(|source, poll| {
            let is_wanted = wanted.get(source).is_some_and(|(_, keys)| **keys == poll.keys);
            if !is_wanted {
                poll.task.abort();
            }
            is_wanted
        });
        self.answers.send_if_modified(|answers| {
            answers.retain(|source, _| wanted.contains_key(source));
            false
        });
        for (source, (service, keys)) in wanted {
            self.polls.entry(source).or_insert_with(|| {
                let poll = Poll {
                    source,
                    service,
                    keys: keys.clone(),
                    origins: Arc::clone(&self.origins),
                    schedule: self.schedule,
                    threads: self.threads.clone(),
                    answers: self.answers.clone(),
                    on_change: Arc::clone(&self.on_change),
                };
                RunningPoll { keys: keys.clone(), task: tokio::spawn(poll.run()) }
            });
        }
    }

    /// Returns the files in `uses`.
    pub fn files(&self, uses: &Uses) -> BTreeSet<PathBuf> {
        let mut files = BTreeSet::new();
        for (source, keys) in uses.iter() {
            if let Access::Files { paths, .. } = access(source) {
                files.extend(paths(&self.origins, keys));
            }
        }
        files
    }

    /// Returns a reader of the current values. It reads files through `watch`.
    pub fn reader(&self, watch: FileWatch) -> Reader {
        Reader {
            origins: Arc::clone(&self.origins),
            answers: self.answers.subscribe(),
            watch,
            threads: self.threads.clone(),
        }
    }
}

impl Drop for Sources {
    fn drop(&mut self) {
        for poll in self.polls.values() {
            poll.task.abort();
        }
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader {
    /// Reads the values in `uses`: local ones now, remote ones from their last good answers. Blocks
    /// on files, for at most [`FILE_TIMEOUT`] per source.
    ///
    /// The values in `known` stay while their files hang or are being written. If `is_requested`, someone
    /// vouches for files that their writers have closed.
    pub fn read(&self, uses: &Uses, known: &Values, is_requested: bool) -> Values {
        let reading = |(source, keys)| {
            let known = known.reading(source).map(|known| known.restricted_to(keys));
            (source, self.reading(source, keys, known.unwrap_or_default(), is_requested))
        };
        uses.iter().map(reading).collect()
    }

    /// Waits until every remote source in `uses` has answered or failed once. Call [`Sources::follow`]
    /// with `uses` first.
    pub async fn first_answers(&self, uses: &Uses) {
        let remote: Vec<_> =
            uses.iter().map(|(source, _)| source).filter(|source| source.is_remote()).collect();
        let all_answered = |answers: &Answers| remote.iter().all(|it| answers.contains_key(it));
        // Fails only if the `Sources` are gone; then no answer will come.
        let _ = self.answers.clone().wait_for(all_answered).await;
    }

    fn reading(&self, source: Source, keys: &Keys, known: Reading, is_requested: bool) -> Reading {
        match access(source) {
            Access::Local(read) => read(&self.origins, keys),
            Access::Files { read, .. } => {
                let (origins, keys) = (Arc::clone(&self.origins), keys.clone());
                let rereading =
                    Rereading { watch: self.watch.clone(), known: known.clone(), is_requested };
                let read = move || read(&origins, &keys, &rereading);
                // The error says nothing about the files, so their last values stay.
                self.read_on_thread(FILE_TIMEOUT, source, read)
                    .unwrap_or_else(|error| Reading { error: Some(error.chain()), ..known })
            }
            Access::Remote(_) => {
                let answer = self.answers.borrow().get(&source).cloned();
                answer.unwrap_or_else(|| Reading::failed(SourceError::NoAnswerYet.chain()))
            }
        }
    }

    /// Reads on a separate thread. If that thread exceeds the timeout, it keeps running, and the source
    /// is not read again until it ends.
    fn read_on_thread(
        &self,
        limit: Duration,
        source: Source,
        read: impl FnOnce() -> Reading + Send + 'static,
    ) -> Result<Reading, SourceError> {
        let (sender, receiver) = mpsc::channel();
        self.threads.start(source, read, move |reading| {
            // Fails if the receiver has timed out.
            let _ = sender.send(reading);
        })?;
        receiver.recv_timeout(limit).map_err(|_timeout| SourceError::FilesTimeout(limit))
    }
}

/// Logs a new error, or the end of one. `before` is the error of the previous reading.
pub fn log_change(source: Source, before: Option<&str>, reading: &Reading) {
    let name = source.name();
    match reading.error.as_deref() {
        Some(reason) if before != Some(reason) => {
            // Only remote sources keep their last good values.
            let keeping_last_values = source.is_remote().then_some(!reading.values.is_empty());
            tracing::warn!(source = name, reason, keeping_last_values, "source unavailable");
        }
        None if before.is_some() => {
            tracing::info!(source = name, "source recovered");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
