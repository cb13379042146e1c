//! The kernel program's maps of a machine larger than this one: synthetic, in files that are mapped as the
//! kernel's maps are, and read by the exporter's own code.

use std::{os::fd::AsFd as _, os::unix::fs::FileExt as _, ptr, slice};

use sched_exporter::{
    accounting::{Collector, Memory, Snapshot, Stores, close_open_interval, read_cpu},
    kernel::{
        layout::STORES,
        mapped::{Mapped, Value},
    },
};
use sched_exporter_ebpf::{
    CgroupMeta, CgroupRow, CgroupState, CgroupTotals, Counters as _, CpuRecord, FIRST_SLOT, Mode,
};

use crate::rendering::{MONTH_NS, Numbers};

/// When CPUs switched tasks for the first time. Zero means that a CPU has not.
const SEEDED_AT: u64 = 1;

/// The instant of snapshots, after the start of every open interval.
const NOW: u64 = 3 * MONTH_NS;

/// The maps of a machine on which every cgroup has run on every CPU.
pub struct Maps {
    cpus: u32,
    slots: usize,
    records: Mapped<CpuRecord>,
    rows: Mapped<CgroupRow>,
    meta: Mapped<CgroupMeta>,
}

impl Maps {
    /// Makes the maps of a machine with this number of CPUs and cgroups.
    pub fn of(cpus: u32, cgroups: usize) -> Self {
        let slots = FIRST_SLOT as usize + cgroups;
        let mut numbers = Numbers::default();
        let (mut records, mut rows) = (Vec::new(), Vec::new());
        for cpu in 0..cpus {
            let first = rows.len();
            rows.extend((0..slots).map(|slot| row(slot, slots as u64, &mut numbers)));
            records.push(record(cpu, &rows[first..], &mut numbers));
        }
        let meta: Vec<_> = (0..slots).map(meta).collect();
        Self { cpus, slots, records: map(&records), rows: map(&rows), meta: map(&meta) }
    }

    /// Reads them, as the exporter does at a scrape.
    pub fn snapshot(&self) -> Snapshot {
        let mut rows = Vec::new();
        let mut collector = Collector::new(|slot| self.meta.copy(slot).unwrap(), &[]);
        let cpus = (0..self.cpus).map(|id| {
            let record = read_cpu(self, id, self.slots, &mut rows).unwrap();
            let cpu = close_open_interval(id, &record, NOW, 0);
            collector.add(&record, cpu.totals.as_ref().unwrap(), &rows);
            cpu
        });
        let cpus = cpus.collect();
        let cgroups = Some(collector.finish());
        Snapshot { taken_at: NOW, cpus, offline: Vec::new(), cgroups }
    }
}

impl Memory for Maps {
    fn record(&self, cpu: u32) -> CpuRecord {
        self.records.copy(cpu as usize).unwrap()
    }

    fn row(&self, cpu: u32, slot: usize) -> CgroupRow {
        self.rows.copy(cpu as usize * self.slots + slot).unwrap()
    }

    fn stores(&self) -> Stores {
        STORES
    }
}

/// Serial number of the cgroup with a slot.
const fn serial(slot: usize) -> u64 {
    if slot < FIRST_SLOT as usize { 0 } else { slot as u64 }
}

fn meta(slot: usize) -> CgroupMeta {
    let (serial, id) = (serial(slot), serial(slot));
    CgroupMeta { serial, id, removed: 0, hierarchy: 0, check: CgroupMeta::check(serial, id) }
}

/// A row with its share of the counts of a CPU in a month.
fn row(slot: usize, slots: u64, numbers: &mut Numbers) -> CgroupRow {
    let totals = CgroupTotals {
        cpu_ns: numbers.below(MONTH_NS / slots),
        wait_ns: numbers.below(MONTH_NS / slots),
        waits: numbers.below(10_000_000_000 / slots),
        voluntary: numbers.below(10_000_000_000 / slots),
        preempted: numbers.below(10_000_000_000 / slots),
    };
    let mut row = CgroupRow { serial: serial(slot), totals, ..CgroupRow::ZERO };
    row.check = row.checksum();
    row
}

/// The record of a CPU with these rows.
fn record(cpu: u32, rows: &[CgroupRow], numbers: &mut Numbers) -> CpuRecord {
    let mut record = CpuRecord { seeded_at: SEEDED_AT, ..CpuRecord::ZERO };
    let cgroups = &mut record.cgroups;
    for row in rows {
        cgroups.poured.add(&row.totals);
    }
    let last = rows.len() - 1;
    cgroups.last_slot = last as u64;
    cgroups.base = u64::from(cpu) * rows.len() as u64;
    cgroups.waits = cgroups.poured.waits;
    cgroups.current = CgroupState::pack(rows[last].serial, u32::try_from(last).unwrap());
    cgroups.sum = cgroups.checksum();
    let poured = cgroups.poured;
    let totals = &mut record.totals;
    *totals = numbers.totals();
    totals.mode_ns = [0; Mode::ALL.len()];
    totals.mode_ns[Mode::Idle as usize] = numbers.below(MONTH_NS);
    totals.mode_ns[Mode::Fair as usize] = poured.cpu_ns;
    totals.wait_ns = poured.wait_ns;
    totals.switches[..2].copy_from_slice(&[poured.voluntary, poured.preempted]);
    let since = SEEDED_AT + totals.mode_ns.iter().sum::<u64>();
    record.open = CpuRecord::pack_open(since, Mode::Fair as u64);
    record.check = record.checksum();
    record
}

/// Maps an array with these values.
fn map<T: Value>(values: &[T]) -> Mapped<T> {
    let file = tempfile::tempfile().unwrap();
    let entry = size_of::<T::Entry>();
    file.set_len((entry * values.len()) as u64).unwrap();
    for (index, value) in values.iter().enumerate() {
        file.write_all_at(bytes(value), (index * entry) as u64).unwrap();
    }
    Mapped::new(file.as_fd(), values.len()).unwrap()
}

const fn bytes<T: Value>(value: &T) -> &[u8] {
    // SAFETY: a `Value` consists of integers, without padding.
    unsafe { slice::from_raw_parts(ptr::from_ref(value).cast(), size_of::<T>()) }
}
