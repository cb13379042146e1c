//! Reads a CPU's record and its rows while the kernel program keeps writing them, and checks that they
//! belong together.

use sched_exporter_ebpf::{CgroupRow, CgroupTotals, Counters, CpuRecord, FIRST_SLOT, JOURNAL};

use super::{Stores, cgroups::counted, is_whole};

/// The memory that the kernel program writes. A word is always whole. A copy can be torn, and on a CPU that
/// reorders stores, words written earlier can be seen later.
pub trait Memory {
    /// Copies the record of a CPU.
    fn record(&self, cpu: u32) -> CpuRecord;
    /// Copies the row of a CPU for a slot. Nothing that is copied later is older.
    fn row(&self, cpu: u32, slot: usize) -> CgroupRow;
    /// In which order it is seen.
    fn stores(&self) -> Stores;
}

/// Rows that are copied before the record is looked at again. The more, the fewer records are copied; but
/// copying them must take less time than the CPU needs for [`JOURNAL`] pours.
const CHUNK: usize = 512;

/// How many times to copy a torn record at once.
const RECORD_ATTEMPTS: usize = 8;

/// How many times to copy the rows again that were written in the meantime, after each chunk.
const ROUNDS: usize = 64;

/// Copies the record of a CPU, and into `rows` those of its `slots` that are in use, as of one instant.
/// `None` if they were written too fast, or do not belong together; try again.
///
/// A row is written only in a write of the record that notes it in the journal. So the rows that changed
/// between two copies of the record are copied again, until none has changed. A store that was seen too late
/// or too early would make a sum of the rows differ from the sum in the record.
pub fn read_cpu(
    memory: &impl Memory,
    cpu: u32,
    slots: usize,
    rows: &mut Vec<CgroupRow>,
) -> Option<CpuRecord> {
    rows.clear();
    let mut record = whole_record(memory, cpu)?;
    if slots == 0 || record.open == 0 {
        return Some(record);
    }
    while rows.len() < in_use(&record, slots) {
        let end = in_use(&record, slots).min(rows.len() + CHUNK);
        rows.extend((rows.len()..end).map(|slot| memory.row(cpu, slot)));
        record = catch_up(memory, cpu, record, rows)?;
    }
    belong_together(&record, rows, memory.stores()).then_some(record)
}

/// The number of rows that can have something in them.
fn in_use(record: &CpuRecord, slots: usize) -> usize {
    let last = usize::try_from(record.cgroups.last_slot).unwrap_or(usize::MAX);
    last.max(FIRST_SLOT as usize - 1).saturating_add(1).min(slots)
}

fn whole_record(memory: &impl Memory, cpu: u32) -> Option<CpuRecord> {
    (0..RECORD_ATTEMPTS)
        .map(|_| memory.record(cpu))
        .find(|record| is_whole(record, memory.stores()))
}

/// Copies the rows again that were written since `record` was copied, and returns the record that they
/// belong to.
fn catch_up(
    memory: &impl Memory,
    cpu: u32,
    mut record: CpuRecord,
    rows: &mut [CgroupRow],
) -> Option<CpuRecord> {
    for _ in 0..ROUNDS {
        let next = whole_record(memory, cpu)?;
        let (from, to) = (record.cgroups.pours, next.cgroups.pours);
        record = next;
        if to == from {
            return Some(record);
        }
        // One place may be that of a pour which has begun.
        if to.wrapping_sub(from) >= JOURNAL as u64 {
            return None;
        }
        for pour in from..to {
            let place = usize::try_from(pour).unwrap_or_default() % JOURNAL;
            let slot = record.cgroups.journal[place] as usize;
            // A row that is not copied yet will be copied later.
            if let Some(copy) = rows.get_mut(slot) {
                *copy = memory.row(cpu, slot);
            }
        }
    }
    None
}

/// Whether the words of each row are of one pour, the sums of the rows are those in the record, and the
/// record has not counted less than was poured.
fn belong_together(record: &CpuRecord, rows: &[CgroupRow], stores: Stores) -> bool {
    let mut sum = CgroupTotals::ZERO;
    for row in rows {
        if stores == Stores::Reordered && row.check != row.checksum() {
            return false;
        }
        sum.add(&row.totals);
    }
    let counted = counted(record, &record.totals);
    sum == record.cgroups.poured && counted.is_at_least(&record.cgroups.poured)
}

#[cfg(test)]
mod tests;
