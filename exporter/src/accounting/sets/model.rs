//! Compares the sets with a model that charges each use to a series when it happens, through random
//! events in random order.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

type Sets = CgroupSets<char>;

const SECOND: u64 = 1_000_000_000;

/// Names of sets.
const NAMES: [char; 6] = ['a', 'b', 'c', 'd', 'e', 'f'];

/// Knuth's MMIX generator; its high bits are good.
struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    fn any<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| of[usize::try_from(self.below(of.len() as u64)).unwrap()])
    }

    fn totals(&mut self) -> CgroupTotals {
        let mut any = || if self.one_in(4) { self.below(1_000_000) } else { self.below(5) };
        CgroupTotals {
            cpu_ns: any(),
            wait_ns: any(),
            waits: any(),
            voluntary: any(),
            preempted: any(),
        }
    }

    fn name(&mut self) -> Option<char> {
        if self.one_in(6) { None } else { self.any(&NAMES) }
    }
}

/// What the model knows of a set that is shown.
#[derive(Clone, Debug)]
struct Series {
    created_at: u64,
    totals: CgroupTotals,
    quotas: Option<QuotaCounts>,
}

/// A cgroup that has been named.
#[derive(Clone, Debug, Default)]
struct Named {
    name: Option<char>,
    /// Its use at the end of each minute.
    noted: BTreeMap<u64, u64>,
    quota: Option<QuotaReading>,
}

/// A cgroup that was removed from a set.
struct Dead {
    name: char,
    minute: u64,
    last_use: u64,
    noted: BTreeMap<u64, u64>,
}

struct Model {
    random: Random,
    now: u64,
    budget: Budget,
    // What the kernel has.
    snapshot: CgroupsSnapshot,
    next_serial: u64,
    // What the sets have been told.
    named: BTreeMap<u64, Named>,
    settled: BTreeSet<u64>,
    awaited: BTreeSet<u64>,
    shown_at: u64,
    /// What each cgroup without a name has used since `shown_at`.
    unshown: BTreeMap<u64, CgroupTotals>,
    // What is to be shown.
    shown: BTreeMap<char, Series>,
    other: (CgroupTotals, Option<QuotaCounts>),
    removed: CgroupTotals,
    forgotten: CgroupTotals,
    /// When sets that are shown lost their last cgroup.
    ended_at: BTreeMap<char, u64>,
    /// Cgroups that were removed from a set that still exists.
    dead: Vec<Dead>,
    minute: u64,
    rank_at: u64,
}

impl Model {
    fn new(seed: u64, budget: Budget) -> Self {
        let snapshot = CgroupsSnapshot {
            cgroups: Vec::new(),
            other: CgroupTotals::ZERO,
            removed: CgroupTotals::ZERO,
        };
        Self {
            random: Random(seed),
            now: 0,
            budget,
            snapshot,
            next_serial: 0,
            named: BTreeMap::new(),
            settled: BTreeSet::new(),
            awaited: BTreeSet::new(),
            shown_at: 0,
            unshown: BTreeMap::new(),
            shown: BTreeMap::new(),
            other: (CgroupTotals::ZERO, None),
            removed: CgroupTotals::ZERO,
            forgotten: CgroupTotals::ZERO,
            ended_at: BTreeMap::new(),
            dead: Vec::new(),
            minute: 0,
            rank_at: 60 * SECOND,
        }
    }

    fn cgroups(&self, is_removed: bool) -> Vec<u64> {
        let cgroups = self.snapshot.cgroups.iter();
        let cgroups = cgroups.filter(|reading| reading.is_removed == is_removed);
        cgroups.map(|reading| reading.serial).collect()
    }

    fn reading(&mut self, serial: u64) -> &mut CgroupReading {
        self.snapshot.cgroups.iter_mut().find(|reading| reading.serial == serial).unwrap()
    }

    fn insert(&mut self, serial: u64) {
        let totals = CgroupTotals::ZERO;
        let reading = CgroupReading { serial, id: serial + 7, is_removed: false, totals };
        self.snapshot.cgroups.push(reading);
        self.snapshot.cgroups.sort_by_key(|reading| reading.serial);
    }

    /// The name of the set that shows a cgroup.
    fn shown_in(&self, serial: u64) -> Option<char> {
        let name = self.named.get(&serial)?.name?;
        self.shown.contains_key(&name).then_some(name)
    }

    /// Whether a cgroup can be in a set.
    fn is_there(&self, serial: u64) -> bool {
        self.cgroups(false).contains(&serial) || self.is_awaited(serial)
    }

    fn has_members(&self, name: char) -> bool {
        self.named.values().any(|named| named.name == Some(name))
    }

    // What happens in the kernel.

    fn create(&mut self) {
        if self.cgroups(false).len() < 12 {
            self.next_serial += 1 + self.random.below(3);
            self.insert(self.next_serial);
        }
    }

    fn remove(&mut self) {
        let alive = self.cgroups(false);
        if let Some(serial) = self.random.any(&alive) {
            self.reading(serial).is_removed = true;
        }
    }

    fn give_back_some(&mut self) {
        for serial in self.settled.clone() {
            if self.random.one_in(2) {
                self.give_back(serial);
            }
        }
    }

    /// Lets up to 89 seconds pass.
    fn wait(&mut self) {
        self.now += self.random.below(90) * SECOND;
        self.expire();
    }

    /// Charges random uses to cgroups, and late ones to removed cgroups.
    fn run(&mut self) {
        for index in 0..self.snapshot.cgroups.len() {
            if self.random.one_in(2) {
                continue;
            }
            let used = self.random.totals();
            let serial = self.snapshot.cgroups[index].serial;
            self.snapshot.cgroups[index].totals.add(&used);
            if self.settled.contains(&serial) {
                self.removed.add(&used);
            } else if let Some(name) = self.shown_in(serial) {
                self.shown.get_mut(&name).unwrap().totals.add(&used);
            } else {
                self.other.0.add(&used);
                if !self.named.contains_key(&serial) {
                    self.unshown.entry(serial).or_insert(CgroupTotals::ZERO).add(&used);
                }
            }
        }
        let (refused, late) = (self.random.totals(), self.random.totals());
        self.snapshot.other.add(&refused);
        self.other.0.add(&refused);
        self.snapshot.removed.add(&late);
        self.removed.add(&late);
    }

    fn give_back(&mut self, serial: u64) {
        let totals = self.reading(serial).totals;
        self.snapshot.removed.add(&totals);
        self.snapshot.cgroups.retain(|reading| reading.serial != serial);
        self.settled.remove(&serial);
    }

    // What the sets are told.

    /// Whether a removed cgroup stays until it has a name.
    fn is_awaited(&self, serial: u64) -> bool {
        let has_left = self.settled.contains(&serial) || self.named.contains_key(&serial);
        self.awaited.contains(&serial) && !has_left
    }

    /// Settles removed cgroups, and ends sets, as every event does first.
    fn begin(&mut self) {
        for serial in self.cgroups(true) {
            if self.is_awaited(serial) || !self.settled.insert(serial) {
                continue;
            }
            self.unshown.remove(&serial);
            let totals = self.reading(serial).totals;
            let Some(named) = self.named.remove(&serial) else { continue };
            let Some(name) = named.name else { continue };
            let (minute, last_use) = (self.minute, use_ns(&totals));
            self.dead.push(Dead { name, minute, last_use, noted: named.noted });
            self.left(name);
        }
        for serial in self.cgroups(false) {
            self.settled.remove(&serial);
        }
        self.expire();
    }

    /// A cgroup has left a set.
    fn left(&mut self, name: char) {
        if !self.has_members(name) {
            self.ended_at.insert(name, self.now);
        }
    }

    /// Ends sets that were kept long enough.
    fn expire(&mut self) {
        let keep = u64::try_from(self.budget.keep.as_nanos()).unwrap();
        for name in NAMES {
            let is_kept = self.shown.contains_key(&name)
                && self.ended_at.get(&name).is_some_and(|ended_at| self.now < ended_at + keep);
            if !self.has_members(name) && !is_kept {
                self.end(name);
            }
        }
    }

    fn end(&mut self, name: char) {
        if let Some(ended) = self.shown.remove(&name) {
            self.forgotten.add(&ended.totals);
        }
        if !self.has_members(name) {
            self.dead.retain(|dead| dead.name != name);
        }
    }

    fn assign(&mut self, serial: u64, name: Option<char>) {
        let named = self.named.entry(serial).or_default();
        let was = std::mem::replace(&mut named.name, name);
        let has_quota = named.quota.is_some();
        if was == name {
            return;
        }
        if let Some(was) = was {
            self.left(was);
        }
        if has_quota {
            self.quotas(serial).get_or_insert_default();
        }
    }

    /// The counters of quotas of the series that shows a cgroup.
    fn quotas(&mut self, serial: u64) -> &mut Option<QuotaCounts> {
        match self.shown_in(serial) {
            Some(name) => &mut self.shown.get_mut(&name).unwrap().quotas,
            None => &mut self.other.1,
        }
    }

    fn read_quota(&mut self, reading: QuotaReading) {
        let Some(named) = self.named.get_mut(&reading.serial) else { return };
        if named.quota.is_none() && reading.cpus.is_none() {
            return;
        }
        let last = named.quota.replace(reading).unwrap_or(reading).counts;
        let gained = |of: fn(&QuotaCounts) -> u64| {
            if of(&reading.counts) > of(&last) { of(&reading.counts) - of(&last) } else { 0 }
        };
        let total = self.quotas(reading.serial).get_or_insert_default();
        total.throttled_ns += gained(|counts| counts.throttled_ns);
        total.periods += gained(|counts| counts.periods);
        total.throttled_periods += gained(|counts| counts.throttled_periods);
    }

    /// The use of a set in the last five minutes.
    fn recent(&self, name: char) -> u64 {
        let before = |noted: &BTreeMap<u64, u64>| {
            self.minute.checked_sub(5).and_then(|minute| noted.get(&minute)).copied().unwrap_or(0)
        };
        let alive = self.named.iter().filter(|(_, named)| named.name == Some(name));
        let alive = alive.map(|(serial, named)| {
            use_ns(&reading(&self.snapshot, *serial).totals) - before(&named.noted)
        });
        let dead = self.dead.iter().filter(|dead| dead.name == name);
        let dead = dead.filter(|dead| self.minute < dead.minute + 5);
        alive.chain(dead.map(|dead| dead.last_use - before(&dead.noted))).sum()
    }

    fn note(&mut self) {
        for (serial, named) in &mut self.named {
            let totals = &reading(&self.snapshot, *serial).totals;
            named.noted.insert(self.minute, use_ns(totals));
        }
        self.minute += 1;
        while self.rank_at <= self.now {
            self.rank_at += 60 * SECOND;
        }
    }

    /// Follows which sets are shown after an event, and checks that they may be. `first` are the cgroups
    /// that it has named for the first time.
    fn follow(&mut self, sets: &Sets, event: Event, first: &[u64]) {
        let names: BTreeSet<char> =
            sets.values(self.now, &self.snapshot).sets.iter().map(|set| *set.labels).collect();
        let was: BTreeSet<char> = self.shown.keys().copied().collect();
        let demoted: Vec<char> = was.difference(&names).copied().collect();
        let new: Vec<char> = names.difference(&was).copied().collect();
        let live: BTreeSet<char> =
            NAMES.into_iter().filter(|name| self.has_members(*name)).collect();
        assert_eq!(names.len(), self.budget.limit.min(live.union(&names).count()));
        let least = |names: &[char]| names.iter().map(|name| self.recent(*name)).min();
        match event {
            Event::Rank => {
                // As many as filled free places need not exceed any.
                let free = self.budget.limit - was.len();
                assert!(new.len() <= demoted.len() + free);
                let waiting = live.difference(&names).map(|name| self.recent(*name)).max();
                let shown: Vec<char> = names.iter().copied().collect();
                if let (Some(waiting), Some(least)) = (waiting, least(&shown)) {
                    assert!(waiting * 4 <= least * 5, "{waiting} {least}");
                }
                if let (0, Some(new), Some(demoted)) = (free, least(&new), least(&demoted)) {
                    assert!(new * 4 > demoted * 5, "{new} {demoted}");
                }
            }
            Event::Regroup => {}
            Event::Other => assert!(demoted.is_empty(), "{demoted:?}"),
        }
        for name in demoted {
            for serial in self.members(name) {
                if self.named[&serial].quota.is_some() {
                    self.other.1.get_or_insert_default();
                }
            }
            self.end(name);
        }
        for name in new {
            assert!(self.has_members(name));
            let has_quota = |serial: &u64| self.named[serial].quota.is_some();
            let quotas = self.members(name).iter().any(has_quota).then(QuotaCounts::default);
            let is_first = self.members(name).iter().any(|serial| first.contains(serial));
            let created_at = if is_first { self.shown_at } else { self.now };
            self.shown.insert(name, Series { created_at, totals: CgroupTotals::ZERO, quotas });
        }
    }

    /// Moves what a cgroup has used unseen from `other` to its set.
    fn move_unshown(&mut self, serial: u64) {
        let Some(unshown) = self.unshown.remove(&serial) else { return };
        if let Some(name) = self.shown_in(serial) {
            self.other.0.subtract(&unshown);
            self.shown.get_mut(&name).unwrap().totals.add(&unshown);
        }
    }

    fn members(&self, name: char) -> Vec<u64> {
        let members = self.named.iter().filter(|(_, named)| named.name == Some(name));
        members.map(|(serial, _)| *serial).collect()
    }

    /// Compares what the sets show with the model.
    fn check(&self, sets: &Sets) {
        let values = sets.values(self.now, &self.snapshot);
        let cpus = |name: Option<char>| {
            let of = self.named.iter().filter(|(serial, _)| self.shown_in(**serial) == name);
            let of = of.filter(|(serial, _)| !reading(&self.snapshot, **serial).is_removed);
            of.filter_map(|(_, named)| named.quota?.cpus).reduce(|sum, cpus| sum + cpus)
        };
        let expected = self.shown.iter().map(|(name, series)| {
            let quotas = series.quotas.map(|counts| Quotas { counts, cpus: cpus(Some(*name)) });
            let values = SeriesValues { totals: series.totals, quotas };
            SetValues { labels: name, created_at: series.created_at, values }
        });
        assert_eq!(values.sets, expected.collect::<Vec<_>>());
        let quotas = self.other.1.map(|counts| Quotas { counts, cpus: cpus(None) });
        assert_eq!(values.other, SeriesValues { totals: self.other.0, quotas });
        assert_eq!(values.removed, self.removed);
        assert_eq!(values.forgotten, self.forgotten);

        let mut shown = values.other.totals;
        values.sets.iter().for_each(|set| shown.add(&set.values.totals));
        shown.add(&values.removed);
        shown.add(&values.forgotten);
        let mut counted = self.snapshot.other;
        self.snapshot.cgroups.iter().for_each(|reading| counted.add(&reading.totals));
        counted.add(&self.snapshot.removed);
        assert_eq!(shown, counted);
    }
}

fn reading(snapshot: &CgroupsSnapshot, serial: u64) -> &CgroupReading {
    snapshot.cgroups.iter().find(|reading| reading.serial == serial).unwrap()
}

/// Which sets may be demoted.
#[derive(Clone, Copy)]
enum Event {
    Rank,
    Regroup,
    Other,
}

/// The sets and the model, which are told the same.
struct Pair {
    sets: Sets,
    model: Model,
    /// What the last scrape showed: the totals of each set since it was created, of `other`, removed and
    /// forgotten.
    scraped: (BTreeMap<(char, u64), CgroupTotals>, [CgroupTotals; 3]),
}

impl Pair {
    fn new(seed: u64) -> Self {
        let budget = Budget { limit: 3, keep: Duration::from_mins(5) };
        let scraped = (BTreeMap::new(), [CgroupTotals::ZERO; 3]);
        Self { sets: Sets::new(0, budget), model: Model::new(seed, budget), scraped }
    }

    /// Lets something happen, and checks the sets before and after uses.
    fn step(&mut self) {
        match self.model.random.below(64) {
            0..12 => self.model.create(),
            12..20 => self.model.remove(),
            20..32 => self.assign(),
            32..36 => self.settle(),
            36..40 => self.model.give_back_some(),
            40 => self.revive(),
            41 => self.regroup(),
            42..50 => self.rank(),
            50..54 => self.read_quotas(),
            54..58 => self.scrape(),
            _ => self.model.wait(),
        }
        self.model.check(&self.sets);
        self.model.run();
        self.model.check(&self.sets);
    }

    /// Shows the values, of which none has decreased.
    fn scrape(&mut self) {
        let Self { sets, model, scraped } = self;
        let values = sets.values(model.now, &model.snapshot);
        let (of_sets, rest) = scraped;
        for (set, totals) in values.sets.iter().map(|set| (set, &set.values.totals)) {
            let last = of_sets.get(&(*set.labels, set.created_at));
            assert!(last.is_none_or(|last| totals.is_at_least(last)), "{set:?} {last:?}");
        }
        let now = [values.other.totals, values.removed, values.forgotten];
        assert!(
            now.iter().zip(&*rest).all(|(now, last)| now.is_at_least(last)),
            "{now:?} {rest:?}"
        );
        // One that begins at this instant can end, and begin again at the same instant.
        let older = values.sets.iter().filter(|set| set.created_at < model.now);
        *of_sets = older.map(|it| ((*it.labels, it.created_at), it.values.totals)).collect();
        *rest = now;
        sets.show(model.now, &model.snapshot);
        model.shown_at = model.now;
        model.unshown.clear();
    }

    /// Lets removed cgroups go, except for some that have no name, now and until the next time.
    fn settle(&mut self) {
        let Self { sets, model, .. } = self;
        // A set that is not kept at all would end in the event that it begins in.
        let is_kept = !model.budget.keep.is_zero();
        let all = [true, false].map(|is_removed| model.cgroups(is_removed)).concat();
        let awaited = all.into_iter().filter(|_| is_kept && model.random.one_in(2)).collect();
        model.awaited = awaited;
        sets.settle(model.now, &model.snapshot, model.awaited.clone());
        model.begin();
        self.end(Event::Other);
    }

    /// Names most new cgroups, another one again, and one that was removed.
    fn assign(&mut self) {
        if self.model.budget.keep.is_zero() {
            self.settle();
        }
        let Self { sets, model, .. } = self;
        let (alive, removed) = (model.cgroups(false), model.cgroups(true));
        let unnamed: Vec<u64> =
            sets.unnamed(&model.snapshot).map(|reading| reading.serial).collect();
        let is_new =
            |serial: &u64| !model.named.contains_key(serial) && !model.settled.contains(serial);
        let readings = model.snapshot.cgroups.iter().map(|reading| reading.serial);
        assert_eq!(unnamed, readings.filter(is_new).collect::<Vec<_>>());
        let first = unnamed.clone();
        let mut named: BTreeMap<u64, Option<char>> = BTreeMap::new();
        for serial in unnamed {
            if !model.random.one_in(3) {
                named.insert(serial, model.random.name());
            }
        }
        for serials in [&alive, &removed] {
            if let Some(serial) = model.random.any(serials) {
                named.insert(serial, model.random.name());
            }
        }
        sets.assign(model.now, &model.snapshot, named.clone());
        model.begin();
        let first: Vec<u64> =
            first.into_iter().filter(|it| named.contains_key(it) && model.is_there(*it)).collect();
        for (serial, name) in named {
            if model.is_there(serial) {
                model.assign(serial, name);
            }
        }
        model.expire();
        model.follow(sets, Event::Other, &first);
        for serial in first {
            model.move_unshown(serial);
        }
        model.begin();
        self.end(Event::Other);
    }

    /// Shows that a cgroup was taken for removed, before or after its slot was given back.
    fn revive(&mut self) {
        let Self { sets, model, .. } = self;
        let settled: Vec<u64> = model.settled.iter().copied().collect();
        let Some(serial) = model.random.any(&settled) else { return };
        if model.random.one_in(2) {
            model.reading(serial).is_removed = false;
        } else {
            model.give_back(serial);
            if model.random.one_in(2) {
                model.awaited.clear();
                sets.settle(model.now, &model.snapshot, BTreeSet::new());
                model.begin();
            } else {
                model.settled.insert(serial);
            }
            model.insert(serial);
        }
        self.settle();
    }

    fn regroup(&mut self) {
        let Self { sets, model, .. } = self;
        let mut budget = model.budget;
        if model.random.one_in(2) {
            let keep = model.random.any(&[0, 30, 300, 301]).unwrap();
            let limit = usize::try_from(model.random.below(8)).unwrap();
            budget = Budget { limit, keep: Duration::from_secs(keep) };
        }
        model.begin();
        let mut names = BTreeMap::new();
        let changes = model.random.one_in(2);
        for (serial, named) in model.named.clone() {
            let changes = changes && model.random.one_in(2);
            names.insert(serial, if changes { model.random.name() } else { named.name });
        }
        sets.regroup(model.now, &model.snapshot, budget, |serial| names[&serial]);
        model.budget = budget;
        let changes = names.iter().any(|(serial, name)| model.named[serial].name != *name);
        for (serial, name) in names {
            model.assign(serial, name);
        }
        for name in NAMES {
            if changes && !model.has_members(name) {
                model.end(name);
            }
        }
        self.end(Event::Regroup);
    }

    fn rank(&mut self) {
        let Self { sets, model, .. } = self;
        assert_eq!(sets.rank_at(), model.rank_at);
        sets.rank(model.now, &model.snapshot);
        if model.now >= model.rank_at {
            model.begin();
            self.end(Event::Rank);
            self.model.note();
        }
    }

    /// Reads random counters, which often go back, of all cgroups.
    fn read_quotas(&mut self) {
        let Self { sets, model, .. } = self;
        let serials = model.snapshot.cgroups.iter().map(|reading| reading.serial);
        for serial in serials.collect::<Vec<_>>() {
            let mut any = || model.random.below(1_000);
            let counts =
                QuotaCounts { throttled_ns: any(), periods: any(), throttled_periods: any() };
            let cpus = model.random.any(&[None, None, Some(0.5), Some(2.0)]).unwrap();
            let reading = QuotaReading { serial, cpus, counts };
            sets.read_quotas([reading]);
            model.read_quota(reading);
        }
    }

    /// Ends an event, and checks that the sets remember no more than exists.
    fn end(&mut self, event: Event) {
        let Self { sets, model, .. } = self;
        model.expire();
        model.follow(sets, event, &[]);
        model.expire();
        assert!(sets.members.len() <= model.snapshot.cgroups.len());
        let alive = sets.sets.iter().filter(|set| set.members > 0 || set.shown.is_some());
        assert_eq!(sets.sets.len(), alive.count());
    }
}

#[test]
fn every_use_is_shown_once_and_nothing_goes_back_whatever_happens() {
    for seed in 0..20 {
        let mut pair = Pair::new(seed);
        (0..2_000).for_each(|_| pair.step());
    }
}
