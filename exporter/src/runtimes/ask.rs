//! When each source is asked, and what is kept of its answers.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt, io, mem,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{runtime, task::JoinSet, time::timeout};

use super::{
    answer::Answered,
    endpoint::Endpoint,
    error::AskError,
    inventory::{Answer, Inventory, SourceAnswer},
    source::{Kubernetes, Source},
};
use crate::{
    expr::{cgroup::CgroupUses, print},
    os::{
        jitter::{jittered, random},
        log,
    },
};

/// Whom to ask, and for what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The sockets of container runtimes; `None` for those at the usual paths.
    pub sockets: Option<Vec<PathBuf>>,
    /// Whether to ask the Kubernetes API.
    pub kubernetes_pods: bool,
    /// The names that templates and rules use. If none of them is from a runtime, nobody is asked.
    pub uses: Arc<CgroupUses>,
}

/// Where to find sources.
#[derive(Clone)]
pub struct Origins {
    /// The directory above the usual paths of sockets: `/`, except in tests.
    pub root: PathBuf,
    /// The environment at start-up.
    pub environment: Arc<BTreeMap<OsString, OsString>>,
    /// The directory with the service account's `ca.crt` and `token`.
    pub service_account: PathBuf,
}

/// How often sources are asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Time limit for an answer; see also [`Followed::limit`].
    pub(super) limit: Duration,
    /// How often to ask a socket for changes, varied by up to 10 %.
    pub(super) refresh: Duration,
    /// The same for the Kubernetes API, which many nodes ask.
    pub(super) api_refresh: Duration,
    /// Average pause between two questions to a socket for containers that its answer lacks. It doubles with
    /// each failure.
    pub(super) retry: Duration,
    /// The same for the Kubernetes API. It also doubles while answers have nothing new.
    pub(super) api_retry: Duration,
    /// Maximum of both pauses.
    pub(super) max_retry: Duration,
}

/// How many questions to send to a socket in quick succession: the containers of a pod start one after another,
/// and a runtime lists each only after it has started.
const BURST: u32 = 3;

/// Maximum number of characters of the reason why an answer is missing or incomplete.
const MAX_REASON_CHARS: usize = 500;

impl Default for Pace {
    fn default() -> Self {
        Self {
            limit: Duration::from_secs(2),
            refresh: Duration::from_mins(1),
            api_refresh: Duration::from_mins(5),
            retry: Duration::from_secs(1),
            api_retry: Duration::from_secs(4),
            max_retry: Duration::from_mins(1),
        }
    }
}

/// A source that has been asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceState {
    /// Its URL, or `kubernetes-pods`.
    pub name: String,
    /// Why the last answer is missing or incomplete.
    pub error: Option<String>,
}

/// Asks container runtimes and the Kubernetes API who the containers are, and keeps the last good answer of each.
pub struct Runtimes {
    settings: Settings,
    origins: Origins,
    pace: Pace,
    /// In the order of precedence.
    sources: Vec<Followed>,
    /// When to look for sockets at the usual paths if a container is missing; `None` if they are not to be asked.
    look_at: Option<Instant>,
    /// Whether that has been done under these settings.
    has_looked: bool,
}

/// A source with its last good answer, its status and its schedule.
struct Followed {
    source: Source,
    /// Whether it was found at a usual path, rather than configured.
    is_usual: bool,
    good: Option<Arc<Answer>>,
    status: Status,
    /// Questions that failed since the last success; for the Kubernetes API, also those that had nothing new.
    attempts: u32,
    /// The time that the questions so far take up, at one in each [`Pace::retry`]. If it is far ahead, wait.
    paid_until: Instant,
    /// When to ask for changes. `None` if the answer has no containers.
    refresh_at: Option<Instant>,
    /// When to ask for a container that the answer lacks. `None` if nothing there can know containers.
    retry_at: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Status {
    NotAsked,
    Up,
    /// It answers, but something is left out.
    Incomplete(String),
    Down(String),
    /// Something other than a runtime listens at a usual path.
    NotASource,
}

impl Runtimes {
    /// Starts without asking anyone.
    pub fn new(settings: Settings, origins: Origins) -> Self {
        Self::with_pace(settings, origins, Pace::default())
    }

    pub(super) fn with_pace(settings: Settings, origins: Origins, pace: Pace) -> Self {
        let mut runtimes = Self {
            settings: Settings::default(),
            origins,
            pace,
            sources: Vec::new(),
            look_at: None,
            has_looked: false,
        };
        runtimes.configure(settings);
        runtimes
    }

    /// Applies new settings. Keeps the answers of the sources that remain.
    pub fn configure(&mut self, settings: Settings) {
        let now = Instant::now();
        if settings.uses != self.settings.uses {
            for followed in &mut self.sources {
                followed.refresh_at = Some(now);
            }
        }
        if settings.sockets.is_some() != self.settings.sockets.is_some() {
            self.sources.retain(|it| matches!(it.source, Source::Kubernetes(_)));
        }
        self.settings = settings;
        let looks = self.settings.sockets.is_none() && self.settings.uses.needs_runtime();
        self.look_at = looks.then_some(now);
        self.has_looked = false;
        self.choose_sources(now);
    }

    /// Asks the sources that are due, all at the same time. `is_missing` says that the inventory lacks a container.
    /// Blocks for at most some seconds.
    pub fn ask(&mut self, is_missing: bool) {
        let now = Instant::now();
        if self.look_at.is_some_and(|at| at <= now) {
            self.look(now);
            self.look_at = Some(now + self.pace.retry);
            self.has_looked = true;
        }
        let has_good = self.sources.iter().any(|it| it.status.answers());
        let is_due = |it: &Followed| it.ask_at(is_missing).is_some_and(|at| at <= now);
        let (due, idle) = mem::take(&mut self.sources).into_iter().partition(is_due);
        self.sources = idle;
        self.ask_all(due, has_good);
        self.sort();
    }

    /// Asks all of these sources. `has_good` says that one answers, which those that are down may not delay.
    fn ask_all(&mut self, due: Vec<Followed>, has_good: bool) {
        if due.is_empty() {
            return;
        }
        let now = Instant::now();
        let reactor = runtime::Builder::new_current_thread().enable_io().enable_time().build();
        match reactor {
            Ok(reactor) => {
                let (uses, pace) = (&self.settings.uses, self.pace);
                let answered = reactor.block_on(async {
                    let mut asking = JoinSet::new();
                    for followed in due {
                        let limit = followed.limit(has_good, pace, now);
                        asking.spawn(followed.ask(Arc::clone(uses), pace, limit));
                    }
                    asking.join_all().await
                });
                self.sources.extend(answered);
            }
            Err(error) => {
                let failed = |mut followed: Followed| {
                    let error = io::Error::new(error.kind(), error.to_string());
                    followed.note(Err(AskError::EventLoop(error)), self.pace);
                    followed
                };
                self.sources.extend(due.into_iter().map(failed));
            }
        }
    }

    /// When to ask again; `None` if there is no need. `is_missing` says that the inventory lacks a container.
    pub fn ask_at(&self, is_missing: bool) -> Option<Instant> {
        let sources = self.sources.iter().filter_map(|it| it.ask_at(is_missing));
        let delay = if is_missing { Duration::ZERO } else { self.pace.refresh };
        sources.chain(self.look_at.map(|at| at + delay)).min()
    }

    /// Who the containers are, by the last good answers.
    pub fn inventory(&self) -> Inventory {
        Inventory::new(self.sources.iter().filter_map(|Followed { source, good, .. }| {
            let (from, user) = (source.names_from(), source.user());
            Some(SourceAnswer { from, user, answer: good.clone()? })
        }))
    }

    /// Whether a source answers, or may do so once it is asked.
    pub fn may_answer(&self) -> bool {
        self.look_at.is_some() && !self.has_looked
            || self.sources.iter().any(|it| it.status == Status::NotAsked || it.status.answers())
    }

    /// Whether the last answer of a source is missing or incomplete.
    pub fn is_any_down(&self) -> bool {
        self.sources.iter().any(|it| matches!(it.status, Status::Incomplete(_) | Status::Down(_)))
    }

    /// The sources that have been asked.
    pub fn states(&self) -> Vec<SourceState> {
        self.sources.iter().filter_map(Followed::state).collect()
    }

    /// Adds the sources in the settings that are missing, and removes those that are not in them.
    fn choose_sources(&mut self, now: Instant) {
        let is_needed = self.settings.uses.needs_runtime();
        let has_api = self.settings.kubernetes_pods && is_needed;
        let configured = self.settings.sockets.clone();
        self.sources.retain(|it| match &it.source {
            Source::Socket(endpoint, _) => {
                let is_among = |paths: &Vec<_>| paths.iter().any(|path| path == endpoint.path());
                is_needed && configured.as_ref().is_none_or(is_among)
            }
            Source::Kubernetes(_) => has_api,
        });
        for path in configured.iter().flatten().filter(|_| is_needed) {
            self.add_socket(Endpoint::at(path), now);
        }
        if has_api && !self.sources.iter().any(|it| matches!(it.source, Source::Kubernetes(_))) {
            let Origins { environment, service_account, .. } = &self.origins;
            let api = Kubernetes::new(Arc::clone(environment), service_account.clone());
            self.sources.push(Followed::new(Source::Kubernetes(api), false, now));
        }
        self.sort();
    }

    /// Adds the sockets that are at usual paths by now, and removes those that are gone. One that has answered stays:
    /// its runtime may be starting again. Blocks as long as the filesystem does.
    fn look(&mut self, now: Instant) {
        let found = Endpoint::usual_below(&self.origins.root);
        self.sources.retain(|it| match &it.source {
            Source::Socket(endpoint, _) => it.good.is_some() || found.contains(endpoint),
            Source::Kubernetes(_) => true,
        });
        for endpoint in found {
            self.add_socket(endpoint, now);
        }
        self.sort();
    }

    fn add_socket(&mut self, endpoint: Endpoint, now: Instant) {
        if !self.sources.iter().any(|it| it.source.is_at(&endpoint)) {
            let is_usual = self.settings.sockets.is_none();
            self.sources.push(Followed::new(Source::Socket(endpoint, None), is_usual, now));
        }
    }

    /// Sorts the sources by precedence.
    fn sort(&mut self) {
        let place = |endpoint: &Endpoint| match &self.settings.sockets {
            Some(sockets) => sockets.iter().position(|path| path == endpoint.path()),
            None => endpoint.usual_place(&self.origins.root),
        };
        self.sources.sort_by_key(|it| match &it.source {
            Source::Socket(endpoint, _) => (false, place(endpoint)),
            Source::Kubernetes(_) => (true, None),
        });
    }
}

impl Followed {
    const fn new(source: Source, is_usual: bool, now: Instant) -> Self {
        Self {
            source,
            is_usual,
            good: None,
            status: Status::NotAsked,
            attempts: 0,
            paid_until: now,
            refresh_at: Some(now),
            retry_at: Some(now),
        }
    }

    fn ask_at(&self, is_missing: bool) -> Option<Instant> {
        let retry_at = self.retry_at.filter(|_| is_missing);
        [self.refresh_at, retry_at].into_iter().flatten().min()
    }

    /// Time limit for the answer. It is short if the source is down and another one answers, except when it is time
    /// to ask for changes: a source that has become slow would never be up again.
    fn limit(&self, has_good: bool, pace: Pace, now: Instant) -> Duration {
        let is_down = matches!(self.status, Status::Down(_));
        let refreshes = self.refresh_at.is_some_and(|at| at <= now);
        if has_good && is_down && !refreshes { pace.limit / 4 } else { pace.limit }
    }

    async fn ask(mut self, uses: Arc<CgroupUses>, pace: Pace, limit: Duration) -> Self {
        let answer = timeout(limit, self.source.ask(&uses, limit)).await;
        self.note(answer.unwrap_or(Err(AskError::Late)), pace);
        self
    }

    /// Takes an answer, and decides when to ask again.
    fn note(&mut self, answer: Result<Answered, AskError>, pace: Pace) {
        let before = self.status.clone();
        let mut is_news = false;
        self.status = match answer {
            Ok((answer, shortfall)) => {
                is_news = self.good.as_deref() != Some(&answer);
                if is_news {
                    self.good = Some(Arc::new(answer));
                }
                shortfall.map_or(Status::Up, |error| Status::Incomplete(reason(&error)))
            }
            Err(error) if self.is_usual && self.good.is_none() && error.is_of_another() => {
                Status::NotASource
            }
            Err(error) => Status::Down(reason(&error)),
        };
        self.schedule(is_news, pace);
        self.log_change(&before);
    }

    fn schedule(&mut self, is_news: bool, pace: Pace) {
        let (refresh, retry, is_up) = match self.source {
            Source::Socket(..) => (pace.refresh, pace.retry, self.status.answers()),
            Source::Kubernetes(_) => (pace.api_refresh, pace.api_retry, is_news),
        };
        self.attempts = if is_up { 0 } else { self.attempts.saturating_add(1) };
        let now = Instant::now();
        self.paid_until = self.paid_until.max(now) + pace.retry;
        let retry_at = match self.source {
            Source::Socket(..) if is_up => {
                let paid = self.paid_until.checked_sub(pace.retry * (BURST - 1)).unwrap_or(now);
                paid.max(now + pace.retry / 8)
            }
            _ => now + retry.saturating_mul(1 << self.attempts.min(16)).min(pace.max_retry),
        };
        let is_empty = self.good.as_ref().is_some_and(|answer| answer.containers.is_empty());
        let is_idle = self.status == Status::Up && is_empty;
        self.refresh_at = (!is_idle).then(|| now + jittered(refresh, random()));
        self.retry_at = (self.status != Status::NotASource).then_some(retry_at);
    }

    /// Logs a new error, or the end of one.
    fn log_change(&self, before: &Status) {
        let source = self.source.to_string();
        match &self.status {
            after if after == before => {}
            Status::Up if *before == Status::NotAsked => {
                tracing::info!(source, "source of container names found");
            }
            Status::Up => tracing::info!(source, "source recovered"),
            Status::Incomplete(reason) => {
                tracing::warn!(source, reason, "answer of source is incomplete");
            }
            Status::Down(reason) => {
                let keeping_last_values = self.good.is_some();
                if self.is_usual && !keeping_last_values {
                    tracing::info!(source, reason, "source unavailable");
                } else {
                    tracing::warn!(source, reason, keeping_last_values, "source unavailable");
                }
            }
            Status::NotAsked | Status::NotASource => {}
        }
    }

    fn state(&self) -> Option<SourceState> {
        let error = match &self.status {
            Status::NotAsked | Status::NotASource => return None,
            Status::Up => None,
            Status::Incomplete(reason) | Status::Down(reason) => Some(reason.clone()),
        };
        Some(SourceState { name: self.source.to_string(), error })
    }
}

impl Status {
    const fn answers(&self) -> bool {
        matches!(self, Self::Up | Self::Incomplete(_))
    }
}

/// The text of an error. It is shortened, because some quote the answer.
fn reason(error: &AskError) -> String {
    print::shorten(&log::chain(error), MAX_REASON_CHARS)
}

impl fmt::Debug for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origins").finish_non_exhaustive()
    }
}

impl fmt::Debug for Runtimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtimes").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        expr::cgroup::{CgroupKey, CgroupName},
        runtimes::inventory::{Container, ContainerId},
    };

    fn socket() -> Followed {
        Followed::new(Source::Socket(Endpoint::at("/s".as_ref()), None), false, Instant::now())
    }

    fn api() -> Followed {
        let api = Kubernetes::new(Arc::default(), PathBuf::new());
        Followed::new(Source::Kubernetes(api), false, Instant::now())
    }

    /// An answer with a container whose name changes with `name`.
    fn answer(name: &str) -> Answered {
        let mut answer = Answer::default();
        let (image, runtime) = (Arc::default(), Arc::default());
        let id = ContainerId::parse("a".repeat(64).as_bytes()).unwrap();
        answer.add(id, Container { name: name.into(), image, runtime, pod: None });
        (answer, None)
    }

    fn empty() -> Answered {
        (Answer::default(), None)
    }

    fn failed() -> Result<Answered, AskError> {
        Err(AskError::NoVersion)
    }

    /// After how many seconds a source is asked again, and whether that is for changes alone.
    fn pause(followed: &mut Followed, answer: Result<Answered, AskError>) -> [Option<u64>; 2] {
        followed.note(answer, Pace::default());
        // The clock advances between the two readings.
        let in_seconds = |at: Instant| (at + Duration::from_millis(500) - Instant::now()).as_secs();
        [true, false].map(|is_missing| followed.ask_at(is_missing).map(in_seconds))
    }

    #[track_caller]
    fn assert_pause(found: [Option<u64>; 2], missing: u64, refresh: std::ops::RangeInclusive<u64>) {
        assert_eq!(found[0], Some(missing));
        assert!(found[1].is_some_and(|seconds| refresh.contains(&seconds)), "{found:?}");
    }

    #[test]
    fn sockets_are_asked_each_minute_and_for_missing_containers_each_second() {
        let mut followed = socket();
        assert!(followed.ask_at(false).is_some_and(|at| at <= Instant::now()));
        // Some questions follow soon, the others on average after a second each.
        for seconds in [0, 0, 1, 2, 3] {
            assert_pause(pause(&mut followed, Ok(answer("a"))), seconds, 54..=66);
        }
        // A runtime that fails is asked less and less often, but as often for changes.
        for seconds in [2, 4, 8, 16, 32] {
            assert_pause(pause(&mut followed, failed()), seconds, 54..=66);
        }
        for _ in 0..20 {
            followed.note(failed(), Pace::default());
        }
        let [missing, refresh] = pause(&mut followed, failed());
        assert!(missing.is_some_and(|it| (54..=60).contains(&it)) && refresh >= missing);
        followed.paid_until = Instant::now();
        assert_pause(pause(&mut followed, Ok(answer("a"))), 0, 54..=66);
    }

    #[test]
    fn the_api_is_asked_less_often_while_it_has_nothing_new() {
        let mut followed = api();
        assert_pause(pause(&mut followed, Ok(answer("a"))), 4, 270..=330);
        for seconds in [8, 16, 32, 60, 60] {
            assert_pause(pause(&mut followed, Ok(answer("a"))), seconds, 270..=330);
        }
        assert_pause(pause(&mut followed, Ok(answer("b"))), 4, 270..=330);
        assert_pause(pause(&mut followed, failed()), 8, 270..=330);
    }

    #[test]
    fn a_runtime_without_containers_is_asked_only_for_missing_ones() {
        let mut followed = socket();
        assert_eq!(pause(&mut followed, Ok(empty())), [Some(0), None]);
        // One that fails is asked, so that its state is known.
        assert_pause(pause(&mut followed, failed()), 2, 54..=66);
    }

    #[test]
    fn settings_take_effect_without_looking_for_sockets() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("run")).unwrap();
        fs::write(root.path().join("run/docker.sock"), "").unwrap();
        let uses = CgroupUses::new(&[CgroupKey::Name(CgroupName::PodName)], &[]);
        let settings = Settings { uses: Arc::new(uses), ..Settings::default() };
        let origins = Origins {
            root: root.path().into(),
            environment: Arc::default(),
            service_account: "/nowhere".into(),
        };
        let mut runtimes = Runtimes::new(settings, origins);
        assert_eq!(runtimes.sources.len(), 0);
        assert!(runtimes.may_answer());
        runtimes.ask(false);
        assert_eq!(runtimes.sources.len(), 1);
    }

    #[test]
    fn a_source_that_is_down_has_little_time_if_it_may_delay_others() {
        let pace = Pace::default();
        let now = Instant::now();
        let mut followed = socket();
        let short = Duration::from_millis(500);
        assert_eq!(followed.limit(true, pace, now), pace.limit);
        followed.note(failed(), pace);
        assert_eq!(followed.limit(true, pace, now), short);
        assert_eq!(followed.limit(false, pace, now), pace.limit);
        assert_eq!(followed.limit(true, pace, now + pace.refresh * 2), pace.limit);
        followed.note(Ok(answer("a")), pace);
        assert_eq!(followed.limit(true, pace, now), pace.limit);
    }

    #[test]
    fn a_runtime_whose_answer_is_incomplete_is_asked_as_often() {
        let mut followed = socket();
        let (answer, _) = answer("a");
        let incomplete = || Ok((answer.clone(), Some(AskError::Exceeded)));
        for seconds in [0, 0, 1, 2, 3] {
            assert_pause(pause(&mut followed, incomplete()), seconds, 54..=66);
        }
        assert!(followed.good.is_some() && followed.status.answers());
        assert!(followed.state().unwrap().error.is_some());
    }

    #[test]
    fn anything_but_a_runtime_is_not_asked_for_missing_containers() {
        let mut followed = Followed { is_usual: true, ..socket() };
        let other = || Err(AskError::NoCri(super::super::grpc::GrpcError::NoStatus));
        let [missing, refresh] = pause(&mut followed, other());
        assert!(missing == refresh && refresh >= Some(54), "{missing:?}");
        assert_eq!((followed.state(), &followed.status), (None, &Status::NotASource));
        // One that has answered is down.
        followed.note(Ok(answer("a")), Pace::default());
        followed.note(other(), Pace::default());
        assert!(followed.state().unwrap().error.is_some());
        // So is one that is configured.
        let mut followed = socket();
        followed.note(other(), Pace::default());
        assert!(followed.state().unwrap().error.is_some());
    }
}
