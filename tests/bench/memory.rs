//! Start-up time and memory of the exporter and its peers, kernel memory of the exporter's maps,
//! and the size of the shipped binary.

use std::{collections::BTreeMap, env, fs};

use anyhow::{Context as _, Result};
use sched_exporter::{cpu::list::possible, kernel::slots};
use sched_exporter_ebpf::{CGROUP_ROWS, FIRST_SLOT, MAP};
use sched_exporter_tests::{bpf, fdinfo::Info, kernel::CGROUP_MEMORY};

use crate::{
    Effort,
    daemon::Daemon,
    peers::{Peer, Peers},
    report::{Group, Row, Unit},
    rounds::in_turn,
    summary::{Summary, ms, number},
};

const NOTE: &str = "\
Start-up is the time from the start of the process to its first response, from the exporter on
`/-/ready`. Steady memory is measured after 1,000 scrapes, for peers after 200. The exporter maps the
kernel program's maps, and the kernel counts these pages as resident memory of the process, too;
\"of which mapped\" is their part. Kernel memory is what the kernel reports for the exporter's maps. For
64 CPUs, the part per CPU is multiplied, and that of cgroups is what the exporter computes: it has as many
slots as fit into `--ebpf.cgroup-memory`, whose default is 16 MiB, and at most 4,093.";

const KIB_PER_MIB: f64 = 1_024.0;
const BYTES_PER_KIB: f64 = 1_024.0;

/// A process that has been scraped; memory in MiB.
struct Held {
    startup_ms: f64,
    peak: f64,
    steady: f64,
    /// The part of `steady` that is maps of BPF programs.
    mapped: f64,
    /// The maps of its BPF programs, by number.
    maps: BTreeMap<u32, Info>,
}

/// A program to start.
#[derive(Clone, Copy)]
enum Started<'p> {
    Exporter,
    WithoutCgroups,
    Peer(&'p Peer),
}

impl Started<'_> {
    fn hold(self) -> Result<Held> {
        match self {
            Self::Exporter => hold(&Daemon::start()?, 1_000),
            Self::WithoutCgroups => hold(&Daemon::start_without_cgroups()?, 1_000),
            Self::Peer(peer) => hold(&Daemon::start_peer(peer)?, 200),
        }
    }

    /// A row of its figures.
    fn row(self, what: &str, unit: Unit, summary: Summary) -> Row {
        let what = match self {
            Self::Exporter => what.to_owned(),
            Self::WithoutCgroups => format!("without cgroups: {what}"),
            Self::Peer(peer) => format!("{}: {what}", peer.name),
        };
        Row::new(what, unit, summary)
    }
}

/// Starts the exporter and its peers repeatedly.
pub(crate) fn measure(effort: Effort, peers: &Peers) -> Result<Group> {
    let mut daemons = vec![Started::Exporter, Started::WithoutCgroups];
    daemons.extend(peers.exporters().map(Started::Peer));
    let held = in_turn(&daemons, effort.choose(9, 3), |daemon| daemon.hold())?;
    let mut group = Group::new("Start and memory", NOTE);
    for (daemon, rounds) in daemons.iter().zip(&held) {
        let of = |value: fn(&Held) -> f64| Summary::of(rounds.iter().map(value));
        let is_peer = matches!(daemon, Started::Peer(_));
        group.push(daemon.row("start-up", Unit::Ms, of(|held| held.startup_ms)));
        group.push(daemon.row("resident memory, peak", Unit::Mib, of(|held| held.peak)));
        let steady = daemon.row("resident memory, steady", Unit::Mib, of(|held| held.steady));
        group.push(if is_peer { steady } else { steady.at_most(12.0) });
        if !is_peer {
            let mapped = of(|held| held.mapped);
            group.push(daemon.row("resident memory, of which mapped", Unit::Mib, mapped));
        }
    }
    // `ARCH=PATH` of each binary built by `cargo xtask bench`.
    let releases = env::var("SCHED_EXPORTER_RELEASES").unwrap_or_default();
    for (arch, path) in releases.split(' ').filter_map(|release| release.split_once('=')) {
        let bytes = fs::read(path)?.len();
        let size = Summary::of([number(bytes) / BYTES_PER_KIB / KIB_PER_MIB]);
        group.push(Row::new(format!("binary, {arch}: size"), Unit::Mib, size));
    }
    for (daemon, rounds) in daemons.iter().zip(&held).take(2) {
        let Some(last) = rounds.last() else { continue };
        push_maps(&mut group, *daemon, &last.maps)?;
    }
    for cpus in [2, 64, 512] {
        let cgroups = slots::fitting(CGROUP_MEMORY, cpus) - FIRST_SLOT;
        let row = format!("cgroups that can have a slot, {cpus} CPUs");
        group.push(Row::new(row, Unit::Count, Summary::of([f64::from(cgroups)])));
    }
    Ok(group)
}

/// Adds rows about the kernel memory of an exporter's maps.
fn push_maps(group: &mut Group, daemon: Started<'_>, maps: &BTreeMap<u32, Info>) -> Result<()> {
    const CPUS: u32 = 64;
    let has_cgroups = matches!(daemon, Started::Exporter);
    let (mut here, mut of_cgroups, mut on_64, mut row_bytes) = (0.0, 0.0, 0.0, 0.0);
    for map in maps.values() {
        let bytes = field(map, "memlock")?;
        here += bytes;
        match map.get("name").context("a map without a name")?.as_str() {
            MAP => on_64 += bytes * f64::from(CPUS) / possible_cpus()?,
            name if name.starts_with("CGROUP_") => {
                of_cgroups += bytes;
                // Without cgroups, they are as small as can be.
                on_64 += if has_cgroups { 0.0 } else { bytes };
                row_bytes += if name == CGROUP_ROWS { field(map, "value_size")? } else { 0.0 };
            }
            _ => on_64 += bytes,
        }
    }
    let mut push = |what: &str, bytes: f64, most: Option<f64>| {
        let row = daemon.row(what, Unit::Kib, Summary::of([bytes / BYTES_PER_KIB]));
        group.push(match most {
            Some(most) => row.at_most(most),
            None => row,
        });
    };
    push("kernel memory of the exporter's maps, here", here, None);
    let most = if has_cgroups { 17.0 } else { 1.0 };
    if has_cgroups {
        push("kernel memory of the exporter's maps, here, of which for cgroups", of_cgroups, None);
        let slots = slots::fitting(CGROUP_MEMORY, CPUS);
        on_64 += f64::from(u32::try_from(slots::memory(slots, CPUS))?);
    }
    push("kernel memory of the exporter's maps, 64 CPUs", on_64, Some(most * KIB_PER_MIB));
    if has_cgroups {
        let what = "kernel memory for each CPU and slot".to_owned();
        group.push(Row::new(what, Unit::Bytes, Summary::of([row_bytes])).at_most(64.0));
    }
    Ok(())
}

/// Scrapes this many times, then reads memory and maps.
fn hold(daemon: &Daemon, scrapes: usize) -> Result<Held> {
    let mut connection = daemon.connect()?;
    for _ in 0..scrapes {
        connection.get("/metrics", "")?;
    }
    Ok(Held {
        startup_ms: ms(daemon.startup),
        peak: resident_mib(daemon.pid(), "VmHWM")?,
        steady: resident_mib(daemon.pid(), "VmRSS")?,
        mapped: mapped_mib(daemon.pid())?,
        maps: bpf::maps(&daemon.pid().to_string())?,
    })
}

/// A line of `/proc/PID/status`.
pub(crate) fn resident_mib(pid: u32, name: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with(name));
    line.and_then(mib).with_context(|| format!("/proc/{pid}/status has no {name}"))
}

/// Resident memory besides what is mapped from BPF maps.
pub(crate) fn unmapped_mib(daemon: &Daemon) -> Result<f64> {
    Ok(resident_mib(daemon.pid(), "VmRSS")? - mapped_mib(daemon.pid())?)
}

/// Resident memory that is mapped from BPF maps.
fn mapped_mib(pid: u32) -> Result<f64> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let mut is_map = false;
    let mut sum = 0.0;
    for line in smaps.lines() {
        // Each mapping begins with its addresses; then come lines of the form `Name: value`.
        let first = line.split_whitespace().next().unwrap_or_default();
        if !first.ends_with(':') {
            is_map = line.ends_with("bpf-map");
        } else if is_map && first == "Rss:" {
            sum += mib(line).with_context(|| format!("/proc/{pid}/smaps: {line}"))?;
        }
    }
    Ok(sum)
}

/// The value of a line of the form `Name: 1 kB`.
fn mib(line: &str) -> Option<f64> {
    let (_, value) = line.split_once(':')?;
    let kib: f64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib / KIB_PER_MIB)
}

/// A number that the kernel reports about a map.
fn field(map: &Info, name: &str) -> Result<f64> {
    let value = map.get(name).with_context(|| format!("the kernel does not report {name}"))?;
    value.parse().with_context(|| format!("{name} `{value}`"))
}

/// The CPU numbers, each of which has an entry in the map of records.
fn possible_cpus() -> Result<f64> {
    Ok(possible()?.last().map_or(0.0, |last| f64::from(last + 1)))
}
