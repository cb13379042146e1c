//! The numbers against a trace of `sched_switch` that is not ours: perf's, on the same clock.

use std::{
    collections::HashMap,
    fs,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use sched_exporter::snapshot::Snapshot;
use sched_exporter_ebpf::{Mode, Reason};
use sched_exporter_tests::{
    exposition::nanoseconds,
    workload::{Load, monotonic_ns, online, pin, realtime, sleep_until, spin_until},
};

use crate::kernel::accounting::{attach, times};

/// One switch as perf saw it.
#[derive(Debug)]
struct Switch {
    at: u64,
    cpu: u32,
    prev: u32,
    prev_runnable: bool,
    next: u32,
    next_prio: i32,
}

/// What perf's record tells apart; it has priorities, but no policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Idle,
    Kthread,
    Realtime,
    Normal,
}

const CLASSES: [Class; 4] = [Class::Idle, Class::Kthread, Class::Realtime, Class::Normal];

impl Class {
    fn of(pid: u32, prio: i32, kthreads: &HashMap<u32, bool>) -> Self {
        match pid {
            0 => Self::Idle,
            _ if kthreads.get(&pid) == Some(&true) => Self::Kthread,
            _ if prio < 100 => Self::Realtime,
            _ => Self::Normal,
        }
    }

    fn ours(self, mode_ns: &[u64]) -> u64 {
        let modes: &[Mode] = match self {
            Self::Idle => &[Mode::Idle],
            Self::Kthread => &[Mode::Kthread],
            Self::Realtime => &[Mode::Realtime, Mode::Deadline],
            Self::Normal => &[Mode::Fair, Mode::Batch, Mode::IdlePolicy, Mode::Ext],
        };
        modes.iter().map(|mode| mode_ns[*mode as usize]).sum()
    }
}

/// Parses a line of `perf script --ns -F cpu,time,trace`.
fn parse(line: &str) -> Option<Switch> {
    let (cpu, rest) = line.trim_start().strip_prefix('[')?.split_once(']')?;
    let (at, record) = rest.trim_start().split_once(": ")?;
    let field = |name: &str| record.rsplit_once(name)?.1.split(' ').next();
    Some(Switch {
        at: nanoseconds(at),
        cpu: cpu.parse().ok()?,
        prev: field(" prev_pid=")?.parse().ok()?,
        prev_runnable: field(" prev_state=")?.starts_with('R'),
        next: field(" next_pid=")?.parse().ok()?,
        next_prio: field(" next_prio=")?.parse().ok()?,
    })
}

/// Which of the tasks that exist now are kernel threads.
fn kthreads() -> HashMap<u32, bool> {
    const PF_KTHREAD: u64 = 0x0020_0000;
    let mut found = HashMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // The name in parentheses may hold anything.
        let flags =
            stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(6)?.parse().ok());
        found.insert(pid, flags.is_some_and(|flags: u64| flags & PF_KTHREAD != 0));
    }
    found
}

/// Time by class and switches by reason on a CPU after `from` and up to `to`, by the trace; none
/// where the trace itself has a gap: a switch away from a task that was not switched in.
fn by_trace(
    switches: &[&Switch],
    from: u64,
    to: u64,
    kthreads: &HashMap<u32, bool>,
) -> Option<([u64; 4], [u64; 3])> {
    let first = switches.iter().rposition(|switch| switch.at <= from)?;
    let (mut time, mut reasons) = ([0; 4], [0; 3]);
    let mut current = switches[first];
    for switch in &switches[first + 1..] {
        if current.next != switch.prev {
            return None;
        }
        let class = Class::of(current.next, current.next_prio, kthreads);
        time[class as usize] += switch.at.min(to) - current.at.max(from);
        if switch.at > to {
            return Some((time, reasons));
        }
        let reason = match switch {
            Switch { prev: 0, .. } => Reason::Idle,
            Switch { prev_runnable: true, .. } => Reason::Preempted,
            _ => Reason::Voluntary,
        };
        reasons[reason as usize] += 1;
        current = switch;
    }
    // The trace ends before the window.
    None
}

#[test]
fn times_and_switches_are_those_of_an_independent_trace() {
    pin(0);
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("perf.data");
    let scheduler = attach();
    let mut perf = Command::new("perf")
        .args(["record", "--quiet", "-a", "-e", "sched:sched_switch", "-k", "CLOCK_MONOTONIC"])
        .args(["-m", "4M", "-o"])
        .arg(&data)
        .args(["sleep", "4"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_secs(1));

    // Some of everything, at a rate that leaves intervals far above what reading a clock takes.
    let cpus = online();
    let sleepers = Load::on(&cpus, || {
        spin_until(monotonic_ns() + 300_000);
        thread::sleep(Duration::from_micros(400));
    });
    let bursts = thread::spawn(|| {
        pin(1);
        realtime();
        let mut next = monotonic_ns();
        for _ in 0..500 {
            next += 4_000_000;
            sleep_until(next);
            spin_until(monotonic_ns() + 500_000);
        }
    });
    let snapshots: Vec<Snapshot> = (0..40)
        .map(|_| {
            thread::sleep(Duration::from_millis(50));
            scheduler.snapshot().unwrap()
        })
        .collect();
    let kthreads = kthreads();
    bursts.join().unwrap();
    drop(sleepers);
    assert!(perf.wait().unwrap().success());

    let script = Command::new("perf")
        .args(["script", "--ns", "-F", "cpu,time,trace", "-i"])
        .arg(&data)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let script = String::from_utf8_lossy(&script.stdout);
    let switches: Vec<_> = script.lines().filter_map(parse).collect();
    assert!(switches.len() > 1_000, "perf saw {} switches:\n{:.500}", switches.len(), script);

    let mut compared = 0;
    for &cpu in &cpus {
        let cpu = u32::try_from(cpu).unwrap();
        let mut on_cpu: Vec<_> = switches.iter().filter(|switch| switch.cpu == cpu).collect();
        on_cpu.sort_by_key(|switch| switch.at);
        for pair in snapshots.windows(2) {
            let (from, to) = (&pair[0], &pair[1]);
            let (old, new) = (times(from, cpu), times(to, cpu));
            let trace = by_trace(&on_cpu, from.taken_at, to.taken_at, &kthreads);
            let Some((time, reasons)) = trace else { continue };
            if old.missed_switches != new.missed_switches {
                continue;
            }
            compared += 1;
            for reason in Reason::ALL {
                let ours = new.switches[reason as usize] - old.switches[reason as usize];
                // One at each end of the window may be on either side of it.
                let error = ours.abs_diff(reasons[reason as usize]);
                assert!(error <= 2, "CPU {cpu} {reason:?}: {ours}, by trace {reasons:?}");
            }
            // perf reads the clock some hundred nanoseconds after us, not always the same.
            let tolerance = 5_000 + 400 * reasons.iter().sum::<u64>();
            for class in CLASSES {
                let ours = class.ours(&new.mode_ns) - class.ours(&old.mode_ns);
                let error = ours.abs_diff(time[class as usize]);
                assert!(
                    error <= tolerance,
                    "CPU {cpu} {class:?}: {ours} ns, by trace {} ns, {} switches",
                    time[class as usize],
                    reasons.iter().sum::<u64>()
                );
            }
        }
    }
    assert!(compared >= 20, "only {compared} windows in which the trace has no gap");
}
