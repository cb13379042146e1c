//! Sets of cgroups as they are saved for the next process.

use sched_exporter_ebpf::CgroupTotals;
use serde::{Deserialize, Serialize};

use super::{Budget, CgroupSets, LastQuota, Member, Place, Series, Set, Shown, readings_of};
use crate::accounting::{
    CgroupsSnapshot, QuotaCounts, QuotaReading,
    continuity::Carried,
    newcomers::Newcomers,
    ranking::{Clock, PastUses, Uses, use_ns},
    saved::Words,
};

/// What must be known of sets to continue them: those that are shown, and their cgroups.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedSets<L> {
    members: Vec<SavedMember>,
    sets: Vec<SavedSet<L>>,
    other: SavedSeries,
    removed: Words,
    forgotten: Words,
}

/// What a scrape has shown of cgroups without a name.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedShown {
    at: u64,
    /// By serial number; `None` if it is not known, because there was no room for it.
    cgroups: Option<Vec<(u64, Words)>>,
}

/// Serial number, place, and the last reading of the quota.
#[derive(Debug, Serialize, Deserialize)]
struct SavedMember(u64, SavedPlace, Option<(SavedCounts, Option<f64>)>);

#[derive(Debug, Serialize, Deserialize)]
enum SavedPlace {
    #[serde(rename = "s")]
    Set(usize),
    #[serde(rename = "o")]
    Other,
    #[serde(rename = "r")]
    Removed,
}

/// Labels, when the series began, when the last cgroup was removed, and the series.
#[derive(Debug, Serialize, Deserialize)]
struct SavedSet<L>(L, u64, u64, SavedSeries);

#[derive(Debug, Serialize, Deserialize)]
struct SavedSeries(Words, Option<SavedCounts>);

/// Throttled nanoseconds, periods, and throttled periods.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct SavedCounts(u64, u64, u64);

impl<L> CgroupSets<L> {
    /// What to save after each event. Sets that wait for a place have nothing to lose, and are left out.
    pub fn saved(&self) -> SavedSets<&L> {
        let mut sets = Vec::new();
        let places = self.sets.iter().map(|set| {
            let Shown { created_at, series } = set.shown.as_ref()?;
            sets.push(SavedSet(&set.labels, *created_at, set.ended_at, series.into()));
            Some(sets.len() - 1)
        });
        let places: Vec<_> = places.collect();
        let members = self.members.iter().map(|member| {
            let place = match member.place {
                Place::Set(set) => places[set].map_or(SavedPlace::Other, SavedPlace::Set),
                Place::Other => SavedPlace::Other,
                Place::Removed => SavedPlace::Removed,
            };
            let quota = member.quota.as_deref().map(|it| (it.counts().into(), it.cpus));
            SavedMember(member.serial, place, quota)
        });
        SavedSets {
            members: members.collect(),
            sets,
            other: (&self.other).into(),
            removed: Words::of(self.removed.as_ref()),
            forgotten: Words::of(&self.forgotten),
        }
    }

    /// What to save when a scrape shows a snapshot.
    pub fn saved_shown(&self) -> SavedShown {
        let cgroups = self.newcomers.shown();
        let cgroups = cgroups.iter().map(|(serial, totals)| (*serial, Words::of(totals)));
        SavedShown { at: self.newcomers.shown_at, cgroups: Some(cgroups.collect()) }
    }
}

impl SavedShown {
    /// To be saved if there is no room for all cgroups: what all of them had then stays in `other`.
    #[must_use]
    pub fn without_cgroups(self) -> Self {
        Self { cgroups: None, ..self }
    }
}

impl<L: Clone + Ord + std::hash::Hash> CgroupSets<L> {
    /// Continues sets that an earlier process has saved, at a snapshot. Their cgroups need names again, and
    /// stay where they are until then. `shown` is what was saved at its last scrape, or before any. Sets that
    /// are kept without cgroups end unless `keeps_ended`. `None` if it is not what this version saves.
    pub fn restore(
        saved: SavedSets<L>,
        shown: Option<SavedShown>,
        now: u64,
        snapshot: &CgroupsSnapshot,
        budget: Budget,
        keeps_ended: bool,
    ) -> Option<Self> {
        let sets = saved.sets.into_iter().map(|SavedSet(labels, created_at, ended_at, series)| {
            let shown = Some(Shown { created_at, series: series.restore()? });
            Some(Set { labels, members: 0, ended_at, shown, past_uses: PastUses::default() })
        });
        let sets: Vec<_> = sets.collect::<Option<_>>()?;
        let members = saved.members.into_iter().map(|it| it.restore(sets.len()));
        let mut restored = Self {
            budget,
            members: members.collect::<Option<_>>()?,
            newcomers: Newcomers::new(now),
            sets,
            other: saved.other.restore()?,
            removed: Carried::default(),
            forgotten: saved.forgotten.read()?,
            clock: Clock::new(now),
        };
        let removed: CgroupTotals = saved.removed.read()?;
        restored.removed.add(&removed);
        let ascend = restored.members.is_sorted_by(|a, b| a.serial < b.serial)
            && restored.sets.is_sorted_by(|a, b| a.labels < b.labels);
        if !ascend {
            return None;
        }
        for member in &restored.members {
            if let Place::Set(set) = member.place {
                restored.sets[set].members += 1;
            }
        }
        // The window of the ranking begins now.
        for (member, reading) in readings_of(&mut restored.members, snapshot) {
            member.uses = Uses::since(use_ns(&reading.totals));
        }
        if let Some(SavedShown { at, cgroups }) = shown {
            let unnamed = match cgroups {
                Some(cgroups) => {
                    let cgroups = cgroups.iter().map(|it| Some((it.0, it.1.read()?)));
                    cgroups.collect::<Option<_>>()?
                }
                None => restored.never_named(snapshot),
            };
            restored.newcomers.show(at, unnamed);
        }
        if !keeps_ended {
            restored.end_sets(|set| set.members == 0);
        }
        Some(restored)
    }
}

impl SavedMember {
    /// The cgroup in one of this number of sets.
    fn restore(self, sets: usize) -> Option<Member> {
        let Self(serial, place, quota) = self;
        let place = match place {
            SavedPlace::Set(set) => Place::Set(Some(set).filter(|set| *set < sets)?),
            SavedPlace::Other => Place::Other,
            SavedPlace::Removed => Place::Removed,
        };
        let quota = quota.map(|(counts, cpus)| {
            Box::new(LastQuota::from(QuotaReading { serial, cpus, counts: counts.into() }))
        });
        Some(Member { place, quota, is_restored: true, ..Member::new(serial) })
    }
}

impl From<&Series> for SavedSeries {
    fn from(series: &Series) -> Self {
        Self(Words::of(series.carried.as_ref()), series.quotas.map(SavedCounts::from))
    }
}

impl SavedSeries {
    fn restore(self) -> Option<Series> {
        let mut series = Series { quotas: self.1.map(QuotaCounts::from), ..Series::default() };
        let carried: CgroupTotals = self.0.read()?;
        series.carried.add(&carried);
        Some(series)
    }
}

impl From<QuotaCounts> for SavedCounts {
    fn from(counts: QuotaCounts) -> Self {
        Self(counts.throttled_ns, counts.periods, counts.throttled_periods)
    }
}

impl From<SavedCounts> for QuotaCounts {
    fn from(SavedCounts(throttled_ns, periods, throttled_periods): SavedCounts) -> Self {
        Self { throttled_ns, periods, throttled_periods }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        time::Duration,
    };

    use sched_exporter_ebpf::Counters as _;

    use super::*;
    use crate::accounting::CgroupReading;

    type Sets = CgroupSets<char>;

    const SECOND: u64 = 1_000_000_000;
    const BUDGET: Budget = Budget { limit: 5, keep: Duration::from_secs(40) };

    /// Knuth's MMIX generator; its high bits are good.
    struct Random(u64);

    impl Random {
        fn below(&mut self, below: u64) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % below
        }
    }

    /// Cgroups, their names, and the instant.
    struct World {
        random: Random,
        now: u64,
        snapshot: CgroupsSnapshot,
        names: BTreeMap<u64, Option<char>>,
        next: u64,
    }

    impl World {
        fn new(seed: u64) -> Self {
            let none = CgroupTotals::ZERO;
            let snapshot = CgroupsSnapshot { cgroups: Vec::new(), other: none, removed: none };
            Self { random: Random(seed), now: 0, snapshot, names: BTreeMap::new(), next: 1 }
        }

        /// Lets cgroups come, run, and be removed.
        fn pass(&mut self) {
            self.now += self.random.below(20) * SECOND;
            if self.random.below(2) == 0 && self.snapshot.cgroups.len() < 9 {
                let (serial, totals) = (self.next, CgroupTotals::ZERO);
                self.next += 1;
                self.snapshot.cgroups.push(CgroupReading {
                    serial,
                    id: serial + 7,
                    is_removed: false,
                    totals,
                });
            }
            for reading in &mut self.snapshot.cgroups {
                let used = self.random.below(1_000);
                reading.totals.add(&CgroupTotals { cpu_ns: used, waits: 1, ..CgroupTotals::ZERO });
                reading.is_removed |= self.random.below(8) == 0;
            }
            self.snapshot.removed.cpu_ns += self.random.below(5);
        }

        /// Names cgroups at random, and all that had a name again.
        fn names(&mut self) -> Vec<(u64, Option<char>)> {
            for reading in &self.snapshot.cgroups {
                if self.random.below(2) == 0 {
                    let name = b"abcde"
                        .get(usize::try_from(self.random.below(6)).unwrap())
                        .map(|it| char::from(*it));
                    self.names.entry(reading.serial).or_insert(name);
                }
            }
            self.names.iter().map(|(serial, name)| (*serial, *name)).collect()
        }

        /// Lets removed cgroups give their slots back.
        fn give_back(&mut self, gone: &[u64]) {
            for reading in self.snapshot.cgroups.iter().filter(|it| gone.contains(&it.serial)) {
                self.snapshot.removed.add(&reading.totals);
            }
            self.snapshot.cgroups.retain(|it| !gone.contains(&it.serial));
        }
    }

    fn saved(sets: &Sets) -> SavedSets<char> {
        serde_json::from_str(&serde_json::to_string(&sets.saved()).unwrap()).unwrap()
    }

    fn restored(sets: &Sets, world: &World) -> Sets {
        let shown = serde_json::to_string(&sets.saved_shown()).unwrap();
        let shown = Some(serde_json::from_str(&shown).unwrap());
        let restored = Sets::restore(saved(sets), shown, world.now, &world.snapshot, BUDGET, true);
        restored.unwrap()
    }

    /// One process goes on, and others follow each other. All show the same after each event.
    #[test]
    fn processes_that_follow_each_other_show_what_one_would() {
        for seed in 0..300 {
            let mut world = World::new(seed);
            let (mut one, mut last) = (Sets::new(0, BUDGET), Sets::new(0, BUDGET));
            let mut restarts = 0;
            for _ in 0..60 {
                world.pass();
                if world.random.below(4) == 0 {
                    last = restored(&last, &world);
                    restarts += 1;
                }
                let (now, names) = (world.now, world.names());
                for sets in [&mut one, &mut last] {
                    let before = sets.values(now, &world.snapshot).removed;
                    sets.settle(now, &world.snapshot, BTreeSet::new());
                    assert!(sets.values(now, &world.snapshot).removed.is_at_least(&before));
                    sets.assign(now, &world.snapshot, names.clone());
                }
                let shown = |sets: &Sets| {
                    let values = sets.values(now, &world.snapshot);
                    let of_sets: Vec<_> = values
                        .sets
                        .iter()
                        .map(|it| (*it.labels, it.created_at, it.values))
                        .collect();
                    (of_sets, values.other, values.removed, values.forgotten)
                };
                assert_eq!(shown(&one), shown(&last), "seed {seed}");
                if world.random.below(2) == 0 {
                    one.show(now, &world.snapshot);
                    last.show(now, &world.snapshot);
                }
                let gone: Vec<_> = last.gone(&world.snapshot).map(|it| it.serial).collect();
                world.give_back(&gone);
            }
            assert!(restarts > 0);
        }
    }

    fn world_with(names: &[Option<char>]) -> (World, Sets) {
        let mut world = World::new(7);
        for serial in 1..=names.len() as u64 {
            let totals = CgroupTotals { cpu_ns: 10 * serial, ..CgroupTotals::ZERO };
            let reading = CgroupReading { serial, id: serial, is_removed: false, totals };
            world.snapshot.cgroups.push(reading);
        }
        let mut sets = Sets::new(0, BUDGET);
        sets.assign(1, &world.snapshot, (1..).zip(names.iter().copied()));
        (world, sets)
    }

    fn totals(sets: &Sets, world: &World) -> (Vec<(char, u64)>, u64, u64) {
        let values = sets.values(world.now, &world.snapshot);
        let of_sets = values.sets.iter().map(|it| (*it.labels, it.values.totals.cpu_ns));
        (of_sets.collect(), values.other.totals.cpu_ns, values.forgotten.cpu_ns)
    }

    #[test]
    fn restored_cgroups_stay_in_their_sets_until_they_are_named() {
        let (world, sets) = world_with(&[Some('a'), Some('b'), None]);
        let mut again = restored(&sets, &world);
        assert_eq!(totals(&again, &world), totals(&sets, &world));
        let unnamed = |sets: &Sets| sets.unnamed(&world.snapshot).map(|it| it.serial).collect();
        assert_eq!((unnamed(&sets), unnamed(&again)), (vec![], vec![1, 2, 3]));
        // A reload does not know their names yet.
        again.regroup(2, &world.snapshot, BUDGET, |_| None);
        assert_eq!(totals(&again, &world), totals(&sets, &world));
        again.assign(3, &world.snapshot, [(1, Some('a'))]);
        assert_eq!(unnamed(&again), [2, 3]);
        again.regroup(4, &world.snapshot, BUDGET, |_| None);
        assert_eq!(totals(&again, &world).0, [('b', 20)]);
    }

    #[test]
    fn sets_with_outdated_labels_end_when_their_cgroups_get_others() {
        let (mut world, mut sets) = world_with(&[Some('a'), Some('b')]);
        world.snapshot.cgroups[1].is_removed = true;
        sets.settle(2, &world.snapshot, BTreeSet::new());
        world.now = 2;
        let kept = restored(&sets, &world);
        assert_eq!(totals(&kept, &world).0, [('a', 10), ('b', 20)]);
        let mut renamed = kept.clone();
        renamed.assign(3, &world.snapshot, [(1, Some('c'))]);
        assert_eq!(totals(&renamed, &world), (vec![('c', 0)], 0, 30));
        // With another configuration, those without cgroups end at once.
        let other = Sets::restore(saved(&sets), None, 2, &world.snapshot, BUDGET, false).unwrap();
        assert_eq!(totals(&other, &world), (vec![('a', 10)], 0, 20));
    }

    #[test]
    fn if_it_is_unknown_what_was_shown_all_of_it_stays_in_other() {
        let (mut world, mut sets) = world_with(&[Some('a')]);
        let (serial, is_removed) = (2, false);
        let totals_2 = CgroupTotals { cpu_ns: 500, ..CgroupTotals::ZERO };
        world.snapshot.cgroups.push(CgroupReading { serial, id: 2, is_removed, totals: totals_2 });
        sets.show(2, &world.snapshot);
        let shown = sets.saved_shown().without_cgroups();
        let again = Sets::restore(saved(&sets), Some(shown), 3, &world.snapshot, BUDGET, true);
        let mut again = again.unwrap();
        again.assign(3, &world.snapshot, [(2, Some('b'))]);
        assert_eq!(totals(&again, &world), (vec![('a', 10), ('b', 0)], 500, 0));
    }

    #[test]
    fn what_cannot_be_sets_is_refused() {
        let (world, sets) = world_with(&[Some('a'), Some('b')]);
        let text = serde_json::to_string(&sets.saved()).unwrap();
        for (from, to) in [("[2,{\"s\":1}", "[2,{\"s\":2}"), ("[2,", "[1,"), ("\"a\"", "\"c\"")] {
            assert!(text.contains(from), "{text}");
            let saved = serde_json::from_str(&text.replace(from, to)).unwrap();
            let restored = Sets::restore(saved, None, 3, &world.snapshot, BUDGET, true);
            assert!(restored.is_none(), "{from} {to}");
        }
    }
}
