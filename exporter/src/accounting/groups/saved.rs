//! Groups as they are saved for the next process.

use std::{hash::Hash, sync::Arc};

use sched_exporter_ebpf::Totals;
use serde::{Deserialize, Serialize};

use super::{Group, Groups, Retired};
use crate::accounting::{continuity::Carried, saved::Words};

/// What must be known of groups to continue them.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedGroups<L> {
    all: Vec<SavedGroup<L>>,
    offsets: Vec<(u32, Words)>,
    retired: Vec<SavedRetired<L>>,
}

/// Labels, CPUs, and what is carried.
#[derive(Debug, Serialize, Deserialize)]
struct SavedGroup<L>(L, Vec<u32>, Words);

/// Labels, CPUs, the past, and the last value.
#[derive(Debug, Serialize, Deserialize)]
struct SavedRetired<L>(L, Vec<u32>, Words, Words);

impl<L> Groups<L> {
    /// What to save. Retired series may be left out if there is no room for them: those that return then start
    /// over.
    pub fn saved(&self, with_retired: bool) -> SavedGroups<&L> {
        let all = self.all.iter().map(|group| {
            SavedGroup(&group.labels, group.cpus.clone(), Words::of(group.carried.as_ref()))
        });
        let retired = self.retired.iter().filter(|_| with_retired).map(|it| {
            SavedRetired(&it.labels, it.cpus.clone(), Words::of(&it.past), Words::of(&it.totals))
        });
        SavedGroups {
            all: all.collect(),
            offsets: self.offsets.iter().map(|(cpu, offset)| (*cpu, Words::of(offset))).collect(),
            retired: retired.collect(),
        }
    }
}

impl<L: Clone + Eq + Hash> SavedGroups<L> {
    /// The groups that were saved, to be [continued from](Groups::continue_from); `None` if they are not what
    /// this version saves.
    pub fn restore(self) -> Option<Groups<L>> {
        let all = self.all.into_iter().map(|SavedGroup(labels, cpus, carried)| {
            let mut group = Group { labels, cpus, carried: Carried::default() };
            let carried: Totals = carried.read()?;
            group.carried.add(&carried);
            Some(group)
        });
        let offsets = self.offsets.into_iter().map(|(cpu, offset)| Some((cpu, offset.read()?)));
        let retired = self.retired.into_iter().map(|SavedRetired(labels, cpus, past, totals)| {
            let (past, totals) = (past.read()?, totals.read()?);
            Some(Arc::new(Retired { labels, cpus, past, totals }))
        });
        Some(Groups {
            all: all.collect::<Option<_>>()?,
            offsets: offsets.collect::<Option<_>>()?,
            retired: retired.collect::<Option<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use sched_exporter_ebpf::Counters as _;

    use super::*;
    use crate::accounting::{Cpu, Snapshot};

    type Groups = super::Groups<String>;

    fn snapshot(idle_ns: &[u64]) -> Snapshot {
        let cpu = |(id, ns): (u32, &u64)| {
            let mut totals = Totals::ZERO;
            totals.mode_ns[0] = *ns;
            Cpu { id, totals: Some(totals), unattributed_ns: 0 }
        };
        Snapshot { cpus: (0..).zip(idle_ns).map(cpu).collect(), ..Snapshot::default() }
    }

    fn groups(groups: &[(&str, &[u32])]) -> Groups {
        Groups::new(groups.iter().map(|(name, cpus)| ((*name).to_owned(), cpus.to_vec())))
    }

    #[test]
    fn groups_are_what_they_were() {
        let now = snapshot(&[10, 200, 3_000]);
        let mut moved = groups(&[("a", &[0]), ("b", &[1, 2])]);
        moved.continue_from(&groups(&[("a", &[0, 1]), ("b", &[2])]), &now);
        let mut renamed = groups(&[("c", &[0]), ("b", &[1, 2])]);
        renamed.continue_from(&moved, &now);
        let text = serde_json::to_string(&renamed.saved(true)).unwrap();
        let saved: SavedGroups<String> = serde_json::from_str(&text).unwrap();
        assert_eq!(saved.restore().unwrap(), renamed);
        let text = serde_json::to_string(&renamed.saved(false)).unwrap();
        let saved: SavedGroups<String> = serde_json::from_str(&text).unwrap();
        let without = Groups { retired: Vec::new(), ..renamed };
        assert_eq!(saved.restore().unwrap(), without);
    }
}
