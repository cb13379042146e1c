//! The cgroups and their sets, as scrapes, reloads and the tracker share them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::naming::{CgroupLabels, Named, NamesBySerial, labels_of, violations_of};
use crate::{
    accounting::{
        Budget, CgroupReading, CgroupSets, QuotaReading, SavedSets, SavedShown, Snapshot,
    },
    exposition::Labels,
    generation::Generation,
    kernel::{
        scheduler::{ReadError, Scheduler},
        state::{Section, State as SavedState, StateError},
    },
    labels::CgroupLabeller,
    os::log,
};

/// The cgroups of this machine and the sets that they belong to. Clones share them. All use is on the
/// reactor, so locking never waits.
#[derive(Clone, Debug)]
pub struct Tracked(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    scraped: Notify,
    regrouped: Notify,
}

/// The cgroups that need something after they have settled.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Those without a name.
    pub(super) unnamed: Vec<CgroupReading>,
    /// Removed ones, which can give back their slots.
    pub(super) gone: Vec<CgroupReading>,
}

#[derive(Debug)]
struct State {
    sets: CgroupSets<Labels>,
    /// Shared with jobs that compute labels.
    names: Arc<NamesBySerial>,
    /// Where to save the sets, if they outlive the process.
    store: Option<Store>,
}

/// Where sets are saved.
#[derive(Debug)]
struct Store {
    state: Arc<SavedState>,
    /// SHA-256 of the configuration that their labels are from.
    config: String,
    /// Whether the last save failed.
    is_failing: bool,
}

/// What is saved: the configuration that labels are from, and the sets.
#[derive(Serialize, Deserialize)]
struct Saved<L>(String, SavedSets<L>);

/// The sets of the last process cannot be continued.
#[derive(Debug, thiserror::Error)]
pub enum ContinueError {
    /// What it saved cannot be read.
    #[error("reading the sets of cgroups that the last process had")]
    State(#[from] StateError),
    /// What it saved is not what this version saves.
    #[error("the sets of cgroups that the last process had are not what this version saves")]
    Unknown,
    /// No snapshot can be taken.
    #[error(transparent)]
    Snapshot(#[from] ReadError),
}

impl Tracked {
    /// Starts without cgroups, at `now` on the clock of snapshots.
    pub fn new(now: u64, labeller: Option<&CgroupLabeller>) -> Self {
        Self::with(CgroupSets::new(now, budget(labeller)), None)
    }

    /// Continues the sets of the last process if counts continue, and saves them for the next one if there are
    /// pins.
    pub fn start(scheduler: &Scheduler, generation: &Generation) -> Result<Self, ContinueError> {
        let labeller = generation.labels.cgroups.as_ref();
        let Some(state) = scheduler.state() else {
            return Ok(Self::new(scheduler.attached_at(), labeller));
        };
        let mut sets = CgroupSets::new(scheduler.attached_at(), budget(labeller));
        if scheduler.start().continues()
            && let Some(Saved(config, saved)) = state.load(Section::Sets)?
            && let shown = state.load::<SavedShown>(Section::Shown)?
            && let Snapshot { taken_at, cgroups: Some(cgroups), .. } = scheduler.snapshot()?
        {
            let (budget, keeps_ended) = (budget(labeller), config == generation.sha256);
            let restored =
                CgroupSets::restore(saved, shown, taken_at, &cgroups, budget, keeps_ended);
            sets = restored.ok_or(ContinueError::Unknown)?;
        }
        let (state, config) = (Arc::clone(state), generation.sha256.clone());
        let mut store = Store { state, config, is_failing: false };
        store.save(&sets);
        Ok(Self::with(sets, Some(store)))
    }

    fn with(sets: CgroupSets<Labels>, store: Option<Store>) -> Self {
        let state = Mutex::new(State { sets, names: Arc::default(), store });
        Self(Arc::new(Shared { state, scraped: Notify::new(), regrouped: Notify::new() }))
    }

    /// Calls `use_sets` with the sets, for a scrape that shows a snapshot.
    pub fn scrape<T>(
        &self,
        snapshot: &Snapshot,
        use_sets: impl FnOnce(&CgroupSets<Labels>) -> T,
    ) -> T {
        self.0.scraped.notify_one();
        let State { sets, store, .. } = &mut *self.lock();
        if let Some(cgroups) = &snapshot.cgroups {
            sets.show(snapshot.taken_at, cgroups);
            if let Some(store) = store {
                store.save_shown(sets);
            }
        }
        use_sets(sets)
    }

    /// Waits for a scrape since the last call.
    pub(super) async fn scraped(&self) {
        self.0.scraped.notified().await;
    }

    /// Waits for another configuration since the last call.
    pub(super) async fn regrouped(&self) {
        self.0.regrouped.notified().await;
    }

    /// The names of the cgroups that have been found.
    pub fn names(&self) -> Arc<NamesBySerial> {
        Arc::clone(&self.lock().names)
    }

    /// Applies a new configuration. `labels` are those of the cgroups that were known when they were
    /// computed; the labels of others are computed here.
    pub fn regroup(&self, snapshot: &Snapshot, generation: &Generation, labels: &CgroupLabels) {
        self.0.regrouped.notify_one();
        let labeller = generation.labels.cgroups.as_ref();
        let Some(cgroups) = &snapshot.cgroups else { return };
        let State { sets, names, store } = &mut *self.lock();
        let is_late = |(serial, _): &(&u64, &Arc<Named>)| !labels.contains_key(serial);
        let late = names.iter().filter(is_late).map(|(serial, it)| (*serial, Arc::clone(it)));
        let late = labels_of(labeller, &late.collect(), &mut violations_of(labeller));
        sets.regroup(snapshot.taken_at, cgroups, budget(labeller), |serial| {
            labels.get(&serial).or_else(|| late.get(&serial)).cloned().flatten()
        });
        if let Some(store) = store {
            store.config.clone_from(&generation.sha256);
            store.save(sets);
        }
    }

    /// Updates the sets to the cgroups of a snapshot, and ranks the sets if it is time. Cgroups without a name for
    /// which `is_awaited` returns true stay until they have one, even if they are removed in the meantime.
    pub(super) fn settle(
        &self,
        snapshot: &Snapshot,
        is_awaited: impl Fn(&CgroupReading) -> bool,
    ) -> Settled {
        let Some(cgroups) = &snapshot.cgroups else { return Settled::default() };
        let State { sets, names, store } = &mut *self.lock();
        let awaited = sets.unnamed(cgroups).filter(|it| is_awaited(it)).map(|it| it.serial);
        let awaited = awaited.collect();
        sets.settle(snapshot.taken_at, cgroups, awaited);
        sets.rank(snapshot.taken_at, cgroups);
        save(sets, store);
        let exists = |serial: &u64| {
            let found = cgroups.cgroups.binary_search_by_key(serial, |reading| reading.serial);
            found.is_ok_and(|index| !cgroups.cgroups[index].is_removed)
        };
        if !names.keys().all(exists) {
            Arc::make_mut(names).retain(|serial, _| exists(serial));
        }
        let unnamed = sets.unnamed(cgroups).copied().collect();
        Settled { unnamed, gone: sets.gone(cgroups).copied().collect() }
    }

    /// Adds names, and assigns their cgroups to sets, by their labels. Returns the removed cgroups that can
    /// give back their slots.
    pub(super) fn assign(
        &self,
        snapshot: &Snapshot,
        named: NamesBySerial,
        labels: CgroupLabels,
    ) -> Vec<CgroupReading> {
        let Some(cgroups) = &snapshot.cgroups else { return Vec::new() };
        let State { sets, names, store } = &mut *self.lock();
        Arc::make_mut(names).extend(named);
        sets.assign(snapshot.taken_at, cgroups, labels);
        save(sets, store);
        sets.gone(cgroups).copied().collect()
    }

    /// Assigns cgroups to `other`, since they have no name.
    pub(super) fn give_up(&self, snapshot: &Snapshot, serials: Vec<u64>) {
        let Some(cgroups) = snapshot.cgroups.as_ref().filter(|_| !serials.is_empty()) else {
            return;
        };
        let nameless = serials.into_iter().map(|serial| (serial, None));
        let State { sets, store, .. } = &mut *self.lock();
        sets.assign(snapshot.taken_at, cgroups, nameless);
        save(sets, store);
    }

    /// Adds the counts of quotas.
    pub(super) fn read_quotas(&self, readings: impl IntoIterator<Item = QuotaReading>) {
        let State { sets, store, .. } = &mut *self.lock();
        sets.read_quotas(readings);
        save(sets, store);
    }

    /// When to rank the sets, on the clock of snapshots.
    pub(super) fn rank_at(&self) -> u64 {
        self.lock().sets.rank_at()
    }

    /// Locks the state. It stays valid even if a holder panicked.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Saves the sets after an event: before anything shows them, and before their removed cgroups give back
    /// their slots.
    fn save(&mut self, sets: &CgroupSets<Labels>) {
        let saved = Saved(self.config.clone(), sets.saved());
        let result = self.state.save(Section::Sets, &saved);
        if let Err(error) = &result
            && !self.is_failing
        {
            let error = log::chain(error);
            tracing::warn!(error, "the next start begins at zero: sets of cgroups cannot be saved");
        }
        self.is_failing = result.is_err();
    }

    /// Saves what a scrape shows of cgroups without a name, before it does.
    fn save_shown(&self, sets: &CgroupSets<Labels>) {
        let shown = sets.saved_shown();
        if self.state.save(Section::Shown, &shown).is_err() {
            // This has a dozen bytes.
            let _ = self.state.save(Section::Shown, &shown.without_cgroups());
        }
    }
}

fn save(sets: &CgroupSets<Labels>, store: &mut Option<Store>) {
    if let Some(store) = store {
        store.save(sets);
    }
}

/// Without labels, nothing is shown.
fn budget(labeller: Option<&CgroupLabeller>) -> Budget {
    let limit = labeller.map_or(0, CgroupLabeller::max_sets);
    Budget { limit, keep: labeller.map(CgroupLabeller::keep).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sched_exporter_ebpf::{CgroupTotals, Counters as _};

    use super::*;
    use crate::accounting::CgroupsSnapshot;

    fn tracked() -> Tracked {
        let budget = Budget { limit: 250, keep: Duration::from_mins(5) };
        Tracked::with(CgroupSets::new(0, budget), None)
    }

    /// A cgroup that has run for 10 ns.
    fn snapshot(is_removed: bool) -> Snapshot {
        let totals = CgroupTotals { cpu_ns: 10, ..CgroupTotals::ZERO };
        let cgroups = CgroupsSnapshot {
            cgroups: vec![CgroupReading { serial: 3, id: 103, is_removed, totals }],
            other: CgroupTotals::ZERO,
            removed: CgroupTotals::ZERO,
        };
        Snapshot { taken_at: 1, cpus: Vec::new(), offline: Vec::new(), cgroups: Some(cgroups) }
    }

    #[test]
    fn a_cgroup_that_is_removed_while_it_is_named_is_counted_under_its_name() {
        let tracked = tracked();
        let settled = tracked.settle(&snapshot(false), |_| true);
        assert_eq!((settled.unnamed.len(), settled.gone.len()), (1, 0));
        let labels = Labels::from_iter([("unit", "a.service")]);
        let removed = snapshot(true);
        let gone = tracked.assign(&removed, NamesBySerial::default(), [(3, Some(labels))].into());
        assert_eq!(gone.len(), 1);
        let shown = tracked.scrape(&removed, |sets| {
            let values = sets.values(removed.taken_at, removed.cgroups.as_ref().unwrap());
            values.sets.iter().map(|set| set.values.totals.cpu_ns).collect::<Vec<_>>()
        });
        assert_eq!(shown, [10]);
    }
}
