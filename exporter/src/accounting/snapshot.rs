//! One reading of every CPU's record, with the interval that is still open added: plain data, and
//! the pure rule that makes it. Nothing here touches the kernel.

use sched_exporter_ebpf::{CpuRecord, Mode, Reason, WAIT_BUCKETS};

/// The scheduler's time on the online CPUs, at one instant.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The instant described, in nanoseconds of `CLOCK_MONOTONIC`.
    pub taken_at: u64,
    /// The online CPUs, ascending.
    pub cpus: Vec<Cpu>,
    /// CPUs that have been online and are not now, ascending: sums of several CPUs must not lose
    /// what these have had.
    pub offline: Vec<Cpu>,
}

impl Snapshot {
    /// The times of a CPU, online or not; none where it has had no switch yet.
    pub fn times(&self, id: u32) -> Option<&Times> {
        let find = |cpus: &'_ [Cpu]| cpus.binary_search_by_key(&id, |cpu| cpu.id).ok();
        let cpu = match find(&self.cpus) {
            Some(index) => &self.cpus[index],
            None => &self.offline[find(&self.offline)?],
        };
        cpu.times.as_ref()
    }

    /// Whether a CPU is online.
    pub fn is_online(&self, id: u32) -> bool {
        self.cpus.binary_search_by_key(&id, |cpu| cpu.id).is_ok()
    }
}

/// One CPU at the instant of its snapshot. Times are nanoseconds.
#[derive(Clone, Debug)]
pub struct Cpu {
    /// The kernel's number of the CPU.
    pub id: u32,
    /// What accounting has found; none before the CPU's first switch.
    pub times: Option<Times>,
    /// Time since attach that is charged to no mode: before the CPU's first switch, and while it
    /// was offline. With the sum of the modes it makes the time since attach.
    pub unattributed_ns: u64,
}

impl Cpu {
    /// The CPU as one that is offline: what is no mode's is unattributed up to now.
    #[must_use]
    pub fn offline(self, now: u64, attached_at: u64) -> Self {
        let modes = self.times.iter().flat_map(|times| times.mode_ns).sum();
        Self { unattributed_ns: now.saturating_sub(attached_at).saturating_sub(modes), ..self }
    }
}

/// Time, switches and waits of a CPU since its first switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Times {
    /// Time by [`Mode`], the open interval included.
    pub mode_ns: [u64; Mode::ALL.len()],
    /// Switches by [`Reason`].
    pub switches: [u64; Reason::ALL.len()],
    /// Switches that the kernel's hook did not report.
    pub missed_switches: u64,
    /// Sum of run-queue waits.
    pub wait_ns: u64,
    /// Run-queue waits by length, as in [`CpuRecord::wait_buckets`].
    pub wait_buckets: [u64; WAIT_BUCKETS],
}

impl Times {
    /// No time, no switch, no wait.
    pub const ZERO: Self = Self {
        mode_ns: [0; _],
        switches: [0; _],
        missed_switches: 0,
        wait_ns: 0,
        wait_buckets: [0; _],
    };

    /// Adds others, modulo 2^64.
    pub fn add(&mut self, other: &Self) {
        self.each(other, u64::wrapping_add);
    }

    /// Takes others away, modulo 2^64.
    pub fn subtract(&mut self, other: &Self) {
        self.each(other, u64::wrapping_sub);
    }

    /// Whether no number is below that of `other`.
    pub fn is_at_least(&self, other: &Self) -> bool {
        let no_less = |numbers: &[u64], others: &[u64]| {
            numbers.iter().zip(others).all(|(number, other)| number >= other)
        };
        no_less(&self.mode_ns, &other.mode_ns)
            && no_less(&self.switches, &other.switches)
            && no_less(&self.wait_buckets, &other.wait_buckets)
            && self.missed_switches >= other.missed_switches
            && self.wait_ns >= other.wait_ns
    }

    fn each(&mut self, other: &Self, operation: impl Fn(u64, u64) -> u64) {
        let each = |numbers: &mut [u64], others: &[u64]| {
            for (number, other) in numbers.iter_mut().zip(others) {
                *number = operation(*number, *other);
            }
        };
        each(&mut self.mode_ns, &other.mode_ns);
        each(&mut self.switches, &other.switches);
        each(&mut self.wait_buckets, &other.wait_buckets);
        self.missed_switches = operation(self.missed_switches, other.missed_switches);
        self.wait_ns = operation(self.wait_ns, other.wait_ns);
    }
}

/// Whether a copy of a record is whole: no write was under way, and its parts agree. The second
/// half catches what the first can't on a machine that reorders stores.
pub fn is_whole(record: &CpuRecord) -> bool {
    let (since, _) = CpuRecord::open(record.open);
    let accounted = record.mode_ns.iter().fold(record.offline_ns, |sum, ns| sum.wrapping_add(*ns));
    record.done == record.started && accounted == since.wrapping_sub(record.seeded_at)
}

/// A CPU at the instant `now`, from a record that was copied after `now` was taken.
///
/// The open interval is charged to its mode up to `now`. An interval that began later adds nothing:
/// then the record already holds all time up to its start. One in which the CPU may have gone
/// offline adds only what is the stopper's in either case. So no later snapshot can show less in
/// any mode, and no scrape sees a counter go back.
pub fn close_open_interval(id: u32, record: &CpuRecord, now: u64, attached_at: u64) -> Cpu {
    if record.open == 0 {
        return Cpu { id, times: None, unattributed_ns: now.saturating_sub(attached_at) };
    }
    let (since, mode) = CpuRecord::open(record.open);
    let may_be_offline = record.open & CpuRecord::MAY_GO_OFFLINE != 0;
    let most_ns = if may_be_offline { CpuRecord::STOPPER_NS } else { u64::MAX };
    let open_ns = now.saturating_sub(since).min(most_ns);
    let mut mode_ns = record.mode_ns;
    if let Some(ns) = usize::try_from(mode).ok().and_then(|mode| mode_ns.get_mut(mode)) {
        *ns += open_ns;
    }
    Cpu {
        id,
        times: Some(Times {
            mode_ns,
            switches: record.switches,
            missed_switches: record.missed,
            wait_ns: record.wait_ns,
            wait_buckets: record.wait_buckets,
        }),
        unattributed_ns: record.seeded_at.saturating_sub(attached_at) + record.offline_ns,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(seeded_at: u64, since: u64, mode: Mode, idle_ns: u64, fair_ns: u64) -> CpuRecord {
        let mut record = CpuRecord {
            seeded_at,
            open: CpuRecord::pack_open(since, mode as u64),
            done: 7,
            started: 7,
            ..CpuRecord::ZERO
        };
        record.mode_ns[Mode::Idle as usize] = idle_ns;
        record.mode_ns[Mode::Fair as usize] = fair_ns;
        record
    }

    #[test]
    fn the_open_interval_is_charged_to_its_mode() {
        let cpu = close_open_interval(3, &record(100, 150, Mode::Fair, 30, 20), 175, 90);
        let times = cpu.times.unwrap();
        assert_eq!(times.mode_ns[Mode::Idle as usize], 30);
        assert_eq!(times.mode_ns[Mode::Fair as usize], 45);
        assert_eq!(cpu.unattributed_ns, 10);
        assert_eq!(times.mode_ns.iter().sum::<u64>() + cpu.unattributed_ns, 175 - 90);
    }

    #[test]
    fn an_interval_that_began_after_the_clock_was_read_adds_nothing() {
        let times =
            close_open_interval(0, &record(100, 150, Mode::Fair, 30, 20), 149, 90).times.unwrap();
        assert_eq!(times.mode_ns.iter().sum::<u64>(), 50);
    }

    #[test]
    fn an_interval_in_which_the_cpu_may_have_gone_offline_is_charged_as_far_as_it_is_certain() {
        let mut record = record(100, 150, Mode::Kthread, 30, 20);
        record.open |= CpuRecord::MAY_GO_OFFLINE;
        assert!(is_whole(&record));
        let kthread = |now| {
            close_open_interval(0, &record, now, 100).times.unwrap().mode_ns[Mode::Kthread as usize]
        };
        assert_eq!(kthread(175), 25);
        assert_eq!(kthread(150 + CpuRecord::STOPPER_NS), CpuRecord::STOPPER_NS);
        assert_eq!(kthread(900_000_000_000), CpuRecord::STOPPER_NS);
    }

    #[test]
    fn a_cpu_without_a_switch_has_no_times_and_all_of_it_is_unattributed() {
        let cpu = close_open_interval(0, &CpuRecord::ZERO, 500, 90);
        assert!(cpu.times.is_none());
        assert_eq!(cpu.unattributed_ns, 410);
    }

    #[test]
    fn offline_time_is_unattributed() {
        let mut record = record(100, 200, Mode::Idle, 60, 0);
        record.offline_ns = 40;
        assert!(is_whole(&record));
        assert_eq!(close_open_interval(0, &record, 200, 100).unattributed_ns, 40);
    }

    #[test]
    fn an_offline_cpu_has_no_mode() {
        let cpu =
            close_open_interval(3, &record(100, 150, Mode::Fair, 30, 20), 150, 90).offline(900, 90);
        assert_eq!(cpu.unattributed_ns, 900 - 90 - 50);
    }

    #[test]
    fn a_record_under_write_is_not_whole() {
        let whole = record(100, 150, Mode::Fair, 30, 20);
        assert!(is_whole(&whole));
        assert!(is_whole(&CpuRecord::ZERO));
        assert!(!is_whole(&CpuRecord { started: 8, ..whole }));
    }

    #[test]
    fn a_record_whose_parts_disagree_is_not_whole() {
        let whole = record(100, 150, Mode::Fair, 30, 20);
        assert!(!is_whole(&CpuRecord { open: CpuRecord::pack_open(151, 2), ..whole }));
    }
}
