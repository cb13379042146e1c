//! What each cgroup used, at the instant of a snapshot.

use sched_exporter_ebpf::{
    CgroupMeta, CgroupRow, CgroupState, CgroupTotals, Counters, CpuRecord, FIRST_SLOT, Reason,
    SLOT_OTHER, SLOT_REMOVED, SLOT_ROOT, Totals,
};

/// The cgroups at one instant: that of the [`Snapshot`](super::Snapshot) which holds this. The CPU time of
/// all, with `other` and `removed`, is the sum of the busy modes of all CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupsSnapshot {
    /// The cgroups that have a slot, ascending by serial number.
    pub cgroups: Vec<CgroupReading>,
    /// What cgroups used that found no slot.
    pub other: CgroupTotals,
    /// What cgroups used that are removed and have given back their slot.
    pub removed: CgroupTotals,
}

/// One cgroup at the instant of its snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupReading {
    /// The serial number, which no other cgroup ever has. The root of the unified hierarchy has 0.
    pub serial: u64,
    /// The inode number of the cgroup's directory.
    pub id: u64,
    /// Whether it is removed. Tasks that are ending can still add to its totals until it gives back its
    /// slot; what they use later is in [`CgroupsSnapshot::removed`].
    pub is_removed: bool,
    /// What it used, with the open interval of each CPU.
    pub totals: CgroupTotals,
}

/// The inode number of the directory of a hierarchy's root.
/// <https://github.com/torvalds/linux/blob/v6.12/fs/kernfs/dir.c>, `__kernfs_new_node`.
const ROOT_ID: u64 = 1;

/// Adds up the rows of one CPU after another.
pub struct Collector<'a, M> {
    meta: M,
    /// By slot, the serial number of the owner that has given it back last.
    given_back: &'a [u64],
    /// By slot.
    owners: Vec<Owner>,
    root: CgroupTotals,
    other: CgroupTotals,
    removed: CgroupTotals,
}

/// The owner of a slot.
struct Owner {
    serial: u64,
    totals: CgroupTotals,
}

impl<'a, M: Fn(usize) -> CgroupMeta> Collector<'a, M> {
    /// Collects for the owners that `meta` names. It is asked again whenever the answer may have changed.
    pub fn new(meta: M, given_back: &'a [u64]) -> Self {
        let none = CgroupTotals::ZERO;
        Self { meta, given_back, owners: Vec::new(), root: none, other: none, removed: none }
    }

    /// Adds the rows of a CPU, by slot, and what was counted since the last of them was written: the
    /// difference between `totals`, which include the open interval, and the record.
    pub fn add(&mut self, record: &CpuRecord, totals: &Totals, rows: &[CgroupRow]) {
        self.look_up_owners(rows.len());
        for (slot, row) in rows.iter().enumerate() {
            let owner = &mut self.owners[slot];
            if row.serial != 0 && row.serial == owner.serial {
                owner.totals.add(&row.totals);
            } else {
                self.add_row(slot, row.serial, &row.totals);
            }
        }
        let (serial, slot) = CgroupState::unpack(record.cgroups.current);
        let mut stretch = counted(record, totals);
        stretch.subtract(&record.cgroups.poured);
        self.add_row(slot as usize, serial, &stretch);
    }

    fn add_row(&mut self, slot: usize, serial: u64, totals: &CgroupTotals) {
        match u32::try_from(slot) {
            Ok(SLOT_ROOT) => self.root.add(totals),
            Ok(SLOT_OTHER) => self.other.add(totals),
            // A row that nobody has used yet is empty.
            Ok(SLOT_REMOVED) => self.removed.add(totals),
            Ok(FIRST_SLOT..) if serial != 0 => self.add_owned(slot, serial, totals),
            _ => self.removed.add(totals),
        }
    }

    /// Looks up the owners of the first slots, except those that are known.
    fn look_up_owners(&mut self, slots: usize) {
        for slot in self.owners.len()..slots {
            let serial = if slot < FIRST_SLOT as usize { 0 } else { (self.meta)(slot).serial };
            self.owners.push(Owner { serial, totals: CgroupTotals::ZERO });
        }
    }

    fn add_owned(&mut self, slot: usize, serial: u64, totals: &CgroupTotals) {
        self.look_up_owners(slot + 1);
        let owner = &mut self.owners[slot];
        if owner.serial != serial {
            if (self.meta)(slot).serial != serial {
                self.removed.add(totals);
                return;
            }
            // The slot has a new owner since it was looked up.
            let former = std::mem::replace(owner, Owner { serial, totals: CgroupTotals::ZERO });
            self.removed.add(&former.totals);
        }
        owner.totals.add(totals);
    }

    /// The result. Asks last which cgroups are removed: the totals of those are of a later instant.
    pub fn finish(mut self) -> CgroupsSnapshot {
        let mut cgroups = Vec::with_capacity(self.owners.len() + 1);
        if self.root != CgroupTotals::ZERO {
            let totals = self.root;
            cgroups.push(CgroupReading { serial: 0, id: ROOT_ID, is_removed: false, totals });
        }
        for (slot, Owner { serial, totals }) in self.owners.into_iter().enumerate() {
            if serial == 0 {
                continue;
            }
            let meta = (self.meta)(slot);
            if meta.serial != serial || self.given_back.get(slot) == Some(&serial) {
                self.removed.add(&totals);
                continue;
            }
            let is_removed = meta.removed == meta.id;
            cgroups.push(CgroupReading { serial, id: meta.id, is_removed, totals });
        }
        // While two CPUs take a slot for the same cgroup, both slots can name it.
        cgroups.sort_by_key(|cgroup| cgroup.serial);
        cgroups.dedup_by(|second, first| {
            let is_same = second.serial == first.serial;
            if is_same {
                first.totals.add(&second.totals);
            }
            is_same
        });
        CgroupsSnapshot { cgroups, other: self.other, removed: self.removed }
    }
}

/// What all cgroups together have used of a CPU, by its `totals`.
pub(super) fn counted(record: &CpuRecord, totals: &Totals) -> CgroupTotals {
    let [_idle, busy @ ..] = &totals.mode_ns;
    CgroupTotals {
        cpu_ns: busy.iter().sum(),
        wait_ns: totals.wait_ns,
        waits: record.cgroups.waits,
        voluntary: totals.switches[Reason::Voluntary as usize],
        preempted: totals.switches[Reason::Preempted as usize],
    }
}

#[cfg(test)]
mod tests {
    use sched_exporter_ebpf::Mode;

    use super::*;

    fn used(cpu_ns: u64) -> CgroupTotals {
        CgroupTotals { cpu_ns, wait_ns: cpu_ns * 2, waits: 3, voluntary: 4, preempted: 5 }
    }

    fn row(serial: u64, cpu_ns: u64) -> CgroupRow {
        CgroupRow { serial, totals: used(cpu_ns), ..CgroupRow::ZERO }
    }

    fn owned(serial: u64, id: u64, removed: u64) -> CgroupMeta {
        let check = CgroupMeta::check(serial, id);
        CgroupMeta { serial, id, removed, hierarchy: 0, check }
    }

    /// A record in which all rows together have `poured`, and then `since` of `serial` in `slot`.
    fn record(poured: u64, rows: u64, slot: u32, serial: u64, since: u64) -> (CpuRecord, Totals) {
        let mut record = CpuRecord::ZERO;
        record.cgroups.poured = CgroupTotals {
            cpu_ns: poured,
            wait_ns: poured * 2,
            waits: rows * 3,
            voluntary: rows * 4,
            preempted: rows * 5,
        };
        record.cgroups.current = CgroupState::pack(serial, slot);
        record.cgroups.waits = record.cgroups.poured.waits + 1;
        let mut totals = record.totals;
        totals.mode_ns[Mode::Idle as usize] = 1_000_000;
        totals.mode_ns[Mode::Kthread as usize] = poured;
        totals.mode_ns[Mode::Fair as usize] = since;
        totals.wait_ns = record.cgroups.poured.wait_ns + 7;
        totals.switches = [record.cgroups.poured.voluntary, record.cgroups.poured.preempted, 9];
        (record, totals)
    }

    fn reading(serial: u64, id: u64, is_removed: bool, totals: CgroupTotals) -> CgroupReading {
        CgroupReading { serial, id, is_removed, totals }
    }

    #[test]
    fn rows_of_all_cpus_and_the_open_stretches_add_up() {
        let meta = [owned(70, 7, 0), owned(60, 6, 6), CgroupMeta::ZERO];
        let mut collector = Collector::new(|slot| meta[slot - 3], &[]);
        let unused = CgroupRow::ZERO;
        let rows = [row(0, 1), row(0, 20), row(0, 300), row(70, 4000), row(60, 50_000), unused];
        let (first, totals) = record(54_321, 5, 4, 60, 600_000);
        collector.add(&first, &totals, &rows);
        let (second, totals) = record(3, 1, 0, 0, 40);
        collector.add(&second, &totals, &[row(0, 3), unused, unused]);
        let result = collector.finish();
        let mut root = used(44);
        root.wait_ns = 2 + 6 + 7;
        root.waits = 3 + 3 + 1;
        root.voluntary *= 2;
        root.preempted *= 2;
        let mut sixth = used(650_000);
        sixth.wait_ns = 100_007;
        sixth.waits += 1;
        assert_eq!(
            result.cgroups,
            [
                reading(0, 1, false, root),
                reading(60, 6, true, sixth),
                reading(70, 7, false, used(4000))
            ]
        );
        assert_eq!((result.other, result.removed), (used(20), used(300)));
    }

    #[test]
    fn only_the_owner_of_a_slot_has_what_its_rows_have() {
        // Slot 3: its tag is that of a former owner. 4: the owner has given it back.
        let meta = [owned(70, 7, 0), owned(60, 6, 6)];
        let given_back = [0, 0, 0, 0, 60];
        let mut collector = Collector::new(|slot| meta[slot - 3], &given_back);
        let zero = CgroupRow::ZERO;
        let (record, totals) = record(3000, 2, 2, 9, 0);
        collector.add(&record, &totals, &[zero, zero, zero, row(50, 1000), row(60, 2000)]);
        let result = collector.finish();
        assert_eq!(result.cgroups, [reading(70, 7, false, CgroupTotals::ZERO)]);
        assert_eq!(result.removed.cpu_ns, 3000);
        // One more wait, which the record had after the last pour.
        assert_eq!((result.removed.waits, result.removed.wait_ns), (7, 6007));
    }

    #[test]
    fn a_slot_can_change_hands_while_it_is_read() {
        let owner = std::cell::Cell::new(owned(70, 7, 7));
        let mut collector =
            Collector::new(|slot| if slot == 3 { owner.get() } else { CgroupMeta::ZERO }, &[]);
        let zero = CgroupRow::ZERO;
        let (former, totals) = record(1000, 1, 0, 0, 0);
        collector.add(&former, &totals, &[zero, zero, zero, row(70, 1000)]);
        owner.set(owned(90, 9, 0));
        let (latter, totals) = record(200, 1, 0, 0, 0);
        collector.add(&latter, &totals, &[zero, zero, zero, row(90, 200)]);
        let result = collector.finish();
        assert_eq!(result.cgroups.last(), Some(&reading(90, 9, false, used(200))));
        assert_eq!(result.removed, used(1000));
    }
}
