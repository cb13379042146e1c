//! The loop that follows cgroups.

use std::{
    collections::BTreeMap,
    mem,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until};

use super::{
    Tracked,
    naming::{self, CgroupLabels, Search, labels_of},
    quotas,
};
use crate::{
    accounting::CgroupReading,
    cgroup::{hierarchy::Selection, paths, quota::QuotaReader},
    generation::{Current, Generation},
    kernel::{
        cgroups::{CgroupEvents, CgroupListener},
        scheduler::{ReadError, Scheduler, monotonic_ns},
    },
    labels::{Violation, ViolationKind},
    os::{
        blocking::{BlockingSlot, JobStatus},
        log,
    },
};

/// Events that come within this time after the first are handled together.
const GATHER: Duration = Duration::from_millis(20);

/// The most that events wait while many cgroups come and go.
const MAX_GATHER: Duration = Duration::from_millis(500);

/// Handling events may take this part of the time.
const SHARE: u32 = 20;

/// How long to wait for names before looking after other events.
const SEARCH_WAIT: Duration = Duration::from_millis(200);

/// Pause before a search is repeated that has not found all names.
const SEARCH_AGAIN: Duration = Duration::from_secs(1);

/// How often to search for a cgroup. The first search can miss one that is created meanwhile.
const MAX_SEARCHES: u8 = 3;

/// How often to look for removed cgroups on kernels that do not report them.
const LOOK: Duration = Duration::from_secs(5);

/// Time limit for the first names. It takes milliseconds unless the filesystem hangs.
const FIRST_NAMES: Duration = Duration::from_secs(2);

/// Follows cgroups as they come and go.
pub struct Tracker {
    scheduler: Arc<Scheduler>,
    current: Current,
    tracked: Tracked,
    /// Counts labels that are rejected.
    on_violation: Box<dyn Fn(ViolationKind) + Send>,
    /// Where cgroups have names.
    mount: Option<PathBuf>,
    quotas: Option<QuotaReader>,
    naming: BlockingSlot<Naming>,
    looking: BlockingSlot<Result<Vec<u64>, String>>,
    /// How often each cgroup without a name was searched for, by serial number.
    searches: BTreeMap<u64, u8>,
    /// When to search again.
    search_at: Option<Instant>,
    /// Why names cannot be found, as logged last.
    failure: Option<String>,
    /// The generation whose violations have been logged, and those.
    violations: (u64, Vec<Violation>),
}

/// The result of a search, with labels.
#[derive(Debug)]
struct Naming {
    search: Search,
    labels: CgroupLabels,
    violations: Vec<Violation>,
    /// The number of the generation that the labels are of.
    generation: u64,
}

impl Tracker {
    /// Prepares to follow the cgroups of a hierarchy. Logs why they have no names, if that is so.
    pub fn new(
        scheduler: Arc<Scheduler>,
        current: Current,
        tracked: Tracked,
        selection: Selection,
        on_violation: impl Fn(ViolationKind) + Send + 'static,
    ) -> Self {
        if let Some(reason) = selection.limitation() {
            tracing::warn!(reason, "cgroups without names are summed as `other`");
        }
        let mount = selection.mount.ok().map(|mount| mount.path);
        let quotas = match (&mount, selection.quotas) {
            (Some(mount), Ok(quotas)) => Some(QuotaReader::new(mount.clone(), quotas)),
            (Some(_), Err(reason)) => {
                tracing::warn!(reason = reason.to_string(), "quotas of cgroups are not read");
                None
            }
            (None, _) => None,
        };
        Self {
            scheduler,
            current,
            tracked,
            on_violation: Box::new(on_violation),
            mount,
            quotas,
            naming: BlockingSlot::new("cgroup names"),
            looking: BlockingSlot::new("cgroup removal"),
            searches: BTreeMap::new(),
            search_at: None,
            failure: None,
            violations: (0, Vec::new()),
        }
    }

    /// Names the cgroups that exist. For one-shot modes, and before the first scrape.
    pub async fn name_all(&mut self) -> Result<(), ReadError> {
        let unnamed = self.settle(&[])?;
        self.name(unnamed, FIRST_NAMES).await
    }

    /// Starts to follow cgroups. Call it inside a tokio runtime; it runs as long as the runtime.
    pub fn start(mut self, events: CgroupEvents) -> std::io::Result<()> {
        if let Some((mount, reader)) = self.mount.clone().zip(self.quotas.take()) {
            tokio::spawn(quotas::follow(self.tracked.clone(), mount, reader));
        }
        tokio::spawn(self.follow(CgroupListener::new(events)?));
        Ok(())
    }

    async fn follow(mut self, mut events: CgroupListener) {
        loop {
            let started = Instant::now();
            if let Err(error) = self.step().await {
                tracing::warn!(error = log::chain(&error), "cannot follow cgroups");
            }
            let gather = (started.elapsed() * SHARE).clamp(GATHER, MAX_GATHER);
            tokio::select! {
                taken = events.take(gather) => {
                    if let Err(error) = taken {
                        tracing::error!(%error, "cannot wait for events of cgroups");
                        return;
                    }
                }
                () = sleep_until(self.due()) => sleep(gather).await,
            }
        }
    }

    /// When to go on without an event.
    fn due(&self) -> Instant {
        let now = Instant::now();
        let clock = monotonic_ns().unwrap_or_default();
        let rank = now + Duration::from_nanos(self.tracked.rank_at().saturating_sub(clock));
        let look = (!self.scheduler.has_removal_hook()).then(|| now + LOOK);
        let search = self.search_at;
        [Some(rank), look, search].into_iter().flatten().min().unwrap_or(rank)
    }

    async fn step(&mut self) -> Result<(), ReadError> {
        let removed = self.look_for_removed().await;
        let unnamed = self.settle(&removed)?;
        self.name(unnamed, SEARCH_WAIT).await
    }

    /// Lets removed cgroups go: what they had stays in their sets, and their slots are given back. `removed`
    /// has those that the kernel program does not know of. Returns the cgroups without names.
    fn settle(&self, removed: &[u64]) -> Result<Vec<CgroupReading>, ReadError> {
        let mut snapshot = self.scheduler.snapshot()?;
        let Some(cgroups) = &mut snapshot.cgroups else { return Ok(Vec::new()) };
        for reading in &mut cgroups.cgroups {
            reading.is_removed |= removed.binary_search(&reading.serial).is_ok();
        }
        let gone = cgroups.cgroups.iter().filter(|reading| reading.is_removed);
        let gone: Vec<_> = gone.map(|reading| reading.serial).collect();
        let unnamed = self.tracked.settle(&snapshot);
        if !gone.is_empty()
            && let Err(error) = self.scheduler.free_cgroups(&gone)
        {
            let error = log::chain(&error);
            tracing::warn!(error, "cannot give back the slots of removed cgroups");
        }
        Ok(unnamed)
    }

    /// Looks for removed cgroups if the kernel program does not see removals. Returns their serial numbers,
    /// ascending.
    async fn look_for_removed(&mut self) -> Vec<u64> {
        if self.scheduler.has_removal_hook() {
            return Vec::new();
        }
        let Some(mount) = self.mount.clone() else { return Vec::new() };
        let names = self.tracked.names();
        let job = move || {
            let known = names.values().map(|named| (named.id, named.path.as_path()));
            let ids = paths::removed(&mount, known).map_err(|error| log::chain(&error))?;
            let is_removed = |id: u64| ids.contains(&id);
            let removed = names.iter().filter(|(_, named)| is_removed(named.id));
            Ok(removed.map(|(serial, _)| *serial).collect())
        };
        let looked = self.looking.run(SEARCH_WAIT, job).await;
        let reason = match looked {
            JobStatus::Done(Ok(removed)) => return removed,
            JobStatus::Done(Err(reason)) => reason,
            status => status.reason(),
        };
        self.fail(reason);
        Vec::new()
    }

    /// Finds the names of cgroups, and assigns them to sets.
    async fn name(
        &mut self,
        unnamed: Vec<CgroupReading>,
        limit: Duration,
    ) -> Result<(), ReadError> {
        self.search_at = None;
        let earlier = self.naming.earlier().await;
        let is_late = earlier.is_some();
        let searched = match earlier {
            None => self.search(unnamed, limit).await,
            earlier => earlier,
        };
        match searched {
            None => {}
            Some(JobStatus::Done(naming)) => {
                self.assign(naming)?;
                if is_late {
                    // Others may have appeared in the meantime.
                    self.search_at = Some(Instant::now());
                }
            }
            Some(JobStatus::Running) if !is_late => {
                self.search_at = Some(Instant::now() + SEARCH_WAIT);
            }
            Some(status) => {
                self.fail(status.reason());
                self.search_at = Some(Instant::now() + SEARCH_AGAIN);
            }
        }
        Ok(())
    }

    /// Starts a search on another thread. Returns `None` if there is nothing to search for.
    async fn search(
        &mut self,
        unnamed: Vec<CgroupReading>,
        limit: Duration,
    ) -> Option<JobStatus<Naming>> {
        let mount = self.mount.clone().filter(|_| !unnamed.is_empty())?;
        let generation = self.current.load_full();
        let job = move || naming_job(&mount, &unnamed, &generation);
        Some(self.naming.run(limit, job).await)
    }

    fn assign(&mut self, naming: Naming) -> Result<(), ReadError> {
        let Naming { search, mut labels, mut violations, generation } = naming;
        let current = self.current.load_full();
        if generation != current.number {
            (labels, violations) = labels_of(current.labels.cgroups.as_ref(), &search.named);
        }
        self.report(current.number, violations);
        if let Some(error) = search.error {
            self.fail(error);
        } else {
            self.failure = None;
        }
        let nameless = self.give_up(search.missing);
        let snapshot = self.scheduler.snapshot()?;
        self.tracked.assign(&snapshot, search.named, labels, nameless);
        Ok(())
    }

    /// Returns the cgroups that have been searched for often enough; the others are searched for again.
    fn give_up(&mut self, missing: Vec<u64>) -> Vec<u64> {
        let mut before = mem::take(&mut self.searches);
        let mut nameless = Vec::new();
        for serial in missing {
            let searches = before.remove(&serial).unwrap_or_default() + 1;
            if searches < MAX_SEARCHES {
                self.searches.insert(serial, searches);
            } else {
                nameless.push(serial);
            }
        }
        if !self.searches.is_empty() {
            self.search_at = Some(Instant::now() + SEARCH_AGAIN);
        }
        nameless
    }

    /// Logs and counts the violations of limits that are new in this generation.
    fn report(&mut self, generation: u64, violations: Vec<Violation>) {
        if self.violations.0 != generation {
            self.violations = (generation, Vec::new());
        }
        for violation in violations {
            if !self.violations.1.contains(&violation) {
                (self.on_violation)(violation.kind);
                tracing::warn!(reason = violation.message, key = violation.key, "label rejected");
                self.violations.1.push(violation);
            }
        }
    }

    /// Logs a failure, unless it is that of the last time.
    fn fail(&mut self, reason: String) {
        if self.failure.as_ref() != Some(&reason) {
            tracing::warn!(reason, "cannot find the names of all cgroups; trying again");
        }
        self.failure = Some(reason);
    }
}

fn naming_job(mount: &Path, unnamed: &[CgroupReading], generation: &Generation) -> Naming {
    let search = naming::search(mount, unnamed);
    let (labels, violations) = labels_of(generation.labels.cgroups.as_ref(), &search.named);
    Naming { labels, violations, generation: generation.number, search }
}
