//! The load, and what an attached program costs it from end to end: two processes on one CPU that
//! wake each other through pipes, which is little else than switching.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::resource::{UsageWho, getrusage},
    sys::time::TimeVal,
};
use sched_exporter_tests::workload::online;

use crate::{
    Effort, children,
    programs::{PRODUCT, Program},
    report::{Group, Row, Unit},
    summary::{Summary, number},
};

/// No run takes so long; one that does is ended.
const LIMIT_SECONDS: &str = "120";

/// What a run of the load took, in seconds.
pub(crate) struct Run {
    /// Of the whole process.
    cpu: f64,
    /// Of the messages alone, as `perf` says it.
    wall: f64,
}

/// Sends so many messages, each of which takes two switches, on the last CPU.
pub(crate) fn run(messages: usize) -> Result<Run> {
    let cpu = online().pop().context("no CPU is online")?.to_string();
    let before = children_cpu()?;
    // `timeout` also ends both processes when it is told to end; each alone would wait for the other.
    let child = children::spawn(
        Command::new("timeout")
            .args([LIMIT_SECONDS, "taskset", "--cpu-list", &cpu])
            .args(["perf", "bench", "--format=simple", "sched", "pipe", "--loop"])
            .arg(messages.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped()),
    )?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "`perf bench sched pipe`: {}", output.status);
    let wall = String::from_utf8(output.stdout)?;
    let wall = wall.trim().parse().with_context(|| format!("`perf bench` said {wall:?}"))?;
    Ok(Run { cpu: children_cpu()?.saturating_sub(before).as_secs_f64(), wall })
}

/// CPU time of all children that have ended.
fn children_cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let duration = |time: TimeVal| {
        let us = time.tv_sec() * 1_000_000 + time.tv_usec();
        u64::try_from(us).map(Duration::from_micros)
    };
    Ok(duration(usage.user_time())? + duration(usage.system_time())?)
}

const NOTE: &str = "\
`perf bench sched pipe` on one CPU, statistics off, with nothing attached and with each program
attached, in an order that rotates from round to round. A ratio is that of two runs of one round.
This is the worst case: the load does nothing but switch, some 500,000 times a second.";

/// Runs the load with each program attached.
pub(crate) fn measure(effort: Effort) -> Result<Group> {
    let attachments: [(&str, Option<Program>); 4] = [
        ("nothing", None),
        ("an empty program", Some(Program::Empty)),
        ("the minimal program", Some(Program::Minimal)),
        ("the exporter", Some(PRODUCT)),
    ];
    let messages = effort.choose(200_000, 50_000);
    let rounds = effort.choose(13, 4);
    let mut cpu = [const { Vec::new() }; 4];
    let mut wall = [const { Vec::new() }; 4];
    run(messages)?;
    for round in 0..rounds {
        for turn in 0..attachments.len() {
            let index = (round + turn) % attachments.len();
            let attached = attachments[index].1.map(Program::attach).transpose()?;
            let run = run(messages)?;
            drop(attached);
            cpu[index].push(run.cpu);
            wall[index].push(run.wall);
        }
    }
    let mut group = Group::new("Switching from end to end", NOTE);
    let switches = number(2 * messages);
    for ((name, _), wall) in attachments.iter().zip(&wall) {
        let each = Summary::of(wall.iter().map(|seconds| seconds * 1e9 / switches));
        group.push(Row::new(format!("time of a switch, attached: {name}"), Unit::Ns, each));
    }
    for (index, (name, _)) in attachments.iter().enumerate().skip(1) {
        let ratio = Summary::of_ratios(&cpu[index], &cpu[0]);
        let row = Row::new(format!("CPU time, {name} / nothing"), Unit::Ratio, ratio);
        group.push(if *name == "the exporter" { row.at_most(1.10) } else { row });
    }
    for (index, (name, _)) in attachments.iter().enumerate().skip(1) {
        let ratio = Summary::of_ratios(&wall[index], &wall[0]);
        group.push(Row::new(format!("wall time, {name} / nothing"), Unit::Ratio, ratio));
    }
    Ok(group)
}
