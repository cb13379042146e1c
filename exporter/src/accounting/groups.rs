//! CPUs whose series have the same labels: their values are summed, exactly, and go on where a new
//! configuration puts a CPU into another group. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    accounting::snapshot::{Snapshot, Times},
    exposition::Labels,
};

/// How many series are remembered at least when they are no longer shown.
const MIN_RETIRED: usize = 64;

/// CPUs that share a set of labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    labels: Labels,
    cpus: Vec<u32>,
    /// What CPUs had added that are elsewhere now.
    past: Option<Box<Times>>,
    /// That, with the offsets of the CPUs.
    carried: Option<Box<Times>>,
}

/// Every group of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    all: Vec<Group>,
    /// What a CPU adds to its series is its times and this, modulo 2^64: less what it had added to
    /// another series that is still there. None is nothing.
    offsets: BTreeMap<u32, Times>,
    /// Series that are no longer shown, the last to go at last.
    retired: Vec<Arc<Retired>>,
}

/// A series that may come back.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Retired {
    group: Group,
    /// Where it went.
    times: Times,
}

impl Group {
    /// The pairs of its series.
    pub const fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Its CPUs, ascending.
    pub fn cpus(&self) -> &[u32] {
        &self.cpus
    }

    /// Lends its times at the instant of a snapshot. The series of one CPU are there while it is
    /// online. A sum is there when one of its CPUs has been online, and keeps what those had that
    /// no longer are: it would go back otherwise.
    pub fn with_times(&self, snapshot: &Snapshot, write: impl FnOnce(&Times)) {
        if let [cpu] = self.cpus.as_slice() {
            let times = snapshot.times(*cpu).filter(|_| snapshot.is_online(*cpu));
            match (times, &self.carried) {
                (Some(times), Some(carried)) => write(&sum([times, carried])),
                // No copy: this is how most series are written.
                (Some(times), None) => write(times),
                (None, _) => {}
            }
            return;
        }
        if self.cpus.iter().any(|cpu| snapshot.times(*cpu).is_some()) {
            write(&self.sum(snapshot));
        }
    }

    /// Its times, whichever of its CPUs are online.
    fn sum(&self, snapshot: &Snapshot) -> Times {
        let times = self.cpus.iter().filter_map(|cpu| snapshot.times(*cpu));
        sum(times.chain(self.carried.as_deref()))
    }
}

impl Groups {
    /// Groups that begin with all that their CPUs have had. The CPUs of each ascend; none is in two.
    pub fn new(groups: impl IntoIterator<Item = (Labels, Vec<u32>)>) -> Self {
        let group = |(labels, cpus)| Group { labels, cpus, past: None, carried: None };
        Self { all: groups.into_iter().map(group).collect(), ..Self::default() }
    }

    /// The groups.
    pub fn as_slice(&self) -> &[Group] {
        &self.all
    }

    /// Whether the same CPUs have the same labels.
    pub fn is_like(&self, other: &Self) -> bool {
        fn parts(groups: &Groups) -> impl Iterator<Item = (&Labels, &[u32])> {
            groups.all.iter().map(|group| (&group.labels, group.cpus()))
        }
        parts(self).eq(parts(other))
    }

    /// Makes every series go on where it is under `old` at the instant of the snapshot; no later one
    /// may be shown under `old`.
    ///
    /// A series that stays keeps its value, whichever CPUs it is the sum of from now on. One that
    /// is new begins with what its CPUs had added to series that go. One that comes back goes on
    /// where it went, but for the same CPUs with all that they have had since. So no series goes
    /// back, and none leaps by what another has shown.
    pub fn continue_from(&mut self, old: &Self, snapshot: &Snapshot) {
        let mut offsets = old.offsets.clone();
        // What a CPU has had up to now is not in its series from now on.
        let begin = |offsets: &mut BTreeMap<u32, Times>, cpu: u32| {
            let mut offset = Times::ZERO;
            snapshot.times(cpu).into_iter().for_each(|times| offset.subtract(times));
            offsets.insert(cpu, offset);
        };
        let (before, after) = (by_labels(&old.all), by_labels(&self.all));
        let stays = |at: usize| after.contains_key(&old.all[at].labels);
        let (was_in, is_in) = (by_cpu(&old.all), by_cpu(&self.all));
        let mut past = vec![Times::ZERO; self.all.len()];

        for (at, group) in self.all.iter().enumerate() {
            let same = before.get(&group.labels).copied();
            for cpu in &group.cpus {
                let brings_all = match was_in.get(cpu) {
                    Some(was) => same == Some(*was) || same.is_none() && !stays(*was),
                    None => same.is_none(),
                };
                if !brings_all {
                    begin(&mut offsets, *cpu);
                }
            }
            let Some(same) = same else { continue };
            let same = &old.all[same];
            same.past.iter().for_each(|times| past[at].add(times));
            for cpu in same.cpus.iter().filter(|cpu| is_in.get(*cpu) != Some(&at)) {
                let parts = snapshot.times(*cpu).into_iter().chain(old.offsets.get(cpu));
                parts.for_each(|times| past[at].add(times));
                if !is_in.contains_key(cpu) {
                    begin(&mut offsets, *cpu);
                }
            }
        }
        for back in &old.retired {
            let Some(&at) = after.get(&back.group.labels) else { continue };
            let group = &self.all[at];
            let times = group.cpus.iter().filter_map(|cpu| snapshot.times(*cpu));
            let of_cpus = group.cpus.iter().filter_map(|cpu| offsets.get(cpu));
            let all = sum(times.chain(of_cpus).chain(back.group.past.as_deref()));
            if back.group.cpus == group.cpus && all.is_at_least(&back.times) {
                back.group.past.iter().for_each(|times| past[at].add(times));
            } else {
                past[at].clone_from(&back.times);
                group.cpus.iter().for_each(|cpu| begin(&mut offsets, *cpu));
            }
        }
        let goes = |labels: &Labels| !after.contains_key(labels);
        let retire =
            |group: &Group| Arc::new(Retired { times: group.sum(snapshot), group: group.clone() });
        let known = old.retired.iter().filter(|retired| goes(&retired.group.labels)).cloned();
        let new = old.all.iter().filter(|group| goes(&group.labels)).map(retire);
        let mut retired: Vec<_> = known.chain(new).collect();
        // Enough to take a change back, and the one before it.
        let most = MIN_RETIRED.max(2 * self.all.len());
        retired.drain(..retired.len().saturating_sub(most));
        for (group, past) in self.all.iter_mut().zip(past) {
            let of_cpus = group.cpus.iter().filter_map(|cpu| offsets.get(cpu));
            let boxed = |times: Times| (times != Times::ZERO).then(|| Box::new(times));
            group.carried = boxed(sum(of_cpus.chain([&past])));
            group.past = boxed(past);
        }
        self.offsets = offsets;
        self.retired = retired;
    }
}

fn by_labels(groups: &[Group]) -> HashMap<&Labels, usize> {
    groups.iter().zip(0..).map(|(group, at)| (&group.labels, at)).collect()
}

fn by_cpu(groups: &[Group]) -> HashMap<u32, usize> {
    let each =
        |(group, at): (&Group, usize)| group.cpus.clone().into_iter().map(move |cpu| (cpu, at));
    groups.iter().zip(0..).flat_map(each).collect()
}

fn sum<'t>(all: impl IntoIterator<Item = &'t Times>) -> Times {
    let mut sum = Times::ZERO;
    all.into_iter().for_each(|times| sum.add(times));
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounting::snapshot::Cpu;

    /// CPUs that have had so much time idle; those of `offline` are not online any more.
    fn snapshot(idle_ns: &[u64], offline: &[u32]) -> Snapshot {
        let cpu = |(id, ns): (u32, &u64)| {
            let mut times = Times::ZERO;
            times.mode_ns[0] = *ns;
            Cpu { id, times: Some(times), unattributed_ns: 0 }
        };
        let (offline, cpus) =
            (0..).zip(idle_ns).map(cpu).partition(|cpu: &Cpu| offline.contains(&cpu.id));
        Snapshot { taken_at: 0, cpus, offline }
    }

    fn groups(groups: &[(&str, &[u32])]) -> Groups {
        Groups::new(
            groups
                .iter()
                .map(|(name, cpus)| ([("name", *name)].into_iter().collect(), cpus.to_vec())),
        )
    }

    /// `new` where it goes on from `old`.
    fn after(new: &[(&str, &[u32])], old: &Groups, snapshot: &Snapshot) -> Groups {
        let mut new = groups(new);
        new.continue_from(old, snapshot);
        new
    }

    /// The values of groups at a snapshot; 0 where there is no series.
    fn values(groups: &Groups, snapshot: &Snapshot) -> Vec<u64> {
        let value = |group: &Group| {
            let mut value = 0;
            group.with_times(snapshot, |times| value = times.mode_ns[0]);
            value
        };
        groups.all.iter().map(value).collect()
    }

    #[test]
    fn times_are_summed_exactly() {
        let groups = groups(&[("a", &[0, 2]), ("b", &[1]), ("c", &[7, 8])]);
        assert_eq!(values(&groups, &snapshot(&[1, 20, 300], &[])), [301, 20, 0]);
    }

    #[test]
    fn a_cpu_of_its_own_goes_with_its_series_and_a_sum_keeps_what_it_had() {
        let groups = groups(&[("a", &[0]), ("b", &[1, 2])]);
        assert_eq!(values(&groups, &snapshot(&[1, 20, 300], &[0, 1])), [0, 320]);
        assert_eq!(values(&groups, &snapshot(&[1, 20, 300], &[0, 1, 2])), [0, 320]);
    }

    #[test]
    fn a_series_goes_on_when_a_cpu_joins_or_leaves_it() {
        let old = groups(&[("a", &[0, 1]), ("b", &[2])]);
        let now = snapshot(&[10, 200, 3_000], &[]);
        let moved = after(&[("a", &[0]), ("b", &[1, 2])], &old, &now);
        assert_eq!(values(&moved, &now), [210, 3_000]);
        // What CPU 1 has from now on is b's.
        let later = snapshot(&[11, 205, 3_000], &[]);
        assert_eq!(values(&moved, &later), [211, 3_005]);
        let back = after(&[("a", &[0, 1]), ("b", &[2])], &moved, &later);
        assert_eq!(values(&back, &snapshot(&[11, 207, 3_000], &[])), [213, 3_005]);
    }

    #[test]
    fn a_new_series_begins_with_what_its_cpus_bring() {
        let old = groups(&[("a", &[0, 1]), ("b", &[2])]);
        let now = snapshot(&[10, 200, 3_000], &[]);
        // All new: as if it had always been so.
        let renamed = after(&[("c", &[0]), ("d", &[1, 2])], &old, &now);
        assert_eq!(values(&renamed, &now), [10, 3_200]);
        // Of what stays in an old series, nothing.
        let split = after(&[("a", &[0]), ("c", &[1, 2])], &old, &now);
        assert_eq!(values(&split, &now), [210, 3_000]);
        // And what it has had since then goes on with it, wherever it goes.
        let later = snapshot(&[10, 207, 3_000], &[]);
        let parted = after(&[("a", &[0]), ("d", &[1]), ("e", &[2])], &split, &later);
        assert_eq!(values(&parted, &later), [210, 7, 3_000]);
    }

    #[test]
    fn what_was_not_shown_begins_where_that_is_new_and_leaps_nowhere() {
        let now = snapshot(&[10, 200, 3_000], &[]);
        let shown = after(&[("a", &[0, 1]), ("c", &[2])], &groups(&[("a", &[0])]), &now);
        assert_eq!(values(&shown, &now), [10, 3_000]);
    }

    #[test]
    fn a_cpu_that_left_every_series_brings_what_it_has_had_since() {
        let now = snapshot(&[10, 200], &[]);
        let left = after(&[("a", &[0])], &groups(&[("a", &[0, 1])]), &now);
        let later = snapshot(&[10, 207], &[]);
        let back = after(&[("a", &[0]), ("c", &[1])], &left, &later);
        assert_eq!(values(&back, &later), [210, 7]);
    }

    #[test]
    fn a_series_that_comes_back_goes_on() {
        let old = groups(&[("a", &[0, 1]), ("b", &[2])]);
        let now = snapshot(&[10, 200, 3_000], &[]);
        let renamed = after(&[("c", &[0, 1, 2])], &old, &now);
        let later = snapshot(&[11, 205, 3_000], &[]);
        // A change that is taken back: as if nothing had been.
        let same = after(&[("a", &[0, 1]), ("b", &[2])], &renamed, &later);
        assert_eq!(values(&same, &later), [216, 3_000]);
        // With other CPUs it would leap.
        let other = after(&[("a", &[0]), ("b", &[1, 2])], &renamed, &later);
        assert_eq!(values(&other, &later), [210, 3_000]);
        assert_eq!(values(&other, &snapshot(&[12, 208, 3_000], &[])), [211, 3_003]);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_last_to_go() {
        let now = snapshot(&[10, 200], &[]);
        let mut last = groups(&[]);
        for round in 0..1_000 {
            last = after(&[(&round.to_string(), &[0])], &last, &now);
        }
        assert_eq!((last.retired.len(), last.offsets.len()), (MIN_RETIRED, 0));
        assert_eq!(values(&last, &now), [10]);
        // With another CPU, what is remembered goes on where it went, and all else begins.
        let begun = |name| values(&after(&[(name, &[1])], &last, &now), &now);
        assert_eq!([begun("935"), begun("998")], [[10], [10]]);
        assert_eq!([begun("0"), begun("934")], [[200], [200]]);
    }

    #[test]
    fn no_series_goes_back_or_leaps_however_cpus_are_grouped() {
        // Each round has a name for each of four CPUs; 0 shows it nowhere.
        let mut state = 7_u64;
        let mut any = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        let mut times = [100, 20_000, 3_000_000, 400_000_000];
        let mut old = groups(&[]);
        // By name: the value when it was last seen, and the times of the CPUs then.
        let mut seen: BTreeMap<String, (u64, [u64; 4])> = BTreeMap::new();
        for round in 0..20_000 {
            let names = times.map(|_| any(4));
            let of = |name| (0..4).filter(|cpu| names[*cpu as usize] == name).collect::<Vec<u32>>();
            let parts = (1..4).map(|name| (name.to_string(), of(name)));
            let parts: Vec<_> = parts.filter(|(_, cpus)| !cpus.is_empty()).collect();
            let parts: Vec<(&str, &[u32])> =
                parts.iter().map(|(name, cpus)| (name.as_str(), cpus.as_slice())).collect();
            let now = snapshot(&times, &[]);
            let new = after(&parts, &old, &now);
            let begun = values(&new, &now);
            for ((name, cpus), begun) in parts.iter().zip(&begun) {
                let Some((value, then)) = seen.get(*name) else { continue };
                let growth: u64 =
                    cpus.iter().map(|cpu| times[*cpu as usize] - then[*cpu as usize]).sum();
                let expected = *value..=value + growth;
                assert!(expected.contains(begun), "{round}: {begun} {expected:?} {old:?} {new:?}");
            }
            let grown = times.map(|ns| ns + any(1_000));
            let growth = |cpu: &u32| grown[*cpu as usize] - times[*cpu as usize];
            let expected = new.all.iter().zip(begun);
            let expected: Vec<_> = expected
                .map(|(group, begun)| begun + group.cpus.iter().map(growth).sum::<u64>())
                .collect();
            assert_eq!(values(&new, &snapshot(&grown, &[])), expected);
            for ((name, _), value) in parts.iter().zip(expected) {
                seen.insert((*name).to_owned(), (value, grown));
            }
            (times, old) = (grown, new);
        }
    }
}
