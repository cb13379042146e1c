//! What a program's own instructions cost for each switch, by the kernel's statistics.

use anyhow::{Context as _, Result};
use aya::sys::{Stats, enable_stats};
use sched_exporter::layout::Unwanted;

use crate::{
    Effort, pipe,
    programs::{PRODUCT, Program, ns_per_run},
    report::{Group, Row, Unit},
    summary::Summary,
};

const NOTE: &str = "\
The body of each program by the kernel's BPF statistics, on the load of the next section. The
statistics read the clock before and after each run, which is in every row, and do not see the way
from the tracepoint into the program; so the ratio is of use beside the end-to-end figures, not
instead of them. `minimal` adds the interval to idle or busy and does nothing else.";

/// Runs the load with each program attached alone, round after round.
pub(crate) fn measure(effort: Effort) -> Result<Group> {
    let without = |context_switches, runqueue_latency| {
        Program::Product(Unwanted { context_switches, runqueue_latency })
    };
    let programs = [
        ("`empty`", Program::Empty),
        ("`minimal`", Program::Minimal),
        ("the exporter's", PRODUCT),
        ("the exporter's without context switches", without(true, false)),
        ("the exporter's without run-queue latency", without(false, true)),
        ("the exporter's without both", without(true, true)),
    ];
    let messages = effort.choose(100_000, 30_000);
    let rounds = effort.choose(11, 4);
    let mut ns = [const { Vec::new() }; 6];
    let _statistics = enable_stats(Stats::RunTime).context("switching BPF statistics on")?;
    pipe::run(messages)?;
    for round in 0..rounds {
        for turn in 0..programs.len() {
            let index = (round + turn) % programs.len();
            let attached = programs[index].1.attach()?;
            pipe::run(messages)?;
            ns[index].push(ns_per_run()?);
            drop(attached);
        }
    }
    let mut group = Group::new("Program body for each switch", NOTE);
    for ((name, _), ns) in programs.iter().zip(&ns) {
        group.push(Row::new((*name).to_owned(), Unit::Ns, Summary::of(ns.iter().copied())));
    }
    let [_, minimal, product, ..] = &ns;
    let ratio = Summary::of_ratios(product, minimal);
    let row = Row::new("the exporter's / `minimal`".to_owned(), Unit::Ratio, ratio);
    group.push(row.at_most(1.25));
    Ok(group)
}
