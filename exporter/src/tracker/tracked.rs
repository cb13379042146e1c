//! The cgroups and their sets, as scrapes, reloads and the tracker share them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::naming::{CgroupLabels, Named, NamesBySerial, labels_of};
use crate::{
    accounting::{Budget, CgroupReading, CgroupSets, QuotaReading, Snapshot},
    exposition::Labels,
    labels::CgroupLabeller,
};

/// The cgroups of this machine and the sets that they belong to. Clones share them. All use is on the
/// reactor, so locking never waits.
#[derive(Clone, Debug)]
pub struct Tracked(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    scraped: Notify,
}

#[derive(Debug)]
struct State {
    sets: CgroupSets<Labels>,
    /// Shared with jobs that compute labels.
    names: Arc<NamesBySerial>,
}

impl Tracked {
    /// Starts without cgroups, at `now` on the clock of snapshots.
    pub fn new(now: u64, labeller: Option<&CgroupLabeller>) -> Self {
        let sets = CgroupSets::new(now, budget(labeller));
        let state = Mutex::new(State { sets, names: Arc::default() });
        Self(Arc::new(Shared { state, scraped: Notify::new() }))
    }

    /// Calls `use_sets` with the sets, for a scrape.
    pub fn scrape<T>(&self, use_sets: impl FnOnce(&CgroupSets<Labels>) -> T) -> T {
        self.0.scraped.notify_one();
        use_sets(&self.lock().sets)
    }

    /// Waits for a scrape since the last call.
    pub(super) async fn scraped(&self) {
        self.0.scraped.notified().await;
    }

    /// The names of the cgroups that have been found.
    pub fn names(&self) -> Arc<NamesBySerial> {
        Arc::clone(&self.lock().names)
    }

    /// Applies a new configuration. `labels` are those of the cgroups that were known when they were
    /// computed; the labels of others are computed here.
    pub fn regroup(
        &self,
        snapshot: &Snapshot,
        labeller: Option<&CgroupLabeller>,
        labels: &CgroupLabels,
    ) {
        let Some(cgroups) = &snapshot.cgroups else { return };
        let State { sets, names } = &mut *self.lock();
        let is_late = |(serial, _): &(&u64, &Arc<Named>)| !labels.contains_key(serial);
        let late = names.iter().filter(is_late).map(|(serial, it)| (*serial, Arc::clone(it)));
        let (late, _) = labels_of(labeller, &late.collect());
        sets.regroup(snapshot.taken_at, cgroups, budget(labeller), |serial| {
            labels.get(&serial).or_else(|| late.get(&serial)).cloned().flatten()
        });
    }

    /// Follows the life of the cgroups up to a snapshot, and ranks the sets if it is time. Returns the
    /// cgroups that have no name yet.
    pub(super) fn settle(&self, snapshot: &Snapshot) -> Vec<CgroupReading> {
        let Some(cgroups) = &snapshot.cgroups else { return Vec::new() };
        let State { sets, names } = &mut *self.lock();
        sets.settle(snapshot.taken_at, cgroups);
        sets.rank(snapshot.taken_at, cgroups);
        let exists = |serial: &u64| {
            let found = cgroups.cgroups.binary_search_by_key(serial, |reading| reading.serial);
            found.is_ok_and(|index| !cgroups.cgroups[index].is_removed)
        };
        if !names.keys().all(exists) {
            Arc::make_mut(names).retain(|serial, _| exists(serial));
        }
        sets.unnamed(cgroups).copied().collect()
    }

    /// Adds names, and assigns their cgroups to sets, by their labels. `nameless` cgroups belong to `other`.
    pub(super) fn assign(
        &self,
        snapshot: &Snapshot,
        named: NamesBySerial,
        mut labels: CgroupLabels,
        nameless: impl IntoIterator<Item = u64>,
    ) {
        let Some(cgroups) = &snapshot.cgroups else { return };
        let State { sets, names } = &mut *self.lock();
        labels.extend(nameless.into_iter().map(|serial| (serial, None)));
        Arc::make_mut(names).extend(named);
        sets.assign(snapshot.taken_at, cgroups, labels);
    }

    /// Adds what quotas have held back.
    pub(super) fn read_quotas(&self, readings: impl IntoIterator<Item = QuotaReading>) {
        self.lock().sets.read_quotas(readings);
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

/// Without labels, nothing is shown.
fn budget(labeller: Option<&CgroupLabeller>) -> Budget {
    let limit = labeller.map_or(0, CgroupLabeller::max_sets);
    Budget { limit, keep: labeller.map(CgroupLabeller::keep).unwrap_or_default() }
}
