//! The cost of a program's own instructions per switch while tasks of different cgroups alternate, and
//! scrapes of machines with many cgroups.

use std::{
    iter::zip,
    os::{fd::OwnedFd, unix::net::UnixStream},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use aya::sys::{Stats, enable_stats};
use nix::unistd::{pipe, read, write};
use sched_exporter_tests::{
    cgroups::{Cgroup, Process, Tree},
    process::PATIENCE,
    workload::{online, pin},
};

use crate::{
    Effort,
    daemon::Daemon,
    programs::{PRODUCT, Program},
    report::{Group, Row, Unit},
    rounds::in_turn,
    summary::{Summary, number, us},
    switching::context_switches,
};

const NOTE: &str = "\
As in the section on the program's body, but the tasks are in cgroups of their own: time spent in BPF
programs by the kernel's statistics, divided by the context switches of the run. Each run attaches its
program first, so it begins without knowing a cgroup. `minimal` only adds the interval to idle or busy.
The per-CPU hash is what tools commonly do: at each switch it looks up the cgroup in a hash map and adds
the interval there; it counts nothing else. The exporter's program counts times, waits and switches, of
CPUs and of cgroups. In the ring, a token passes through 128 tasks on one CPU, so each switch is to the
cgroup that was left longest ago. In messaging, 200 tasks on all CPUs send to each other in a short
run.";

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
pub(crate) fn measure(effort: Effort) -> Result<Group> {
    let programs = [
        ("`minimal`", Program::Minimal),
        ("a per-CPU hash", Program::Hash),
        ("the exporter's", PRODUCT),
    ];
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
            group.push(if *program == "the exporter's" { row.at_most(most) } else { row });
        }
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

/// The cgroups and sets of a machine whose scrapes are measured, and the target for the CPU time of one
/// in milliseconds. The second has nearly as many cgroups as there are slots.
const MACHINES: [(usize, usize, Option<f64>); 2] = [(1_000, 250, Some(1.0)), (4_000, 1_000, None)];

/// A configuration that makes this many sets of the cgroups of [`measure_scrapes`].
fn sets(count: usize) -> String {
    format!(
        "cgroups:\n  labels: {{set: \"{{{{ cgroup.path }}}}\"}}\n  relabel_configs:\n  - {{source_labels: [set], \
         regex: \"/sched_exporter-test-[^/]*/([^-]*)-.*\", target_label: set}}\nlimits: {{cgroups: {count}}}\n"
    )
}

const SCRAPES_NOTE: &str = "\
Consecutive scrapes in text 0.0.4 of an exporter on a machine with many cgroups, in each of which a task
has run; CPU is that of the exporter per scrape, over all threads, while nothing else happens. No cgroup
has a quota.";

/// Scrapes of an exporter that knows many cgroups.
pub(crate) fn measure_scrapes(effort: Effort) -> Result<Group> {
    const HEADERS: &str = "Accept: text/plain;version=0.0.4\r\n";
    let mut group = Group::new("Scrapes of many cgroups", SCRAPES_NOTE);
    for (count, sets_wanted, most) in MACHINES {
        let daemon = Daemon::start_with(&sets(sets_wanted))?;
        let tree = Tree::new();
        for number in 0..count {
            let cgroup = tree.create(&format!("{}-{number}", number % sets_wanted));
            cgroup.start(|| ()).wait();
        }
        let mut client = daemon.client()?;
        let deadline = Instant::now() + PATIENCE;
        let shown = |text: &str| {
            text.lines().filter(|line| line.starts_with("sched_cgroup_cpu_seconds_total{")).count()
        };
        // The cgroups that were there before have sets, too.
        while shown(&client.get("/metrics").text()) < sets_wanted {
            ensure!(Instant::now() < deadline, "the exporter does not show {sets_wanted} sets");
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        let mut connection = daemon.connect()?;
        let bytes = connection.get("/metrics", HEADERS)?;
        let scrapes = effort.choose(100, 30);
        let mut cpu = Vec::new();
        for _ in 0..effort.choose(9, 3) {
            let before = daemon.cpu_time()?;
            for _ in 0..scrapes {
                connection.get("/metrics", HEADERS)?;
            }
            cpu.push(us(daemon.cpu_time()?.saturating_sub(before)) / 1e3 / number(scrapes));
        }
        let name = format!("{count} cgroups in {sets_wanted} sets");
        let row = Row::new(format!("{name}: CPU"), Unit::Ms, Summary::of(cpu));
        group.push(match most {
            Some(most) => row.at_most(most),
            None => row,
        });
        group.push(Row::new(format!("{name}: size"), Unit::Bytes, Summary::of([number(bytes)])));
    }
    Ok(group)
}
