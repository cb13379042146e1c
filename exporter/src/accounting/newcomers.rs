//! Cgroups that have no name yet. Their time is in `other` meanwhile; what no scrape has shown there can
//! still move to their set.

use std::collections::BTreeSet;

use sched_exporter_ebpf::{CgroupTotals, Counters as _};

use super::CgroupReading;

/// What is known of cgroups before they are named.
#[derive(Clone, Debug)]
pub(super) struct Newcomers {
    /// When a scrape showed `other` last, or when accounting began.
    pub(super) shown_at: u64,
    /// What that scrape showed of each cgroup, ascending by serial number.
    shown: Vec<(u64, CgroupTotals)>,
    /// Cgroups that will have a name soon, even if they are removed first.
    pub(super) awaited: BTreeSet<u64>,
    /// The cgroups that the current event has named, ascending by serial number, with what stays in `other`.
    pub(super) named: Vec<(u64, CgroupTotals)>,
}

impl Newcomers {
    pub(super) const fn new(now: u64) -> Self {
        let awaited = BTreeSet::new();
        Self { shown_at: now, shown: Vec::new(), awaited, named: Vec::new() }
    }

    /// Notes what a scrape shows of each cgroup. `unnamed` ascends by serial number.
    pub(super) fn show(&mut self, now: u64, unnamed: Vec<(u64, CgroupTotals)>) {
        self.shown_at = now;
        self.shown = unnamed;
    }

    /// What the last scrape has shown of each cgroup.
    pub(super) fn shown(&self) -> &[(u64, CgroupTotals)] {
        &self.shown
    }

    /// Takes a cgroup that had been taken for removed. What it has used so far stays in `other`.
    pub(super) fn revive(&mut self, reading: &CgroupReading) {
        self.leave(reading.serial);
        let index = self.shown.partition_point(|(serial, _)| *serial < reading.serial);
        self.shown.insert(index, (reading.serial, reading.totals));
    }

    /// Names a cgroup in the current event. Call it in ascending order of serial numbers.
    pub(super) fn name(&mut self, reading: &CgroupReading) {
        let shown = self.leave(reading.serial);
        // A guard: a set that counted less than nothing would show almost 2^64.
        let stays = if reading.totals.is_at_least(&shown) { shown } else { reading.totals };
        self.named.push((reading.serial, stays));
    }

    /// Forgets a cgroup that is named, or removed. Returns what a scrape has shown of it.
    pub(super) fn leave(&mut self, serial: u64) -> CgroupTotals {
        let index = find(&self.shown, serial);
        index.map_or(CgroupTotals::ZERO, |index| self.shown.remove(index).1)
    }

    /// What a cgroup has used before its set counts it.
    pub(super) fn counted<'t>(&'t self, reading: &'t CgroupReading) -> &'t CgroupTotals {
        find(&self.named, reading.serial).map_or(&reading.totals, |index| &self.named[index].1)
    }
}

/// The index of a serial number in an ascending list.
fn find(totals: &[(u64, CgroupTotals)], serial: u64) -> Option<usize> {
    totals.binary_search_by_key(&serial, |(serial, _)| *serial).ok()
}
