//! A window of time in which a workload runs: its times by the trace, by us and by the kernel.

use std::{
    array,
    collections::{HashMap, HashSet},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use sched_exporter::{
    accounting::{Cpu, Memory as _, Snapshot, Totals as CpuTotals},
    kernel::scheduler::Scheduler,
};
use sched_exporter_ebpf::CpuRecord;
use sched_exporter_tests::{
    kernel::{Schedstat, Stat, kthreads, times},
    trace::{Account, Class, Recording, Trace},
    workload::monotonic_ns,
};

use crate::{
    cgroups::{self, CgroupLoad, End, Figures, Identity, Sets},
    workloads::{Clocks, Started, Workload},
};

/// Time from the start of a workload to the first window, for it to set its policy and settle.
const SETTLE: Duration = Duration::from_millis(200);

/// Largest difference from the trace in a round, besides [`SWITCH_APART_NS`] per switch: sometimes
/// a hypervisor stops the CPU between our reading of the clock and perf's.
pub(crate) const TOLERANCE_NS: u64 = 150_000;

/// Largest difference per switch. Perf reads the clock some microseconds after us, and more so if the CPU
/// was idle before, since its caches are cold.
const SWITCH_APART_NS: u64 = 3_000;

/// Largest difference per wait. The kernel takes both ends of a wait from its run queue's clock,
/// which it reads before it reports the wakeup and the switch.
pub(crate) const WAIT_APART_NS: u64 = 3_000;

/// All figures for the workload's CPU. Times are nanoseconds.
#[derive(Clone, Default)]
pub(crate) struct Window {
    pub(crate) elapsed_ns: u64,
    /// By the trace, by [`Class`].
    pub(crate) trace_ns: [u64; Class::ALL.len()],
    /// Time of the workload's tasks by the trace; of their whole class if the tasks change.
    pub(crate) trace_own_ns: u64,
    pub(crate) trace_wait_ns: u64,
    /// By the trace, the waits of the workload's tasks.
    pub(crate) trace_own_wait_ns: u64,
    /// By us, by [`Class`].
    pub(crate) ours_ns: [u64; Class::ALL.len()],
    pub(crate) ours_wait_ns: u64,
    /// By the own clocks of the workload's tasks.
    pub(crate) own_ns: u64,
    /// By the kernel, the waits of the workload's tasks.
    pub(crate) run_delay_ns: u64,
    /// By `/proc/stat`, by [`Stat::MODES`].
    pub(crate) stat_ns: [u64; Stat::MODES.len()],
    /// By [`cgroups::NAMES`], if the workload has cgroups.
    pub(crate) cgroups: [Figures; cgroups::NAMES.len()],
    pub(crate) totals: Totals,
    /// By the trace.
    switches: u64,
    /// By the trace.
    waits: u64,
    /// By the trace, the waits that ended between our two readings for certain.
    least_wait_ns: u64,
    /// By the trace, the waits that may have ended between our two readings.
    most_wait_ns: u64,
    /// How long after us perf read the clock, at the last switch before each of our readings.
    pub(crate) lags_ns: Vec<u64>,
}

/// Each family compared with the kernel's own total, over all CPUs of the machine.
#[derive(Clone, Default)]
pub(crate) struct Totals {
    /// Largest difference, of any CPU, between the sum of its modes and the time since attach.
    pub(crate) modes_off_ns: u64,
    /// Largest difference between all cgroups and the busy modes, or between their waits and those of the
    /// CPUs.
    pub(crate) cgroups_off_ns: u64,
    pub(crate) switches: Total,
    pub(crate) wait_ns: Total,
}

/// Growth of a total, by us and by the kernel. At either end the kernel's total was read between
/// two readings of ours, so its growth should lie between that of our inner readings and of our
/// outer ones.
#[derive(Clone, Copy, Default)]
pub(crate) struct Total {
    pub(crate) inner: u64,
    pub(crate) outer: u64,
    pub(crate) kernel: u64,
}

/// Why a window is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// Our program detected a switch that the kernel had not reported to it.
    Missed,
    /// The trace has a gap.
    Gap,
    /// The kernel reported a switch to only one of the two.
    Uneven,
}

/// The readings between two windows: the kernel's figures, each between two of ours.
struct Reading {
    before: Snapshot,
    /// When that snapshot was complete.
    before_done: u64,
    stat: Stat,
    own_ns: u64,
    usage_ns: [u64; cgroups::NAMES.len()],
    after: Snapshot,
    after_done: u64,
    tasks: HashMap<u32, Schedstat>,
    last: Snapshot,
    /// When our program last saw the CPU switch.
    switched_at: u64,
    cgroups_off_ns: u64,
}

/// The attached kernel program, and the cgroups that it has seen.
pub(crate) struct Observer {
    scheduler: Scheduler,
    sets: Sets,
}

impl Observer {
    pub(crate) fn new(scheduler: Scheduler) -> Self {
        let sets = Sets::new(&scheduler);
        Self { scheduler, sets }
    }
}

/// Runs a workload on a CPU for `count` consecutive windows.
pub(crate) fn measure(
    observer: &mut Observer,
    workload: Workload,
    cpu: u32,
    count: usize,
    length: Duration,
) -> Result<Vec<Result<Window, Unusable>>> {
    let recording = Recording::start();
    let load = workload.start(cpu as usize)?;
    thread::sleep(SETTLE);
    let clocks = workload.clocks(cpu as usize)?;
    let mut kthreads_seen = kthreads();
    let mut readings = vec![Reading::take(observer, cpu, &load, &clocks)?];
    for _ in 0..count {
        thread::sleep(length);
        readings.push(Reading::take(observer, cpu, &load, &clocks)?);
    }
    kthreads_seen.extend(kthreads());
    let tasks = clocks.tasks(&load);
    let cgroups = load.cgroups().map(CgroupLoad::identities);
    drop(load);
    let run = Run {
        workload,
        cpu,
        tasks,
        cgroups,
        kthreads: kthreads_seen,
        attached_at: observer.scheduler.attached_at(),
        trace: recording.finish(),
    };
    readings.windows(2).map(|ends| run.window(&ends[0], &ends[1])).collect()
}

impl Reading {
    fn take(observer: &mut Observer, cpu: u32, load: &Started, clocks: &Clocks) -> Result<Self> {
        let Observer { scheduler, sets } = observer;
        let (before, before_done) = undisturbed(scheduler, cpu)?;
        let stat = Stat::read();
        let own_ns = clocks.read_ns(load)?;
        let usage_ns = load.cgroups().map(CgroupLoad::usage_ns).unwrap_or_default();
        let (after, after_done) = undisturbed(scheduler, cpu)?;
        let tasks = Schedstat::of_all();
        let last = scheduler.snapshot()?;
        let (switched_at, _) = CpuRecord::open(scheduler.record(cpu).open);
        let mut cgroups_off_ns = 0;
        for snapshot in [&before, &after, &last] {
            cgroups_off_ns = cgroups_off_ns.max(sets.off_ns(snapshot)?);
        }
        sets.follow(scheduler, &last)?;
        Ok(Self {
            before,
            before_done,
            stat,
            own_ns,
            usage_ns,
            after,
            after_done,
            tasks,
            last,
            switched_at,
            cgroups_off_ns,
        })
    }

    /// The figures of a cgroup, with one of our readings.
    fn end<'r>(&'r self, snapshot: &'r Snapshot, cgroup: usize) -> End<'r> {
        End { snapshot, usage_ns: self.usage_ns[cgroup], tasks: &self.tasks }
    }
}

/// Takes a snapshot that is exact for its instant; also returns when it was complete. Retakes it if
/// the CPU switched, or the driver had to wait, between reading the clock and reading the record,
/// because the snapshot is then of a slightly later instant.
fn undisturbed(scheduler: &Scheduler, cpu: u32) -> Result<(Snapshot, u64)> {
    const PROMPT_NS: u64 = 100_000;
    const TRIES: usize = 100;
    let mut tries = 0;
    loop {
        let snapshot = scheduler.snapshot()?;
        let done = monotonic_ns();
        tries += 1;
        let is_prompt = done - snapshot.taken_at < PROMPT_NS;
        let off_ns = modes_off_ns(&snapshot, cpu, scheduler.attached_at());
        if is_prompt && off_ns == 0 || tries == TRIES {
            return Ok((snapshot, done));
        }
    }
}

/// Difference between a CPU's modes plus unattributed time and the time since attach.
fn modes_off_ns(snapshot: &Snapshot, cpu: u32, attached_at: u64) -> u64 {
    let Some(found) = snapshot.cpus.iter().find(|found| found.id == cpu) else { return u64::MAX };
    let modes: u64 = times(snapshot, cpu).mode_ns.iter().sum();
    (modes + found.unattributed_ns).abs_diff(snapshot.taken_at - attached_at)
}

/// Common to all windows of a run.
struct Run {
    workload: Workload,
    cpu: u32,
    /// The workload's tasks, if they are known.
    tasks: Option<Vec<u32>>,
    cgroups: Option<[Identity; cgroups::NAMES.len()]>,
    kthreads: HashSet<u32>,
    attached_at: u64,
    trace: Trace,
}

impl Run {
    /// The window from one reading to the next.
    fn window(&self, from: &Reading, to: &Reading) -> Result<Result<Window, Unusable>> {
        let (old, new) = (times(&from.after, self.cpu), times(&to.before, self.cpu));
        if old.missed_switches != new.missed_switches {
            return Ok(Err(Unusable::Missed));
        }
        let (since, until) = (from.after.taken_at, to.before.taken_at);
        let account = |from, to| self.trace.account(self.cpu, from, to, &self.kthreads);
        let (Some(least), Some(exact), Some(most)) = (
            account(from.after_done, until),
            account(since, until),
            account(since, to.before_done),
        ) else {
            return Ok(Err(Unusable::Gap));
        };
        let sum = |switches: &[u64]| switches.iter().sum::<u64>();
        let switches = sum(&new.switches) - sum(&old.switches);
        if switches < sum(&least.switches) || sum(&most.switches) < switches {
            return Ok(Err(Unusable::Uneven));
        }
        // An unreported wakeup does not affect the times, but its wait is missing from the trace.
        if self.workload.is_about_waits() && exact.unknown_waits > 0 {
            return Ok(Err(Unusable::Gap));
        }
        let stat = |reading: &Reading| {
            let cpu = reading.stat.cpus.get(&self.cpu).copied();
            cpu.with_context(|| format!("/proc/stat has no CPU {}", self.cpu))
        };
        let (stat_before, stat_after) = (stat(from)?, stat(to)?);
        Ok(Ok(Window {
            elapsed_ns: until - since,
            trace_ns: exact.class_ns,
            trace_own_ns: self
                .own(&exact.task_ns)
                .unwrap_or_else(|| exact.class_ns[self.workload.class() as usize]),
            trace_wait_ns: exact.wait_ns.values().sum(),
            trace_own_wait_ns: self.own(&exact.wait_ns).unwrap_or_default(),
            ours_ns: Class::ALL.map(|class| class.ours(&new.mode_ns) - class.ours(&old.mode_ns)),
            ours_wait_ns: new.wait_ns - old.wait_ns,
            own_ns: to.own_ns.saturating_sub(from.own_ns),
            run_delay_ns: self.run_delay_ns(to) - self.run_delay_ns(from),
            stat_ns: array::from_fn(|mode| stat_after[mode].saturating_sub(stat_before[mode])),
            cgroups: self.cgroups(from, to, [&least, &exact, &most])?,
            totals: self.totals(from, to),
            switches,
            waits: exact.waits,
            least_wait_ns: least.wait_ns.values().sum(),
            most_wait_ns: most.wait_ns.values().sum(),
            lags_ns: self.trace.lag_ns(self.cpu, from.switched_at).into_iter().collect(),
        }))
    }

    /// The sum over the workload's tasks, if they are known.
    fn own(&self, by_task: &HashMap<u32, u64>) -> Option<u64> {
        Some(self.tasks.as_ref()?.iter().filter_map(|task| by_task.get(task)).sum())
    }

    fn cgroups(
        &self,
        from: &Reading,
        to: &Reading,
        accounts: [&Account; 3],
    ) -> Result<[Figures; cgroups::NAMES.len()]> {
        let mut figures = [Figures::default(); cgroups::NAMES.len()];
        for (index, cgroup) in self.cgroups.iter().flatten().enumerate() {
            let ends = [from.end(&from.after, index), to.end(&to.before, index)];
            figures[index] = cgroup.figures(&ends, accounts)?;
        }
        Ok(figures)
    }

    fn run_delay_ns(&self, reading: &Reading) -> u64 {
        let tasks = self.tasks.iter().flatten().filter_map(|task| reading.tasks.get(task));
        tasks.map(|task| task.run_delay_ns).sum()
    }

    fn totals(&self, from: &Reading, to: &Reading) -> Totals {
        let worst_ns = |snapshot: &Snapshot| {
            let off = |cpu: &Cpu| modes_off_ns(snapshot, cpu.id, self.attached_at);
            snapshot.cpus.iter().map(off).max().unwrap_or(0)
        };
        // An unreported switch is counted as missed; two in a row look like one.
        let switches = |totals: &CpuTotals| totals.switches.iter().sum();
        let missed = |totals: &CpuTotals| totals.missed_switches;
        // The waits of tasks that ended in between are lost.
        let run_delay = to.tasks.iter().map(|(task, to)| {
            let from = from.tasks.get(task).map_or(0, |from| from.run_delay_ns);
            to.run_delay_ns.saturating_sub(from)
        });
        Totals {
            modes_off_ns: worst_ns(&from.after).max(worst_ns(&to.before)),
            cgroups_off_ns: from.cgroups_off_ns.max(to.cgroups_off_ns),
            switches: Total {
                inner: growth(switches, &from.after, &to.before),
                outer: growth(switches, &from.before, &to.after)
                    + 2 * growth(missed, &from.before, &to.after),
                kernel: to.stat.ctxt - from.stat.ctxt,
            },
            wait_ns: Total {
                inner: growth(|times| times.wait_ns, &from.last, &to.after),
                outer: growth(|times| times.wait_ns, &from.after, &to.last),
                kernel: run_delay.sum(),
            },
        }
    }
}

/// Growth of a figure over all CPUs.
fn growth(of: fn(&CpuTotals) -> u64, from: &Snapshot, to: &Snapshot) -> u64 {
    let sum = |snapshot: &Snapshot| -> u64 {
        snapshot.cpus.iter().filter_map(|cpu| Some(of(cpu.totals.as_ref()?))).sum()
    };
    sum(to) - sum(from)
}

impl Window {
    /// Adds windows up.
    pub(crate) fn sum(windows: &[Self]) -> Self {
        windows.iter().fold(Self::default(), |mut sum, window| {
            sum.elapsed_ns += window.elapsed_ns;
            add(&mut sum.trace_ns, &window.trace_ns);
            sum.trace_own_ns += window.trace_own_ns;
            sum.trace_wait_ns += window.trace_wait_ns;
            add(&mut sum.ours_ns, &window.ours_ns);
            sum.trace_own_wait_ns += window.trace_own_wait_ns;
            sum.ours_wait_ns += window.ours_wait_ns;
            sum.own_ns += window.own_ns;
            sum.run_delay_ns += window.run_delay_ns;
            add(&mut sum.stat_ns, &window.stat_ns);
            for (sum, cgroup) in sum.cgroups.iter_mut().zip(&window.cgroups) {
                sum.add(cgroup);
            }
            sum.totals.add(&window.totals);
            sum.switches += window.switches;
            sum.waits += window.waits;
            sum.least_wait_ns += window.least_wait_ns;
            sum.most_wait_ns += window.most_wait_ns;
            sum.lags_ns.extend(&window.lags_ns);
            sum
        })
    }

    /// Differences from the trace that reading the clocks does not explain, one sentence each.
    pub(crate) fn disagreements(&self, about_waits: bool) -> Vec<String> {
        let mut found = Vec::new();
        let tolerance_ns = TOLERANCE_NS + SWITCH_APART_NS * self.switches;
        for class in Class::ALL {
            let [ours, trace] =
                [self.ours_ns, self.trace_ns].map(|class_ns| class_ns[class as usize]);
            if ours.abs_diff(trace) > tolerance_ns {
                found.push(format!(
                    "{class:?}: {ours} ns, {trace} ns by the trace, {} switches",
                    self.switches
                ));
            }
        }
        for (name, cgroup) in cgroups::NAMES.iter().zip(&self.cgroups) {
            found.extend(cgroup.disagreements(name, tolerance_ns, self.waits));
        }
        // Other tasks may have migrated without an event.
        let others_ns = self.trace_wait_ns - self.trace_own_wait_ns;
        let tolerance_ns = TOLERANCE_NS + WAIT_APART_NS * self.waits + others_ns;
        let least = self.least_wait_ns.saturating_sub(tolerance_ns);
        let most = self.most_wait_ns + tolerance_ns;
        if about_waits && !(least..=most).contains(&self.ours_wait_ns) {
            found.push(format!(
                "waits: {} ns, {} ns by the trace, {} waits",
                self.ours_wait_ns, self.trace_wait_ns, self.waits
            ));
        }
        found
    }

    /// Time in which the CPU was not idle, by the trace.
    pub(crate) fn trace_busy_ns(&self) -> u64 {
        self.elapsed_ns - self.trace_ns[Class::Idle as usize]
    }

    /// Time in which the CPU was not idle, by us.
    pub(crate) fn ours_busy_ns(&self) -> u64 {
        self.elapsed_ns.saturating_sub(self.ours_ns[Class::Idle as usize])
    }

    /// Time of `/proc/stat` in modes other than idle.
    pub(crate) fn stat_busy_ns(&self) -> u64 {
        self.stat_ns.iter().sum::<u64>() - self.stat_idle_ns()
    }

    /// Elapsed time minus that of `/proc/stat` in idle modes.
    pub(crate) fn wall_minus_idle_ns(&self) -> u64 {
        self.elapsed_ns.saturating_sub(self.stat_idle_ns())
    }

    fn stat_idle_ns(&self) -> u64 {
        Stat::IDLE.iter().map(|mode| self.stat_ns[*mode]).sum()
    }
}

fn add(sums: &mut [u64], values: &[u64]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += value;
    }
}

impl Totals {
    /// Allows for switches between reading the clock and reading the record.
    const MODES_TOLERANCE_NS: u64 = 100_000;

    fn add(&mut self, other: &Self) {
        self.modes_off_ns = self.modes_off_ns.max(other.modes_off_ns);
        self.cgroups_off_ns = self.cgroups_off_ns.max(other.cgroups_off_ns);
        self.switches.add(other.switches);
        self.wait_ns.add(other.wait_ns);
    }

    /// Differences from the kernel's totals that are failures, one sentence each.
    pub(crate) fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.modes_off_ns > Self::MODES_TOLERANCE_NS {
            wrong.push(format!(
                "modes differ from the time since attach by {} ns",
                self.modes_off_ns
            ));
        }
        if self.cgroups_off_ns > 0 {
            wrong.push(format!(
                "cgroups differ from the busy modes, or from the waits, by {} ns",
                self.cgroups_off_ns
            ));
        }
        // A larger count can be switches that the kernel did not report.
        let Total { inner, kernel, .. } = self.switches;
        if kernel < inner {
            wrong.push(format!("at least {inner} switches, {kernel} by ctxt of /proc/stat"));
        }
        wrong
    }
}

impl Total {
    fn add(&mut self, other: Self) {
        self.inner += other.inner;
        self.outer += other.outer;
        self.kernel += other.kernel;
    }

    /// How much the kernel's growth exceeds ours; negative if it is less.
    pub(crate) fn excess(&self) -> i64 {
        let above = self.kernel.saturating_sub(self.outer).cast_signed();
        above - self.inner.saturating_sub(self.kernel).cast_signed()
    }
}
