//! docs/accuracy.md.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use sched_exporter_tests::machine::machine;

use crate::{
    report::{Measured, Totals},
    window::Unusable,
    workloads::tick_ns,
};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/accuracy.md");

const INTRO: &str = "\
# Accuracy

How true the exporter's figures are, measured. `cargo xtask accuracy --write` measures again and writes
this page: change the text in `tests/accuracy`, not here. It needs root and `perf`, takes some minutes,
and wants a machine that does nothing else; `--quick` is for a look. Without `--write` it is a check:
it fails where ours is farther from the trace than said below.";

const READING: &str = "\
Each workload runs on one CPU, the driver and perf on another. It is measured in windows of half a
second, six of which make a round. The figures are the median over the rounds, beside the least and
the most of them.

* *The trace* is the truth by our definition: perf's own record of `sched_switch` on
  `CLOCK_MONOTONIC`, added up from switch to switch between the instants of our two snapshots. A CPU
  is in the mode of the task that is current on it, as that task was when it was switched in.
* *Ours* is the difference of those snapshots. It may be off the trace by 400 ns for each switch,
  since perf reads the clock a moment after us, and by 150 µs in a round, since a hypervisor may stop
  the CPU in between; waits by 1 µs for each, 150 µs, and what tasks waited that are not the
  workload's. More, in any round, is a failure.
* *These tasks* are the workload's alone, without others that come by in the same mode; *their own
  clocks* are the kernel's account of them: what `CLOCK_THREAD_CPUTIME_ID` reads, or
  `/proc/PID/schedstat`.
* *Sum of modes* is `user`, `nice`, `system`, `irq`, `softirq` and `steal` of the CPU's line in
  `/proc/stat`; *wall minus idle* is the time that elapsed without `idle` and `iowait`. They differ
  where the kernel samples the former at its ticks, and takes the latter from a clock. `/proc/stat`
  counts in steps of 10 ms.";

const TOTALS: &str = "\
## Against the kernel's own totals

Every family beside a total that the kernel keeps by itself, on all CPUs together, while the
workloads ran. The kernel is asked between two readings of ours at each end of a window, so its
figure has to lie between ours of the inner and of the outer two; *ours* is the inner, and *off* is
how far outside the kernel's lies in the worst round.

The modes of a CPU, with what is unattributed, are to be the time since attach: the figure is the
worst of any CPU and round. A switch within the microseconds of reading makes it more than 0.
Switches that the program found missing count as up to two each in the outer figure; those that it
could not find are in what `ctxt` has more. Less than ours is a failure. `run_delay` is
added up over all tasks of the machine. What a task waited on a CPU that it was then moved away from
is in it and not in ours; what a task waited that has ended is in ours alone.
";

/// Writes the page.
pub(crate) fn write(all: &[Measured]) -> Result<()> {
    let page = format!("{INTRO}\n\n{}\n\n{READING}\n\n{}", machine(), results(all)?);
    fs::write(Path::new(PATH), page).context("docs/accuracy.md")
}

/// Every workload, and the totals.
pub(crate) fn results(all: &[Measured]) -> Result<String> {
    let sections: Vec<_> = all.iter().map(ToString::to_string).collect();
    Ok(format!("{}\n\n{}\n{TOTALS}\n{}", windows(all)?, sections.join("\n"), Totals(all)))
}

/// How much was measured, and how much of it left out.
fn windows(all: &[Measured]) -> Result<String> {
    let rounds: usize = all.iter().map(|measured| measured.rounds.len()).sum();
    let left_out = |why: Unusable| {
        all.iter().flat_map(|measured| &measured.unusable).filter(|it| **it == why).count()
    };
    let [missed, gap, uneven] = [Unusable::Missed, Unusable::Gap, Unusable::Uneven].map(left_out);
    Ok(format!(
        "These are {rounds} rounds. {all} windows more were measured and left out, since the kernel
had not reported every switch of the CPU in them: {missed} times not to us, which the exporter counts
as missed switches, {gap} times not to perf, and {uneven} times to one of the two only, unnoticed.
The tick is {tick:?}; that ticks fall on multiples of it is taken for granted, as it is since Linux
6.4 without `skew_tick`.",
        all = missed + gap + uneven,
        tick = Duration::from_nanos(tick_ns()?),
    ))
}
