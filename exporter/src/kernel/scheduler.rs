//! Loads, attaches, seeds and reads the kernel program.

use std::{
    os::fd::AsFd as _,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Map, MapData},
    programs::{BtfTracePoint, tp_btf::BtfTracePointLink},
};
use nix::time::{ClockId, clock_gettime};
use sched_exporter_ebpf::{CpuRecord, HOOK, LOG_LEVEL, MAP};

use crate::{
    accounting::{self, Feature, Snapshot},
    cpu::list::{self, Online},
    kernel::{constants, freeze::freeze, layout::Layout, mapped::Mapped, program_log::ProgramLog, seed, verifier::refused},
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

/// How many times to retake a snapshot that was interrupted for too long.
const SNAPSHOT_ATTEMPTS: u32 = 10;

/// How long start-up waits for CPUs that have not switched yet.
const SEED_TIMEOUT: Duration = Duration::from_secs(1);

/// Size of the log's ring buffer while the log is off; aya rounds it up to one page.
const LOG_BUFFER_BYTES_OFF: u32 = 4_096;

/// The attached kernel program. Dropping it detaches it.
///
/// Of the kernel's objects it keeps open only the link, which can only be closed. The map of records is
/// frozen and mapped read-only. The descriptors of the program, the maps and the BTF are closed once it is
/// attached.
pub struct Scheduler {
    /// Keeps the program attached, and the program its maps.
    _link: BtfTracePointLink,
    /// The record of each CPU number.
    records: Mapped<CpuRecord>,
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
    /// Loads the program with `layout` and attaches it; `log` turns on the program's log. Accounting of
    /// a CPU starts at its first switch, which [`Scheduler::seed`] causes. Leaves no thread running.
    pub fn attach(layout: Layout, log: bool) -> Result<Self, LoadError> {
        let possible = list::possible()?;
        let cpus = possible.last().map_or(0, |last| last + 1);
        let mut ebpf = load(&layout, cpus, log)?;
        let records = records(&mut ebpf, cpus)?;
        let log = log.then(|| ProgramLog::open(&mut ebpf)).transpose().map_err(LoadError::Log)?;
        let program = program(&mut ebpf)?;
        let btf = Btf::from_sys_fs().map_err(LoadError::Btf)?;
        program.load(HOOK, &btf).map_err(refused)?;
        drop(btf);
        let attached_at = monotonic_ns().map_err(LoadError::Clock)?;
        let link = program.attach().map_err(LoadError::Attach)?;
        let link = program.take_link(link).map_err(LoadError::Attach)?;
        drop(ebpf);
        Ok(Self {
            _link: link,
            records,
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

    /// Takes a snapshot; also returns how many nanoseconds the latest record is ahead of it.
    fn attempt(&self) -> Result<(Snapshot, u64), ReadError> {
        let taken_at = monotonic_ns()? - CLOCK_MARGIN_NS;
        let online = self.online.read()?;
        let mut pending = self.possible.clone();
        let mut cpus = Vec::with_capacity(online.len());
        let mut offline = Vec::new();
        let mut latest = taken_at;
        for attempt in 0..READ_ATTEMPTS {
            if attempt >= IMMEDIATE_ATTEMPTS {
                std::thread::sleep(RETRY_PAUSE);
            }
            pending.retain(|&id| {
                let record = self.read(id);
                if !accounting::is_whole(&record) {
                    return true;
                }
                let cpu = accounting::close_open_interval(id, &record, taken_at, self.attached_at);
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
                return Ok((Snapshot { taken_at, cpus, offline }, latest - taken_at));
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
        let is_seeded = |record: &&CpuRecord| record.open != 0 && accounting::is_whole(record);
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

fn load(layout: &Layout, cpus: u32, log: bool) -> Result<Ebpf, LoadError> {
    let mut object = OBJECT.to_vec();
    constants::set(&mut object, &layout.globals).map_err(LoadError::Constants)?;
    let mut loader = EbpfLoader::new();
    let log_level: u8 = if log { u8::MAX } else { 0 };
    loader.map_max_entries(MAP, cpus);
    loader.override_global(LOG_LEVEL, &log_level, true);
    if !log {
        loader.map_max_entries("AYA_LOGS", LOG_BUFFER_BYTES_OFF);
    }
    loader.load(&object).map_err(LoadError::Object)
}

/// Maps the records, which from now on only the kernel program can write. Memory that is mapped for writing
/// cannot be frozen, and a frozen map cannot be mapped for writing.
/// <https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/syscall.c>, `bpf_map_mmap`.
fn records(ebpf: &mut Ebpf, cpus: u32) -> Result<Mapped<CpuRecord>, LoadError> {
    let Some(Map::Array(records)) = ebpf.map(MAP) else {
        return Err(LoadError::Incomplete("map"));
    };
    let descriptor = MapData::fd(records).as_fd();
    freeze(descriptor).map_err(LoadError::Freeze)?;
    Mapped::new(descriptor, cpus as usize).map_err(LoadError::Map)
}

fn program(ebpf: &mut Ebpf) -> Result<&mut BtfTracePoint, LoadError> {
    let program = ebpf.program_mut(HOOK).and_then(|program| program.try_into().ok());
    program.ok_or(LoadError::Incomplete("program"))
}

/// Nanoseconds of `CLOCK_MONOTONIC`, the clock of `bpf_ktime_get_ns`.
/// <https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/helpers.c>, `bpf_ktime_get_ns`.
pub fn monotonic_ns() -> Result<u64, nix::Error> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    Ok(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}
