//! Tests that need a quiet machine: they are retried while other programs keep it busy, and say how
//! busy it was when they fail.

use std::{
    any::Any,
    fmt::{self, Display},
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    process, thread,
    time::{Duration, Instant},
};

use nix::sys::resource::{UsageWho, getrusage};

use crate::kernel::{Stat, processes};

/// Most tries of a test while the machine is busy.
const BUSY_TRIES: u32 = 5;

/// Most tries of a test on a calm machine: one retry, for disturbances too short to measure.
const CALM_TRIES: u32 = 2;

/// A failure this long after the first try began is final.
const RETRY_FOR: Duration = Duration::from_mins(2);

/// How long to wait for a calm machine before each retry.
const WAIT_FOR_CALM: Duration = Duration::from_secs(30);

/// The machine is busy if others use more than this share of its CPU time.
const BUSY_SHARE: f64 = 0.02;

/// The machine is busy if its hypervisor takes more than this share of its CPU time.
const BUSY_STEAL: f64 = 0.01;

/// Runs a test that fails by panicking. If it fails, waits for the machine to calm down and runs it
/// again: a few times if others kept the machine busy meanwhile, otherwise once.
///
/// # Panics
///
/// If the last try fails, with its message and how busy the machine was during it.
#[track_caller]
pub fn attempt(test: impl Fn()) {
    let started = Instant::now();
    for tries in 1.. {
        let counters = Counters::read();
        let Err(panic) = catch_unwind(AssertUnwindSafe(&test)) else { return };
        let load = counters.load();
        let failed = format!("{}\n\nTry {tries}: {load}", message(panic.as_ref()));
        assert!(is_retried(tries, &load, started.elapsed()), "{failed}");
        println!("{failed}");
        wait_for_calm();
    }
}

/// Whether a test that has failed in each of some tries, and began `elapsed` ago, is tried again.
pub fn is_retried(tries: u32, last: &MachineLoad, elapsed: Duration) -> bool {
    let most = if last.is_busy() { BUSY_TRIES } else { CALM_TRIES };
    tries < most && elapsed < RETRY_FOR
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref().copied()).unwrap_or("the test panicked")
}

fn wait_for_calm() {
    let deadline = Instant::now() + WAIT_FOR_CALM;
    while Instant::now() < deadline {
        let counters = Counters::read();
        thread::sleep(Duration::from_millis(500));
        if !counters.load().is_busy() {
            break;
        }
    }
}

/// How busy a machine was in an interval.
#[derive(Clone, Debug)]
pub struct MachineLoad {
    /// Its length.
    pub elapsed: Duration,
    /// CPUs online throughout.
    pub cpus: u32,
    /// CPU time that went neither to this process, nor to its children, nor to idling.
    pub others: Duration,
    /// CPU time that the hypervisor took.
    pub steal: Duration,
    /// How long some task waited for a CPU, if the kernel reports it.
    pub pressure: Option<Duration>,
    /// The load average over the last minute, as the kernel writes it.
    pub load_average: String,
}

impl MachineLoad {
    fn share(&self, time: Duration) -> f64 {
        time.div_duration_f64(self.elapsed * self.cpus)
    }

    /// Whether others may have disturbed a test.
    pub fn is_busy(&self) -> bool {
        self.share(self.others) > BUSY_SHARE || self.share(self.steal) > BUSY_STEAL
    }
}

impl Display for MachineLoad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.is_busy() { "busy" } else { "calm" };
        let percent = |share: f64| 100.0 * share;
        write!(
            f,
            "the machine was {state} for these {:.1?}: others used {:.1}% of the time of {} CPUs, \
             the hypervisor took {:.1}%",
            self.elapsed,
            percent(self.share(self.others)),
            self.cpus,
            percent(self.share(self.steal)),
        )?;
        if let Some(pressure) = self.pressure {
            let waiting = percent(pressure.div_duration_f64(self.elapsed));
            write!(f, ", tasks waited for a CPU {waiting:.0}% of the time")?;
        }
        write!(f, "; load average {}", self.load_average)
    }
}

/// What the kernel has counted up to an instant.
struct Counters {
    at: Instant,
    stat: Stat,
    own: Duration,
    pressure: Option<Duration>,
}

impl Counters {
    fn read() -> Self {
        let pressure = pressure();
        Self { at: Instant::now(), stat: Stat::read(), own: own_cpu_time(), pressure }
    }

    /// How busy the machine was since.
    fn load(&self) -> MachineLoad {
        const STEAL: usize = 7;
        let now = Self::read();
        let elapsed = now.at - self.at;
        let (mut cpus, mut busy, mut steal) = (0, Duration::ZERO, 0);
        for (cpu, new) in &now.stat.cpus {
            let Some(old) = self.stat.cpus.get(cpu) else { continue };
            let grown = |mode: usize| new[mode].saturating_sub(old[mode]);
            let idle = Stat::IDLE.into_iter().map(grown).sum();
            busy += elapsed.saturating_sub(Duration::from_nanos(idle));
            steal += grown(STEAL);
            cpus += 1;
        }
        MachineLoad {
            elapsed,
            cpus,
            others: busy.saturating_sub(now.own.saturating_sub(self.own)),
            steal: Duration::from_nanos(steal),
            pressure: now.pressure.zip(self.pressure).map(|(new, old)| new.saturating_sub(old)),
            load_average: load_average(),
        }
    }
}

/// CPU time of this process and its children, those that have ended included.
fn own_cpu_time() -> Duration {
    let used = |who| {
        let usage = getrusage(who).unwrap();
        let us = [usage.user_time(), usage.system_time()]
            .map(|time| time.tv_sec().cast_unsigned() * 1_000_000 + time.tv_usec().cast_unsigned());
        Duration::from_micros(us.iter().sum())
    };
    let children = processes().filter_map(child_cpu_time).sum::<Duration>();
    used(UsageWho::RUSAGE_SELF) + used(UsageWho::RUSAGE_CHILDREN) + children
}

/// CPU time of a running child of this process, and of children of its own that have ended.
/// <https://docs.kernel.org/filesystems/proc.html#process-specific-subdirectories>
fn child_cpu_time(process: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses can contain anything.
    let fields: Vec<_> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let parent: u32 = fields.get(1)?.parse().ok()?;
    if parent != process::id() {
        return None;
    }
    let ticks = fields.get(11..15)?.iter().map(|ticks| ticks.parse::<u64>().unwrap_or(0));
    Some(Duration::from_nanos(ticks.sum::<u64>() * Stat::TICK_NS))
}

/// How long some task has waited for a CPU since boot; none without `CONFIG_PSI`.
/// <https://docs.kernel.org/accounting/psi.html>
fn pressure() -> Option<Duration> {
    let text = fs::read_to_string("/proc/pressure/cpu").ok()?;
    let total = text.lines().find(|line| line.starts_with("some "))?.rsplit_once("total=")?.1;
    Some(Duration::from_micros(total.parse().ok()?))
}

fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap();
    text.split(' ').next().unwrap_or_default().to_owned()
}
