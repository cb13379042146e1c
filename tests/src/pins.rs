//! A BPF filesystem for the pins of a test, and what must hold from one exporter with pins to the next.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::Signal,
};
use tempfile::TempDir;

use crate::{cgroups::Account, exposition::Exposition, process::Exporter};

/// A BPF filesystem. When it is dropped, its pins are gone, and so are programs that nothing else keeps.
#[derive(Debug)]
pub struct BpfFs {
    directory: TempDir,
}

impl BpfFs {
    /// Mounts it.
    pub fn mount() -> Self {
        let directory = tempfile::tempdir().unwrap();
        mount(Some("bpf"), directory.path(), Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        Self { directory }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The directory of pins, which does not exist yet.
    pub fn pins(&self) -> PathBuf {
        self.path().join("pins")
    }

    /// The flag of the exporter that names the directory.
    pub fn flag(&self) -> String {
        format!("--ebpf.pin-path={}", self.pins().display())
    }

    /// The names of the pins.
    pub fn names(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.pins()).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        let _ = umount2(self.path(), MntFlags::MNT_DETACH);
    }
}

/// Kills an exporter without notice, and waits until it is gone.
pub fn kill(mut exporter: Exporter) {
    exporter.signal(Signal::SIGKILL);
    exporter.wait();
}

/// Checks that all counters of the scheduler continue: none is missing or has decreased, none began at another
/// time, and no time is missing or counted twice.
pub fn check_continues(before: &Exposition, after: &Exposition) -> Result<(), String> {
    let account = Account::of(after);
    if !account.is_conserved() {
        return Err(format!("not conserved: {account:?}"));
    }
    for (series, old) in before.iter() {
        let name = series.split('{').next().unwrap_or(series);
        let is_created = name.ends_with("_created");
        if !is_created && !is_counter(name) || !outlives_the_process(name) {
            continue;
        }
        let Some((_, new)) = after.iter().find(|(found, _)| *found == series) else {
            return Err(format!("{series} is missing"));
        };
        let values: [f64; 2] = [old, new].map(|value| value.parse().unwrap_or(f64::NAN));
        if is_created && old != new || values[0] > values[1] || values.iter().any(|it| it.is_nan())
        {
            return Err(format!("{series} went from {old} to {new}"));
        }
    }
    Ok(())
}

fn is_counter(name: &str) -> bool {
    ["_total", "_sum", "_count", "_bucket"].iter().any(|end| name.ends_with(end))
}

/// Whether a family is of the kernel's counts rather than of the process.
fn outlives_the_process(name: &str) -> bool {
    const OF_COUNTS: [&str; 5] = [
        "sched_exporter_missed_switches_total",
        "sched_exporter_unattributed_seconds_total",
        "sched_exporter_cgroup_removed_seconds_total",
        "sched_exporter_cgroup_forgotten_seconds_total",
        "sched_exporter_cgroup_slots_refused_total",
    ];
    OF_COUNTS.contains(&name) || name.starts_with("sched_") && !name.starts_with("sched_exporter_")
}

/// Each digit is a set of many cgroups below a test's tree.
const CONFIG: &str = "
cgroups:
  labels: {set: \"{{ cgroup.path }}\"}
  relabel_configs:
  - {source_labels: [set], regex: \"/sched_exporter-test-[^/]*/[0-9]*([0-9])\", target_label: set, replacement: \"$1\"}
  - {source_labels: [set], regex: \"/.*\", target_label: set, replacement: rest}
";

/// Exporters that follow each other with the same pins.
#[derive(Debug)]
pub struct Restarts {
    bpf: BpfFs,
    last: Option<Exposition>,
    count: u32,
    adopted: u32,
    /// The longest time from the start of an exporter to its first scrape.
    slowest: Duration,
}

impl Restarts {
    /// Nothing is pinned yet.
    #[expect(clippy::new_without_default, reason = "it mounts a filesystem")]
    pub fn new() -> Self {
        let bpf = BpfFs::mount();
        Self { bpf, last: None, count: 0, adopted: 0, slowest: Duration::ZERO }
    }

    /// Starts an exporter, checks what it shows against the last one, and kills it at some moment. Every third
    /// has another kernel program, which takes over. Every fifth is killed while it starts, and another follows.
    pub fn cycle(&mut self) -> Result<(), String> {
        let flag = self.bpf.flag();
        let program: &[&str] = if self.count % 3 == 2 { &["--log.ebpf"] } else { &[] };
        let args = [&[flag.as_str(), "--web.created-samples"], program].concat();
        if self.count % 5 == 4 {
            let exporter = Exporter::begin_with(CONFIG, &args);
            thread::sleep(Duration::from_millis(u64::from(self.count * 37 % 150)));
            kill(exporter);
        }
        let started = Instant::now();
        let exporter = Exporter::start_with(CONFIG, &args);
        for scrape in 0..3 {
            let exposition = exporter.scrape();
            if scrape == 0 {
                self.slowest = self.slowest.max(started.elapsed());
            }
            if let Some(last) = &self.last {
                check_continues(last, &exposition).map_err(|wrong| {
                    format!("restart {}: {wrong}\n{}", self.count, exporter.log())
                })?;
            }
            self.last = Some(exposition);
            thread::sleep(Duration::from_millis(u64::from(self.count * 13 % 20)));
        }
        let log = exporter.log();
        if self.count > 0 && !log.contains("counts continue") {
            return Err(format!("restart {}: counts do not continue\n{log}", self.count));
        }
        self.adopted += u32::from(log.contains("adopted the program"));
        self.count += 1;
        kill(exporter);
        Ok(())
    }

    /// How many restarts there were, and the longest time to a first scrape.
    pub fn summary(&self) -> String {
        let Self { count, adopted, slowest, .. } = self;
        format!(
            "{count} starts, {adopted} of them with the program that was attached, slowest {slowest:.0?}"
        )
    }

    /// How many exporters used the program that was attached.
    pub const fn adopted(&self) -> u32 {
        self.adopted
    }
}
