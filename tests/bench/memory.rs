//! What the exporter takes to start, and what it holds: its own memory, and the kernel's for its
//! maps.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};
use sched_exporter::cpus::possible;
use sched_exporter_tests::fdinfo::{self, Info};

use crate::{
    Effort,
    daemon::Daemon,
    report::{Group, Row, Unit},
    summary::{Summary, ms, number},
};

const NOTE: &str = "\
Start-up is from the start of the process to its first answer on `/-/ready`, steady memory that
after 1,000 scrapes. The kernel's memory is what it states for the exporter's maps; for 64 CPUs the
part for each possible CPU is multiplied.";

const KIB_PER_MIB: f64 = 1_024.0;
const BYTES_PER_KIB: f64 = 1_024.0;

/// Starts the exporter over and over.
pub(crate) fn measure(effort: Effort) -> Result<Group> {
    const SCRAPES: usize = 1_000;
    let mut startup = Vec::new();
    let mut peak = Vec::new();
    let mut steady = Vec::new();
    let mut maps = BTreeMap::new();
    for _ in 0..effort.choose(9, 3) {
        let daemon = Daemon::start()?;
        startup.push(ms(daemon.startup));
        let mut connection = daemon.connect()?;
        for _ in 0..SCRAPES {
            connection.get("/metrics", "")?;
        }
        peak.push(resident_mib(daemon.pid(), "VmHWM")?);
        steady.push(resident_mib(daemon.pid(), "VmRSS")?);
        let open = fdinfo::of(&daemon.pid().to_string(), "map_id")?;
        maps = open.into_iter().map(|map| (map["map_id"].clone(), map)).collect();
    }
    let mut here = 0.0;
    let mut on_64 = 0.0;
    for map in maps.values() {
        let (bytes, for_each) = map_bytes(map)?;
        here += bytes;
        on_64 += bytes + for_each * (64.0 - possible_cpus()?);
    }
    let kib = |bytes: f64| Summary::of([bytes / BYTES_PER_KIB]);

    let mut group = Group::new("Start and memory", NOTE);
    let mut push = |what: &str, unit, summary, at_most: Option<f64>| {
        let row = Row::new(what.to_owned(), unit, summary);
        group.push(if let Some(most) = at_most { row.at_most(most) } else { row });
    };
    push("start-up", Unit::Ms, Summary::of(startup), None);
    push("resident memory, peak", Unit::Mib, Summary::of(peak), None);
    push("resident memory, steady", Unit::Mib, Summary::of(steady), Some(12.0));
    push("kernel memory of the maps, here", Unit::Kib, kib(here), None);
    push("kernel memory of the maps, 64 CPUs", Unit::Kib, kib(on_64), Some(KIB_PER_MIB));
    Ok(group)
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

/// Bytes of a map, and how many of them are for each possible CPU.
fn map_bytes(map: &Info) -> Result<(f64, f64)> {
    /// <https://elixir.bootlin.com/linux/v6.12.107/source/include/uapi/linux/bpf.h#L984>
    const PER_CPU_ARRAY: f64 = 6.0;
    let get = |key| -> Result<f64> {
        let value = map.get(key).with_context(|| format!("the kernel does not say {key}"))?;
        value.parse().with_context(|| format!("{key} `{value}`"))
    };
    let bytes = get("memlock")?;
    let per_cpu = get("map_type")? == PER_CPU_ARRAY;
    let value = (get("value_size")? / 8.0).ceil() * 8.0;
    Ok((bytes, if per_cpu { value * get("max_entries")? } else { 0.0 }))
}

/// CPUs that this kernel may have, each of which has its part of a per-CPU map.
fn possible_cpus() -> Result<f64> {
    let cpus = possible()?;
    Ok(number(cpus.len()))
}
