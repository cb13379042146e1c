//! The cost of a program's own instructions per switch, by the kernel's statistics.

use std::iter::zip;

use anyhow::{Context as _, Result, ensure};
use aya::sys::{Stats, enable_stats};
use sched_exporter::kernel::layout::DisabledFeatures;

use crate::{
    Effort,
    peers::Peers,
    programs::{PRODUCT, Program},
    report::{Group, Row, Unit},
    rounds::in_turn,
    summary::Summary,
    switching::Load,
};

const NOTE: &str = "\
Time spent in BPF programs by the kernel's statistics, divided by the context switches of the run,
under the loads of the next two sections: two tasks on one CPU and, in rows that say so, many tasks
on all CPUs, with colder caches. The statistics read the clock before and after each run of a
program, which every row includes. They miss the path from the tracepoint into the program, so the
ratio complements the end-to-end figures but does not replace them. `minimal` only adds the interval
to idle or busy. The cost of a feature is the difference within a round. A peer's row is the sum of
all its programs, including those on wakeups.";

/// Runs the loads in rounds, with each program attached alone.
pub(crate) fn measure(effort: Effort, peers: &Peers) -> Result<Group> {
    let product = |context_switches, runqueue_latency, cgroups, log| {
        let unwanted = DisabledFeatures { context_switches, runqueue_latency, cgroups };
        Program::Product { unwanted, log }
    };
    let compared =
        [("`empty`", Program::Empty), ("`minimal`", Program::Minimal), ("the exporter's", PRODUCT)];
    let variants = [
        ("the exporter's without context switches", product(true, false, false, false)),
        ("the exporter's without run-queue latency", product(false, true, false, false)),
        ("the exporter's without both", product(true, true, false, false)),
        ("the exporter's without cgroups", product(false, false, true, false)),
        ("the exporter's with `--log.ebpf`", product(false, false, false, true)),
    ];
    let peers: Vec<_> = peers.tools().map(|peer| (peer.name, Program::Peer(peer))).collect();
    let of_two = [&compared[..], &variants, &peers].concat();
    let of_many = [&compared[..], &peers].concat();

    let _statistics = enable_stats(Stats::RunTime).context("enabling BPF statistics")?;
    let (messages, rounds) = effort.choose((100_000, 11), (30_000, 4));
    let two_tasks = measure_ns(Load::Pipe, messages, rounds, &of_two)?;
    let (messages, rounds) = effort.choose((150, 9), (100, 3));
    let many_tasks = measure_ns(Load::Messaging, messages, rounds, &of_many)?;

    let mut group = Group::new("Program body for each switch", NOTE);
    for ((name, _), ns) in zip(&of_two, &two_tasks) {
        group.push(Row::new((*name).to_owned(), Unit::Ns, Summary::of(ns.iter().copied())));
    }
    let [_, _, whole, no_switches, no_latency, neither, no_cgroups, logging, ..] = &two_tasks[..]
    else {
        unreachable!("there is a result for each program");
    };
    for (what, with, without) in [
        ("context switches add", whole, no_switches),
        ("run-queue latency adds", whole, no_latency),
        ("both add", whole, neither),
        ("cgroups add", whole, no_cgroups),
        ("`--log.ebpf` adds", logging, whole),
    ] {
        let added = Summary::of(zip(with, without).map(|(with, without)| with - without));
        group.push(Row::new(what.to_owned(), Unit::Ns, added));
    }
    let ratio = |what: &str, ns: &[Vec<f64>]| {
        Row::new(what.to_owned(), Unit::Ratio, Summary::of_ratios(&ns[2], &ns[1]))
    };
    group.push(ratio("the exporter's / `minimal`", &two_tasks).at_most(1.25));
    for ((name, _), ns) in zip(&of_many, &many_tasks) {
        let row = format!("many tasks: {name}");
        group.push(Row::new(row, Unit::Ns, Summary::of(ns.iter().copied())));
    }
    group.push(ratio("many tasks: the exporter's / `minimal`", &many_tasks));
    Ok(group)
}

/// Nanoseconds per switch in each program, by round.
fn measure_ns(
    load: Load,
    messages: usize,
    rounds: usize,
    programs: &[(&str, Program<'_>)],
) -> Result<Vec<Vec<f64>>> {
    load.run(messages)?;
    in_turn(programs, rounds, |(name, program)| {
        let attached = program.attach()?;
        let before = attached.run_time_ns()?;
        let run = load.run(messages)?;
        let ns = attached.run_time_ns()? - before;
        ensure!(ns > 0.0, "{name} did not run, according to the kernel's statistics");
        Ok(ns / run.switches)
    })
}
