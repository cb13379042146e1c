//! Loads, attaches, seeds and reads the kernel program.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use aya::{maps::MapError, programs::links::FdLink};
use nix::time::{ClockId, clock_gettime};
use sched_exporter_ebpf::{CgroupRow, CpuRecord, FIRST_SLOT, Global, MAP};

use crate::{
    accounting::{self, CGROUPS, Collector, Feature, Memory, Snapshot, Stores},
    cpu::list::{self, Online},
    kernel::{
        attach::{Attached, Plan, Start},
        births::CgroupBirths,
        cgroups::{self, CgroupEvents, CgroupMaps, SlotCounts},
        layout::{Layout, STORES},
        mapped::Mapped,
        pins::PinDirectory,
        program_log::ProgramLog,
        seed, slots,
        state::State,
    },
};

pub use crate::kernel::error::{LoadError, ReadError};

/// A snapshot describes an instant this long before its map read. While the kernel adjusts the clock,
/// the kernel program can read a time this far behind user space's; without the margin, a counter could
/// decrease.
/// <https://elixir.bootlin.com/linux/v6.12.107/source/kernel/time/timekeeping.c#L359>
const CLOCK_MARGIN_NS: u64 = 1_000;

/// How many times to retry a torn record before giving up. With a switch every 500 ns, a few percent of
/// reads are torn.
const READ_ATTEMPTS: u32 = 1_000;

/// The first retries are immediate; later ones pause this long, because the host of a virtual machine
/// may have preempted the CPU in the middle of a write.
const IMMEDIATE_ATTEMPTS: u32 = 100;
const RETRY_PAUSE: Duration = Duration::from_micros(100);

/// How far a record can be ahead of the snapshot's instant because a switch happened in between: a base
/// allowance, plus one per CPU read.
const MAX_AHEAD_NS: u64 = 50_000;
const MAX_AHEAD_NS_PER_CPU: u64 = 500;
/// Plus this for each row of a cgroup.
const MAX_AHEAD_NS_PER_ROW: u64 = 20;

/// How many times to retake a snapshot that was interrupted for too long.
const SNAPSHOT_ATTEMPTS: u32 = 10;

/// How long start-up waits for CPUs that have not switched yet.
const SEED_TIMEOUT: Duration = Duration::from_secs(1);

/// The attached kernel program. Dropping it detaches it, unless it is pinned.
///
/// Of the kernel's objects it keeps open only the links, which can only be closed, and for cgroups the stack
/// of free slots and the ring buffers of events and births. The maps of counts are frozen and mapped read-only.
/// The descriptors of the programs, the other maps and the BTF are closed once it is attached.
pub struct Scheduler {
    /// Keep the programs attached, and the programs their maps. Empty if they are pinned.
    _links: Vec<FdLink>,
    /// Keeps other processes from using the pins.
    _pins: Option<PinDirectory>,
    state: Option<Arc<State>>,
    start: Start,
    /// The record of each CPU number.
    records: Mapped<CpuRecord>,
    /// `None` if cgroups are not accounted for.
    cgroups: Option<CgroupMaps>,
    /// If cgroups are accounted for, and [`Scheduler::take_cgroup_events`] has not been called.
    cgroup_events: Option<CgroupEvents>,
    /// The same, if this kernel has the hooks.
    cgroup_births: Option<CgroupBirths>,
    no_removal_hook: Option<String>,
    no_birth_hook: Option<String>,
    /// The program's log, if it is on and [`Scheduler::take_log`] has not been called.
    log: Option<ProgramLog>,
    /// Ascending.
    possible: Vec<u32>,
    online: Online,
    /// On `CLOCK_MONOTONIC`, in nanoseconds.
    attached_at: u64,
    epoch_ns: u64,
    torn_reads: AtomicU64,
    features: Vec<Feature>,
}

impl Scheduler {
    /// Loads the program with `layout` and attaches it; `log` turns on the program's log. The maps for
    /// cgroups take at most `cgroup_memory` bytes; if no cgroup fits, that feature is off. With `pins`, the
    /// program outlives this process, and one that an earlier process has left there is used. Accounting of a
    /// CPU starts at its first switch, which [`Scheduler::seed`] causes. Leaves no thread running.
    pub fn attach(
        mut layout: Layout,
        cgroup_memory: u64,
        log: bool,
        pins: Option<PinDirectory>,
    ) -> Result<Self, LoadError> {
        let possible = list::possible()?;
        let cpus = possible.last().map_or(0, |last| last + 1);
        let slots = choose_slots(&mut layout, cgroup_memory, cpus);
        let has_removal_hook = layout.no_removal_hook.is_none();
        let has_birth_hook = layout.no_birth_hook.is_none();
        let attached = Plan::new(&layout, cpus, slots, log)?.attach(pins.as_ref())?;
        let Attached { mut maps, links, began_at, epoch_ns, log, state, start } = attached;
        let records = cgroups::map(maps.array_or_hash(MAP)?, MAP, cpus as usize)?;
        let (mut cgroups, mut cgroup_events, mut cgroup_births) = (None, None, None);
        if slots > 0 {
            let state = state.clone();
            cgroups = Some(CgroupMaps::open(&mut maps, slots, cpus, has_removal_hook, state)?);
            cgroup_events = Some(CgroupEvents::open(&mut maps)?);
            cgroup_births = has_birth_hook.then(|| CgroupBirths::open(&mut maps)).transpose()?;
        }
        Ok(Self {
            _links: links,
            _pins: pins,
            state,
            start,
            records,
            cgroups,
            cgroup_events,
            cgroup_births,
            no_removal_hook: layout.no_removal_hook,
            no_birth_hook: layout.no_birth_hook,
            log,
            possible,
            online: Online::open()?,
            attached_at: began_at,
            epoch_ns,
            torn_reads: AtomicU64::new(0),
            features: layout.features,
        })
    }

    /// Reads the time of every CPU at one instant.
    ///
    /// The order makes it exact: first the clock, then the list of online CPUs, then the records. A
    /// switch after the clock was read belongs to a later instant, which
    /// [`accounting::close_open_interval`] recognizes by the switch's time. A CPU listed as online was
    /// not offline at that instant. A record holds all time up to its last switch, so the snapshot is
    /// retaken if this process lost its CPU between reading the clock and the records.
    pub fn snapshot(&self) -> Result<Snapshot, ReadError> {
        let max_ahead_ns = MAX_AHEAD_NS + MAX_AHEAD_NS_PER_CPU * self.possible.len() as u64;
        let (mut best, mut least_ahead_ns) = self.attempt()?;
        for _ in 1..SNAPSHOT_ATTEMPTS {
            if least_ahead_ns <= max_ahead_ns {
                break;
            }
            let (snapshot, ahead_ns) = self.attempt()?;
            if ahead_ns < least_ahead_ns {
                (best, least_ahead_ns) = (snapshot, ahead_ns);
            }
        }
        Ok(best)
    }

    /// Takes a snapshot; also returns how many nanoseconds the latest record is ahead of it, beyond what
    /// reading the rows of cgroups takes.
    fn attempt(&self) -> Result<(Snapshot, u64), ReadError> {
        let taken_at = monotonic_ns()? - CLOCK_MARGIN_NS;
        let online = self.online.read()?;
        let mut pending = self.possible.clone();
        let mut cpus = Vec::with_capacity(online.len());
        let mut offline = Vec::new();
        let mut latest = taken_at;
        let mut rows = Vec::new();
        let (mut rows_read, mut refused) = (0, 0);
        let given_back = self.cgroups.as_ref().map(CgroupMaps::given_back);
        let mut collector =
            self.cgroups.as_ref().zip(given_back.as_ref()).map(|(maps, given_back)| {
                Collector::new(|slot| maps.meta(slot), given_back.serials())
            });
        for attempt in 0..READ_ATTEMPTS {
            if attempt >= IMMEDIATE_ATTEMPTS {
                std::thread::sleep(RETRY_PAUSE);
            }
            pending.retain(|&id| {
                let slots = self.cgroups.as_ref().map_or(0, CgroupMaps::slots);
                let Some(record) = accounting::read_cpu(self, id, slots, &mut rows) else {
                    return true;
                };
                let cpu = accounting::close_open_interval(id, &record, taken_at, self.attached_at);
                if let (Some(collector), Some(totals)) = (&mut collector, &cpu.totals) {
                    collector.add(&record, totals, &rows);
                    refused += record.cgroups.refused;
                    rows_read += rows.len() as u64;
                }
                if online.binary_search(&id).is_ok() {
                    latest = latest.max(CpuRecord::open(record.open).0);
                    cpus.push(cpu);
                } else if cpu.totals.is_some() {
                    offline.push(cpu.offline(taken_at, self.attached_at));
                }
                false
            });
            if pending.is_empty() {
                cpus.sort_unstable_by_key(|cpu| cpu.id);
                offline.sort_unstable_by_key(|cpu| cpu.id);
                let cgroups = collector.map(Collector::finish);
                if let (Some(maps), Some(cgroups)) = (&self.cgroups, &cgroups) {
                    let used = cgroups.cgroups.iter().filter(|cgroup| cgroup.serial != 0).count();
                    maps.counted(used, refused);
                }
                let ahead_ns = (latest - taken_at).saturating_sub(MAX_AHEAD_NS_PER_ROW * rows_read);
                return Ok((Snapshot { taken_at, cpus, offline, cgroups }, ahead_ns));
            }
            self.torn_reads.fetch_add(pending.len() as u64, Ordering::Relaxed);
        }
        Err(ReadError::Torn { cpu: pending[0], attempts: READ_ATTEMPTS })
    }

    /// Number of records read again because a switch on their CPU tore them.
    pub fn torn_reads(&self) -> u64 {
        self.torn_reads.load(Ordering::Relaxed)
    }

    /// All features, on or off.
    pub fn features(&self) -> &[Feature] {
        &self.features
    }

    /// The number of slots for cgroups, and how many are in use; `None` if cgroups are not accounted for.
    pub fn cgroup_slots(&self) -> Option<SlotCounts> {
        self.cgroups.as_ref().map(CgroupMaps::counts)
    }

    /// Gives back the slots of these cgroups, by serial number. Whatever else they use is counted as that
    /// of removed cgroups, so take a snapshot first, and do it only for removed cgroups: those that a
    /// snapshot shows as removed, or, without [`Scheduler::has_removal_hook`], those that no longer exist.
    pub fn free_cgroups(&self, serials: &[u64]) -> Result<(), MapError> {
        self.cgroups.as_ref().map_or(Ok(()), |maps| maps.free(serials))
    }

    /// Whether the kernel program sees when cgroups are removed. Without it, snapshots show no cgroup as
    /// removed, and no event tells of it.
    pub fn has_removal_hook(&self) -> bool {
        self.no_removal_hook.is_none()
    }

    /// Why the kernel program does not see when cgroups are removed.
    pub fn no_removal_hook(&self) -> Option<&str> {
        self.no_removal_hook.as_deref()
    }

    /// Why the kernel program does not see when cgroups are created.
    pub fn no_birth_hook(&self) -> Option<&str> {
        self.no_birth_hook.as_deref()
    }

    /// Takes the births of cgroups; `None` if cgroups are not accounted for, if this kernel lacks the hooks,
    /// or if they were taken before.
    pub fn take_cgroup_births(&mut self) -> Option<CgroupBirths> {
        self.cgroup_births.take()
    }

    /// Takes the events of cgroups that appear or are removed; `None` if cgroups are not accounted for, or if
    /// they were taken before.
    pub fn take_cgroup_events(&mut self) -> Option<CgroupEvents> {
        self.cgroup_events.take()
    }

    /// Fails if this process lacks a capability that it needs after attaching.
    pub fn probe(&self) -> Result<(), MapError> {
        self.cgroups.as_ref().map_or(Ok(()), CgroupMaps::probe)
    }

    /// When the counts began, in nanoseconds of `CLOCK_MONOTONIC`.
    pub fn attached_at(&self) -> u64 {
        self.attached_at
    }

    /// The zero of `CLOCK_MONOTONIC` when the counts began, in nanoseconds since the epoch. It stays what it is
    /// while the wall clock is adjusted.
    pub fn epoch_ns(&self) -> u64 {
        self.epoch_ns
    }

    /// Where to save what user space counts, with pins.
    pub fn state(&self) -> Option<&Arc<State>> {
        self.state.as_ref()
    }

    /// How accounting has started.
    pub fn start(&self) -> &Start {
        &self.start
    }

    /// Takes the kernel program's log; `None` if it is off, or was taken before.
    pub fn take_log(&mut self) -> Option<ProgramLog> {
        self.log.take()
    }

    /// Copies the record of a CPU, which a switch may tear.
    fn read(&self, cpu: u32) -> CpuRecord {
        self.records.copy(cpu as usize).unwrap_or(CpuRecord::ZERO)
    }

    /// Makes every online CPU switch tasks. A CPU that does not switch within a second is logged, and
    /// counted from its first switch.
    ///
    /// Fails if the clock of this process differs from the kernel program's.
    pub fn seed(&self) -> Result<(), ReadError> {
        let deadline = Instant::now() + SEED_TIMEOUT;
        let unseeded = || -> Result<Vec<u32>, ReadError> {
            let mut cpus = self.online.read()?;
            cpus.retain(|&cpu| self.read(cpu).open == 0);
            Ok(cpus)
        };
        seed::visit(&unseeded()?);
        let late = loop {
            let unseeded = unseeded()?;
            if unseeded.is_empty() || Instant::now() >= deadline {
                break unseeded;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        let records: Vec<_> = self.possible.iter().map(|cpu| self.read(*cpu)).collect();
        let now = monotonic_ns()?;
        // A CPU may be in the middle of its first switch.
        let is_seeded =
            |record: &&CpuRecord| record.open != 0 && accounting::is_whole(record, STORES);
        let mut seeded = records.iter().filter(is_seeded);
        let since_attach = self.attached_at - CLOCK_MARGIN_NS..=now;
        if seeded.any(|record| !since_attach.contains(&record.seeded_at)) {
            return Err(ReadError::OtherClock);
        }
        if !late.is_empty() {
            tracing::warn!(
                cpus = ?late,
                "no context switch within {SEED_TIMEOUT:?}; these CPUs are counted from their first one"
            );
        }
        Ok(())
    }
}

impl Memory for Scheduler {
    fn record(&self, cpu: u32) -> CpuRecord {
        self.read(cpu)
    }

    fn stores(&self) -> Stores {
        STORES
    }

    fn row(&self, cpu: u32, slot: usize) -> CgroupRow {
        self.cgroups.as_ref().map_or(CgroupRow::ZERO, |maps| maps.row(cpu, slot))
    }
}

/// Sets the number of slots for cgroups, and turns the feature off if there are none.
fn choose_slots(layout: &mut Layout, cgroup_memory: u64, cpus: u32) -> u32 {
    if !accounting::is_on(&layout.features, CGROUPS) {
        return 0;
    }
    let slots = slots::fitting(cgroup_memory, cpus);
    layout.globals.push((Global::CgroupSlots, slots));
    if slots == 0 {
        let least = slots::memory(FIRST_SLOT + 1, cpus);
        let reason = format!("--ebpf.cgroup-memory={cgroup_memory} is less than {least} bytes");
        layout.turn_off(CGROUPS, Global::CountCgroups, &reason);
    }
    slots
}

/// Nanoseconds of `CLOCK_MONOTONIC`, the clock of `bpf_ktime_get_ns`.
/// <https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/helpers.c>, `bpf_ktime_get_ns`.
pub fn monotonic_ns() -> Result<u64, nix::Error> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    Ok(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}
