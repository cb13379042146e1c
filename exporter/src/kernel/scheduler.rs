//! Loads, attaches, seeds and reads the kernel program.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::MapError,
    programs::{BtfTracePoint, tp_btf::BtfTracePointLink},
};
use nix::time::{ClockId, clock_gettime};
use sched_exporter_ebpf::{CgroupRow, CpuRecord, FIRST_SLOT, Global, HOOK, LOG_LEVEL, MAP};

use crate::{
    accounting::{self, CGROUPS, Collector, Feature, Memory, Snapshot, Stores},
    cpu::list::{self, Online},
    kernel::{
        births::CgroupBirths,
        cgroups::{self, CgroupEvents, CgroupMaps, SlotCounts},
        constants,
        layout::{Layout, STORES},
        mapped::Mapped,
        program_log::ProgramLog,
        seed, slots,
        verifier::refused,
    },
};

pub use crate::kernel::error::{LoadError, ReadError};

/// The kernel program, as `cargo xtask ebpf` builds it.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/sched.bpf.o"));

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

/// Size of the log's ring buffer while the log is off; aya rounds it up to one page.
const LOG_BUFFER_BYTES_OFF: u32 = 4_096;

/// The attached kernel program. Dropping it detaches it.
///
/// Of the kernel's objects it keeps open only the links, which can only be closed, and for cgroups the stack
/// of free slots and the ring buffers of events and births. The maps of counts are frozen and mapped read-only.
/// The descriptors of the programs, the other maps and the BTF are closed once it is attached.
pub struct Scheduler {
    /// Keep the programs attached, and the programs their maps.
    _links: Vec<BtfTracePointLink>,
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
    torn_reads: AtomicU64,
    features: Vec<Feature>,
}

impl Scheduler {
    /// Loads the program with `layout` and attaches it; `log` turns on the program's log. The maps for
    /// cgroups take at most `cgroup_memory` bytes; if no cgroup fits, that feature is off. Accounting of a
    /// CPU starts at its first switch, which [`Scheduler::seed`] causes. Leaves no thread running.
    pub fn attach(mut layout: Layout, cgroup_memory: u64, log: bool) -> Result<Self, LoadError> {
        let possible = list::possible()?;
        let cpus = possible.last().map_or(0, |last| last + 1);
        let slots = choose_slots(&mut layout, cgroup_memory, cpus);
        let has_removal_hook = layout.no_removal_hook.is_none();
        let has_birth_hook = layout.no_birth_hook.is_none();
        let mut ebpf = load(&layout, slots, cpus, log)?;
        let records = cgroups::map(cgroups::frozen(&ebpf, MAP)?, MAP, cpus as usize)?;
        let (mut cgroups, mut cgroup_events, mut cgroup_births) = (None, None, None);
        // First those of cgroups: none that has a slot may be removed unseen.
        let mut hooks = Vec::new();
        if slots > 0 {
            cgroups = Some(CgroupMaps::open(&mut ebpf, slots, cpus, has_removal_hook)?);
            cgroup_events = Some(CgroupEvents::open(&mut ebpf)?);
            cgroup_births = has_birth_hook.then(|| CgroupBirths::open(&mut ebpf)).transpose()?;
            hooks.clone_from(&layout.cgroup_hooks);
        }
        let log = log.then(|| ProgramLog::open(&mut ebpf)).transpose().map_err(LoadError::Log)?;
        let btf = Btf::from_sys_fs().map_err(LoadError::Btf)?;
        for hook in [&HOOK].into_iter().chain(&hooks) {
            load_program(&mut ebpf, hook, &btf)?;
        }
        drop(btf);
        let mut links = Vec::new();
        for hook in hooks {
            links.push(attach_program(&mut ebpf, hook)?);
        }
        let attached_at = monotonic_ns().map_err(LoadError::Clock)?;
        links.push(attach_program(&mut ebpf, HOOK)?);
        drop(ebpf);
        Ok(Self {
            _links: links,
            records,
            cgroups,
            cgroup_events,
            cgroup_births,
            no_removal_hook: layout.no_removal_hook,
            no_birth_hook: layout.no_birth_hook,
            log,
            possible,
            online: Online::open()?,
            attached_at,
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

    /// When the program was attached, in nanoseconds of `CLOCK_MONOTONIC`.
    pub fn attached_at(&self) -> u64 {
        self.attached_at
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

fn load(layout: &Layout, slots: u32, cpus: u32, log: bool) -> Result<Ebpf, LoadError> {
    let mut object = OBJECT.to_vec();
    constants::set(&mut object, &layout.globals).map_err(LoadError::Constants)?;
    let mut loader = EbpfLoader::new();
    let log_level: u8 = if log { u8::MAX } else { 0 };
    loader.map_max_entries(MAP, cpus);
    cgroups::set_sizes(&mut loader, slots, cpus);
    loader.override_global(LOG_LEVEL, &log_level, true);
    if !log {
        loader.map_max_entries("AYA_LOGS", LOG_BUFFER_BYTES_OFF);
    }
    loader.load(&object).map_err(LoadError::Object)
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut BtfTracePoint, LoadError> {
    let program = ebpf.program_mut(name).and_then(|program| program.try_into().ok());
    program.ok_or(LoadError::Incomplete(name))
}

/// Loads the program of a hook, whose name it has.
fn load_program(ebpf: &mut Ebpf, hook: &'static str, btf: &Btf) -> Result<(), LoadError> {
    program(ebpf, hook)?.load(hook, btf).map_err(|error| refused(hook, error))
}

/// Attaches a program that is loaded.
fn attach_program(ebpf: &mut Ebpf, hook: &'static str) -> Result<BtfTracePointLink, LoadError> {
    let program = program(ebpf, hook)?;
    let link = program.attach().and_then(|link| program.take_link(link));
    link.map_err(|source| LoadError::Attach { hook, source })
}

/// Nanoseconds of `CLOCK_MONOTONIC`, the clock of `bpf_ktime_get_ns`.
/// <https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/helpers.c>, `bpf_ktime_get_ns`.
pub fn monotonic_ns() -> Result<u64, nix::Error> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    Ok(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}
