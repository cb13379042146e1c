//! Start-up time and memory of the exporter and its peers, kernel memory of the exporter's maps,
//! and the size of the shipped binary.

use std::{collections::BTreeMap, env, fs};

use anyhow::{Context as _, Result};
use sched_exporter::cpu::list::possible;
use sched_exporter_tests::{bpf, fdinfo::Info};

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
`/-/ready`. Steady memory is measured after 1,000 scrapes, for peers after 200. Kernel memory is
what the kernel reports for the exporter's maps; for 64 CPUs, the part per possible CPU is
multiplied.";

const KIB_PER_MIB: f64 = 1_024.0;
const BYTES_PER_KIB: f64 = 1_024.0;

/// A process that has been scraped; memory in MiB.
struct Held {
    startup_ms: f64,
    peak: f64,
    steady: f64,
    /// The maps of its BPF programs, by number.
    maps: BTreeMap<u32, Info>,
}

/// A program to start.
#[derive(Clone, Copy)]
enum Started<'p> {
    Exporter,
    Peer(&'p Peer),
}

/// Starts the exporter and its peers repeatedly.
pub(crate) fn measure(effort: Effort, peers: &Peers) -> Result<Group> {
    let mut daemons = vec![Started::Exporter];
    daemons.extend(peers.exporters().map(Started::Peer));
    let held = in_turn(&daemons, effort.choose(9, 3), |daemon| match daemon {
        Started::Exporter => hold(&Daemon::start()?, 1_000),
        Started::Peer(peer) => hold(&Daemon::start_peer(peer)?, 200),
    })?;
    let mut group = Group::new("Start and memory", NOTE);
    for (daemon, rounds) in daemons.iter().zip(&held) {
        let of = |value: fn(&Held) -> f64| Summary::of(rounds.iter().map(value));
        let row = |what: &str, unit, summary| {
            let what = match daemon {
                Started::Exporter => what.to_owned(),
                Started::Peer(peer) => format!("{}: {what}", peer.name),
            };
            Row::new(what, unit, summary)
        };
        group.push(row("start-up", Unit::Ms, of(|held| held.startup_ms)));
        group.push(row("resident memory, peak", Unit::Mib, of(|held| held.peak)));
        let steady = row("resident memory, steady", Unit::Mib, of(|held| held.steady));
        let is_peer = matches!(daemon, Started::Peer(_));
        group.push(if is_peer { steady } else { steady.at_most(12.0) });
    }
    // `ARCH=PATH` of each binary built by `cargo xtask bench`.
    let releases = env::var("SCHED_EXPORTER_RELEASES").unwrap_or_default();
    for (arch, path) in releases.split(' ').filter_map(|release| release.split_once('=')) {
        let bytes = fs::read(path)?.len();
        let size = Summary::of([number(bytes) / BYTES_PER_KIB / KIB_PER_MIB]);
        group.push(Row::new(format!("binary, {arch}: size"), Unit::Mib, size));
    }
    let mut here = 0.0;
    let mut on_64 = 0.0;
    for map in held[0].last().iter().flat_map(|held| held.maps.values()) {
        let (bytes, for_each) = map_bytes(map)?;
        here += bytes;
        on_64 += bytes + for_each * (64.0 - possible_cpus()?);
    }
    let kib = |bytes: f64| Summary::of([bytes / BYTES_PER_KIB]);
    let maps = |of, bytes| {
        Row::new(format!("kernel memory of the exporter's maps, {of}"), Unit::Kib, kib(bytes))
    };
    group.push(maps("here", here));
    group.push(maps("64 CPUs", on_64).at_most(KIB_PER_MIB));
    Ok(group)
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
        maps: bpf::maps(&daemon.pid().to_string())?,
    })
}

/// A line of `/proc/PID/status`.
fn resident_mib(pid: u32, name: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib: f64 = line
        .and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
        .with_context(|| format!("/proc/{pid}/status has no {name}"))?;
    Ok(kib / KIB_PER_MIB)
}

/// Bytes of a map, and the part of them that there is for each possible CPU.
fn map_bytes(map: &Info) -> Result<(f64, f64)> {
    /// <https://elixir.bootlin.com/linux/v6.12.107/source/include/uapi/linux/bpf.h#L984>
    const PER_CPU_ARRAY: f64 = 6.0;
    let get = |key| -> Result<f64> {
        let value = map.get(key).with_context(|| format!("the kernel does not report {key}"))?;
        value.parse().with_context(|| format!("{key} `{value}`"))
    };
    let bytes = get("memlock")?;
    let per_cpu = get("map_type")? == PER_CPU_ARRAY;
    let value = (get("value_size")? / 8.0).ceil() * 8.0;
    Ok((bytes, if per_cpu { value * get("max_entries")? } else { 0.0 }))
}

/// Number of possible CPUs, each of which has a part of every per-CPU map.
fn possible_cpus() -> Result<f64> {
    let cpus = possible()?;
    Ok(number(cpus.len()))
}
