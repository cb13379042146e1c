//! Decides when to ask for the names of containers, and which cgroups wait for the answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use super::naming::Recheck;
use crate::runtimes::{Inventory, Origins, Runtimes, Settings, SourceState};

/// How long a new cgroup waits for its names before it gets those that its path gives. A runtime lists a pod's
/// first container only after it has started.
const HOLD: Duration = Duration::from_secs(3);

/// The same if the Kubernetes API is asked: kubelet reports a new container to it after a second or two, and it is
/// asked at most every 4 seconds.
const HOLD_FOR_API: Duration = Duration::from_secs(8);

/// Pause before the second question for a cgroup. It doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// After a pause of this, there are no more questions for a cgroup.
const LAST_PAUSE: Duration = Duration::from_mins(1);

/// Pause before a question is repeated for which no thread could start.
const RETRY: Duration = Duration::from_secs(1);

/// The known containers, and the questions for those that no source knows.
#[derive(Debug)]
pub(super) struct Containers {
    /// `None` while they are being asked.
    runtimes: Option<Runtimes>,
    inventory: Inventory,
    /// The settings in force, and the number of their generation.
    settings: (u64, Settings),
    missing: BTreeMap<u64, Missing>,
    /// Whether any cgroup belongs to a container.
    has_any: bool,
    /// Whether a source answers, or may do so once it is asked.
    may_answer: bool,
    /// Whether there is a source that has not been asked under these settings.
    is_new: bool,
    origins: Origins,
    /// When the next question may be asked, if the last one failed.
    paused_until: Option<Instant>,
    recheck: Option<Recheck>,
    /// The last recheck that was taken, in case it fails.
    taken: Option<Recheck>,
}

/// A cgroup whose container no source knows.
#[derive(Debug)]
struct Missing {
    /// Until when it waits for its names.
    hold_until: Instant,
    /// When to ask for it; `None` if it is given up.
    ask_at: Option<Instant>,
    pause: Duration,
}

/// Runtimes that have been asked.
#[derive(Debug)]
pub(super) struct Asked(Runtimes);

/// A question, for another thread.
#[derive(Debug)]
pub(super) struct Question {
    runtimes: Runtimes,
    is_missing: bool,
}

impl Question {
    /// Asks. Blocks for at most some seconds.
    pub(super) fn ask(mut self) -> Asked {
        self.runtimes.ask(self.is_missing);
        Asked(self.runtimes)
    }
}

impl Containers {
    /// Starts with nobody to ask.
    pub(super) fn new(origins: Origins) -> Self {
        Self {
            may_answer: false,
            runtimes: Some(Runtimes::new(Settings::default(), origins.clone())),
            origins,
            inventory: Inventory::default(),
            settings: (0, Settings::default()),
            missing: BTreeMap::new(),
            has_any: false,
            is_new: false,
            paused_until: None,
            recheck: None,
            taken: None,
        }
    }

    /// Applies the settings of a generation, unless a question under other settings is under way. Returns the
    /// states of the sources if these may have changed.
    pub(super) fn configure(
        &mut self,
        generation: u64,
        settings: impl FnOnce() -> Settings,
    ) -> Option<Vec<SourceState>> {
        let runtimes = self.runtimes.as_mut()?;
        if self.settings.0 == generation {
            return None;
        }
        let settings = settings();
        let mut states = None;
        if settings != self.settings.1 {
            let (before, after) = (&self.settings.1, &settings);
            let has_other_sources =
                before.sockets != after.sockets || before.kubernetes_pods != after.kubernetes_pods;
            runtimes.configure(settings.clone());
            states = Some(runtimes.states());
            self.inventory = runtimes.inventory();
            self.may_answer = runtimes.may_answer();
            self.is_new = runtimes.ask_at(false).is_some();
            self.recheck = has_other_sources.then_some(Recheck::Replace).or(self.recheck);
            self.missing.clear();
        }
        self.settings = (generation, settings);
        states
    }

    /// Who the containers are.
    pub(super) fn inventory(&self) -> Inventory {
        self.inventory.clone()
    }

    /// When to ask, or to name a cgroup that has waited long enough.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let holds = self.missing.values().map(|it| it.hold_until).filter(|at| *at > now);
        self.ask_at(now).into_iter().chain(holds).min()
    }

    fn ask_at(&self, now: Instant) -> Option<Instant> {
        self.wanted_at(now).map(|at| self.paused_until.map_or(at, |until| at.max(until)))
    }

    fn wanted_at(&self, now: Instant) -> Option<Instant> {
        let runtimes = self.runtimes.as_ref()?;
        if self.is_new {
            return Some(now);
        }
        let missing = self.missing.values().filter_map(|it| it.ask_at).min();
        let missing = missing.and_then(|at| Some(at.max(runtimes.ask_at(true)?.into())));
        let refreshes = self.has_any || runtimes.is_any_down();
        let refresh = runtimes.ask_at(false).filter(|_| refreshes).map(Instant::from);
        missing.into_iter().chain(refresh).min()
    }

    /// Returns the question that is due.
    pub(super) fn question(&mut self, now: Instant) -> Option<Question> {
        self.ask_at(now).filter(|at| *at <= now)?;
        let mut is_missing = false;
        for missing in self.missing.values_mut() {
            if missing.ask_at.is_some_and(|at| at <= now) {
                is_missing = true;
                missing.ask_at = (missing.pause <= LAST_PAUSE).then(|| now + missing.pause);
                missing.pause *= 2;
            }
        }
        Some(Question { runtimes: self.runtimes.take()?, is_missing })
    }

    /// Takes the answers, and returns the states of the sources.
    pub(super) fn answered(&mut self, Asked(runtimes): Asked) -> Vec<SourceState> {
        self.is_new = false;
        let inventory = runtimes.inventory();
        if inventory != self.inventory {
            self.inventory = inventory;
            self.recheck = self.recheck.or(Some(Recheck::Update));
        }
        self.may_answer = runtimes.may_answer();
        let states = runtimes.states();
        self.runtimes = Some(runtimes);
        states
    }

    /// Takes back a question that could not be asked. It is repeated after a pause.
    pub(super) fn not_asked(&mut self, now: Instant, question: Question) {
        self.paused_until = Some(now + RETRY);
        self.runtimes = Some(question.runtimes);
    }

    /// Starts again after a pause, since the runtimes were lost with the thread that asked them.
    pub(super) fn lost(&mut self, now: Instant) {
        self.paused_until = Some(now + RETRY);
        self.settings = (0, Settings::default());
        self.runtimes = Some(Runtimes::new(Settings::default(), self.origins.clone()));
    }

    /// How the names of cgroups may have changed since the last call. `None` until new sources have been asked.
    pub(super) fn take_recheck(&mut self) -> Option<Recheck> {
        let is_early = self.is_new || self.runtimes.is_none();
        self.taken = if is_early { None } else { self.recheck.take() };
        self.taken
    }

    /// Repeats the last recheck, because it failed.
    pub(super) fn recheck(&mut self) {
        self.recheck = self.recheck.max(self.taken);
    }

    /// Notes the cgroups of a naming: for those that are `settled`, nobody need be asked any longer. Returns the
    /// `unknown` ones that wait for their names, because no source knows their container.
    pub(super) fn named(
        &mut self,
        now: Instant,
        settled: &BTreeSet<u64>,
        unknown: &BTreeSet<u64>,
        has_any: bool,
    ) -> BTreeSet<u64> {
        self.has_any |= has_any;
        self.missing.retain(|serial, _| !settled.contains(serial));
        let may_answer = self.may_answer;
        let longest = if self.settings.1.kubernetes_pods { HOLD_FOR_API } else { HOLD };
        let mut held = BTreeSet::new();
        for serial in unknown {
            let missing = self.missing.entry(*serial).or_insert(Missing {
                hold_until: now + longest,
                ask_at: Some(now),
                pause: FIRST_PAUSE,
            });
            if may_answer && missing.hold_until > now {
                held.insert(*serial);
            }
        }
        held
    }

    /// Ends the wait of all cgroups.
    pub(super) fn release(&mut self, now: Instant) {
        self.missing.values_mut().for_each(|missing| missing.hold_until = now);
    }

    /// Forgets cgroups that no longer exist.
    pub(super) fn retain(&mut self, exists: impl Fn(u64) -> bool) {
        self.missing.retain(|serial, _| exists(*serial));
    }
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::Arc};

    use super::*;
    use crate::{
        expr::cgroup::{CgroupKey, CgroupName, CgroupUses},
        runtimes::Received,
    };

    fn settings(sockets: &[&str]) -> Settings {
        let uses = CgroupUses::new(&[CgroupKey::Name(CgroupName::PodName)], &[]);
        let sockets = Some(sockets.iter().map(PathBuf::from).collect());
        Settings { sockets, kubernetes_pods: false, uses: Arc::new(uses) }
    }

    fn containers(sockets: &[&str]) -> Containers {
        let origins = Origins {
            root: "/nowhere".into(),
            environment: Arc::default(),
            service_account: "/nowhere".into(),
        };
        let mut containers = Containers::new(origins);
        containers.configure(1, || settings(sockets));
        containers
    }

    /// The answer of a source that knows one container.
    fn one_container() -> Inventory {
        let list = format!(r#"[{{"Id": "{}", "Names": ["/web"]}}]"#, "a".repeat(64));
        Received::Docker(list.as_bytes()).read(&Arc::default(), 100).unwrap()
    }

    /// Takes the question that is due, as if no source answered.
    fn ask(containers: &mut Containers, now: Instant) -> bool {
        let Some(Question { runtimes, is_missing }) = containers.question(now) else {
            return false;
        };
        assert!(containers.question(now).is_none(), "asked twice at a time");
        containers.answered(Asked(runtimes));
        is_missing
    }

    /// Asks whenever a question is due, until none is left. Returns the times, in seconds.
    fn questions(containers: &mut Containers, start: Instant) -> Vec<u64> {
        let mut times = Vec::new();
        let mut now = start;
        while let Some(at) = containers.due(now) {
            now = now.max(at);
            if ask(containers, now) {
                times.push((now - start).as_secs());
            }
        }
        times
    }

    #[test]
    fn nobody_is_asked_without_a_source() {
        let now = Instant::now();
        let mut containers = containers(&[]);
        assert_eq!(containers.due(now), None);
        // So no cgroup waits.
        assert_eq!(containers.named(now, &[].into(), &[3].into(), true), [].into());
        assert!(containers.question(now).is_none());
        containers.configure(2, || settings(&["/s"]));
        assert_eq!(containers.due(now), Some(now));
    }

    #[test]
    fn an_unknown_cgroup_waits_for_a_while_and_is_asked_for_less_and_less() {
        let now = Instant::now();
        let mut containers = containers(&["/s"]);
        // Before any cgroup is known, so that the first ones have names.
        assert_eq!(containers.due(now), Some(now));
        ask(&mut containers, now);
        let named = |containers: &mut Containers, now| {
            containers.named(now, &[3].into(), &[4].into(), false)
        };
        assert_eq!(named(&mut containers, now), [4].into());
        assert_eq!(named(&mut containers, now + HOLD), [].into());
        // It is not forgotten then.
        assert_eq!(questions(&mut containers, now), [0, 0, 0, 1, 3, 7, 15, 31, 63]);
        assert_eq!(named(&mut containers, now + HOLD), [].into());
        assert_eq!(containers.due(now + HOLD), None);
    }

    #[test]
    fn a_cgroup_waits_longer_for_an_answer_of_the_api() {
        let now = Instant::now();
        let mut containers = containers(&["/s"]);
        ask(&mut containers, now);
        containers.settings.1.kubernetes_pods = true;
        let mut named = |now| containers.named(now, &[].into(), &[4].into(), false);
        assert_eq!(named(now), [4].into());
        assert_eq!(named(now + HOLD), [4].into());
        assert_eq!(named(now + HOLD_FOR_API), [].into());
    }

    #[test]
    fn known_and_removed_cgroups_are_not_asked_for() {
        let now = Instant::now();
        let mut containers = containers(&["/s"]);
        ask(&mut containers, now);
        containers.named(now, &[].into(), &[3, 4].into(), false);
        containers.named(now, &[3].into(), &[].into(), false);
        containers.retain(|serial| serial != 4);
        assert_eq!(containers.due(now), None);
        // The runtime is asked again only if there are containers.
        containers.has_any = true;
        assert!(containers.due(now).is_some());
    }

    #[test]
    fn sources_that_are_down_are_asked_again_without_containers() {
        let now = Instant::now();
        let mut containers = containers(&["/nowhere/s"]);
        let question = containers.question(now).unwrap();
        let states = containers.answered(question.ask());
        assert!(states[0].error.is_some());
        let at = containers.due(now).unwrap();
        assert!((50..70).contains(&(at - now).as_secs()));
    }

    #[test]
    fn released_cgroups_wait_no_longer() {
        let now = Instant::now();
        let mut containers = containers(&["/s"]);
        assert_eq!(containers.named(now, &[].into(), &[3].into(), true), [3].into());
        containers.release(now);
        assert_eq!(containers.named(now, &[].into(), &[3].into(), true), [].into());
    }

    #[test]
    fn settings_take_effect_after_the_question_under_way() {
        let now = Instant::now();
        let mut containers = containers(&["/s"]);
        let Question { runtimes, .. } = containers.question(now).unwrap();
        containers.configure(2, || settings(&["/t"]));
        containers.answered(Asked(runtimes));
        assert_eq!(containers.take_recheck(), Some(Recheck::Replace));
        containers.configure(2, || settings(&["/t"]));
        // Names are replaced once the other sources have been asked.
        assert_eq!(containers.take_recheck(), None);
        ask(&mut containers, now);
        assert_eq!(containers.take_recheck(), Some(Recheck::Replace));
        assert_eq!(containers.take_recheck(), None);
        // Another generation with the same settings changes nothing.
        containers.configure(3, || settings(&["/t"]));
        assert!(containers.question(now).is_none());
    }

    #[test]
    fn sources_that_are_gone_are_forgotten_at_once() {
        let now = Instant::now();
        let mut containers = containers(&["/no/such/socket"]);
        let asked = containers.question(now).unwrap().ask();
        assert_eq!(containers.answered(asked).len(), 1);
        containers.inventory = one_container();
        assert_eq!(containers.take_recheck(), Some(Recheck::Replace));
        assert_eq!(containers.configure(2, || settings(&[])), Some(Vec::new()));
        assert_eq!(containers.inventory(), Inventory::default());
        // Nobody is left to ask.
        assert!(containers.question(now).is_none());
        assert_eq!(containers.take_recheck(), Some(Recheck::Replace));
        // Another generation with the same settings changes nothing.
        assert_eq!(containers.configure(3, || settings(&[])), None);
    }

    #[test]
    fn a_recheck_that_fails_is_repeated_as_it_was() {
        let now = Instant::now();
        let mut containers = containers(&["/s"]);
        ask(&mut containers, now);
        assert_eq!(containers.take_recheck(), Some(Recheck::Replace));
        // Another answer comes meanwhile.
        containers.inventory = one_container();
        let asked = Asked(containers.runtimes.take().unwrap());
        containers.answered(asked);
        containers.recheck();
        assert_eq!(containers.take_recheck(), Some(Recheck::Replace));
        // Nothing is left to repeat.
        assert_eq!(containers.take_recheck(), None);
        containers.recheck();
        assert_eq!(containers.take_recheck(), None);
    }

    #[test]
    fn a_question_that_could_not_be_asked_is_repeated_later() {
        let now = Instant::now();
        let mut containers = containers(&["/s"]);
        let question = containers.question(now).unwrap();
        assert_eq!(containers.due(now), None);
        containers.not_asked(now, question);
        // The sources are kept, with their answers.
        assert!(containers.runtimes.as_ref().unwrap().ask_at(false).is_some());
        // Names of other sources are not replaced before that.
        assert_eq!(containers.take_recheck(), None);
        assert_eq!(containers.due(now), Some(now + RETRY));
        assert!(containers.question(now).is_none());
        ask(&mut containers, now + RETRY);
        assert_eq!(containers.take_recheck(), Some(Recheck::Replace));
    }

    #[test]
    fn runtimes_that_are_lost_are_replaced() {
        let now = Instant::now();
        let mut containers = containers(&["/s"]);
        drop(containers.question(now));
        assert_eq!(containers.due(now), None);
        containers.lost(now);
        containers.configure(1, || settings(&["/s"]));
        assert!(containers.question(now).is_none());
        assert!(containers.question(now + RETRY).is_some());
    }
}
