//! The cost of a program's own instructions per switch while tasks of different cgroups alternate.

use std::{
    iter::zip,
    os::{fd::OwnedFd, unix::net::UnixStream},
};

use anyhow::{Context as _, Result, ensure};
use aya::sys::{Stats, enable_stats};
use nix::unistd::{pipe, read, write};
use sched_exporter_tests::{
    cgroups::{Cgroup, Process, Tree},
    workload::{online, pin},
};

use crate::{
    Effort,
    peers::Peers,
    programs::{PRODUCT, Program, WITHOUT_CGROUPS},
    report::{Group, Row, Unit},
    rounds::in_turn,
    summary::Summary,
    switching::context_switches,
};

const NOTE: &str = "\
As in the section on the program's body, but the tasks are in cgroups of their own: time spent in BPF
programs by the kernel's statistics, divided by the context switches of the run. Each run attaches its
program first, so it begins without knowing a cgroup. `minimal` only adds the interval to idle or busy.
The per-CPU hash is what tools commonly do: at each switch it looks up the cgroup in a hash map and adds
the interval there; it counts nothing else. The exporter's program counts times, waits and switches, of
CPUs and of cgroups. `cpudist` and `runqlat` do not tell cgroups apart; each makes one histogram, of time
on a CPU and of waits. In the ring, a token passes through 128 tasks on one CPU, so each switch is to the
cgroup that was left longest ago. In messaging, 200 tasks on all CPUs send to each other in a short
run.";

/// The program that has targets.
const EXPORTER: &str = "the exporter's";

/// The number of cgroups in loads with many.
const MANY: usize = 128;

/// A load whose tasks are in cgroups.
#[derive(Clone, Copy, Debug)]
enum Load {
    /// Two tasks on one CPU that wake each other, in one cgroup.
    Together,
    /// Two tasks on one CPU that wake each other, each in a cgroup of its own.
    Alternating,
    /// A token that goes round tasks on one CPU.
    Ring,
    /// Groups of senders and receivers on all CPUs.
    Messaging,
}

impl Load {
    /// All loads with their names, and the target for the exporter's ratio to the minimal program.
    const ALL: [(Self, &'static str, f64); 4] = [
        (Self::Together, "two tasks in one cgroup", 1.20),
        (Self::Alternating, "two tasks in two cgroups", 1.27),
        (Self::Ring, "a ring through 128 cgroups", 1.30),
        (Self::Messaging, "messaging through 128 cgroups", 1.45),
    ];

    /// Runs it. Returns the context switches of the machine meanwhile.
    fn run(self, cgroups: &[Cgroup], effort: Effort) -> Result<f64> {
        let before = context_switches()?;
        match self {
            Self::Together => ping_pong([&cgroups[0]; 2], effort.choose(60_000, 20_000))?,
            Self::Alternating => {
                ping_pong([&cgroups[0], &cgroups[1]], effort.choose(60_000, 20_000))?;
            }
            Self::Ring => ring(cgroups, effort.choose(800, 300))?,
            Self::Messaging => messaging(cgroups, effort.choose(40, 20))?,
        }
        Ok(context_switches()? - before)
    }
}

/// Measures all loads in rounds, with each program attached alone.
pub(crate) fn measure(effort: Effort, peers: &Peers) -> Result<Group> {
    let mut programs = vec![
        ("`minimal`", Program::Minimal),
        (EXPORTER, PRODUCT),
        ("the exporter's without cgroups", WITHOUT_CGROUPS),
        ("a per-CPU hash", Program::Hash),
    ];
    programs.extend(peers.tools().map(|peer| (peer.name, Program::Peer(peer))));
    let tree = Tree::new();
    let cgroups: Vec<_> = (0..MANY).map(|number| tree.create(&number.to_string())).collect();
    let _statistics = enable_stats(Stats::RunTime).context("enabling BPF statistics")?;
    let mut group = Group::new("Program body for each switch between cgroups", NOTE);
    for (load, name, most) in Load::ALL {
        load.run(&cgroups, effort)?;
        let ns = in_turn(&programs, effort.choose(9, 3), |(program, attach)| {
            let attached = attach.attach()?;
            let before = attached.run_time_ns()?;
            let switches = load.run(&cgroups, effort)?;
            let ns = attached.run_time_ns()? - before;
            ensure!(ns > 0.0, "{program} did not run, according to the kernel's statistics");
            Ok(ns / switches)
        })?;
        for ((program, _), ns) in zip(&programs, &ns) {
            let row = format!("{name}: {program}");
            group.push(Row::new(row, Unit::Ns, Summary::of(ns.iter().copied())));
        }
        for ((program, _), of_it) in zip(&programs, &ns).skip(1) {
            let ratio = Summary::of_ratios(of_it, &ns[0]);
            let row = Row::new(format!("{name}: {program} / `minimal`"), Unit::Ratio, ratio);
            group.push(if *program == EXPORTER { row.at_most(most) } else { row });
        }
        let added = Summary::of(zip(&ns[1], &ns[2]).map(|(with, without)| with - without));
        group.push(Row::new(format!("{name}: cgroups add"), Unit::Ns, added));
    }
    Ok(group)
}

fn last_cpu() -> Result<usize> {
    online().pop().context("no CPU is online")
}

/// Passes one byte from `from` to `to`, this many times.
fn pass(from: &OwnedFd, to: &OwnedFd, times: usize) {
    let mut byte = [0];
    for _ in 0..times {
        let _ = read(from, &mut byte);
        let _ = write(to, &byte);
    }
}

/// Two processes on one CPU that wake each other.
fn ping_pong(cgroups: [&Cgroup; 2], messages: usize) -> Result<()> {
    let cpu = last_cpu()?;
    let (there, back) = (pipe()?, pipe()?);
    let first = cgroups[0].start(|| {
        pin(cpu);
        let _ = write(&there.1, &[0]);
        pass(&back.0, &there.1, messages);
    });
    let second = cgroups[1].start(|| {
        pin(cpu);
        pass(&there.0, &back.1, messages);
    });
    first.wait();
    second.wait();
    Ok(())
}

/// One process in each cgroup, all on one CPU, each of which wakes the next.
fn ring(cgroups: &[Cgroup], rounds: usize) -> Result<()> {
    let cpu = last_cpu()?;
    let pipes = cgroups.iter().map(|_| pipe()).collect::<nix::Result<Vec<_>>>()?;
    let start = |(index, cgroup): (usize, &Cgroup)| {
        let (from, to) = (&pipes[index].0, &pipes[(index + 1) % pipes.len()].1);
        cgroup.start(|| {
            pin(cpu);
            pass(from, to, rounds);
        })
    };
    let processes: Vec<_> = cgroups.iter().enumerate().map(start).collect();
    write(&pipes[0].1, &[0])?;
    processes.into_iter().for_each(Process::wait);
    Ok(())
}

/// As `perf bench sched messaging`: in five groups, 20 senders send to each of 20 receivers.
fn messaging(cgroups: &[Cgroup], messages: usize) -> Result<()> {
    const GROUPS: usize = 5;
    const EACH: usize = 20;
    const BYTES: usize = 100;
    let sockets = (0..GROUPS * EACH).map(|_| UnixStream::pair()).collect::<Result<Vec<_>, _>>()?;
    let mut all = cgroups.iter().cycle();
    let mut next = || all.next().context("no cgroup");
    let (starts, start) = pipe()?;
    // Each waits until all have started.
    let wait = || {
        let _ = read(&starts, &mut [0]);
    };
    let mut processes = Vec::new();
    for group in sockets.chunks(EACH) {
        for (_, receiver) in group {
            processes.push(next()?.start(|| {
                let (mut left, mut buffer) = (EACH * messages * BYTES, [0; BYTES]);
                while left > 0 {
                    match read(receiver, &mut buffer) {
                        Ok(0) | Err(_) => return,
                        Ok(length) => left -= length,
                    }
                }
            }));
        }
        for _ in 0..EACH {
            processes.push(next()?.start(|| {
                wait();
                for _ in 0..messages {
                    for (sender, _) in group {
                        let mut left = BYTES;
                        while left > 0 {
                            match write(sender, &[0; BYTES][..left]) {
                                Ok(length) => left -= length,
                                Err(_) => return,
                            }
                        }
                    }
                }
            }));
        }
    }
    write(&start, &[0; GROUPS * EACH])?;
    processes.into_iter().for_each(Process::wait);
    Ok(())
}
