//! Loads that switch often, and the end-to-end cost of an attached program for them.

use std::{
    fs,
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
    peers::Peers,
    programs::{PRODUCT, Program},
    report::{Group, Row, Unit},
    rounds::in_turn,
    summary::Summary,
};

/// A benchmark of `perf`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Load {
    /// Two processes on the last CPU that wake each other through pipes, and so do little but
    /// switch.
    Pipe,
    /// 200 processes on all CPUs, in five groups; in each, one half sends to the other.
    Messaging,
}

/// Results of a run of a load.
pub(crate) struct Run {
    /// CPU time of all its processes, in seconds.
    cpu: f64,
    /// Wall time of the messages alone, as reported by `perf`, in seconds.
    wall: f64,
    /// Context switches of the whole machine.
    pub(crate) switches: f64,
}

impl Load {
    /// Runs it. For the pipe, each message is two switches; for the other load, `messages` is the
    /// number from each sender to each receiver of its group.
    pub(crate) fn run(self, messages: usize) -> Result<Run> {
        /// Timeout of a run.
        const LIMIT_SECONDS: &str = "120";
        const BENCH: [&str; 4] = ["perf", "bench", "--format=simple", "sched"];
        let mut command = Command::new("timeout");
        // It ends all processes on a signal; each alone would wait for the others.
        command.arg(LIMIT_SECONDS);
        match self {
            Self::Pipe => {
                let cpu = online().pop().context("no CPU is online")?.to_string();
                command.args(["taskset", "--cpu-list", &cpu]).args(BENCH).args(["pipe", "--loop"])
            }
            Self::Messaging => {
                command.args(BENCH).args(["messaging", "--group", "5", "--nr_loops"])
            }
        };
        command.arg(messages.to_string()).stdin(Stdio::null()).stdout(Stdio::piped());
        let before = (children_cpu()?, context_switches()?);
        let output = children::spawn(&mut command)?.wait_with_output()?;
        ensure!(output.status.success(), "`perf bench sched`: {}", output.status);
        let wall = String::from_utf8(output.stdout)?;
        let wall = wall.trim().parse().with_context(|| format!("`perf bench` printed {wall:?}"))?;
        let cpu = children_cpu()?.saturating_sub(before.0).as_secs_f64();
        Ok(Run { cpu, wall, switches: context_switches()? - before.1 })
    }
}

/// CPU time of all children that have ended, in seconds.
fn children_cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let duration = |time: TimeVal| {
        let us = time.tv_sec() * 1_000_000 + time.tv_usec();
        u64::try_from(us).map(Duration::from_micros)
    };
    Ok(duration(usage.user_time())? + duration(usage.system_time())?)
}

/// Context switches of all CPUs since boot.
pub(crate) fn context_switches() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let count = stat.lines().find_map(|line| line.strip_prefix("ctxt "));
    count.context("/proc/stat has no ctxt")?.parse().context("ctxt of /proc/stat")
}

const PIPE_NOTE: &str = "\
`perf bench sched pipe` on one CPU, with BPF statistics off, with nothing attached and with each
program attached, in an order that rotates from round to round. Ratios are of two runs in the same
round. This is the worst case: the load only switches, some 500,000 times a second.";

/// Two tasks on one CPU.
pub(crate) fn measure_pipe(effort: Effort, peers: &Peers) -> Result<Group> {
    let messages = effort.choose(200_000, 50_000);
    let runs = Runs::of(Load::Pipe, messages, effort.choose(13, 4), peers)?;
    let mut group = Group::new("Switching from end to end: two tasks on one CPU", PIPE_NOTE);
    runs.push(&mut group, "time of a switch", Unit::Ns, |run| run.wall * 1e9 / run.switches);
    runs.push_ratios(&mut group, "CPU time", Some(1.10), |run| run.cpu);
    runs.push_ratios(&mut group, "wall time", None, |run| run.wall);
    Ok(group)
}

const MESSAGING_NOTE: &str = "\
`perf bench sched messaging` with 200 tasks on all CPUs, otherwise as above. Tasks move between CPUs
and do some work between switches. The number of switches varies from run to run, and so does the
time, which hides small differences between programs.";

/// Many tasks on all CPUs.
pub(crate) fn measure_messaging(effort: Effort, peers: &Peers) -> Result<Group> {
    let runs = Runs::of(Load::Messaging, effort.choose(400, 150), effort.choose(13, 4), peers)?;
    let mut group = Group::new("Switching from end to end: many tasks", MESSAGING_NOTE);
    runs.push(&mut group, "time of a run", Unit::Ms, |run| run.wall * 1e3);
    runs.push(&mut group, "switches in a run", Unit::Count, |run| run.switches);
    runs.push_ratios(&mut group, "CPU time", None, |run| run.cpu);
    runs.push_ratios(&mut group, "wall time", None, |run| run.wall);
    Ok(group)
}

/// The runs of a load, by attached program and round. The first is without a program.
struct Runs(Vec<(&'static str, Vec<Run>)>);

/// The program that has targets.
const EXPORTER: &str = "the exporter";

impl Runs {
    fn of(load: Load, messages: usize, rounds: usize, peers: &Peers) -> Result<Self> {
        let mut attachments = vec![
            ("nothing", None),
            ("an empty program", Some(Program::Empty)),
            ("the minimal program", Some(Program::Minimal)),
            (EXPORTER, Some(PRODUCT)),
        ];
        attachments.extend(peers.tools().map(|peer| (peer.name, Some(Program::Peer(peer)))));
        load.run(messages)?;
        let runs = in_turn(&attachments, rounds, |(_, program)| {
            let _attached = program.map(Program::attach).transpose()?;
            load.run(messages)
        })?;
        Ok(Self(attachments.into_iter().map(|(name, _)| name).zip(runs).collect()))
    }

    /// Adds a row for each program.
    fn push(&self, group: &mut Group, what: &str, unit: Unit, value: fn(&Run) -> f64) {
        for (name, runs) in &self.0 {
            let summary = Summary::of(runs.iter().map(value));
            group.push(Row::new(format!("{what}, attached: {name}"), unit, summary));
        }
    }

    /// Adds a row for each program with its ratio to nothing attached, with the target of the
    /// exporter.
    fn push_ratios(
        &self,
        group: &mut Group,
        what: &str,
        at_most: Option<f64>,
        value: fn(&Run) -> f64,
    ) {
        let values = |runs: &[Run]| runs.iter().map(value).collect::<Vec<_>>();
        let Some(((_, nothing), others)) = self.0.split_first() else { return };
        for (name, runs) in others {
            let ratio = Summary::of_ratios(&values(runs), &values(nothing));
            let row = Row::new(format!("{what}, {name} / nothing"), Unit::Ratio, ratio);
            group.push(match at_most {
                Some(most) if *name == EXPORTER => row.at_most(most),
                _ => row,
            });
        }
    }
}
