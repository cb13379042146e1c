//! Sets of cgroups whose series have the same labels, and `other` for the rest.
//!
//! At every snapshot the sets, `other`, and what is removed or forgotten add up to the totals of all
//! cgroups: what leaves one of them joins another.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    mem,
    time::Duration,
};

use sched_exporter_ebpf::{CgroupTotals, Counters as _};

use super::{
    CgroupReading, CgroupsSnapshot, QuotaCounts, QuotaReading, Quotas,
    continuity::Carried,
    newcomers::Newcomers,
    quotas::LastQuota,
    ranking::{self, Candidate, Change, Clock, PastUses, Uses, use_ns},
};

mod saved;

pub use saved::{SavedSets, SavedShown};

/// How many sets are shown, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Maximum number of sets that are shown, without `other`.
    pub limit: usize,
    /// How long a set stays after its last cgroup was removed.
    pub keep: Duration,
}

/// All sets of cgroups, as they were left by the last event: a cgroup was named or removed, a minute
/// ended, or the configuration was reloaded. A scrape changes only what can still move out of `other`.
///
/// Each event comes with a snapshot. Neither it nor a snapshot that is shown is older than that of the
/// last event. A cgroup keeps its slot until it is [`gone`](Self::gone). Times are nanoseconds on the
/// clock of the snapshots.
#[derive(Clone, Debug)]
pub struct CgroupSets<L> {
    budget: Budget,
    /// Cgroups that have been named or removed, ascending by serial number. The time of all others
    /// belongs to `other`.
    members: Vec<Member>,
    newcomers: Newcomers,
    /// Ascending by labels.
    sets: Vec<Set<L>>,
    other: Series,
    /// The series of removed cgroups. Its members are the cgroups at [`Place::Removed`] and those that
    /// have given up their slots.
    removed: Carried<CgroupTotals>,
    /// What sets had when they ended.
    forgotten: CgroupTotals,
    clock: Clock,
}

/// One cgroup.
#[derive(Clone, Debug)]
struct Member {
    serial: u64,
    place: Place,
    uses: Uses,
    /// The last reading, since the cgroup first had a quota.
    quota: Option<Box<LastQuota>>,
    /// Whether an earlier process has named it, so that it needs a name again.
    is_restored: bool,
}

/// The set that a cgroup belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The set with this index.
    Set(usize),
    /// `other`, since the configuration has no labels for the cgroup.
    Other,
    /// The cgroup was removed: what it had stays in its set, and late time belongs to no set.
    Removed,
}

/// Cgroups with the same labels.
#[derive(Clone, Debug)]
struct Set<L> {
    labels: L,
    /// Number of its cgroups.
    members: usize,
    /// When the last of them was removed, if there are none.
    ended_at: u64,
    /// `None` while the set is beyond the budget. The time of its cgroups then belongs to `other`.
    shown: Option<Shown>,
    past_uses: PastUses,
}

/// The series of a set.
#[derive(Clone, Debug)]
struct Shown {
    created_at: u64,
    series: Series,
}

/// Counters that continue while cgroups join and leave.
#[derive(Clone, Debug, Default)]
struct Series {
    carried: Carried<CgroupTotals>,
    /// `None` until a cgroup with a quota has joined.
    quotas: Option<QuotaCounts>,
}

/// What is shown of all cgroups at one instant. Everything but the quotas adds up to the totals of the
/// snapshot.
#[derive(Clone, Debug, PartialEq)]
pub struct CgroupValues<'s, L> {
    /// The sets, ascending by labels.
    pub sets: Vec<SetValues<'s, L>>,
    /// The cgroups in no set.
    pub other: SeriesValues,
    /// Late tasks of removed cgroups.
    pub removed: CgroupTotals,
    /// What sets had when they ended.
    pub forgotten: CgroupTotals,
}

/// One set at one instant.
#[derive(Clone, Debug, PartialEq)]
pub struct SetValues<'s, L> {
    /// The labels of its series.
    pub labels: &'s L,
    /// When its counters began at 0.
    pub created_at: u64,
    /// What it shows.
    pub values: SeriesValues,
}

/// What one set, or `other`, shows at one instant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SeriesValues {
    /// The totals of its cgroups.
    pub totals: CgroupTotals,
    /// Their quotas; `None` if none of them has had one.
    pub quotas: Option<Quotas>,
}

impl<L> CgroupSets<L> {
    /// Starts without sets: until cgroups are named, all time belongs to `other`.
    pub fn new(now: u64, budget: Budget) -> Self {
        Self {
            budget,
            members: Vec::new(),
            newcomers: Newcomers::new(now),
            sets: Vec::new(),
            other: Series::default(),
            removed: Carried::default(),
            forgotten: CgroupTotals::ZERO,
            clock: Clock::new(now),
        }
    }

    /// When [`Self::rank`] is due; before that it does nothing.
    pub const fn rank_at(&self) -> u64 {
        self.clock.ends_at()
    }

    /// The cgroups in a snapshot that have not been named yet, at least by this process. Those that are removed
    /// are among them until [`Self::settle`] lets them go.
    pub fn unnamed<'s>(
        &'s self,
        snapshot: &'s CgroupsSnapshot,
    ) -> impl Iterator<Item = &'s CgroupReading> {
        let mut members = self.members.as_slice();
        let is_unnamed = move |reading: &&CgroupReading| {
            let member = next(&mut members, reading.serial, |member| member.serial);
            member.is_none_or(|member| member.is_restored && member.place != Place::Removed)
        };
        snapshot.cgroups.iter().filter(is_unnamed)
    }

    /// What the cgroups in a snapshot have that no process has named.
    fn never_named(&self, snapshot: &CgroupsSnapshot) -> Vec<(u64, CgroupTotals)> {
        let mut members = self.members.as_slice();
        let is_new = |reading: &&CgroupReading| {
            next(&mut members, reading.serial, |member| member.serial).is_none()
        };
        snapshot.cgroups.iter().filter(is_new).map(|it| (it.serial, it.totals)).collect()
    }

    /// The removed cgroups in a snapshot that can give back their slots.
    pub fn gone<'s>(
        &'s self,
        snapshot: &'s CgroupsSnapshot,
    ) -> impl Iterator<Item = &'s CgroupReading> {
        let mut members = self.members.as_slice();
        let is_gone = move |reading: &&CgroupReading| {
            let member = next(&mut members, reading.serial, |member| member.serial);
            reading.is_removed && member.is_some_and(|member| member.place == Place::Removed)
        };
        snapshot.cgroups.iter().filter(is_gone)
    }

    /// Notes that a scrape shows the values of a snapshot, so that none of them may decrease.
    pub fn show(&mut self, now: u64, snapshot: &CgroupsSnapshot) {
        let unnamed = self.never_named(snapshot);
        self.newcomers.show(now, unnamed);
    }

    /// What is shown of a snapshot that was taken at `now`.
    pub fn values(&self, now: u64, snapshot: &CgroupsSnapshot) -> CgroupValues<'_, L> {
        let sum = |totals| Sum { totals, cpus: None };
        let mut sums = vec![sum(CgroupTotals::ZERO); self.sets.len()];
        let (mut other, mut removed) = (sum(snapshot.other), sum(snapshot.removed));
        let mut members = self.members.as_slice();
        for reading in &snapshot.cgroups {
            let member = next(&mut members, reading.serial, |member| member.serial);
            let sum = match member.map(|member| member.place) {
                Some(Place::Set(set)) if self.sets[set].shown.is_some() => &mut sums[set],
                Some(Place::Removed) => &mut removed,
                _ => &mut other,
            };
            sum.totals.add(&reading.totals);
            let quota = member.and_then(|member| member.quota.as_ref());
            if let Some(cpus) = quota.and_then(|quota| quota.cpus)
                && !reading.is_removed
            {
                *sum.cpus.get_or_insert(0.0) += cpus;
            }
        }
        let mut forgotten = self.forgotten;
        let mut sets = Vec::with_capacity(self.sets.len());
        for (set, sum) in self.sets.iter().zip(&sums) {
            let Some(shown) = &set.shown else { continue };
            let values = shown.series.values(sum);
            if set.is_over(now, self.budget) {
                forgotten.add(&values.totals);
            } else {
                sets.push(SetValues { labels: &set.labels, created_at: shown.created_at, values });
            }
        }
        let removed = self.removed.value([&removed.totals]);
        CgroupValues { sets, other: self.other.values(&other), removed, forgotten }
    }
}

impl<L: Clone + Ord + Hash> CgroupSets<L> {
    /// Lets removed cgroups leave their sets, which keep what they had. `awaited` are the serial numbers of
    /// cgroups without a name that will have one soon: those that are removed, now or later, stay until
    /// [`Self::assign`], or until they are missing here.
    pub fn settle(&mut self, now: u64, snapshot: &CgroupsSnapshot, awaited: BTreeSet<u64>) {
        self.newcomers.awaited = awaited;
        self.begin(now, snapshot);
        self.finish(now, snapshot);
    }

    /// Moves cgroups to the sets with their labels, or to `other`. `named` holds serial numbers; those of
    /// removed cgroups are ignored, unless they are awaited.
    ///
    /// A set continues if it is shown, and begins at 0 otherwise. It counts what the cgroup does from now
    /// on, and if this is its first name, everything that no scrape has shown in `other`.
    pub fn assign(
        &mut self,
        now: u64,
        snapshot: &CgroupsSnapshot,
        named: impl IntoIterator<Item = (u64, Option<L>)>,
    ) {
        self.begin(now, snapshot);
        if self.move_members(now, snapshot, named.into_iter().collect()) {
            self.end_sets(|set| set.members == 0);
        }
        self.finish(now, snapshot);
        self.newcomers.named.clear();
        // Those that were awaited leave their sets again.
        self.begin(now, snapshot);
        self.finish(now, snapshot);
    }

    /// Ranks the sets, if a minute has ended since the last time. A set that is shown gives way to one
    /// that exceeds its use of the last five minutes by a quarter; what it had is forgotten.
    pub fn rank(&mut self, now: u64, snapshot: &CgroupsSnapshot) {
        if now < self.clock.ends_at() {
            return;
        }
        self.begin(now, snapshot);
        let (mut shown, mut waiting) = self.candidates(snapshot);
        let mut changes = ranking::fill(self.budget.limit, &mut shown, &mut waiting);
        changes.extend(ranking::replace(&shown, &waiting));
        self.apply(now, snapshot, &changes);
        for (member, reading) in readings_of(&mut self.members, snapshot) {
            member.uses.note(self.clock, use_ns(&reading.totals));
        }
        for set in &mut self.sets {
            set.past_uses.forget(self.clock);
        }
        self.clock.advance(now);
        self.finish(now, snapshot);
    }

    /// Applies a new configuration. `labels` computes the labels of a cgroup that has been named, by its
    /// serial number. Sets whose labels stay continue. The others end at once. So do sets that are kept
    /// without cgroups if any labels have changed, since theirs cannot be computed again.
    pub fn regroup(
        &mut self,
        now: u64,
        snapshot: &CgroupsSnapshot,
        budget: Budget,
        mut labels: impl FnMut(u64) -> Option<L>,
    ) {
        self.begin(now, snapshot);
        self.budget = budget;
        let mut moved = Vec::new();
        let is_named = |member: &&Member| member.place != Place::Removed && !member.is_restored;
        for member in self.members.iter().filter(is_named) {
            let labels = labels(member.serial);
            if labels.as_ref() != self.labels(member.place) {
                moved.push((member.serial, labels));
            }
        }
        if !moved.is_empty() {
            self.move_members(now, snapshot, moved);
            self.end_sets(|set| set.members == 0);
        }
        self.finish(now, snapshot);
    }

    /// Adds what quotas have held back since the last reading of each cgroup to its set. The first
    /// reading of a cgroup with a quota adds nothing.
    pub fn read_quotas(&mut self, readings: impl IntoIterator<Item = QuotaReading>) {
        for reading in readings {
            let Ok(index) = self.find_member(reading.serial) else { continue };
            let member = &mut self.members[index];
            if member.place == Place::Removed {
                continue;
            }
            let gained = match &mut member.quota {
                Some(last) => last.update(&reading),
                None if reading.cpus.is_some() => {
                    member.quota = Some(Box::new(reading.into()));
                    QuotaCounts::default()
                }
                None => continue,
            };
            let series = series(&mut self.sets, &mut self.other, member.place);
            *series.quotas.get_or_insert_default() += gained;
        }
    }

    /// Follows the life of cgroups up to the snapshot, before an event: all members have a reading
    /// afterwards.
    fn begin(&mut self, now: u64, snapshot: &CgroupsSnapshot) {
        let mut members = mem::take(&mut self.members).into_iter().peekable();
        for reading in &snapshot.cgroups {
            while let Some(gone) = members.next_if(|member| member.serial < reading.serial) {
                self.leave_set(now, gone.place);
            }
            let member = members.next_if(|member| member.serial == reading.serial);
            if member.is_none() && self.newcomers.awaited.contains(&reading.serial) {
                continue;
            }
            let member = self.follow(now, member, reading);
            self.members.extend(member);
        }
        members.for_each(|gone| self.leave_set(now, gone.place));
        self.end_over(now);
    }

    /// Shows as many sets as the budget allows, after an event.
    fn finish(&mut self, now: u64, snapshot: &CgroupsSnapshot) {
        self.end_over(now);
        let limit = self.budget.limit;
        let shown = self.sets.iter().filter(|set| set.shown.is_some()).count();
        if shown == self.sets.len().min(limit) {
            return;
        }
        let (mut shown, mut waiting) = self.candidates(snapshot);
        let changes = ranking::fill(limit, &mut shown, &mut waiting);
        self.apply(now, snapshot, &changes);
        self.end_over(now);
    }

    /// Follows one cgroup, which stays a member, becomes one by its removal, or stops being one.
    fn follow(
        &mut self,
        now: u64,
        member: Option<Member>,
        reading: &CgroupReading,
    ) -> Option<Member> {
        let was_removed = member.as_ref().is_some_and(|member| member.place == Place::Removed);
        match (was_removed, reading.is_removed) {
            (true, true) | (false, false) => member,
            (false, true) => {
                let member = member.unwrap_or_else(|| {
                    self.newcomers.leave(reading.serial);
                    Member::new(reading.serial)
                });
                Some(self.remove(now, &member, &reading.totals))
            }
            // It was taken for removed, but has a slot again.
            (true, false) => {
                self.removed.leave(&reading.totals);
                self.other.carried.join(&reading.totals);
                self.newcomers.revive(reading);
                None
            }
        }
    }

    /// Lets a removed cgroup leave its set.
    fn remove(&mut self, now: u64, member: &Member, totals: &CgroupTotals) -> Member {
        series(&mut self.sets, &mut self.other, member.place).carried.leave(totals);
        self.removed.join(totals);
        if let Place::Set(set) = member.place {
            self.sets[set].past_uses.add(&member.uses, use_ns(totals));
        }
        self.leave_set(now, member.place);
        Member { place: Place::Removed, ..Member::new(member.serial) }
    }

    /// Moves cgroups that exist to the sets with their labels. Returns whether one had other labels in an earlier
    /// process, so that those of sets without cgroups may be outdated, too.
    fn move_members(
        &mut self,
        now: u64,
        snapshot: &CgroupsSnapshot,
        mut named: Vec<(u64, Option<L>)>,
    ) -> bool {
        named.sort_by_key(|(serial, _)| *serial);
        named.dedup_by_key(|(serial, _)| *serial);
        let movable = |(serial, labels)| Some((self.movable(snapshot, serial)?, labels));
        let named: Vec<_> = named.into_iter().filter_map(movable).collect();
        self.add_members(named.iter().map(|(reading, _)| *reading));
        // Each set is looked up once, because comparing labels takes long.
        let places = named.iter().filter_map(|(_, labels)| Some((labels.as_ref()?, Place::Other)));
        let mut places: HashMap<&L, Place> = places.collect();
        self.add_sets(places.keys().copied());
        for (labels, place) in &mut places {
            *place = self.find_set(labels).map_or(Place::Other, Place::Set);
        }
        let mut is_relabelled = false;
        for (reading, labels) in &named {
            let to = labels.as_ref().and_then(|labels| places.get(labels).copied());
            is_relabelled |= self.move_member(now, reading, to.unwrap_or(Place::Other));
        }
        is_relabelled
    }

    /// Moves one cgroup. Returns whether it had other labels in an earlier process.
    fn move_member(&mut self, now: u64, reading: &CgroupReading, to: Place) -> bool {
        let Ok(index) = self.find_member(reading.serial) else { return false };
        let member = &mut self.members[index];
        let was_restored = mem::take(&mut member.is_restored);
        let from = mem::replace(&mut member.place, to);
        if from == to {
            return false;
        }
        let is_shown = |place| matches!(place, Place::Set(set) if self.sets[set].shown.is_some());
        if is_shown(from) || is_shown(to) {
            let counted = self.newcomers.counted(reading);
            series(&mut self.sets, &mut self.other, from).carried.leave(counted);
            series(&mut self.sets, &mut self.other, to).join(member, counted);
        }
        if let Place::Set(set) = to {
            self.sets[set].members += 1;
        }
        self.leave_set(now, from);
        was_restored && matches!(from, Place::Set(_))
    }

    /// Adds members to `other`, which has had them since they were first seen.
    fn add_members<'s>(&mut self, readings: impl Iterator<Item = &'s CgroupReading>) {
        let is_new = |reading: &&CgroupReading| self.find_member(reading.serial).is_err();
        let new: Vec<_> = readings.filter(is_new).collect();
        if !new.is_empty() {
            for reading in &new {
                self.newcomers.name(reading);
            }
            self.members.extend(new.iter().map(|reading| Member::new(reading.serial)));
            self.members.sort_by_key(|member| member.serial);
        }
    }

    /// Adds sets that wait for a place. All `labels` differ.
    fn add_sets<'l>(&mut self, labels: impl Iterator<Item = &'l L>)
    where
        L: 'l,
    {
        let mut new: Vec<&L> = labels.filter(|labels| self.find_set(labels).is_err()).collect();
        new.sort_unstable();
        if new.is_empty() {
            return;
        }
        let old = mem::take(&mut self.sets);
        let mut indexes = Vec::with_capacity(old.len());
        let mut new = new.into_iter().peekable();
        for set in old {
            while let Some(labels) = new.next_if(|labels| **labels < set.labels) {
                self.sets.push(Set::new(labels.clone()));
            }
            indexes.push(self.sets.len());
            self.sets.push(set);
        }
        self.sets.extend(new.map(|labels| Set::new(labels.clone())));
        self.renumber(&indexes);
    }

    /// Ends the sets that have been kept long enough, and those that had only waited for a place.
    fn end_over(&mut self, now: u64) {
        let budget = self.budget;
        self.end_sets(|set| set.is_over(now, budget));
    }

    /// Ends sets without cgroups: what they had is forgotten.
    fn end_sets(&mut self, ends: impl Fn(&Set<L>) -> bool) {
        if !self.sets.iter().any(&ends) {
            return;
        }
        let mut indexes = Vec::with_capacity(self.sets.len());
        let mut sets = Vec::with_capacity(self.sets.len());
        for set in mem::take(&mut self.sets) {
            indexes.push(sets.len());
            if !ends(&set) {
                sets.push(set);
            } else if let Some(carried) = set.shown.as_ref().and_then(Shown::carried) {
                self.forgotten.add(carried);
            }
        }
        self.sets = sets;
        self.renumber(&indexes);
    }

    /// Shows or demotes the sets with these indexes.
    fn apply(&mut self, now: u64, snapshot: &CgroupsSnapshot, changes: &[(usize, Change)]) {
        if changes.is_empty() {
            return;
        }
        let mut by_set = vec![None; self.sets.len()];
        for (index, change) in changes {
            by_set[*index] = Some(*change);
            let series = Series::default();
            let shown = (*change == Change::Shown).then_some(Shown { created_at: now, series });
            let ended = mem::replace(&mut self.sets[*index].shown, shown);
            if let Some(carried) = ended.as_ref().and_then(Shown::carried) {
                self.forgotten.add(carried);
            }
        }
        for (member, reading) in readings_of(&mut self.members, snapshot) {
            let Place::Set(set) = member.place else { continue };
            let mut counted = &reading.totals;
            match by_set[set] {
                None => continue,
                Some(Change::Shown) => {
                    counted = self.newcomers.counted(reading);
                    self.other.carried.leave(counted);
                }
                Some(Change::Demoted) => self.forgotten.add(counted),
            }
            series(&mut self.sets, &mut self.other, member.place).join(member, counted);
        }
        self.date_back(&by_set);
    }

    /// Lets sets that have just been shown begin when `other` was shown last, if they count what it has not
    /// shown.
    fn date_back(&mut self, by_set: &[Option<Change>]) {
        for (serial, _) in &self.newcomers.named {
            let place = self.find_member(*serial).map(|index| self.members[index].place);
            let Ok(Place::Set(set)) = place else { continue };
            if by_set[set] == Some(Change::Shown)
                && let Some(shown) = &mut self.sets[set].shown
            {
                shown.created_at = self.newcomers.shown_at;
            }
        }
    }

    /// The sets that are shown, and those that wait for a place, with their use.
    fn candidates(&mut self, snapshot: &CgroupsSnapshot) -> (Vec<Candidate>, Vec<Candidate>) {
        let past = self.sets.iter().map(|set| set.past_uses.recent(self.clock));
        let mut recent_ns: Vec<u64> = past.collect();
        for (member, reading) in readings_of(&mut self.members, snapshot) {
            let Place::Set(set) = member.place else { continue };
            let recent = member.uses.recent(self.clock, use_ns(&reading.totals));
            recent_ns[set] = recent_ns[set].saturating_add(recent);
        }
        let all = recent_ns.into_iter().enumerate();
        all.map(|(index, recent_ns)| Candidate { index, recent_ns })
            .partition(|candidate| self.sets[candidate.index].shown.is_some())
    }

    /// Lets a cgroup leave the set that it belongs to.
    fn leave_set(&mut self, now: u64, place: Place) {
        let Place::Set(index) = place else { return };
        let set = &mut self.sets[index];
        set.members -= 1;
        if set.members == 0 {
            set.ended_at = now;
        }
    }

    /// Gives members the new indexes of their sets, which are at their old ones in `indexes`.
    fn renumber(&mut self, indexes: &[usize]) {
        for member in &mut self.members {
            if let Place::Set(set) = &mut member.place {
                *set = indexes[*set];
            }
        }
    }

    fn find_set(&self, labels: &L) -> Result<usize, usize> {
        self.sets.binary_search_by(|set| set.labels.cmp(labels))
    }

    fn find_member(&self, serial: u64) -> Result<usize, usize> {
        self.members.binary_search_by_key(&serial, |member| member.serial)
    }

    /// The reading of a cgroup that can be in a set: it exists, or is awaited.
    fn movable<'s>(&self, snapshot: &'s CgroupsSnapshot, serial: u64) -> Option<&'s CgroupReading> {
        let reading = snapshot.cgroups.binary_search_by_key(&serial, |reading| reading.serial);
        let reading = &snapshot.cgroups[reading.ok()?];
        (!reading.is_removed || self.find_member(serial).is_err()).then_some(reading)
    }

    /// The labels of the set at a place.
    fn labels(&self, place: Place) -> Option<&L> {
        match place {
            Place::Set(set) => Some(&self.sets[set].labels),
            Place::Other | Place::Removed => None,
        }
    }
}

impl Member {
    fn new(serial: u64) -> Self {
        let (uses, quota) = (Uses::default(), None);
        Self { serial, place: Place::Other, uses, quota, is_restored: false }
    }
}

impl<L> Set<L> {
    fn new(labels: L) -> Self {
        Self { labels, members: 0, ended_at: 0, shown: None, past_uses: PastUses::default() }
    }

    /// Whether nothing of the set is left to show.
    fn is_over(&self, now: u64, budget: Budget) -> bool {
        let keep_ns = u64::try_from(budget.keep.as_nanos()).unwrap_or(u64::MAX);
        let is_kept = self.shown.is_some() && now < self.ended_at.saturating_add(keep_ns);
        self.members == 0 && !is_kept
    }
}

impl Shown {
    /// What the set shows in addition to its members' totals.
    fn carried(&self) -> Option<&CgroupTotals> {
        self.series.carried.as_ref()
    }
}

impl Series {
    /// Lets a cgroup join that has counted `totals`.
    fn join(&mut self, member: &Member, totals: &CgroupTotals) {
        self.carried.join(totals);
        if member.quota.is_some() {
            self.quotas.get_or_insert_default();
        }
    }

    fn values(&self, sum: &Sum) -> SeriesValues {
        SeriesValues {
            totals: self.carried.value([&sum.totals]),
            quotas: self.quotas.map(|counts| Quotas { counts, cpus: sum.cpus }),
        }
    }
}

/// Sums over the members of a series at one instant.
#[derive(Clone, Copy, Debug)]
struct Sum {
    totals: CgroupTotals,
    cpus: Option<f64>,
}

/// The series that has the time of cgroups at a place.
fn series<'s, L>(sets: &'s mut [Set<L>], other: &'s mut Series, place: Place) -> &'s mut Series {
    let shown = match place {
        Place::Set(set) => sets[set].shown.as_mut(),
        Place::Other | Place::Removed => None,
    };
    shown.map_or(other, |shown| &mut shown.series)
}

/// Pairs members with their readings. Both ascend by serial number.
fn readings_of<'a>(
    members: &'a mut [Member],
    snapshot: &'a CgroupsSnapshot,
) -> impl Iterator<Item = (&'a mut Member, &'a CgroupReading)> {
    let mut rest = snapshot.cgroups.as_slice();
    members.iter_mut().filter_map(move |member| {
        let reading = next(&mut rest, member.serial, |reading| reading.serial)?;
        Some((member, reading))
    })
}

/// Skips what is before `serial` in an ascending list, and returns the item with it.
fn next<'a, T>(rest: &mut &'a [T], serial: u64, serial_of: fn(&T) -> u64) -> Option<&'a T> {
    while let [first, others @ ..] = *rest
        && serial_of(first) < serial
    {
        *rest = others;
    }
    rest.first().filter(|first| serial_of(first) == serial)
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
