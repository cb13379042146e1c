//! Where the values of templates come from.
//!
//! What the host has is read when it is asked for; what is asked over the network is asked in the
//! background, again and again, and the last good answer stays. Neither start nor a scrape waits
//! for any of it. A source that no template names is not touched.
//!
//! | file | reads |
//! |---|---|
//! | `host.rs` | the kernel's names, the environment, `/etc` |
//! | `files.rs` | files, and the pod's labels and annotations |
//! | `kubernetes.rs` | the node's labels, from the Kubernetes API |
//! | `cloud.rs` | the metadata services of EC2, Google Cloud and Azure |

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use tokio::{sync::watch, task::JoinHandle};

mod cloud;
mod files;
mod host;
mod kubernetes;
mod origins;
mod remote;

pub use origins::SourceOrigins;
pub use remote::Schedule;

use remote::{Ask, Remote};

use crate::{
    expr::values::{Reading, Source, Uses, Values},
    os::watch::Watch,
};

/// Asks the remote sources in use.
pub struct Sources {
    endpoints: Arc<SourceOrigins>,
    schedule: Schedule,
    on_change: Arc<dyn Fn() + Send + Sync>,
    remote: watch::Sender<Remote>,
    /// What asks a remote source, and for which keys.
    tasks: BTreeMap<Source, (BTreeSet<String>, JoinHandle<()>)>,
}

/// Watches the files of the sources in use.
pub struct Watches {
    endpoints: Arc<SourceOrigins>,
    on_change: Arc<dyn Fn() + Send + Sync>,
    by_path: BTreeMap<PathBuf, Watch>,
}

/// How long files may take. Their filesystem may hang, and must not hold up start and reloads.
pub const FILE_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads the sources. It may be used on another thread.
#[derive(Clone)]
pub struct Reader {
    endpoints: Arc<SourceOrigins>,
    remote: watch::Receiver<Remote>,
    /// The sources whose files hang.
    hanging: Arc<Mutex<BTreeSet<Source>>>,
}

impl Sources {
    /// Follows nothing yet. `on_change` runs whenever [`Reader::read`] may have something new to
    /// say, on any thread, and must not block.
    pub fn new(
        endpoints: SourceOrigins,
        schedule: Schedule,
        on_change: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self {
            endpoints: Arc::new(endpoints),
            schedule,
            on_change: Arc::new(on_change),
            remote: watch::Sender::default(),
            tasks: BTreeMap::new(),
        }
    }

    /// Asks the remote sources that `uses` names, and no others. To be called inside a tokio runtime.
    pub fn follow(&mut self, uses: &Uses) {
        let wanted: BTreeMap<Source, &BTreeSet<String>> =
            uses.iter().filter(|(source, _)| source.is_remote()).collect();
        self.tasks.retain(|source, (keys, task)| {
            let stays = wanted.get(source).is_some_and(|wanted| *wanted == keys);
            if !stays {
                task.abort();
            }
            stays
        });
        self.remote.send_if_modified(|remote| {
            remote.retain(|source, _| wanted.contains_key(source));
            false
        });
        for (source, keys) in wanted {
            self.tasks.entry(source).or_insert_with(|| {
                let ask = Ask {
                    source,
                    keys: keys.clone(),
                    endpoints: Arc::clone(&self.endpoints),
                    schedule: self.schedule,
                    remote: self.remote.clone(),
                    on_change: Arc::clone(&self.on_change),
                };
                (keys.clone(), tokio::spawn(ask.run()))
            });
        }
    }

    /// What watches files; nothing yet.
    pub fn watches(&self) -> Watches {
        Watches {
            endpoints: Arc::clone(&self.endpoints),
            on_change: Arc::clone(&self.on_change),
            by_path: BTreeMap::new(),
        }
    }

    /// What reads.
    pub fn reader(&self) -> Reader {
        Reader {
            endpoints: Arc::clone(&self.endpoints),
            remote: self.remote.subscribe(),
            hanging: Arc::default(),
        }
    }
}

impl Watches {
    /// Watches the files that `uses` names, and no others. Returns whether the watches are others than
    /// before, so that a change up to now may not have been noticed: then read. It blocks where a
    /// filesystem does.
    pub fn renew(&mut self, uses: &Uses) -> bool {
        let paths = files::paths(&self.endpoints, uses);
        let count = self.by_path.len();
        self.by_path.retain(|path, _| paths.contains(path));
        let mut renewed = self.by_path.len() != count;
        for path in paths {
            if let Some(watch) = self.by_path.get_mut(&path) {
                renewed |= watch.renew();
            } else {
                let on_change = Arc::clone(&self.on_change);
                let watch = Watch::new(&path, move || on_change());
                self.by_path.insert(path, watch);
                renewed = true;
            }
        }
        renewed
    }
}

impl Drop for Sources {
    fn drop(&mut self) {
        for (_, task) in self.tasks.values() {
            task.abort();
        }
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

impl fmt::Debug for Watches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watches").field("by_path", &self.by_path).finish_non_exhaustive()
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader {
    /// Reads what `uses` names: what is local now, and the last good answers of what is remote.
    /// It blocks on files, for as long as their patience lasts.
    pub fn read(&self, uses: &Uses) -> Values {
        uses.iter().map(|(source, keys)| (source, self.reading(source, keys))).collect()
    }

    /// Waits until every remote source of `uses`, which is followed, has answered or failed once.
    pub async fn first_answers(&self, uses: &Uses) {
        let remote: Vec<_> =
            uses.iter().map(|(source, _)| source).filter(|source| source.is_remote()).collect();
        let answered = |known: &Remote| remote.iter().all(|source| known.contains_key(source));
        // An error says that nobody asks any more.
        let _ = self.remote.clone().wait_for(answered).await;
    }

    /// Reads on a thread of its own, which is left alone if it takes too long; then the source is not
    /// read again until that ends.
    fn within(
        &self,
        limit: Duration,
        source: Source,
        read: impl FnOnce() -> Reading + Send + 'static,
    ) -> Reading {
        if !lock(&self.hanging).insert(source) {
            return Reading::fault("its files are still being read");
        }
        let (sender, receiver) = mpsc::channel();
        let hanging = Arc::clone(&self.hanging);
        let reading = move || {
            let reading = read();
            lock(&hanging).remove(&source);
            // Nobody may be waiting any more.
            let _ = sender.send(reading);
        };
        match thread::Builder::new().name("files".into()).spawn(reading) {
            Ok(_) => receiver.recv_timeout(limit).unwrap_or_else(|_| {
                Reading::fault(format!("its files are not read within {limit:?}"))
            }),
            Err(error) => {
                lock(&self.hanging).remove(&source);
                Reading::fault(format!("no thread to read files: {error}"))
            }
        }
    }

    fn reading(&self, source: Source, keys: &BTreeSet<String>) -> Reading {
        match source {
            Source::File => {
                let keys = keys.clone();
                self.within(FILE_TIMEOUT, source, move || files::read_all(&keys))
            }
            Source::PodAnnotations | Source::PodLabels => {
                let file = if source == Source::PodLabels { "labels" } else { "annotations" };
                let (endpoints, keys) = (Arc::clone(&self.endpoints), keys.clone());
                self.within(FILE_TIMEOUT, source, move || files::pod(&endpoints, file, &keys))
            }
            Source::Aws | Source::Azure | Source::Gcp | Source::NodeLabels => {
                let known = self.remote.borrow().get(&source).cloned();
                known.unwrap_or_else(|| Reading::fault("no answer yet"))
            }
            Source::Arch
            | Source::BootId
            | Source::Env
            | Source::Fqdn
            | Source::Hostname
            | Source::KernelRelease
            | Source::MachineId
            | Source::Os => host::read(&self.endpoints, source, keys),
        }
    }
}

/// Logs a fault that is new, or that is over.
pub fn tell(source: Source, before: Option<&str>, reading: &Reading) {
    let name = source.name();
    match reading.fault.as_deref() {
        Some(reason) if before != Some(reason) => {
            // Only the last answer of a service is kept.
            let last_good_values_stay = source.is_remote().then_some(!reading.values.is_empty());
            tracing::warn!(source = name, reason, last_good_values_stay, "no values");
        }
        None if before.is_some() => {
            tracing::info!(source = name, "values are to be had again");
        }
        _ => {}
    }
}

/// What it guards is whole whoever panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
