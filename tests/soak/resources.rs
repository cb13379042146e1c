//! The resources that the exporter holds, which must not grow.

use std::{fmt, fs, time::Duration};

use anyhow::{Context as _, Result};
use nix::unistd::Pid;
use sched_exporter_tests::bpf;

use crate::invariant::Invariant;

/// Growth of resident memory that is no leak: heap pages first touched late.
const SLACK_KIB: u64 = 1_024;

/// Resources of the exporter at an instant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resources {
    /// Resident memory.
    pub(crate) rss_kib: u64,
    /// Open file descriptors.
    pub(crate) descriptors: u64,
    /// Threads.
    pub(crate) threads: u64,
    /// Memory of its BPF maps in bytes, by the kernel.
    pub(crate) map_bytes: u64,
}

impl Resources {
    pub(crate) fn of(process: Pid) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let number = |key: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            let number = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
            number.with_context(|| format!("/proc/{process}/status has no {key}"))
        };
        let mut map_bytes = 0;
        for map in bpf::maps(&process.to_string())?.values() {
            map_bytes += map["memlock"].parse::<u64>()?;
        }
        Ok(Self {
            rss_kib: number("VmRSS")?,
            descriptors: fs::read_dir(format!("/proc/{process}/fd"))?.count() as u64,
            threads: number("Threads")?,
            map_bytes,
        })
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rss_kib, descriptors, threads, map_bytes } = self;
        write!(
            f,
            "{rss_kib} KiB resident, {descriptors} descriptors, {threads} threads, \
             {map_bytes} bytes of maps"
        )
    }
}

/// Resources in the course of the soak.
pub(crate) struct Course {
    total: Duration,
    samples: Vec<(Duration, Resources)>,
}

impl Course {
    /// For a soak of duration `total`.
    pub(crate) const fn new(total: Duration) -> Self {
        Self { total, samples: Vec::new() }
    }

    pub(crate) fn push(&mut self, elapsed: Duration, resources: Resources) {
        self.samples.push((elapsed, resources));
    }

    /// Checks the invariants, given the resources `before` and `after` the loads. Compares the last
    /// quarter with the second, because the loads begin during the first.
    pub(crate) fn judge(&self, before: Resources, after: Resources) -> [Invariant; 4] {
        let median = |quarter: u32, value: fn(&Resources) -> u64| {
            let range = self.total * quarter / 4..self.total * (quarter + 1) / 4;
            let inside = self.samples.iter().filter(|(elapsed, _)| range.contains(elapsed));
            let mut values: Vec<_> = inside.map(|(_, resources)| value(resources)).collect();
            values.sort_unstable();
            values.get(values.len() / 2).copied()
        };
        let grown = |invariant: &mut Invariant, value, slack: fn(u64) -> u64, unit| {
            let Some((early, late)) = median(1, value).zip(median(3, value)) else { return };
            invariant.at_most(late, early + slack(early), unit, || {
                format!("the median was {early} in the second quarter, and {late} in the last")
            });
        };
        let mut memory = Invariant::new("resident memory does not grow");
        grown(&mut memory, |it| it.rss_kib, |kib| SLACK_KIB + kib / 100, "KiB");
        let mut descriptors = Invariant::new("file descriptors are closed");
        descriptors.at_most(after.descriptors, before.descriptors, "open at the end", || {
            format!("there were {} at the start", before.descriptors)
        });
        let mut threads = Invariant::new("threads end");
        grown(&mut threads, |it| it.threads, |_| 0, "threads");
        threads.at_most(after.threads, before.threads, "threads", || "at the end".to_owned());
        let mut maps = Invariant::new("the maps' memory stays constant");
        for (elapsed, sample) in &self.samples {
            maps.at_most(sample.map_bytes, before.map_bytes, "bytes", || {
                format!("{} before, more after {elapsed:.0?}", before.map_bytes)
            });
        }
        [memory, descriptors, threads, maps]
    }
}
