//! One window: a workload at work, and what the trace, we and the kernel say of it.

use std::{collections::HashMap, thread, time::Duration};

use anyhow::{Context as _, Result};
use sched_exporter::{
    ebpf::Scheduler,
    snapshot::{Snapshot, Times},
};
use sched_exporter_tests::{
    kernel::{Schedstat, Stat, kthreads, times},
    trace::{Account, Class, Recording},
    workload::{Load, monotonic_ns},
};

use crate::workloads::Workload;

/// From the start of a workload to the window: it has found its pace, and its policy.
const SETTLE: Duration = Duration::from_millis(200);

/// What everyone says of the workload's CPU in a window. Times are nanoseconds.
pub(crate) struct Window {
    pub(crate) elapsed_ns: u64,
    pub(crate) trace: Account,
    /// By [`Class`].
    pub(crate) ours_ns: [u64; Class::ALL.len()],
    pub(crate) ours_wait_ns: u64,
    /// By the clocks of the workload's tasks.
    pub(crate) own_ns: u64,
    /// Waits of the workload's threads.
    pub(crate) run_delay_ns: u64,
    /// By [`Stat::MODES`].
    pub(crate) stat_ns: [u64; Stat::MODES.len()],
    pub(crate) totals: Totals,
    /// Where we are farther from the trace than clock reads explain.
    pub(crate) disagreements: Vec<String>,
}

impl Window {
    /// Time in which the CPU is not idle, by the trace.
    pub(crate) fn trace_busy_ns(&self) -> u64 {
        self.elapsed_ns - self.trace.class_ns[Class::Idle as usize]
    }

    /// The same by us.
    pub(crate) fn ours_busy_ns(&self) -> u64 {
        self.elapsed_ns.saturating_sub(self.ours_ns[Class::Idle as usize])
    }

    /// What `/proc/stat` has in modes other than idle.
    pub(crate) fn stat_busy_ns(&self) -> u64 {
        self.stat_ns.iter().sum::<u64>() - self.stat_idle_ns()
    }

    /// What `/proc/stat` has in idle modes.
    pub(crate) fn stat_idle_ns(&self) -> u64 {
        Stat::IDLE.iter().map(|mode| self.stat_ns[*mode]).sum()
    }
}

/// Every family beside the kernel's own total, on all CPUs of the machine.
pub(crate) struct Totals {
    /// How far the modes of a CPU are from the time since attach, on the worst CPU.
    pub(crate) modes_off_ns: u64,
    pub(crate) switches: Total,
    pub(crate) wait_ns: Total,
}

/// By how much a total grew: by us, and by the kernel. The kernel was asked between two readings of
/// ours at either end, so it should say no less than the inner two and no more than the outer.
#[derive(Clone, Copy)]
pub(crate) struct Total {
    pub(crate) inner: u64,
    pub(crate) outer: u64,
    pub(crate) kernel: u64,
}

impl Totals {
    /// Clock readings and switches while a record is read.
    const MODES_TOLERANCE_NS: u64 = 100_000;

    /// What no reading between the kernel's explains, a sentence each.
    pub(crate) fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.modes_off_ns > Self::MODES_TOLERANCE_NS {
            wrong.push(format!("modes are {} ns off the time since attach", self.modes_off_ns));
        }
        let Total { inner, outer, kernel } = self.switches;
        if self.switches.excess().unsigned_abs() * 1_000 > kernel {
            wrong.push(format!("{inner} to {outer} switches, by ctxt of /proc/stat {kernel}"));
        }
        wrong
    }
}

impl Total {
    /// How much more the kernel's is than ours can be; negative where it is less.
    pub(crate) fn excess(&self) -> i64 {
        let above = self.kernel.saturating_sub(self.outer).cast_signed();
        above - self.inner.saturating_sub(self.kernel).cast_signed()
    }
}

/// Why a window has to be measured again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// Our program found that the kernel had not told it of a switch.
    Missed,
    /// perf's trace has a gap.
    Gap,
    /// The kernel told one of the two of switches that it did not tell the other.
    Uneven,
}

/// Readings at one end of a window: two of ours, and the kernel's between them.
struct End {
    inner: Snapshot,
    /// When the inner one was complete.
    inner_done: u64,
    outer: Snapshot,
    stat: Stat,
    own_ns: u64,
    tasks: HashMap<u32, Schedstat>,
}

/// Runs a workload in a window of the given length.
pub(crate) fn measure(
    scheduler: &Scheduler,
    workload: Workload,
    cpu: u32,
    length: Duration,
) -> Result<Result<Window, Unusable>> {
    let recording = Recording::start();
    let load = workload.start(cpu as usize)?;
    thread::sleep(SETTLE);
    let mut kthreads_seen = kthreads();
    let before = before(scheduler, workload, &load, cpu)?;
    thread::sleep(length);
    let after = after(scheduler, workload, &load, cpu)?;
    kthreads_seen.extend(kthreads());
    let threads: Vec<_> = load.ids().iter().map(|id| id.as_raw().cast_unsigned()).collect();
    drop(load);
    let trace = recording.finish();

    let (old, new) = (times(&before.inner, cpu), times(&after.inner, cpu));
    if old.missed_switches != new.missed_switches {
        return Ok(Err(Unusable::Missed));
    }
    let between = |from, to| trace.account(cpu, from, to, &kthreads_seen);
    let (Some(shortest), Some(account), Some(longest)) = (
        between(before.inner_done, after.inner.taken_at),
        between(before.inner.taken_at, after.inner.taken_at),
        between(before.inner.taken_at, after.inner_done),
    ) else {
        return Ok(Err(Unusable::Gap));
    };
    let sum = |switches: &[u64]| switches.iter().sum::<u64>();
    let switches = sum(&new.switches) - sum(&old.switches);
    if !(sum(&shortest.switches)..=sum(&longest.switches)).contains(&switches) {
        return Ok(Err(Unusable::Uneven));
    }

    let ours_ns = Class::ALL.map(|class| class.ours(&new.mode_ns) - class.ours(&old.mode_ns));
    let ours_wait_ns = new.wait_ns - old.wait_ns;
    let mut disagreements = Vec::new();
    for class in Class::ALL {
        let (ours, by_trace) = (ours_ns[class as usize], account.class_ns[class as usize]);
        if ours.abs_diff(by_trace) > account.tolerance_ns() {
            disagreements.push(format!(
                "{class:?}: {ours} ns, by the trace {by_trace} ns, {switches} switches"
            ));
        }
    }
    let tolerance_ns = account.wait_tolerance_ns();
    let least = shortest.wait_ns.saturating_sub(tolerance_ns);
    let most = longest.wait_ns + tolerance_ns;
    if !(least..=most).contains(&ours_wait_ns) {
        disagreements.push(format!(
            "waits: {ours_wait_ns} ns, by the trace {} ns, {} waits",
            account.wait_ns, account.waits
        ));
    }
    let delay = |end: &End| -> u64 {
        threads.iter().filter_map(|task| Some(end.tasks.get(task)?.run_delay_ns)).sum()
    };
    let stat = |end: &End| end.stat.cpus.get(&cpu).copied().context("no such CPU in /proc/stat");
    let (stat_before, stat_after) = (stat(&before)?, stat(&after)?);
    Ok(Ok(Window {
        elapsed_ns: after.inner.taken_at - before.inner.taken_at,
        trace: account,
        ours_ns,
        ours_wait_ns,
        own_ns: after.own_ns.saturating_sub(before.own_ns),
        run_delay_ns: delay(&after) - delay(&before),
        stat_ns: std::array::from_fn(|mode| stat_after[mode].saturating_sub(stat_before[mode])),
        totals: totals(scheduler, &before, &after),
        disagreements,
    }))
}

fn before(scheduler: &Scheduler, workload: Workload, load: &Load, cpu: u32) -> Result<End> {
    let outer = scheduler.snapshot()?;
    let tasks = Schedstat::of_all();
    let own_ns = workload.own_ns(load, cpu as usize)?;
    let stat = Stat::read();
    let inner = scheduler.snapshot()?;
    Ok(End { inner, inner_done: monotonic_ns(), outer, stat, own_ns, tasks })
}

fn after(scheduler: &Scheduler, workload: Workload, load: &Load, cpu: u32) -> Result<End> {
    let inner = scheduler.snapshot()?;
    let inner_done = monotonic_ns();
    let stat = Stat::read();
    let own_ns = workload.own_ns(load, cpu as usize)?;
    let tasks = Schedstat::of_all();
    let outer = scheduler.snapshot()?;
    Ok(End { inner, inner_done, outer, stat, own_ns, tasks })
}

fn totals(scheduler: &Scheduler, before: &End, after: &End) -> Totals {
    let modes_off_ns = |snapshot: &Snapshot| {
        let off = snapshot.cpus.iter().map(|cpu| {
            let modes: u64 = times(snapshot, cpu.id).mode_ns.iter().sum();
            (modes + cpu.unattributed_ns).abs_diff(snapshot.taken_at - scheduler.attached_at())
        });
        off.max().unwrap_or(0)
    };
    let total = |of: fn(&Times) -> u64, kernel| {
        let sum = |snapshot: &Snapshot| -> u64 {
            snapshot.cpus.iter().map(|cpu| of(times(snapshot, cpu.id))).sum()
        };
        Total {
            inner: sum(&after.inner) - sum(&before.inner),
            outer: sum(&after.outer) - sum(&before.outer),
            kernel,
        }
    };
    // What a task waited that ended in between is lost.
    let run_delay = after.tasks.iter().map(|(task, after)| {
        let before = before.tasks.get(task).map_or(0, |before| before.run_delay_ns);
        after.run_delay_ns.saturating_sub(before)
    });
    Totals {
        modes_off_ns: modes_off_ns(&before.inner).max(modes_off_ns(&after.inner)),
        switches: total(
            |times| times.switches.iter().sum::<u64>() + times.missed_switches,
            after.stat.ctxt - before.stat.ctxt,
        ),
        wait_ns: total(|times| times.wait_ns, run_delay.sum()),
    }
}
