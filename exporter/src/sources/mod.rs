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
    ffi::OsString,
    fmt,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

mod cloud;
mod files;
mod host;
mod kubernetes;

use crate::{
    expr::values::{Reading, Source, Uses, Values},
    os::watch::Watch,
};

/// Where the sources are. It can't be printed: the environment may hold secrets.
#[derive(Clone)]
pub struct SourceOrigins {
    /// Where `/etc`, `/usr/lib` and `/proc` are: `/`.
    pub root: PathBuf,
    /// The environment, as it was at start.
    pub environment: BTreeMap<OsString, OsString>,
    /// The directory of the downward API's `labels` and `annotations`.
    pub pod_info: PathBuf,
    /// The directory of the service account's `ca.crt` and `token`.
    pub service_account: PathBuf,
    /// Host and port of the EC2 metadata service.
    pub aws: (String, u16),
    /// Host and port of the Google Cloud metadata service.
    pub gcp: (String, u16),
    /// Host and port of the Azure metadata service.
    pub azure: (String, u16),
}

impl SourceOrigins {
    /// The usual places, or those that the environment names: `POD_INFO_DIR`, and what the clouds'
    /// own tools read, `AWS_EC2_METADATA_SERVICE_ENDPOINT` and `GCE_METADATA_HOST`.
    pub fn new(environment: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let environment: BTreeMap<_, _> = environment.into_iter().collect();
        let pod_info = environment.get(&OsString::from("POD_INFO_DIR"));
        // All three clouds answer at the same address.
        let usual = || ("169.254.169.254".to_owned(), 80);
        let metadata = |variable: &str| {
            let named = environment.get(&OsString::from(variable)).and_then(|it| it.to_str());
            named.filter(|url| !url.is_empty()).map_or_else(usual, authority)
        };
        let aws = metadata("AWS_EC2_METADATA_SERVICE_ENDPOINT");
        let gcp = metadata("GCE_METADATA_HOST");
        Self {
            root: "/".into(),
            pod_info: pod_info.map_or_else(|| "/etc/podinfo".into(), PathBuf::from),
            environment,
            service_account: "/var/run/secrets/kubernetes.io/serviceaccount".into(),
            aws,
            gcp,
            azure: usual(),
        }
    }

    /// A variable of the environment.
    fn variable(&self, name: &str) -> Result<&str, String> {
        let value = self.environment.get(&OsString::from(name));
        let value = value.ok_or_else(|| format!("the environment has no {name}"))?;
        value.to_str().ok_or_else(|| format!("{name} in the environment is not UTF-8"))
    }

    /// A path below `root`.
    fn host(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

/// Host and port of `http://host:port/`, of which only the host is needed.
fn authority(url: &str) -> (String, u16) {
    let authority = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    let split =
        authority.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    // An address of IPv6 is in brackets.
    let (host, port) = split.unwrap_or((authority, 80));
    (host.trim_matches(['[', ']']).to_owned(), port)
}

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

type Remote = BTreeMap<Source, Reading>;

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

/// Asks one remote source.
struct Ask {
    source: Source,
    keys: BTreeSet<String>,
    endpoints: Arc<SourceOrigins>,
    schedule: Schedule,
    remote: watch::Sender<Remote>,
    on_change: Arc<dyn Fn() + Send + Sync>,
}

impl Ask {
    async fn run(self) {
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

/// A pause of 90 % to 110 %, so that a fleet that started at once does not ask at once.
fn jittered(pause: Duration, random: u32) -> Duration {
    pause.mul_f64(0.9 + 0.2 * f64::from(random) / f64::from(u32::MAX))
}

/// Good enough to spread requests: the standard library's seeds for hash maps.
fn random() -> u32 {
    let [a, b, c, d, ..] = RandomState::new().build_hasher().finish().to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

/// A file below `root`, or why there is none.
fn read_host(endpoints: &SourceOrigins, path: &str) -> Result<String, String> {
    files::read(&endpoints.host(path)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
