//! Cgroups with known loads, and the figures of all cgroups.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context as _, Result};
use nix::{
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use sched_exporter::{
    accounting::{Budget, CgroupSets, CgroupTotals, CgroupsSnapshot, Counters as _, Snapshot},
    kernel::scheduler::Scheduler,
};
use sched_exporter_tests::{
    cgroups::{Cgroup, Hierarchy, Process, Tree, bursts},
    kernel::Schedstat,
    trace::Account,
    workload::pin,
};

use crate::window::{TOLERANCE_NS, WAIT_APART_NS};

/// The cgroups of [`CgroupLoad`].
pub(crate) const NAMES: [&str; 3] = ["frugal", "greedy", "limited"];

/// The quota of the last one, in each period.
const QUOTA: Duration = Duration::from_millis(20);
const PERIOD: Duration = Duration::from_millis(100);

/// When tasks end that are not stopped before.
const LONGEST: Duration = Duration::from_mins(10);

/// Cgroups whose tasks share a CPU until this is dropped.
pub(crate) struct CgroupLoad {
    groups: [Group; NAMES.len()],
    _tree: Tree,
}

struct Group {
    // Its tasks end before it is removed with the tree.
    tasks: Vec<Process>,
    cgroup: Cgroup,
}

impl CgroupLoad {
    /// Starts the tasks of all cgroups.
    pub(crate) fn on(cpu: usize) -> Self {
        let tree = Tree::new();
        let work = |burst, pause| {
            move || {
                pin(cpu);
                bursts(LONGEST, Duration::from_millis(burst), Duration::from_millis(pause));
            }
        };
        let groups = NAMES.map(|name| {
            let cgroup = tree.create(name);
            let tasks = match name {
                "frugal" => vec![cgroup.start(work(2, 8))],
                "greedy" => vec![cgroup.start(work(10, 0)), cgroup.start(work(10, 0))],
                _ => {
                    cgroup.limit(Some(QUOTA), PERIOD);
                    let task = cgroup.start(work(10, 0));
                    cgroup.put_under_limit(task.pid());
                    vec![task]
                }
            };
            Group { tasks, cgroup }
        });
        Self { groups, _tree: tree }
    }

    /// PIDs of its tasks.
    pub(crate) fn ids(&self) -> impl Iterator<Item = Pid> {
        self.groups.iter().flat_map(|group| &group.tasks).map(Process::pid)
    }

    /// CPU time of its tasks, by their own clocks.
    pub(crate) fn cpu_ns(&self) -> Result<u64> {
        let clock = |task| -> Result<u64> {
            let time = Duration::from(clock_gettime(clock_getcpuclockid(task)?)?);
            Ok(u64::try_from(time.as_nanos())?)
        };
        self.ids().map(clock).sum()
    }

    /// CPU time of each cgroup by the kernel.
    pub(crate) fn usage_ns(&self) -> [u64; NAMES.len()] {
        self.groups.each_ref().map(|group| group.cgroup.usage_ns())
    }

    /// The cgroups, for [`Identity::figures`].
    pub(crate) fn identities(&self) -> [Identity; NAMES.len()] {
        self.groups.each_ref().map(|Group { tasks, cgroup }| Identity {
            id: cgroup.id(),
            tasks: tasks.iter().map(|task| task.pid().as_raw().cast_unsigned()).collect(),
        })
    }
}

/// The file in which this machine's kernel shows the CPU time of a cgroup.
pub(crate) fn usage_file() -> &'static str {
    match Hierarchy::mounted() {
        Hierarchy::V1 => "cpuacct.usage",
        Hierarchy::Hybrid | Hierarchy::V2 => "cpu.stat",
    }
}

/// A cgroup and its tasks.
pub(crate) struct Identity {
    id: u64,
    tasks: Vec<u32>,
}

/// All figures of a cgroup in a window, in nanoseconds.
#[derive(Clone, Copy, Default)]
pub(crate) struct Figures {
    pub(crate) trace: u64,
    pub(crate) ours: u64,
    /// By the kernel's statistics of the cgroup.
    pub(crate) usage: u64,
    pub(crate) trace_wait: u64,
    pub(crate) ours_wait: u64,
    /// By the kernel's statistics of its tasks.
    pub(crate) run_delay: u64,
    /// By the trace, the waits that ended between our two readings for certain.
    least_wait: u64,
    /// By the trace, the waits that may have ended between our two readings.
    most_wait: u64,
}

/// One end of a window.
pub(crate) struct End<'r> {
    /// Our reading.
    pub(crate) snapshot: &'r Snapshot,
    pub(crate) usage_ns: u64,
    pub(crate) tasks: &'r HashMap<u32, Schedstat>,
}

impl Identity {
    /// The figures of a window. The accounts by the trace are of the waits that ended in it for certain,
    /// of the window, and of the waits that may have ended in it.
    pub(crate) fn figures(
        &self,
        [from, to]: &[End<'_>; 2],
        [least, exact, most]: [&Account; 3],
    ) -> Result<Figures> {
        let (old, new) = (self.totals(from.snapshot)?, self.totals(to.snapshot)?);
        let sum = |by_task: &HashMap<u32, u64>| -> u64 {
            self.tasks.iter().filter_map(|task| by_task.get(task)).sum()
        };
        let run_delay_ns = |end: &End<'_>| -> u64 {
            let tasks = self.tasks.iter().filter_map(|task| end.tasks.get(task));
            tasks.map(|task| task.run_delay_ns).sum()
        };
        Ok(Figures {
            trace: sum(&exact.task_ns),
            ours: new.cpu_ns - old.cpu_ns,
            usage: to.usage_ns - from.usage_ns,
            trace_wait: sum(&exact.wait_ns),
            ours_wait: new.wait_ns - old.wait_ns,
            run_delay: run_delay_ns(to) - run_delay_ns(from),
            least_wait: sum(&least.wait_ns),
            most_wait: sum(&most.wait_ns),
        })
    }

    /// By us.
    fn totals(&self, snapshot: &Snapshot) -> Result<CgroupTotals> {
        let mut cgroups = all(snapshot)?.cgroups.iter();
        let found = cgroups.find(|cgroup| cgroup.id == self.id);
        Ok(found.with_context(|| format!("no counts of cgroup {}", self.id))?.totals)
    }
}

impl Figures {
    pub(crate) fn add(&mut self, other: &Self) {
        self.trace += other.trace;
        self.ours += other.ours;
        self.usage += other.usage;
        self.trace_wait += other.trace_wait;
        self.ours_wait += other.ours_wait;
        self.run_delay += other.run_delay;
        self.least_wait += other.least_wait;
        self.most_wait += other.most_wait;
    }

    /// Differences from the trace that reading the clocks does not explain, one sentence each. The CPU
    /// may differ by `tolerance_ns`, and had this number of waits.
    pub(crate) fn disagreements(&self, name: &str, tolerance_ns: u64, waits: u64) -> Vec<String> {
        let mut found = Vec::new();
        let Self { trace, ours, trace_wait, ours_wait, .. } = *self;
        if ours.abs_diff(trace) > tolerance_ns {
            found.push(format!("cgroup {name}: {ours} ns, {trace} ns by the trace"));
        }
        let tolerance_ns = TOLERANCE_NS + WAIT_APART_NS * waits;
        let least = self.least_wait.saturating_sub(tolerance_ns);
        let most = self.most_wait + tolerance_ns;
        if !(least..=most).contains(&ours_wait) {
            found.push(format!(
                "waits of cgroup {name}: {ours_wait} ns, {trace_wait} ns by the trace"
            ));
        }
        found
    }
}

/// All cgroups of this machine in sets, as the exporter keeps them. There are more sets than are shown,
/// and none is kept after its last cgroup was removed.
pub(crate) struct Sets(CgroupSets<u64>);

impl Sets {
    pub(crate) fn new(scheduler: &Scheduler) -> Self {
        const SHOWN: usize = 4;
        let budget = Budget { limit: SHOWN, keep: Duration::ZERO };
        Self(CgroupSets::new(scheduler.attached_at(), budget))
    }

    /// Follows the cgroups that have appeared or were removed, and gives back their slots.
    pub(crate) fn follow(&mut self, scheduler: &Scheduler, snapshot: &Snapshot) -> Result<()> {
        const SETS: u64 = 8;
        let cgroups = all(snapshot)?;
        let unnamed = self.0.unnamed(cgroups);
        let named: Vec<_> = unnamed.map(|it| (it.serial, Some(it.id % SETS))).collect();
        self.0.assign(snapshot.taken_at, cgroups, named);
        self.0.rank(snapshot.taken_at, cgroups);
        let removed = cgroups.cgroups.iter().filter(|cgroup| cgroup.is_removed);
        let removed: Vec<_> = removed.map(|cgroup| cgroup.serial).collect();
        Ok(scheduler.free_cgroups(&removed)?)
    }

    /// Difference between what is shown of cgroups and the CPUs' busy modes, or between their waits.
    pub(crate) fn off_ns(&self, snapshot: &Snapshot) -> Result<u64> {
        let values = self.0.values(snapshot.taken_at, all(snapshot)?);
        let mut sum = values.other.totals;
        for set in &values.sets {
            sum.add(&set.values.totals);
        }
        sum.add(&values.removed);
        sum.add(&values.forgotten);
        let cpus = snapshot.cpus.iter().chain(&snapshot.offline);
        let [mut busy_ns, mut wait_ns] = [0; 2];
        for totals in cpus.filter_map(|cpu| cpu.totals.as_ref()) {
            busy_ns += totals.mode_ns[1..].iter().sum::<u64>();
            wait_ns += totals.wait_ns;
        }
        Ok(sum.cpu_ns.abs_diff(busy_ns).max(sum.wait_ns.abs_diff(wait_ns)))
    }
}

fn all(snapshot: &Snapshot) -> Result<&CgroupsSnapshot> {
    snapshot.cgroups.as_ref().context("cgroups are not accounted for")
}
