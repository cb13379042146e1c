//! Decides when to walk the tree of cgroups, and for which of them. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::Duration,
};

use tokio::time::Instant;

/// Shortest time between two walks if most paths are known without them.
const PAUSE: Duration = Duration::from_secs(10);

/// The same if walks are the only source of paths.
const PAUSE_WITHOUT_BIRTHS: Duration = Duration::from_secs(1);

/// When to search again for a cgroup that walks have not found: after the first, the second, and each
/// further time.
const RETRIES: [Duration; 3] =
    [Duration::from_secs(10), Duration::from_mins(1), Duration::from_mins(10)];

/// The cgroups whose path is not known, and the walks for them.
#[derive(Debug)]
pub(super) struct Searches {
    pause: Duration,
    /// The next walk may begin.
    next: Instant,
    is_first: bool,
    /// Whether known paths may be wrong.
    verify: bool,
    /// Whether the walk that is under way checks them.
    verifies: bool,
    /// By serial number.
    unknown: BTreeMap<u64, Unknown>,
}

/// A cgroup whose path is not known.
#[derive(Debug)]
struct Unknown {
    id: u64,
    /// Walks that have not found it.
    misses: usize,
    retry_at: Instant,
    /// Whether the walk that is under way searches for it.
    is_searched: bool,
}

/// The cgroups that a walk is to find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    All,
    /// Those with these ids; if `verify`, those with a name, too.
    Ids {
        ids: BTreeSet<u64>,
        verify: bool,
    },
}

impl Searches {
    /// Prepares for walks, of which the first finds all cgroups. `has_births` says that the paths of new
    /// cgroups are known without walks.
    pub(super) fn new(now: Instant, has_births: bool) -> Self {
        let pause = if has_births { PAUSE } else { PAUSE_WITHOUT_BIRTHS };
        let unknown = BTreeMap::new();
        Self { pause, next: now, is_first: true, verify: false, verifies: false, unknown }
    }

    /// Takes the cgroups without a path that have no name yet, by serial number and id. Forgets those that no
    /// longer exist.
    pub(super) fn want(
        &mut self,
        now: Instant,
        unknown: impl IntoIterator<Item = (u64, u64)>,
        exists: impl Fn(u64) -> bool,
    ) {
        self.unknown.retain(|serial, _| exists(*serial));
        for (serial, id) in unknown {
            let new = Unknown { id, misses: 0, retry_at: now, is_searched: false };
            self.unknown.entry(serial).or_insert(new);
        }
    }

    /// Forgets a cgroup whose path is known.
    pub(super) fn forget(&mut self, serial: u64) {
        self.unknown.remove(&serial);
    }

    /// Asks for a walk that checks the paths of all cgroups that have names.
    pub(super) const fn verify(&mut self) {
        self.verify = true;
    }

    /// When to walk; `None` if there is no reason to.
    pub(super) fn due(&self) -> Option<Instant> {
        let unsearched = self.unknown.values().filter(|it| !it.is_searched);
        let retry_at = unsearched.map(|it| it.retry_at).min();
        let wanted_at = if self.verify || self.is_first { Some(self.next) } else { retry_at };
        wanted_at.map(|at| at.max(self.next))
    }

    /// Begins a walk if it is due.
    pub(super) fn begin(&mut self, now: Instant) -> Option<Wanted> {
        self.due().filter(|due| *due <= now)?;
        self.next = now + self.pause;
        self.unknown.values_mut().for_each(|it| it.is_searched = true);
        let ids = self.unknown.values().map(|it| it.id).collect();
        let (is_first, verify) = (self.is_first, self.verify);
        (self.is_first, self.verify, self.verifies) = (false, false, verify);
        Some(if is_first { Wanted::All } else { Wanted::Ids { ids, verify } })
    }

    /// Notes that the walk that is under way does not see the whole tree. If it was to check known paths, another
    /// one will.
    pub(super) const fn fail(&mut self) {
        self.verify |= self.verifies;
    }

    /// Ends a walk that has found the cgroups for which `is_found` returns true, by id. Returns the serial
    /// numbers of those that their first walk has not found.
    pub(super) fn end(&mut self, now: Instant, is_found: impl Fn(u64) -> bool) -> Vec<u64> {
        self.unknown.retain(|_, it| !(it.is_searched && is_found(it.id)));
        let mut nameless = Vec::new();
        for (serial, it) in self.unknown.iter_mut().filter(|(_, it)| it.is_searched) {
            it.is_searched = false;
            it.retry_at = now + RETRIES[it.misses.min(RETRIES.len() - 1)];
            it.misses += 1;
            if it.misses == 1 {
                nameless.push(*serial);
            }
        }
        nameless
    }

    /// The ids of the cgroups whose path is not known.
    pub(super) fn ids(&self) -> HashSet<u64> {
        self.unknown.values().map(|it| it.id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const NONE: [u64; 0] = [];

    fn only(ids: &[u64]) -> Wanted {
        Wanted::Ids { ids: ids.iter().copied().collect(), verify: false }
    }

    /// After the first walk, which found all.
    fn searches(start: Instant) -> Searches {
        let mut searches = Searches::new(start, true);
        assert_eq!(searches.begin(start), Some(Wanted::All));
        assert_eq!(searches.end(start, |_| true), NONE);
        searches
    }

    #[test]
    fn walks_need_a_reason_and_a_pause() {
        let start = Instant::now();
        let mut searches = searches(start);
        assert_eq!((searches.due(), searches.begin(start + 60 * SECOND)), (None, None));
        // One that appears right after the first walk has to wait.
        searches.want(start + SECOND, [(3, 103)], |_| true);
        assert_eq!(searches.due(), Some(start + PAUSE));
        assert_eq!(searches.begin(start + PAUSE - SECOND), None);
        searches.want(start + 5 * SECOND, [(3, 103), (4, 104)], |_| true);
        assert_eq!(searches.begin(start + PAUSE), Some(only(&[103, 104])));
        // Under way.
        assert_eq!(searches.due(), None);
        assert_eq!(searches.end(start + PAUSE, |_| true), NONE);
        assert_eq!(searches.due(), None);
        // Later, the next one need not wait.
        let later = start + 60 * SECOND;
        searches.want(later, [(5, 105)], |_| true);
        assert_eq!(searches.begin(later), Some(only(&[105])));
    }

    #[test]
    fn without_births_walks_are_more_frequent() {
        let start = Instant::now();
        let mut searches = Searches::new(start, false);
        searches.want(start, [(3, 103)], |_| true);
        assert_eq!(searches.begin(start), Some(Wanted::All));
        assert_eq!(searches.end(start, |_| true), NONE);
        searches.want(start, [(4, 104)], |_| true);
        assert_eq!(searches.due(), Some(start + PAUSE_WITHOUT_BIRTHS));
    }

    #[test]
    fn cgroups_that_walks_miss_are_nameless_and_searched_for_less_and_less_often() {
        let mut now = Instant::now();
        let mut searches = searches(now);
        now += PAUSE;
        searches.want(now, [(3, 103), (4, 104)], |_| true);
        for (expected, nameless) in [
            (RETRIES[0], vec![3]),
            (RETRIES[1], vec![]),
            (RETRIES[2], vec![]),
            (RETRIES[2], vec![]),
        ] {
            assert!(
                matches!(searches.begin(now), Some(Wanted::Ids { ids, .. }) if ids.contains(&103))
            );
            assert_eq!(searches.end(now, |id| id == 104), nameless);
            assert_eq!(searches.due(), Some(now + expected));
            assert_eq!(searches.begin(now + expected - SECOND), None);
            now += expected;
        }
        // A walk for another searches for it, too.
        searches.end(now, |_| false);
        searches.want(now, [(5, 105)], |_| true);
        assert_eq!(searches.begin(now), Some(only(&[103, 105])));
    }

    #[test]
    fn cgroups_that_appear_during_a_walk_are_searched_for_later() {
        let now = Instant::now();
        let mut searches = Searches::new(now, true);
        searches.want(now, [(3, 103)], |_| true);
        searches.begin(now);
        searches.want(now, [(3, 103), (4, 104)], |_| true);
        assert_eq!(searches.ids(), [103, 104].into());
        assert_eq!(searches.end(now, |_| false), [3]);
        assert_eq!(searches.begin(now + PAUSE), Some(only(&[103, 104])));
    }

    #[test]
    fn removed_and_named_cgroups_are_forgotten() {
        let now = Instant::now();
        let mut searches = searches(now);
        searches.want(now, [(3, 103), (4, 104), (5, 105)], |_| true);
        searches.forget(3);
        searches.want(now, [], |serial| serial != 4);
        assert_eq!(searches.begin(now + PAUSE), Some(only(&[105])));
        searches.want(now, [], |_| false);
        assert_eq!(searches.end(now, |_| false), NONE);
        assert_eq!(searches.due(), None);
    }

    #[test]
    fn known_paths_are_checked_when_asked_for() {
        let now = Instant::now();
        let mut searches = searches(now);
        searches.verify();
        assert_eq!(searches.due(), Some(now + PAUSE));
        let wanted = Wanted::Ids { ids: BTreeSet::new(), verify: true };
        assert_eq!(searches.begin(now + PAUSE), Some(wanted.clone()));
        assert_eq!(searches.due(), None);
        // Again if the walk failed.
        searches.fail();
        assert_eq!(searches.end(now + PAUSE, |_| true), NONE);
        assert_eq!(searches.due(), Some(now + 2 * PAUSE));
        assert_eq!(searches.begin(now + 2 * PAUSE), Some(wanted));
        assert_eq!(searches.end(now + 2 * PAUSE, |_| true), NONE);
        assert_eq!(searches.due(), None);
        // A walk for other reasons checks nothing.
        searches.want(now, [(3, 103)], |_| true);
        assert_eq!(searches.begin(now + 3 * PAUSE), Some(only(&[103])));
        searches.fail();
        assert_eq!(searches.end(now + 3 * PAUSE, |_| true), NONE);
        assert_eq!(searches.due(), None);
    }
}
