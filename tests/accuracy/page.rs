//! Writes docs/accuracy.md.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use sched_exporter_tests::{
    machine::machine,
    quantiles,
    summary::{percentile, us},
};

use crate::{
    report::{Measured, Totals},
    window::Unusable,
    workloads::tick_ns,
};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/accuracy.md");

const INTRO: &str = "\
# Accuracy

Measured accuracy of the exporter. `cargo xtask accuracy --write` repeats the measurement and writes
this page: change the text in `tests/accuracy`, not here. It needs root, `perf`, some minutes, and a
machine that does nothing else; `--quick` gives a rough result. Without `--write` it is a check: it
fails if our figures differ from the trace by more than stated below. `cargo xtask accuracy --quantiles`
writes only the last section, which is computed.";

const READING: &str = "\
Each workload runs on one CPU, the driver and perf on another. It is measured in windows of half a
second, six of which make a round. Figures are medians over the rounds, followed by the minimum and
the maximum.

* *The trace* is the reference: perf's own record of `sched_switch` on `CLOCK_MONOTONIC`, added up
  from switch to switch between the instants of our two snapshots. A CPU is in the mode of its
  current task, using the policy the task had when it was switched in.
* *Ours* is the difference of those snapshots. It may differ from the trace by 3 µs per switch,
  because perf reads the clock after us, and by 150 µs per round, because a hypervisor can
  stop the CPU between the two readings. Waits may differ by 3 µs each, by another 150 µs, and by
  the waits of tasks outside the workload. A larger difference in any round is a failure.
* *These tasks* are only those of the workload, without other tasks in the same mode; *their own
  clocks* are the kernel's account of them, from `CLOCK_THREAD_CPUTIME_ID` or `/proc/PID/schedstat`.
* A cgroup's trace is that of its tasks. Its own figures are the kernel's account of the cgroup,
  `cpu.stat` or in version 1 `cpuacct.usage`, and `run_delay` of its tasks.
* *Sum of modes* is `user`, `nice`, `system`, `irq`, `softirq` and `steal` of the CPU's line in
  `/proc/stat`; *wall minus idle* is the elapsed time minus `idle` and `iowait`. They differ if the
  kernel samples the former at ticks and measures the latter by a clock. `/proc/stat` counts in
  steps of 10 ms.";

const TOTALS: &str = "\
## Against the kernel's own totals

Each family is compared with a total that the kernel keeps independently, over all CPUs, while the
workloads ran. At each end of a window, the kernel's figure is read between two readings of ours, so
it must lie between the difference of our inner readings and that of our outer ones. *Ours* is the
inner difference, and *off* is how far outside this range the kernel's figure lies in the worst
round.

The modes of a CPU and its unattributed time should add up to the time since attach; *modes off
elapsed* is the largest difference on any CPU in any round. A switch during the microseconds of
reading makes it more than 0. The CPU time of all sets of cgroups, with what is removed or
forgotten, should be the time in the busy modes, and their waits those of the CPUs; *cgroups off
modes* is the largest difference at any reading, and anything but 0 is a failure. For this, the
cgroups of the machine are in eight sets, of which four are shown, and a set is forgotten once its
cgroups are removed. Each switch that the program detected as missed counts as up to two in
the outer difference; missed switches that it could not detect make `ctxt` larger. A `ctxt` below
ours is a failure. `run_delay` is summed over all tasks of the machine. Time that a task waited on a
CPU that it then left is only in `run_delay`; the waits of tasks that have ended are only in ours.
";

/// Writes the page from all results.
pub(crate) fn write(all: &[Measured]) -> Result<()> {
    let (results, quantiles) = (results(all)?, quantiles::section());
    let page = format!("{INTRO}\n\n{}\n\n{READING}\n\n{results}\n{quantiles}", machine());
    fs::write(Path::new(PATH), page).context("docs/accuracy.md")
}

/// Writes the section on quantiles again, and keeps the others.
pub(crate) fn write_quantiles() -> Result<()> {
    let page = fs::read_to_string(PATH).context("docs/accuracy.md")?;
    let (measured, _) = page
        .split_once(quantiles::HEADING)
        .with_context(|| format!("docs/accuracy.md has no `{}`", quantiles::HEADING))?;
    fs::write(PATH, format!("{measured}{}", quantiles::section())).context("docs/accuracy.md")
}

/// The sections of all workloads, and the totals.
pub(crate) fn results(all: &[Measured]) -> Result<String> {
    let sections: Vec<_> = all.iter().map(ToString::to_string).collect();
    Ok(format!("{}\n\n{}\n{TOTALS}\n{}", windows(all)?, sections.join("\n"), Totals(all)))
}

/// A paragraph on how much was measured and how much of it was left out.
fn windows(all: &[Measured]) -> Result<String> {
    let rounds: usize = all.iter().map(|measured| measured.rounds.len()).sum();
    let left_out = |why: Unusable| {
        all.iter().flat_map(|measured| &measured.unusable).filter(|it| **it == why).count()
    };
    let [missed, gap, uneven] = [Unusable::Missed, Unusable::Gap, Unusable::Uneven].map(left_out);
    let mut lags: Vec<_> = all
        .iter()
        .flat_map(|measured| &measured.rounds)
        .flat_map(|round| &round.lags_ns)
        .map(|lag_ns| us(Duration::from_nanos(*lag_ns)))
        .collect();
    let [least, median, most] = [10, 50, 90].map(|percent| percentile(&mut lags, percent));
    Ok(format!(
        "The figures are from {rounds} rounds. Another {all} windows were left out because the kernel had not
reported every switch of the CPU: {missed} times not to us, which the exporter counts as missed
switches; {gap} times not to perf; and {uneven} times to only one of the two, undetected. The tick is {tick:?};
ticks are assumed to fall on multiples of it, as they do since Linux 6.4 without `skew_tick`.

At a switch, perf read the clock {median:.1} µs after us in the median, and between {least:.1} and {most:.1} µs in
eight of ten switches. It lags more at some switches than at others, for instance when the CPU was idle, and
the figures of the trace are off by the difference.",
        all = missed + gap + uneven,
        tick = Duration::from_nanos(tick_ns()?),
    ))
}
