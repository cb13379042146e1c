//! Groups of CPUs whose series have the same labels. Their totals are summed exactly, and continue when
//! a new configuration moves a CPU from one group to another.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::Arc,
};

use sched_exporter_ebpf::{Counters as _, Totals};

use super::{
    Snapshot,
    continuity::{Carried, sum},
};

mod saved;

pub use saved::SavedGroups;

/// Minimum number of retired series to remember.
const MIN_RETIRED: usize = 64;

/// CPUs that share the labels `L`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group<L> {
    labels: L,
    cpus: Vec<u32>,
    /// What CPUs that have left added, plus the offsets of its CPUs.
    carried: Carried<Totals>,
}

/// All groups of a set of families.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups<L> {
    all: Vec<Group<L>>,
    /// A CPU adds its totals plus its offset, modulo 2^64, to its group. The offset excludes what the
    /// CPU added to other series that still exist. An absent offset means zero.
    offsets: BTreeMap<u32, Totals>,
    /// Retired series, oldest first.
    retired: Vec<Arc<Retired<L>>>,
}

/// A series that is not shown at present, but can return.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Retired<L> {
    labels: L,
    cpus: Vec<u32>,
    /// The part of its last value that other CPUs had added.
    past: Totals,
    /// Its last value.
    totals: Totals,
}

impl<L> Default for Groups<L> {
    fn default() -> Self {
        Self { all: Vec::new(), offsets: BTreeMap::new(), retired: Vec::new() }
    }
}

impl<L> Group<L> {
    /// The labels of its series.
    pub const fn labels(&self) -> &L {
        &self.labels
    }

    /// Its CPUs, ascending.
    pub fn cpus(&self) -> &[u32] {
        &self.cpus
    }

    /// Calls `write` with the group's totals in `snapshot`, if its series exist.
    ///
    /// The series of a single CPU exist while it is online. Those of several CPUs exist once one of
    /// them has been online, and include the totals of offline CPUs, since a sum must not decrease.
    pub fn with_totals(&self, snapshot: &Snapshot, write: impl FnOnce(&Totals)) {
        if let [cpu] = self.cpus.as_slice() {
            let totals = snapshot.totals(*cpu).filter(|_| snapshot.is_online(*cpu));
            match (totals, self.carried.as_ref()) {
                (Some(totals), Some(carried)) => write(&sum([totals, carried])),
                // The common case, without a copy.
                (Some(totals), None) => write(totals),
                (None, _) => {}
            }
            return;
        }
        if self.cpus.iter().any(|cpu| snapshot.totals(*cpu).is_some()) {
            write(&self.sum(snapshot));
        }
    }

    /// Its totals, including those of offline CPUs.
    fn sum(&self, snapshot: &Snapshot) -> Totals {
        self.carried.value(self.cpus.iter().filter_map(|cpu| snapshot.totals(*cpu)))
    }
}

impl<L: Clone + Eq + Hash> Groups<L> {
    /// Makes groups whose series start with everything that their CPUs have counted. The CPUs of each
    /// group ascend, and no CPU is in two groups.
    pub fn new(groups: impl IntoIterator<Item = (L, Vec<u32>)>) -> Self {
        let group = |(labels, cpus)| Group { labels, cpus, carried: Carried::default() };
        Self { all: groups.into_iter().map(group).collect(), ..Self::default() }
    }

    /// The groups, in the order of their series.
    pub fn as_slice(&self) -> &[Group<L>] {
        &self.all
    }

    /// Whether the same CPUs have the same labels as in `other`.
    pub fn is_like(&self, other: &Self) -> bool {
        let is_like = |(a, b): (&Group<L>, &Group<L>)| a.labels == b.labels && a.cpus == b.cpus;
        self.all.len() == other.all.len() && self.all.iter().zip(&other.all).all(is_like)
    }

    /// Continues every series from its value under `old` at `snapshot`. `old` must not be rendered with
    /// a later snapshot.
    ///
    /// * A series that stays keeps its value, even if other CPUs are summed in it from then on.
    /// * A new series starts with what its CPUs added to series that end.
    /// * A retired series that returns continues from its last value. If it has the same CPUs as
    ///   before, it also includes what they have counted since.
    ///
    /// So no series decreases, and none jumps by an amount that another has shown.
    ///
    /// For example, CPUs 0 and 1 are summed in `a` and have counted 10 and 200, CPU 2 is in `b` and has
    /// counted 3,000. If CPU 1 moves to `b`, then `a` stays at 210 and `b` at 3,000: `a` carries the 200
    /// of CPU 1, whose offset becomes -200. When CPU 1 reaches 205, `b` shows 3,005.
    pub fn continue_from(&mut self, old: &Self, snapshot: &Snapshot) {
        let (old_by_labels, new_by_labels) = (by_labels(&old.all), by_labels(&self.all));
        let (old_by_cpu, new_by_cpu) = (by_cpu(&old.all), by_cpu(&self.all));
        let stays = |index: usize| new_by_labels.contains_key(&old.all[index].labels);
        let mut offsets = Offsets { by_cpu: old.offsets.clone(), snapshot };
        let mut carried = vec![Carried::default(); self.all.len()];
        for (index, group) in self.all.iter().enumerate() {
            let same = old_by_labels.get(&group.labels).copied();
            for cpu in &group.cpus {
                let was = old_by_cpu.get(cpu).copied();
                if same.is_some() && was == same {
                    continue;
                }
                let brings_its_past = same.is_none() && was.is_none_or(|was| !stays(was));
                if !brings_its_past {
                    offsets.restart(*cpu);
                }
                carried[index].add(offsets.by_cpu.get(cpu));
            }
            let Some(same) = same else { continue };
            let same = &old.all[same];
            carried[index].add(same.carried.as_ref());
            for cpu in &same.cpus {
                let now_in = new_by_cpu.get(cpu);
                if now_in == Some(&index) {
                    continue;
                }
                // What the CPU added stays in the series.
                carried[index].leave(snapshot.totals(*cpu));
                if now_in.is_none() {
                    offsets.restart(*cpu);
                }
            }
        }

        for retired in &old.retired {
            let Some(&index) = new_by_labels.get(&retired.labels) else { continue };
            let cpus = &self.all[index].cpus;
            carried[index].add(&retired.past);
            let value = carried[index].value(cpus.iter().filter_map(|cpu| snapshot.totals(*cpu)));
            if retired.cpus == *cpus && value.is_at_least(&retired.totals) {
                continue;
            }
            carried[index] = Carried::default();
            carried[index].add(&retired.totals);
            for cpu in cpus {
                offsets.restart(*cpu);
                carried[index].join(snapshot.totals(*cpu));
            }
        }

        let mut retired = old.retired.clone();
        retired.retain(|retired| !new_by_labels.contains_key(&retired.labels));
        let ended = old.all.iter().filter(|group| !new_by_labels.contains_key(&group.labels));
        retired.extend(ended.map(|group| Arc::new(Retired::new(group, &old.offsets, snapshot))));
        // Enough to undo a change, and the one before it.
        let max_retired = MIN_RETIRED.max(2 * self.all.len());
        retired.drain(..retired.len().saturating_sub(max_retired));

        for (group, carried) in self.all.iter_mut().zip(carried) {
            group.carried = carried;
        }
        self.offsets = offsets.by_cpu;
        self.retired = retired;
    }
}

impl<L: Clone> Retired<L> {
    fn new(group: &Group<L>, offsets: &BTreeMap<u32, Totals>, snapshot: &Snapshot) -> Self {
        let mut past = sum(group.carried.as_ref());
        for offset in group.cpus.iter().filter_map(|cpu| offsets.get(cpu)) {
            past.subtract(offset);
        }
        let totals = group.sum(snapshot);
        Self { labels: group.labels.clone(), cpus: group.cpus.clone(), past, totals }
    }
}

/// The offsets of the next generation, while they are computed.
struct Offsets<'s> {
    by_cpu: BTreeMap<u32, Totals>,
    snapshot: &'s Snapshot,
}

impl Offsets<'_> {
    /// Excludes everything that the CPU has counted so far from its group.
    fn restart(&mut self, cpu: u32) {
        let mut offset = Totals::ZERO;
        if let Some(totals) = self.snapshot.totals(cpu) {
            offset.subtract(totals);
        }
        self.by_cpu.insert(cpu, offset);
    }
}

fn by_labels<L: Eq + Hash>(groups: &[Group<L>]) -> HashMap<&L, usize> {
    groups.iter().zip(0..).map(|(group, index)| (&group.labels, index)).collect()
}

fn by_cpu<L>(groups: &[Group<L>]) -> HashMap<u32, usize> {
    let mut by_cpu = HashMap::new();
    for (index, group) in groups.iter().enumerate() {
        by_cpu.extend(group.cpus.iter().map(|cpu| (*cpu, index)));
    }
    by_cpu
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounting::Cpu;

    type Groups = super::Groups<&'static str>;

    /// A snapshot in which each CPU has been idle for `idle_ns`, and those in `offline` are offline.
    fn snapshot(idle_ns: &[u64], offline: &[u32]) -> Snapshot {
        let cpu = |(id, ns): (u32, &u64)| {
            let mut totals = Totals::ZERO;
            totals.mode_ns[0] = *ns;
            Cpu { id, totals: Some(totals), unattributed_ns: 0 }
        };
        let (offline, cpus) =
            (0..).zip(idle_ns).map(cpu).partition(|cpu: &Cpu| offline.contains(&cpu.id));
        Snapshot { taken_at: 0, cpus, offline, cgroups: None }
    }

    fn groups(groups: &[(&'static str, &[u32])]) -> Groups {
        Groups::new(groups.iter().map(|(name, cpus)| (*name, cpus.to_vec())))
    }

    /// The groups `new`, continued from `old`.
    fn after(new: &[(&'static str, &[u32])], old: &Groups, snapshot: &Snapshot) -> Groups {
        let mut new = groups(new);
        new.continue_from(old, snapshot);
        new
    }

    /// The values of groups in a snapshot; 0 for a series that does not exist.
    fn values(groups: &Groups, snapshot: &Snapshot) -> Vec<u64> {
        let value = |group: &Group<_>| {
            let mut value = 0;
            group.with_totals(snapshot, |totals| value = totals.mode_ns[0]);
            value
        };
        groups.all.iter().map(value).collect()
    }

    #[test]
    fn totals_are_summed_exactly() {
        let groups = groups(&[("a", &[0, 2]), ("b", &[1]), ("c", &[7, 8])]);
        assert_eq!(values(&groups, &snapshot(&[1, 20, 300], &[])), [301, 20, 0]);
    }

    #[test]
    fn single_cpu_series_disappear_offline_but_sums_keep_their_total() {
        let groups = groups(&[("a", &[0]), ("b", &[1, 2])]);
        assert_eq!(values(&groups, &snapshot(&[1, 20, 300], &[0, 1])), [0, 320]);
        assert_eq!(values(&groups, &snapshot(&[1, 20, 300], &[0, 1, 2])), [0, 320]);
    }

    #[test]
    fn a_series_continues_when_a_cpu_joins_or_leaves_it() {
        let old = groups(&[("a", &[0, 1]), ("b", &[2])]);
        let now = snapshot(&[10, 200, 3_000], &[]);
        let moved = after(&[("a", &[0]), ("b", &[1, 2])], &old, &now);
        assert_eq!(values(&moved, &now), [210, 3_000]);
        // From here on, CPU 1 counts for `b`.
        let later = snapshot(&[11, 205, 3_000], &[]);
        assert_eq!(values(&moved, &later), [211, 3_005]);
        let back = after(&[("a", &[0, 1]), ("b", &[2])], &moved, &later);
        assert_eq!(values(&back, &snapshot(&[11, 207, 3_000], &[])), [213, 3_005]);
    }

    #[test]
    fn a_new_series_starts_with_what_its_cpus_added_to_series_that_end() {
        let old = groups(&[("a", &[0, 1]), ("b", &[2])]);
        let now = snapshot(&[10, 200, 3_000], &[]);
        // All series are new: each has everything that its CPUs counted.
        let renamed = after(&[("c", &[0]), ("d", &[1, 2])], &old, &now);
        assert_eq!(values(&renamed, &now), [10, 3_200]);
        // `c` gets nothing that stays in `a`.
        let split = after(&[("a", &[0]), ("c", &[1, 2])], &old, &now);
        assert_eq!(values(&split, &now), [210, 3_000]);
        // A CPU takes along only its time since then.
        let later = snapshot(&[10, 207, 3_000], &[]);
        let parted = after(&[("a", &[0]), ("d", &[1]), ("e", &[2])], &split, &later);
        assert_eq!(values(&parted, &later), [210, 7, 3_000]);
    }

    #[test]
    fn a_cpu_that_was_in_no_series_brings_its_past_to_a_new_one_only() {
        let now = snapshot(&[10, 200, 3_000], &[]);
        let shown = after(&[("a", &[0, 1]), ("c", &[2])], &groups(&[("a", &[0])]), &now);
        assert_eq!(values(&shown, &now), [10, 3_000]);
    }

    #[test]
    fn a_cpu_that_left_every_series_brings_what_it_counted_since() {
        let now = snapshot(&[10, 200], &[]);
        let left = after(&[("a", &[0])], &groups(&[("a", &[0, 1])]), &now);
        let later = snapshot(&[10, 207], &[]);
        let back = after(&[("a", &[0]), ("c", &[1])], &left, &later);
        assert_eq!(values(&back, &later), [210, 7]);
    }

    #[test]
    fn a_series_that_returns_continues() {
        let old = groups(&[("a", &[0, 1]), ("b", &[2])]);
        let now = snapshot(&[10, 200, 3_000], &[]);
        let renamed = after(&[("c", &[0, 1, 2])], &old, &now);
        let later = snapshot(&[11, 205, 3_000], &[]);
        // Undoing the change restores both series, with everything counted since.
        let same = after(&[("a", &[0, 1]), ("b", &[2])], &renamed, &later);
        assert_eq!(values(&same, &later), [216, 3_000]);
        // With other CPUs that would be a jump: they continue from their last values.
        let other = after(&[("a", &[0]), ("b", &[1, 2])], &renamed, &later);
        assert_eq!(values(&other, &later), [210, 3_000]);
        assert_eq!(values(&other, &snapshot(&[12, 208, 3_000], &[])), [211, 3_003]);
    }

    #[test]
    fn a_series_that_returns_includes_what_cpus_had_added_that_left() {
        let now = snapshot(&[10, 200], &[]);
        let left = after(&[("a", &[0])], &groups(&[("a", &[0, 1])]), &now);
        let renamed = after(&[("c", &[0])], &left, &now);
        let back = after(&[("a", &[0])], &renamed, &snapshot(&[13, 200], &[]));
        assert_eq!(values(&back, &snapshot(&[14, 207], &[])), [214]);
    }

    #[test]
    fn only_the_last_retired_series_are_remembered() {
        let now = snapshot(&[10, 200], &[]);
        let name = |round: u32| -> &'static str { round.to_string().leak() };
        let mut last = groups(&[]);
        for round in 0..1_000 {
            last = after(&[(name(round), &[0])], &last, &now);
        }
        assert_eq!((last.retired.len(), last.offsets.len()), (MIN_RETIRED, 0));
        assert_eq!(values(&last, &now), [10]);
        // With another CPU, remembered series continue and forgotten ones start over.
        let begun = |name| values(&after(&[(name, &[1])], &last, &now), &now);
        assert_eq!([begun("935"), begun("998")], [[10], [10]]);
        assert_eq!([begun("0"), begun("934")], [[200], [200]]);
    }

    #[test]
    fn no_series_decreases_or_jumps_however_cpus_are_regrouped() {
        // In each round each of four CPUs is in one of three series, or in none.
        let mut state = 7_u64;
        let mut any = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        let mut times = [100, 20_000, 3_000_000, 400_000_000];
        let mut old = groups(&[]);
        // By name: its last value, and the times of the CPUs at that point.
        let mut seen: BTreeMap<&str, (u64, [u64; 4])> = BTreeMap::new();
        for round in 0..20_000 {
            let names = times.map(|_| any(4));
            let of = |name| (0..4).filter(|cpu| names[*cpu as usize] == name).collect::<Vec<u32>>();
            let parts =
                ["a", "b", "c"].into_iter().zip(1..).map(|(name, number)| (name, of(number)));
            let parts: Vec<_> = parts.filter(|(_, cpus)| !cpus.is_empty()).collect();
            let parts: Vec<(&'static str, &[u32])> =
                parts.iter().map(|(name, cpus)| (*name, cpus.as_slice())).collect();
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
                seen.insert(*name, (value, grown));
            }
            (times, old) = (grown, new);
        }
    }
}
