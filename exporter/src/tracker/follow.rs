//! The loop that follows cgroups: waits, takes snapshots, and starts jobs. The modules next to it make the
//! decisions.

use std::{future, io, mem, path::PathBuf, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::{
    Tracked,
    births::Births,
    containers::{Asked, Containers, Question},
    failure::Failure,
    naming::{Nameless, Naming, NamingJob, labels_of, violations_of},
    quotas,
    searches::Searches,
    tracked::Settled,
    walk::{self, Walk, WalkJob},
};
use crate::{
    accounting::{CgroupReading, Snapshot},
    cgroup::{
        hierarchy::{Hierarchy, Selection},
        quota::QuotaReader,
    },
    generation::{Current, Generation},
    kernel::{
        births::{BirthListener, CgroupBirths},
        cgroups::{CgroupEvents, CgroupListener},
        scheduler::{ReadError, Scheduler, monotonic_ns},
    },
    labels::{CgroupLabeller, Violation, Violations},
    os::{
        blocking::{BlockingSlot, JobStatus},
        log,
    },
    runtimes::{Origins, Settings, SourceState},
};

/// The names of the jobs, in the log and of their threads.
const WALKING: &str = "cgroup walk";
const NAMING: &str = "cgroup names";
const ASKING: &str = "containers";
const LOOKING: &str = "cgroup removal";

/// How long to gather events after the first, to handle them together.
const GATHER: Duration = Duration::from_millis(20);

/// Maximum time to gather events, while many cgroups come and go.
const MAX_GATHER: Duration = Duration::from_millis(500);

/// Handling events may take one part in this many of the time.
const SHARE: u32 = 20;

/// How long a walk may take before a warning. It takes milliseconds unless the filesystem hangs.
const WALK_LIMIT: Duration = Duration::from_secs(2);

/// How long a question about containers may take before a warning. Each source has a shorter limit.
const ASK_LIMIT: Duration = Duration::from_secs(10);

/// How long to wait for the first names. A runtime that hangs must not delay the start any longer.
const FIRST_NAMES: Duration = Duration::from_secs(3);

/// How long removed cgroups wait for a naming before they give back their slots without a name. One that waits
/// for the names of its container keeps its slot for up to 8 seconds.
const NAMING_LIMIT: Duration = Duration::from_secs(1);

/// Pause before cgroups are named again if their names could not be worked out.
const NAMING_RETRY: Duration = Duration::from_secs(1);

/// How often to look for removed cgroups on kernels that do not report them.
const LOOK: Duration = Duration::from_secs(5);

/// Receives items to report.
pub type Report<T> = Box<dyn Fn(&[T]) + Send>;

/// What the tracker needs besides cgroups.
pub struct Outside {
    /// Where to find container runtimes and the Kubernetes API.
    pub origins: Origins,
    /// Receives labels that are rejected.
    pub report_violations: Report<Violation>,
    /// Receives the states of container runtimes and the Kubernetes API.
    pub report_sources: Report<SourceState>,
}

/// Follows cgroups as they come and go.
pub struct Tracker {
    scheduler: Arc<Scheduler>,
    current: Current,
    tracked: Tracked,
    report: Report<Violation>,
    events: CgroupListener,
    /// `None` if this kernel does not report new cgroups.
    listener: Option<BirthListener>,
    /// Where cgroups can be found.
    mount: Option<PathBuf>,
    quotas: Option<QuotaReader>,
    births: Births,
    searches: Searches,
    walking: BlockingSlot<Walk>,
    naming: BlockingSlot<Naming>,
    containers: Containers,
    asking: BlockingSlot<Asked>,
    report_sources: Report<SourceState>,
    /// Whether the naming has exceeded its limit, so that removed cgroups no longer wait for it.
    is_naming_late: bool,
    /// Whether cgroups need a name that are not part of the naming under way.
    is_naming_behind: bool,
    /// Finds removed cgroups, by serial number, if this kernel does not report them.
    looking: BlockingSlot<Result<Vec<u64>, String>>,
    look_at: Option<Instant>,
    /// Whether cgroups can be renamed.
    can_rename: bool,
    /// Why names cannot be found.
    failures: Failures,
    /// A generation, and the violations of its labels so far.
    violations: (u64, Violations),
    /// When to handle the events so far.
    step_at: Option<Instant>,
    /// How long to wait for further events.
    gather: Duration,
}

/// The failures of each job.
#[derive(Debug, Default)]
struct Failures {
    walking: Failure,
    naming: Failure,
    asking: Failure,
    looking: Failure,
}

/// What woke the loop.
enum Wake {
    Event,
    Births,
    Walked(JobStatus<Walk>),
    Named(JobStatus<Naming>),
    Asked(JobStatus<Asked>),
    Looked(JobStatus<Result<Vec<u64>, String>>),
    Due,
}

impl Tracker {
    /// Prepares to follow the cgroups of a hierarchy. If some have no names, logs why. Call it inside a tokio
    /// runtime.
    pub fn new(
        scheduler: Arc<Scheduler>,
        current: Current,
        tracked: Tracked,
        selection: Selection,
        events: CgroupEvents,
        births: Option<CgroupBirths>,
        outside: Outside,
    ) -> io::Result<Self> {
        if let Some(reason) = selection.limitation(births.is_some()) {
            tracing::warn!(reason, "cgroups without names are summed as `other`");
        }
        let quotas = match (&selection.mount, selection.quotas) {
            (Ok(mount), Ok(quotas)) => Some(QuotaReader::new(mount.path.clone(), quotas)),
            (Ok(_), Err(reason)) => {
                tracing::warn!(reason = reason.to_string(), "quotas of cgroups are not read");
                None
            }
            (Err(_), _) => None,
        };
        let is_whole = selection.mount.as_ref().map_or(true, |mount| mount.is_whole);
        let now = Instant::now();
        Ok(Self {
            look_at: (!scheduler.has_removal_hook()).then_some(now + LOOK),
            scheduler,
            current,
            tracked,
            report: outside.report_violations,
            events: CgroupListener::new(events)?,
            searches: Searches::new(now, births.is_some()),
            listener: births.map(BirthListener::new).transpose()?,
            mount: selection.mount.ok().map(|mount| mount.path),
            quotas,
            births: Births::new(is_whole),
            walking: BlockingSlot::new(WALKING),
            naming: BlockingSlot::new(NAMING),
            containers: Containers::new(outside.origins),
            asking: BlockingSlot::new(ASKING),
            report_sources: outside.report_sources,
            is_naming_late: false,
            is_naming_behind: false,
            looking: BlockingSlot::new(LOOKING),
            can_rename: selection.hierarchy == Hierarchy::Legacy,
            failures: Failures::default(),
            violations: (0, Violations::default()),
            step_at: None,
            gather: GATHER,
        })
    }

    /// Names the cgroups that exist. For one-shot modes, and before the first scrape. Gives up if that takes
    /// too long.
    pub async fn name_all(&mut self) -> Result<(), ReadError> {
        let give_up_at = Instant::now() + FIRST_NAMES;
        self.step()?;
        self.finish_jobs(give_up_at).await?;
        // From now on, a container that no source knows has the names that its path gives.
        self.containers.release(Instant::now());
        self.step()?;
        self.finish_jobs(give_up_at).await
    }

    /// Waits for the jobs that have been started, and for those that follow from them, but only for one question
    /// about containers: for those that no source knows, there is always another. Gives up if that takes too
    /// long.
    async fn finish_jobs(&mut self, give_up_at: Instant) -> Result<(), ReadError> {
        let mut is_answered = false;
        loop {
            let is_asking = !is_answered && !self.asking.is_idle();
            if self.walking.is_idle() && self.naming.is_idle() && !is_asking {
                return Ok(());
            }
            let wake = tokio::select! {
                walked = self.walking.finished() => Wake::Walked(walked),
                named = self.naming.finished() => Wake::Named(named),
                asked = self.asking.finished(), if is_asking => Wake::Asked(asked),
                () = sleep_until(give_up_at) => return Ok(()),
            };
            is_answered |= matches!(wake, Wake::Asked(_));
            let is_done = matches!(
                wake,
                Wake::Walked(JobStatus::Done(_))
                    | Wake::Named(JobStatus::Done(_))
                    | Wake::Asked(JobStatus::Done(_))
            );
            self.handle(wake)?;
            if !is_done {
                return Ok(());
            }
            if self.step_at.is_some() {
                self.step()?;
            }
        }
    }

    /// Starts to follow cgroups. Call it inside a tokio runtime; it runs as long as the runtime.
    pub fn start(mut self) {
        if let Some((mount, reader)) = self.mount.clone().zip(self.quotas.take()) {
            tokio::spawn(quotas::follow(self.tracked.clone(), mount, reader));
        }
        tokio::spawn(self.follow());
    }

    async fn follow(mut self) {
        loop {
            let wake = match self.wait().await {
                Ok(wake) => wake,
                Err(error) => {
                    tracing::error!(%error, "cannot wait for events of cgroups");
                    return;
                }
            };
            if let Err(error) = self.handle(wake) {
                tracing::warn!(error = log::chain(&error), "cannot follow cgroups; trying again");
                self.step_soon();
            }
        }
    }

    async fn wait(&mut self) -> io::Result<Wake> {
        let due = self.due();
        let Self { events, listener, walking, naming, asking, looking, step_at, tracked, .. } =
            self;
        let filling = async {
            match listener {
                Some(listener) => listener.filling().await,
                None => future::pending().await,
            }
        };
        Ok(tokio::select! {
            event = events.event(), if step_at.is_none() => { event?; Wake::Event }
            filling = filling => { filling?; Wake::Births }
            walked = walking.finished() => Wake::Walked(walked),
            named = naming.finished() => Wake::Named(named),
            asked = asking.finished() => Wake::Asked(asked),
            looked = looking.finished() => Wake::Looked(looked),
            () = tracked.regrouped() => Wake::Due,
            () = sleep_until(due) => Wake::Due,
        })
    }

    /// When to continue without an event.
    fn due(&self) -> Instant {
        let now = Instant::now();
        let clock = monotonic_ns().unwrap_or_default();
        let rank = now + Duration::from_nanos(self.tracked.rank_at().saturating_sub(clock));
        let walk = self.searches.due().filter(|_| self.mount.is_some() && self.walking.is_idle());
        let look = self.look_at.filter(|_| self.mount.is_some() && self.looking.is_idle());
        let ask = self.containers.due(now).filter(|_| self.naming.is_idle());
        [self.step_at, walk, look, ask].into_iter().flatten().fold(rank, Instant::min)
    }

    fn handle(&mut self, wake: Wake) -> Result<(), ReadError> {
        match wake {
            Wake::Event => self.step_soon(),
            Wake::Births => {
                self.take_births();
                if self.can_rename {
                    // A renamed cgroup has a slot already, so no other event follows.
                    self.step_soon();
                }
            }
            Wake::Walked(status) => {
                self.walked(status)?;
                self.step()?;
            }
            Wake::Named(status) => self.named(status)?,
            Wake::Asked(status) => {
                self.asked(status);
                self.step()?;
            }
            Wake::Looked(status) => {
                let removed = self.looked(status);
                self.step_without(&removed)?;
            }
            Wake::Due => self.step()?,
        }
        Ok(())
    }

    /// Handles events after a while, together with those that come until then.
    fn step_soon(&mut self) {
        self.step_at.get_or_insert(Instant::now() + self.gather);
    }

    fn step(&mut self) -> Result<(), ReadError> {
        self.step_without(&[])
    }

    /// Handles all events so far: frees the slots of removed cgroups, and begins to name others. `removed` are
    /// the serial numbers of removed cgroups that the kernel program did not see, ascending.
    fn step_without(&mut self, removed: &[u64]) -> Result<(), ReadError> {
        let started = Instant::now();
        self.step_at = None;
        self.events.events().drain();
        let mut snapshot = self.scheduler.snapshot()?;
        for reading in snapshot.cgroups.iter_mut().flat_map(|it| &mut it.cgroups) {
            reading.is_removed |= removed.binary_search(&reading.serial).is_ok();
        }
        // After the snapshot, so that the births of all cgroups in it have arrived.
        self.take_births();
        let unnamed = self.settle(&snapshot);
        self.search(&snapshot, &unnamed)?;
        self.ask(&snapshot);
        self.name(&snapshot);
        self.look();
        self.gather = (started.elapsed() * SHARE).clamp(GATHER, MAX_GATHER);
        Ok(())
    }

    /// Takes the cgroups that were created or renamed.
    fn take_births(&mut self) {
        let Some(listener) = &mut self.listener else { return };
        let named = self.tracked.names();
        let (mut too_long, mut verify) = (None, false);
        let is_full = listener.births().drain(|birth| {
            too_long = too_long.or(birth.path.is_none().then_some(birth.id));
            verify |= birth.is_renamed && !self.walking.is_idle();
            verify |= self.births.take(birth, &named);
        });
        if let Some(id) = too_long {
            tracing::info!(id, "the path of a new cgroup is too long for the kernel program");
        }
        if is_full {
            tracing::info!("more cgroups were created at once than the kernel program can report");
        }
        // A missing birth leads to a walk by itself; a missing rename does not.
        if verify || is_full && self.can_rename {
            self.searches.verify();
        }
    }

    /// Frees the slots of removed cgroups; what they used stays in their sets. Returns the cgroups without names.
    fn settle(&mut self, snapshot: &Snapshot) -> Vec<CgroupReading> {
        let (births, may_wait) = (&self.births, !self.is_naming_late);
        let is_awaited = |reading: &CgroupReading| may_wait && births.path(reading.id).is_some();
        let Settled { unnamed, gone } = self.tracked.settle(snapshot, is_awaited);
        self.free(&gone);
        unnamed
    }

    fn free(&mut self, gone: &[CgroupReading]) {
        if gone.is_empty() {
            return;
        }
        for reading in gone {
            self.births.forget(reading.id);
        }
        let serials: Vec<_> = gone.iter().map(|reading| reading.serial).collect();
        if let Err(error) = self.scheduler.free_cgroups(&serials) {
            let error = log::chain(&error);
            tracing::warn!(error, "cannot give back the slots of removed cgroups");
        }
    }

    /// Searches for cgroups whose path is not known. Without a mount, they have no name.
    fn search(&mut self, snapshot: &Snapshot, unnamed: &[CgroupReading]) -> Result<(), ReadError> {
        let is_unknown = |reading: &&CgroupReading| self.births.path(reading.id).is_none();
        let unknown = unnamed.iter().filter(is_unknown).map(|reading| (reading.serial, reading.id));
        let Some(mount) = &self.mount else {
            let nameless: Vec<_> = unknown.map(|(serial, _)| serial).collect();
            self.tracked.give_up(snapshot, nameless);
            return Ok(());
        };
        let now = Instant::now();
        let cgroups = snapshot.cgroups.as_ref().map_or(&[][..], |it| &it.cgroups);
        self.searches.want(now, unknown, |serial| {
            let found = cgroups.binary_search_by_key(&serial, |reading| reading.serial);
            found.is_ok_and(|index| !cgroups[index].is_removed)
        });
        if !self.walking.is_idle() {
            return Ok(());
        }
        let Some(wanted) = self.searches.begin(now) else { return Ok(()) };
        let (mount, named) = (mount.clone(), self.tracked.names());
        let job = WalkJob { mount, wanted, named, unplaced: self.births.unplaced() };
        if let Err(error) = self.walking.start(WALK_LIMIT, move || job.run()) {
            self.walked(JobStatus::NotStarted(error))?;
        }
        Ok(())
    }

    /// Takes the result of a walk.
    fn walked(&mut self, status: JobStatus<Walk>) -> Result<(), ReadError> {
        let walk = match status {
            JobStatus::Done(walk) => walk,
            JobStatus::Running => {
                warn(WALKING, &mut self.failures.walking, &status.reason());
                return Ok(());
            }
            JobStatus::Panicked | JobStatus::NotStarted(_) => {
                Walk { error: Some(status.reason()), ..Walk::default() }
            }
        };
        match &walk.error {
            Some(error) => {
                warn(WALKING, &mut self.failures.walking, error);
                self.searches.fail();
            }
            None => self.failures.walking.end(),
        }
        if let Some(root) = walk.root {
            self.births.place(root);
        }
        let wanted = self.searches.ids();
        let nameless = self.searches.end(Instant::now(), |id| walk.paths.contains_key(&id));
        self.births.find(walk.paths, &self.tracked.names(), |id| wanted.contains(&id));
        if !nameless.is_empty() {
            let snapshot = self.scheduler.snapshot()?;
            self.tracked.give_up(&snapshot, nameless);
        }
        Ok(())
    }

    /// Names the cgroups whose path is known: new ones, and those that were renamed.
    fn name(&mut self, snapshot: &Snapshot) {
        let readings = snapshot.cgroups.iter().flat_map(|it| &it.cgroups);
        let cgroups: Vec<_> = readings
            .filter_map(|CgroupReading { serial, id, .. }| {
                let path = self.births.path(*id)?.to_owned();
                Some(Nameless { serial: *serial, id: *id, path })
            })
            .collect();
        if !self.naming.is_idle() {
            self.is_naming_behind |= !cgroups.is_empty();
            return;
        }
        let recheck = self.containers.take_recheck().map(|how| (self.tracked.names(), how));
        if cgroups.is_empty() && recheck.is_none() {
            return;
        }
        let generation = self.current.load_full();
        let violations = self.violations(&generation);
        let inventory = self.containers.inventory();
        let job = NamingJob { cgroups, inventory, recheck, generation, violations };
        if let Err(error) = self.naming.start(NAMING_LIMIT, move || job.run()) {
            self.cannot_name(&JobStatus::NotStarted(error));
        }
    }

    fn cannot_name(&mut self, status: &JobStatus<Naming>) {
        warn(NAMING, &mut self.failures.naming, &status.reason());
        self.containers.recheck();
        self.step_at = Some(Instant::now() + NAMING_RETRY);
    }

    /// Takes names, and assigns their cgroups to sets.
    fn named(&mut self, status: JobStatus<Naming>) -> Result<(), ReadError> {
        self.is_naming_late = matches!(status, JobStatus::Running);
        let naming = match status {
            JobStatus::Done(naming) => {
                self.failures.naming.end();
                naming
            }
            JobStatus::Running => {
                warn(NAMING, &mut self.failures.naming, &status.reason());
                return self.step();
            }
            JobStatus::Panicked | JobStatus::NotStarted(_) => {
                self.cannot_name(&status);
                return Ok(());
            }
        };
        let Naming { mut names, mut labels, mut violations, .. } = naming;
        let Naming { generation, unknown, settled, has_containers, .. } = naming;
        let held = self.containers.named(Instant::now(), &settled, &unknown, has_containers);
        names.retain(|serial, _| !held.contains(serial));
        let current = self.current.load_full();
        if generation != current.number {
            violations = self.violations(&current);
            labels = labels_of(current.labels.cgroups.as_ref(), &names, &mut violations);
        }
        (self.report)(&violations.take());
        self.violations = (current.number, violations);
        // Those that were renamed in the meantime are named again.
        names.retain(|_, it| self.births.path(it.id).is_none_or(|path| path == it.path));
        labels.retain(|serial, _| names.contains_key(serial));
        for (serial, named) in &names {
            self.births.forget(named.id);
            self.searches.forget(*serial);
        }
        let snapshot = self.scheduler.snapshot()?;
        let gone = self.tracked.assign(&snapshot, names, labels);
        self.free(&gone);
        if mem::take(&mut self.is_naming_behind) {
            self.step_soon();
        }
        Ok(())
    }

    /// Asks about containers if it is time to.
    fn ask(&mut self, snapshot: &Snapshot) {
        let cgroups = snapshot.cgroups.as_ref().map_or(&[][..], |it| &it.cgroups);
        self.containers.retain(|serial| {
            cgroups.binary_search_by_key(&serial, |reading| reading.serial).is_ok()
        });
        let generation = self.current.load();
        let labeller = generation.labels.cgroups.as_ref();
        let states = self.containers.configure(generation.number, || settings(labeller));
        if let Some(states) = states {
            (self.report_sources)(&states);
        }
        if !self.asking.is_idle() {
            return;
        }
        let now = Instant::now();
        let Some(question) = self.containers.question(now) else { return };
        let started = self.asking.start_with(ASK_LIMIT, question, Question::ask);
        if let Err((error, question)) = started {
            warn(
                ASKING,
                &mut self.failures.asking,
                &JobStatus::<Asked>::NotStarted(error).reason(),
            );
            self.containers.not_asked(now, question);
        }
    }

    /// Takes answers about containers.
    fn asked(&mut self, status: JobStatus<Asked>) {
        match status {
            JobStatus::Done(asked) => {
                self.failures.asking.end();
                let sources = self.containers.answered(asked);
                (self.report_sources)(&sources);
            }
            JobStatus::Running => warn(ASKING, &mut self.failures.asking, &status.reason()),
            JobStatus::Panicked | JobStatus::NotStarted(_) => {
                warn(ASKING, &mut self.failures.asking, &status.reason());
                self.containers.lost(Instant::now());
            }
        }
    }

    /// The violations of a generation so far.
    fn violations(&self, generation: &Generation) -> Violations {
        let (number, violations) = &self.violations;
        if *number == generation.number {
            violations.clone()
        } else {
            violations_of(generation.labels.cgroups.as_ref())
        }
    }

    /// Looks for removed cgroups if it is time to.
    fn look(&mut self) {
        let Some(mount) = self.mount.clone() else { return };
        let now = Instant::now();
        if self.look_at.is_none_or(|at| at > now) || !self.looking.is_idle() {
            return;
        }
        self.look_at = Some(now + LOOK);
        let named = self.tracked.names();
        if let Err(error) = self.looking.start(WALK_LIMIT, move || walk::removed(&mount, &named)) {
            warn(LOOKING, &mut self.failures.looking, &JobStatus::<()>::NotStarted(error).reason());
        }
    }

    /// Takes the serial numbers of removed cgroups, ascending.
    fn looked(&mut self, status: JobStatus<Result<Vec<u64>, String>>) -> Vec<u64> {
        let reason = match status {
            JobStatus::Done(Ok(removed)) => {
                self.failures.looking.end();
                return removed;
            }
            JobStatus::Done(Err(reason)) => reason,
            status => status.reason(),
        };
        warn(LOOKING, &mut self.failures.looking, &reason);
        Vec::new()
    }
}

/// Logs the failure of a job, unless it is the same as its last one.
fn warn(job: &str, failure: &mut Failure, reason: &str) {
    if failure.is_news(reason) {
        tracing::warn!(reason, job, "cannot find the names of all cgroups; trying again");
    }
}

/// Whom to ask about containers.
fn settings(labeller: Option<&CgroupLabeller>) -> Settings {
    let Some(labeller) = labeller else { return Settings::default() };
    Settings {
        sockets: labeller.runtimes().map(<[_]>::to_vec),
        kubernetes_pods: labeller.asks_kubernetes(),
        uses: Arc::new(labeller.uses().clone()),
    }
}
