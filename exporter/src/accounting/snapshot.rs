//! A reading of every CPU's record at one instant, including the open interval: plain data, and the
//! pure functions that derive it from records.

use sched_exporter_ebpf::{CpuRecord, Totals};

use super::CgroupsSnapshot;

/// The totals of all CPUs at one instant.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The instant, in nanoseconds of `CLOCK_MONOTONIC`.
    pub taken_at: u64,
    /// The online CPUs, ascending.
    pub cpus: Vec<Cpu>,
    /// The CPUs that have been online but are offline at the instant, ascending. Sums over CPUs include
    /// them, since a sum must not decrease when a CPU goes offline.
    pub offline: Vec<Cpu>,
    /// The cgroups, at the same instant; `None` if they are not accounted for.
    pub cgroups: Option<CgroupsSnapshot>,
}

impl Snapshot {
    /// The totals of a CPU, online or not; `None` before its first switch.
    pub fn totals(&self, id: u32) -> Option<&Totals> {
        find(&self.cpus, id).or_else(|| find(&self.offline, id))?.totals.as_ref()
    }

    /// Whether a CPU is online.
    pub fn is_online(&self, id: u32) -> bool {
        find(&self.cpus, id).is_some()
    }
}

/// Finds a CPU in an ascending list.
fn find(cpus: &[Cpu], id: u32) -> Option<&Cpu> {
    let index = cpus.binary_search_by_key(&id, |cpu| cpu.id).ok()?;
    Some(&cpus[index])
}

/// One CPU at the instant of its snapshot.
#[derive(Clone, Debug)]
pub struct Cpu {
    /// The kernel's number of the CPU.
    pub id: u32,
    /// Its totals, with the open interval; `None` before its first switch.
    pub totals: Option<Totals>,
    /// Nanoseconds since attach that are charged to no mode: before the CPU's first switch, and while
    /// it was offline. Together with the modes they add up to the time since attach.
    pub unattributed_ns: u64,
}

impl Cpu {
    /// Marks the CPU offline: all time up to `now` that is in no mode is unattributed.
    #[must_use]
    pub fn offline(self, now: u64, attached_at: u64) -> Self {
        let modes = self.totals.iter().flat_map(|totals| totals.mode_ns).sum();
        Self { unattributed_ns: now.saturating_sub(attached_at).saturating_sub(modes), ..self }
    }
}

/// The order in which a CPU's stores are seen by others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stores {
    /// That of the program.
    InOrder,
    /// Any. So the kernel program keeps sums, which show words of different writes.
    Reordered,
}

/// Whether a copy of a record is whole: no write was in progress, and its parts agree. The other
/// checks catch tears that the first misses on machines that reorder stores.
pub fn is_whole(record: &CpuRecord, stores: Stores) -> bool {
    let (since, _) = CpuRecord::open(record.open);
    let mode_ns = &record.totals.mode_ns;
    let accounted = mode_ns.iter().fold(record.offline_ns, |sum, ns| sum.wrapping_add(*ns));
    let is_of_one_write =
        record.check == record.checksum() && record.cgroups.sum == record.cgroups.checksum();
    record.done == record.started
        && (is_of_one_write || stores == Stores::InOrder)
        && accounted == since.wrapping_sub(record.seeded_at)
}

/// Computes a CPU's state at the instant `now` from a record that was copied after `now` was read.
///
/// Charges the open interval to its mode up to `now`. An interval that began after `now` adds nothing:
/// the record's totals then already include all time up to its start. An interval in which the CPU may
/// be offline adds at most [`CpuRecord::STOPPER_NS`]. So no later snapshot shows less in any mode, and
/// no counter goes back between scrapes.
///
/// For example, a record whose modes sum to 50 ns and whose open interval began at 150 in mode `fair`
/// gives, at `now` = 175, 25 ns more of `fair`; at `now` = 149, nothing more.
pub fn close_open_interval(id: u32, record: &CpuRecord, now: u64, attached_at: u64) -> Cpu {
    if record.open == 0 {
        return Cpu { id, totals: None, unattributed_ns: now.saturating_sub(attached_at) };
    }
    let (since, mode) = CpuRecord::open(record.open);
    let may_be_offline = record.open & CpuRecord::MAY_GO_OFFLINE != 0;
    let max_ns = if may_be_offline { CpuRecord::STOPPER_NS } else { u64::MAX };
    let mut totals = record.totals;
    let mode_ns = usize::try_from(mode).ok().and_then(|mode| totals.mode_ns.get_mut(mode));
    if let Some(mode_ns) = mode_ns {
        *mode_ns += now.saturating_sub(since).min(max_ns);
    }
    let unattributed_ns = record.seeded_at.saturating_sub(attached_at) + record.offline_ns;
    Cpu { id, totals: Some(totals), unattributed_ns }
}

#[cfg(test)]
mod tests {
    use sched_exporter_ebpf::Mode;

    use super::*;

    fn record(seeded_at: u64, since: u64, mode: Mode, idle_ns: u64, fair_ns: u64) -> CpuRecord {
        let mut record = CpuRecord {
            seeded_at,
            open: CpuRecord::pack_open(since, mode as u64),
            done: 7,
            started: 7,
            ..CpuRecord::ZERO
        };
        record.totals.mode_ns[Mode::Idle as usize] = idle_ns;
        record.totals.mode_ns[Mode::Fair as usize] = fair_ns;
        record.check = record.checksum();
        record
    }

    #[test]
    fn the_open_interval_is_charged_to_its_mode() {
        let cpu = close_open_interval(3, &record(100, 150, Mode::Fair, 30, 20), 175, 90);
        let totals = cpu.totals.unwrap();
        assert_eq!(totals.mode_ns[Mode::Idle as usize], 30);
        assert_eq!(totals.mode_ns[Mode::Fair as usize], 45);
        assert_eq!(cpu.unattributed_ns, 10);
        assert_eq!(totals.mode_ns.iter().sum::<u64>() + cpu.unattributed_ns, 175 - 90);
    }

    #[test]
    fn an_interval_that_began_after_the_clock_reading_adds_nothing() {
        let totals =
            close_open_interval(0, &record(100, 150, Mode::Fair, 30, 20), 149, 90).totals.unwrap();
        assert_eq!(totals.mode_ns.iter().sum::<u64>(), 50);
    }

    #[test]
    fn an_open_interval_of_the_stopper_is_charged_only_up_to_its_limit() {
        let mut record = record(100, 150, Mode::Kthread, 30, 20);
        record.open |= CpuRecord::MAY_GO_OFFLINE;
        record.check = record.checksum();
        assert!(is_whole(&record, Stores::Reordered));
        let kthread = |now| {
            close_open_interval(0, &record, now, 100).totals.unwrap().mode_ns
                [Mode::Kthread as usize]
        };
        assert_eq!(kthread(175), 25);
        assert_eq!(kthread(150 + CpuRecord::STOPPER_NS), CpuRecord::STOPPER_NS);
        assert_eq!(kthread(900_000_000_000), CpuRecord::STOPPER_NS);
    }

    #[test]
    fn before_its_first_switch_all_time_of_a_cpu_is_unattributed() {
        let cpu = close_open_interval(0, &CpuRecord::ZERO, 500, 90);
        assert!(cpu.totals.is_none());
        assert_eq!(cpu.unattributed_ns, 410);
    }

    #[test]
    fn offline_time_is_unattributed() {
        let mut record = record(100, 200, Mode::Idle, 60, 0);
        record.offline_ns = 40;
        assert!(is_whole(&record, Stores::Reordered));
        assert_eq!(close_open_interval(0, &record, 200, 100).unattributed_ns, 40);
    }

    #[test]
    fn time_of_an_offline_cpu_outside_all_modes_is_unattributed() {
        let cpu =
            close_open_interval(3, &record(100, 150, Mode::Fair, 30, 20), 150, 90).offline(900, 90);
        assert_eq!(cpu.unattributed_ns, 900 - 90 - 50);
    }

    #[test]
    fn a_record_with_a_write_in_progress_is_not_whole() {
        let whole = record(100, 150, Mode::Fair, 30, 20);
        assert!(is_whole(&whole, Stores::Reordered));
        assert!(is_whole(&CpuRecord::ZERO, Stores::Reordered));
        assert!(!is_whole(&CpuRecord { started: 8, ..whole }, Stores::InOrder));
    }

    #[test]
    fn a_record_whose_parts_disagree_is_not_whole() {
        let whole = record(100, 150, Mode::Fair, 30, 20);
        let mut other = CpuRecord { open: CpuRecord::pack_open(151, 2), ..whole };
        other.check = other.checksum();
        assert!(!is_whole(&other, Stores::Reordered));
        other = whole;
        other.cgroups.current += 1;
        assert!(!is_whole(&other, Stores::Reordered));
        other.cgroups.sum = other.cgroups.checksum();
        assert!(!is_whole(&other, Stores::Reordered));
        other.check = other.checksum();
        assert!(is_whole(&other, Stores::Reordered));
    }
}
