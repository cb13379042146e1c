//! A trace of the scheduler that is not ours: perf's, on the same clock.

use std::{
    collections::{HashMap, HashSet},
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use sched_exporter_ebpf::{Mode, Reason};
use tempfile::TempDir;

use crate::exposition::nanoseconds;

/// Most nanoseconds, on average, between two readings of the clock at one switch: perf reads it
/// some hundred nanoseconds after us, with variation.
pub const CLOCKS_APART_NS: u64 = 400;

/// Events that show which task runs on each CPU and since when the others wait.
const EVENTS: &str =
    "sched:sched_switch,sched:sched_wakeup,sched:sched_wakeup_new,sched:sched_migrate_task";

/// A running `perf record`. It ends with this process at the latest.
pub struct Recording {
    perf: Child,
    directory: TempDir,
}

impl Recording {
    /// Starts perf and waits until it is recording.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // perf starts the command once it records, and ends with it; the command ends with its
        // standard input.
        let mut perf = Command::new("perf")
            .args(["record", "--quiet", "--all-cpus", "--clockid", "CLOCK_MONOTONIC"])
            .args(["--event", EVENTS])
            .args(["--mmap-pages", "4M", "--output"])
            .arg(data(&directory))
            .args(["sh", "-c", "echo recording; cat >/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(perf.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(
            line, "recording\n",
            "`perf record` failed to start; the reason is on standard error"
        );
        Self { perf, directory }
    }

    /// Stops recording and reads the trace.
    pub fn finish(mut self) -> Trace {
        drop(self.perf.stdin.take());
        let status = self.perf.wait().unwrap();
        assert!(status.success(), "perf record: {status}");
        let script = Command::new("perf")
            .args(["script", "--ns", "--fields", "cpu,time,event,trace", "--input"])
            .arg(data(&self.directory))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(script.status.success(), "{}", String::from_utf8_lossy(&script.stderr));
        Trace::parse(&String::from_utf8_lossy(&script.stdout))
    }
}

fn data(directory: &TempDir) -> PathBuf {
    directory.path().join("perf.data")
}

/// The recorded events, in order of time.
#[derive(Debug)]
pub struct Trace(Vec<Event>);

#[derive(Debug)]
struct Event {
    at: u64,
    cpu: u32,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Switch(Switch),
    /// A task became runnable on the CPU.
    Wakeup(u32),
    /// A task was moved to the CPU.
    Move(u32),
}

#[derive(Clone, Copy, Debug)]
struct Switch {
    prev: u32,
    prev_runnable: bool,
    next: u32,
    next_prio: i32,
}

/// Classes of tasks that perf's record distinguishes; it has priorities but no policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The idle task.
    Idle,
    /// A kernel thread.
    Kthread,
    /// A user task with a deadline.
    Deadline,
    /// A user task with a real-time priority.
    Realtime,
    /// Any other task.
    Normal,
}

impl Class {
    /// All classes, indexed by discriminant.
    pub const ALL: [Self; 5] =
        [Self::Idle, Self::Kthread, Self::Deadline, Self::Realtime, Self::Normal];

    fn of(pid: u32, prio: i32, kthreads: &HashSet<u32>) -> Self {
        match (pid, prio) {
            (0, _) => Self::Idle,
            _ if kthreads.contains(&pid) => Self::Kthread,
            (_, ..0) => Self::Deadline,
            (_, ..100) => Self::Realtime,
            _ => Self::Normal,
        }
    }

    /// Our modes that belong to the class.
    pub const fn modes(self) -> &'static [Mode] {
        match self {
            Self::Idle => &[Mode::Idle],
            Self::Kthread => &[Mode::Kthread],
            Self::Deadline => &[Mode::Deadline],
            Self::Realtime => &[Mode::Realtime],
            Self::Normal => &[Mode::Fair, Mode::Batch, Mode::IdlePolicy, Mode::Ext],
        }
    }

    /// Sum of our times in the modes of the class.
    pub fn ours(self, mode_ns: &[u64; Mode::ALL.len()]) -> u64 {
        self.modes().iter().map(|mode| mode_ns[*mode as usize]).sum()
    }
}

/// Totals of a CPU over a window of a trace.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Nanoseconds by [`Class`].
    pub class_ns: [u64; Class::ALL.len()],
    /// Nanoseconds by task.
    pub task_ns: HashMap<u32, u64>,
    /// Number of switches by [`Reason`].
    pub switches: [u64; Reason::ALL.len()],
    /// Nanoseconds that tasks waited before they were switched in, from when they were woken or
    /// switched out runnable; by task.
    pub wait_ns: HashMap<u32, u64>,
    /// Number of these waits.
    pub waits: u64,
    /// Number of switches to tasks whose wakeup is not in the trace.
    pub unknown_waits: u64,
}

impl Trace {
    /// Parses the output of `perf script --ns --fields cpu,time,event,trace`.
    fn parse(script: &str) -> Self {
        let mut events: Vec<_> = script.lines().filter_map(parse).collect();
        events.sort_by_key(|event| event.at);
        Self(events)
    }

    /// Totals of a CPU after `from` and up to `to`. `None` if the trace does not span the window,
    /// or has a gap in it: a switch away from a task that was not switched in.
    pub fn account(
        &self,
        cpu: u32,
        from: u64,
        to: u64,
        kthreads: &HashSet<u32>,
    ) -> Option<Account> {
        let mut account = Account::default();
        let mut current: Option<(u64, Switch)> = None;
        let mut waiting = Waiting::default();
        for &Event { at, cpu: on, what } in &self.0 {
            let waited = waiting.follow(at, on, what);
            let What::Switch(switch) = what else { continue };
            if on != cpu {
                continue;
            }
            if at > from {
                let (since, last) = current?;
                if last.next != switch.prev {
                    return None;
                }
                let class = Class::of(last.next, last.next_prio, kthreads);
                let ran_ns = at.min(to) - since.max(from);
                account.class_ns[class as usize] += ran_ns;
                *account.task_ns.entry(last.next).or_default() += ran_ns;
            }
            if at > to {
                return Some(account);
            }
            if at > from {
                account.switches[switch.reason() as usize] += 1;
                if let Some(waited) = waited {
                    *account.wait_ns.entry(switch.next).or_default() += waited;
                    account.waits += 1;
                } else if switch.next != 0 {
                    account.unknown_waits += 1;
                }
            }
            current = Some((at, switch));
        }
        // The trace ends before the window.
        None
    }

    /// How long after `at`, when our program read the clock at a switch of the CPU, perf read it at the same
    /// switch. `None` if perf recorded no switch in the next 100 µs.
    pub fn lag_ns(&self, cpu: u32, at: u64) -> Option<u64> {
        const SAME_SWITCH_NS: u64 = 100_000;
        let first = self.0.partition_point(|event| event.at < at);
        let is_switch = |event: &&Event| event.cpu == cpu && matches!(event.what, What::Switch(_));
        let lag_ns = self.0[first..].iter().find(is_switch)?.at - at;
        (lag_ns <= SAME_SWITCH_NS).then_some(lag_ns)
    }
}

/// The tasks that are runnable but not running.
#[derive(Default)]
struct Waiting {
    /// CPU and start of the wait, by task.
    tasks: HashMap<u32, (u32, u64)>,
    /// The running task of each CPU.
    running: HashMap<u32, u32>,
}

impl Waiting {
    /// Processes an event. For a switch, returns how long the next task waited on this CPU.
    fn follow(&mut self, at: u64, cpu: u32, what: What) -> Option<u64> {
        match what {
            // A task can be woken before it is switched out.
            What::Wakeup(task) if self.running.get(&cpu) == Some(&task) => None,
            What::Wakeup(task) => {
                self.tasks.entry(task).or_insert((cpu, at));
                None
            }
            What::Move(task) => {
                self.tasks.entry(task).and_modify(|waiting| *waiting = (cpu, at));
                None
            }
            What::Switch(Switch { prev, prev_runnable, next, .. }) => {
                self.running.insert(cpu, next);
                self.tasks.remove(&prev);
                if prev_runnable && prev != 0 {
                    self.tasks.insert(prev, (cpu, at));
                }
                let (on, since) = self.tasks.remove(&next)?;
                (on == cpu).then(|| at - since)
            }
        }
    }
}

impl Switch {
    fn reason(&self) -> Reason {
        match self {
            Self { prev: 0, .. } => Reason::Idle,
            Self { prev_runnable: true, .. } => Reason::Preempted,
            _ => Reason::Voluntary,
        }
    }
}

fn parse(line: &str) -> Option<Event> {
    let (cpu, rest) = line.trim_start().strip_prefix('[')?.split_once(']')?;
    let (at, rest) = rest.trim_start().split_once(": ")?;
    let (name, record) = rest.trim_start().split_once(": ")?;
    let field = |name: &str| record.rsplit_once(name)?.1.split(' ').next();
    let (cpu, what) = match name {
        "sched:sched_switch" => {
            let switch = Switch {
                prev: field(" prev_pid=")?.parse().ok()?,
                prev_runnable: field(" prev_state=")?.starts_with('R'),
                next: field(" next_pid=")?.parse().ok()?,
                next_prio: field(" next_prio=")?.parse().ok()?,
            };
            (cpu, What::Switch(switch))
        }
        "sched:sched_migrate_task" => {
            (field(" dest_cpu=")?, What::Move(field(" pid=")?.parse().ok()?))
        }
        _ => (field(" target_cpu=")?, What::Wakeup(field(" pid=")?.parse().ok()?)),
    };
    Some(Event { at: nanoseconds(at), cpu: cpu.parse().ok()?, what })
}
