//! The kernel of this machine: attaches our program, and reads the kernel's own figures for what we
//! measure.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, DirEntry},
    io,
};

use sched_exporter::{
    accounting::{Snapshot, Totals},
    cgroup::hierarchy,
    kernel::{
        btf::Btf,
        layout::{DisabledFeatures, Hierarchy, Layout},
        preflight::BTF_PATH,
        scheduler::Scheduler,
    },
};

/// Kernel memory for cgroups: the default of the exporter.
pub const CGROUP_MEMORY: u64 = 16 << 20;

/// Attaches and seeds the kernel program in this process, with all features, for the hierarchy of cgroups
/// that the exporter chooses.
pub fn attach() -> Scheduler {
    let bytes = fs::read(BTF_PATH).unwrap();
    let btf = Btf::parse(&bytes).unwrap();
    let selection = hierarchy::select(None).unwrap();
    let hierarchy = match selection.hierarchy {
        hierarchy::Hierarchy::Unified => Hierarchy::Unified,
        hierarchy::Hierarchy::Legacy => Hierarchy::Legacy { id: selection.id },
    };
    let layout = Layout::from_btf(&btf, DisabledFeatures::default(), hierarchy).unwrap();
    assert!(layout.features.iter().all(|feature| feature.off.is_none()), "{:?}", layout.features);
    let scheduler = Scheduler::attach(layout, CGROUP_MEMORY, false, None).unwrap();
    scheduler.seed().unwrap();
    scheduler
}

/// Whether this kernel has Landlock, by its own word.
pub fn has_landlock() -> bool {
    let flag: libc::c_uint = 1; // LANDLOCK_CREATE_RULESET_VERSION
    // SAFETY: it only asks for the version.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, flag) > 0 }
}

/// The times of a CPU in a snapshot.
pub fn times(snapshot: &Snapshot, cpu: u32) -> &Totals {
    let cpu = snapshot.cpus.iter().find(|found| found.id == cpu).unwrap();
    cpu.totals.as_ref().unwrap()
}

/// `/proc/stat`.
#[derive(Clone, Debug)]
pub struct Stat {
    /// Nanoseconds by CPU, in the order of [`Stat::MODES`].
    pub cpus: BTreeMap<u32, [u64; Self::MODES.len()]>,
    /// Context switches of all CPUs since boot.
    pub ctxt: u64,
}

impl Stat {
    /// The modes that add up to a CPU's time; guest time is contained in `user` and `nice`.
    /// <https://docs.kernel.org/filesystems/proc.html#miscellaneous-kernel-statistics-in-proc-stat>
    pub const MODES: [&'static str; 8] =
        ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];
    /// Indices in [`Stat::MODES`] of the idle modes.
    pub const IDLE: [usize; 2] = [3, 4];
    /// The unit of `/proc/stat`, 1/`USER_HZ`; `USER_HZ` is 100 wherever the exporter runs.
    pub(crate) const TICK_NS: u64 = 10_000_000;

    /// Reads and parses the file.
    pub fn read() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap();
        let mut stat = Self { cpus: BTreeMap::new(), ctxt: 0 };
        for line in text.lines() {
            let mut fields = line.split_ascii_whitespace();
            let name = fields.next().unwrap_or_default();
            let mut next = || fields.next().unwrap().parse::<u64>().unwrap();
            if name == "ctxt" {
                stat.ctxt = next();
            } else if let Some(cpu) = name.strip_prefix("cpu").and_then(|cpu| cpu.parse().ok()) {
                stat.cpus.insert(cpu, std::array::from_fn(|_| next() * Self::TICK_NS));
            }
        }
        stat
    }
}

/// `/proc/PID/task/TID/schedstat`, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Schedstat {
    /// Time on a CPU; for a running task, up to the last tick.
    pub run_ns: u64,
    /// Time runnable but not running, up to the last switch to the task.
    pub run_delay_ns: u64,
}

impl Schedstat {
    /// Reads it for every task of the machine; keys are TIDs.
    pub fn of_all() -> HashMap<u32, Self> {
        let tasks = processes().flat_map(|process| {
            let tasks = fs::read_dir(format!("/proc/{process}/task"));
            numbers(tasks.into_iter().flatten()).map(move |task| (process, task))
        });
        tasks.filter_map(|(process, task)| Some((task, Self::of(process, task)?))).collect()
    }

    /// Reads it for one task; `None` if the task has ended.
    pub fn of(process: u32, task: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{process}/task/{task}/schedstat")).ok()?;
        let mut fields = text.split(' ').map(|field| field.parse().unwrap());
        Some(Self { run_ns: fields.next()?, run_delay_ns: fields.next()? })
    }
}

/// PIDs of the kernel threads that exist now.
pub fn kthreads() -> HashSet<u32> {
    const PF_KTHREAD: u64 = 0x0020_0000;
    let is_kthread = |process: &u32| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // The name in parentheses can contain anything.
        let flags: u64 = stat.rsplit_once(") ")?.1.split(' ').nth(6)?.parse().ok()?;
        Some(flags & PF_KTHREAD != 0)
    };
    processes().filter(|process| is_kthread(process) == Some(true)).collect()
}

/// PIDs of the processes that exist now.
pub(crate) fn processes() -> impl Iterator<Item = u32> {
    numbers(fs::read_dir("/proc").unwrap())
}

/// The entries that are numbers.
fn numbers(entries: impl Iterator<Item = io::Result<DirEntry>>) -> impl Iterator<Item = u32> {
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}
