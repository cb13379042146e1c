//! Control groups for tests, in the hierarchies that this machine has, and processes in them. All are
//! removed when dropped.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::{fs::MetadataExt as _, net::UnixStream, process::CommandExt as _},
    },
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        prctl::set_pdeathsig,
        signal::{Signal, kill},
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork},
};

use crate::{
    exposition::Exposition,
    kernel::Schedstat,
    process::PATIENCE,
    workload::{monotonic_ns, pin, sleep_until, spin_until},
};

/// The mounted hierarchies that count CPU time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hierarchy {
    /// Only version 2.
    V2,
    /// Version 2, but the controller `cpu` is in a hierarchy of version 1.
    Hybrid,
    /// Only version 1, with the controllers `cpu` and `cpuacct` in the same hierarchy.
    V1,
}

impl Hierarchy {
    /// Those of this machine.
    pub fn mounted() -> Self {
        Mounts::find().hierarchy
    }
}

/// Where the hierarchies are mounted.
#[derive(Clone, Debug)]
struct Mounts {
    hierarchy: Hierarchy,
    /// All, with their options.
    all: Vec<(PathBuf, String)>,
    /// The one whose cgroups the exporter shows.
    shown: PathBuf,
    /// The one with the controller `cpu`.
    cpu: PathBuf,
}

impl Mounts {
    fn find() -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let all = mounts.lines().filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (place, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
            kind.starts_with("cgroup").then(|| (PathBuf::from(place), format!("{kind},{options}")))
        });
        let all: Vec<_> = all.collect();
        let find = |options: &[&str]| {
            let mount = all.iter().find(|(_, found)| has(found, options));
            mount.map(|(place, _)| place.clone())
        };
        let (hierarchy, shown, cpu) = match (find(&["cgroup2", "rw"]), find(&["cgroup", "cpu"])) {
            (Some(unified), Some(cpu)) => (Hierarchy::Hybrid, unified, cpu),
            (Some(unified), None) => (Hierarchy::V2, unified.clone(), unified),
            (None, Some(cpu)) => (Hierarchy::V1, cpu.clone(), cpu),
            (None, None) => panic!("no cgroup hierarchy is mounted writable:\n{mounts}"),
        };
        Self { hierarchy, all, shown, cpu }
    }
}

/// Whether the kind and the options of a mount have each of these.
fn has(found: &str, options: &[&str]) -> bool {
    options.iter().all(|option| found.split(',').any(|found| found == *option))
}

/// A cgroup of a test's own, with all others of the test below.
#[derive(Debug)]
pub struct Tree {
    mounts: Mounts,
    path: String,
}

impl Tree {
    /// Creates it at the top of the hierarchy.
    pub fn new() -> Self {
        Self::below(Mounts::find(), "")
    }

    /// As [`Tree::new`], with a name that ends with `end`.
    pub fn named(end: &str) -> Self {
        Self::below(Mounts::find(), end)
    }

    /// Creates it in the hierarchy of version 1 with the controller `cpu`, if that is mounted. The CPU time
    /// of its cgroups may be unknown.
    pub fn legacy() -> Option<Self> {
        let mut mounts = Mounts::find();
        let has_legacy = mounts.hierarchy != Hierarchy::V2;
        mounts.hierarchy = Hierarchy::V1;
        mounts.shown.clone_from(&mounts.cpu);
        has_legacy.then(|| Self::below(mounts, ""))
    }

    fn below(mounts: Mounts, end: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = format!("/sched_exporter-test-{}-{count}{end}", process::id());
        let tree = Self { mounts, path };
        fs::create_dir(below(&tree.mounts.shown, &tree.path)).unwrap();
        tree
    }

    /// The hierarchies of this machine.
    pub fn hierarchy(&self) -> Hierarchy {
        self.mounts.hierarchy
    }

    /// Its path in the hierarchy.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The root of the hierarchy, which is not part of the tree.
    pub fn root(&self) -> Cgroup {
        Cgroup { mounts: self.mounts.clone(), path: "/".to_owned() }
    }

    /// Creates a cgroup with this path below.
    #[track_caller]
    pub fn create(&self, name: &str) -> Cgroup {
        let cgroup = self.child(name);
        fs::create_dir(cgroup.directory()).unwrap();
        cgroup
    }

    /// As [`Tree::create`], but also creates those above it that are missing.
    #[track_caller]
    pub fn create_all(&self, name: &str) -> Cgroup {
        let cgroup = self.child(name);
        fs::create_dir_all(cgroup.directory()).unwrap();
        cgroup
    }

    /// The cgroup with a path, which others create.
    pub fn at(&self, path: &str) -> Cgroup {
        Cgroup { mounts: self.mounts.clone(), path: path.to_owned() }
    }

    /// Creates it in every hierarchy.
    pub fn spread(&self) {
        for (mount, options) in &self.mounts.all {
            let directory = below(mount, &self.path);
            fs::create_dir_all(&directory).unwrap();
            if has(options, &["cgroup", "cpuset"]) {
                // Until they are set, no process can join.
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    fs::write(directory.join(file), fs::read(mount.join(file)).unwrap()).unwrap();
                }
            }
        }
    }

    /// Makes a command start in it, in every hierarchy.
    pub fn hold(&self, command: &mut Command) {
        self.spread();
        for (mount, _) in &self.mounts.all {
            let processes = below(mount, &self.path).join("cgroup.procs");
            let processes = File::options().write(true).open(processes).unwrap();
            // SAFETY: between fork and exec, a system call and nothing else.
            unsafe { command.pre_exec(move || (&processes).write_all(b"0")) };
        }
    }

    /// The cgroup with this path below, whether it exists or not.
    pub fn child(&self, name: &str) -> Cgroup {
        self.at(&format!("{}/{name}", self.path))
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        for (mount, _) in &self.mounts.all {
            clear(&below(mount, &self.path));
        }
    }
}

/// A cgroup; it is removed with its [`Tree`].
#[derive(Debug)]
pub struct Cgroup {
    mounts: Mounts,
    path: String,
}

impl Cgroup {
    /// Its path in the hierarchy.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The pair that selects its series if the label `path` has its path.
    pub fn pair(&self) -> String {
        format!("path=\"{}\"", self.path)
    }

    /// Its directory.
    pub fn directory(&self) -> PathBuf {
        below(&self.mounts.shown, &self.path)
    }

    /// The inode number of its directory.
    pub fn id(&self) -> u64 {
        fs::metadata(self.directory()).unwrap().ino()
    }

    /// Creates a cgroup within it. If that is `threaded`, its tasks are threads of processes in this one.
    #[must_use]
    pub fn create(&self, name: &str, threaded: bool) -> Self {
        let inner = Self { mounts: self.mounts.clone(), path: format!("{}/{name}", self.path) };
        fs::create_dir(inner.directory()).unwrap();
        if threaded {
            fs::write(inner.directory().join("cgroup.type"), "threaded").unwrap();
        }
        inner
    }

    /// Starts a process in it that does `work` and exits. Between its start and `work`, which must
    /// only compute and make system calls, it does nothing, but before version 2 it starts in the
    /// cgroup of the caller.
    #[track_caller]
    pub fn start(&self, work: impl FnOnce()) -> Process {
        if self.mounts.hierarchy == Hierarchy::V1 {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let process = Process::start(|| {
                let _ = (&theirs).read(&mut [0]);
                work();
            });
            self.take(process.pid());
            (&ours).write_all(&[0]).unwrap();
            return process;
        }
        let directory = File::open(self.directory()).unwrap();
        Process::of(clone3(Some(&directory)), work)
    }

    /// Starts a process in it that is pinned to a CPU, and does `work` each time it is asked to.
    #[track_caller]
    pub fn task(&self, cpu: usize, work: impl Fn()) -> Task {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        let process = self.start(|| {
            pin(cpu);
            while (&theirs).read(&mut [0]).is_ok_and(|read| read == 1) {
                work();
                let _ = (&theirs).write_all(&[0]);
            }
        });
        Task { process, control: ours }
    }

    /// Moves a process into it, with all its threads. This can take 200 ms.
    #[track_caller]
    pub fn take(&self, process: Pid) {
        write(&self.directory().join("cgroup.procs"), &process.to_string());
    }

    /// Moves one thread into it, from a cgroup of the same process.
    #[track_caller]
    pub fn take_thread(&self, thread: Pid) {
        let file = if self.mounts.hierarchy == Hierarchy::V1 { "tasks" } else { "cgroup.threads" };
        write(&self.directory().join(file), &thread.to_string());
    }

    /// CPU time of its tasks and of those below, those that have ended included, by the kernel. In
    /// version 2 the kernel shows it in microseconds.
    #[track_caller]
    pub fn usage_ns(&self) -> u64 {
        if self.mounts.hierarchy == Hierarchy::V1 {
            let usage = fs::read_to_string(self.directory().join("cpuacct.usage")).unwrap();
            return usage.trim().parse().unwrap();
        }
        number(&stat(&self.directory()), "usage_usec").unwrap() * 1_000
    }

    /// Limits it to some CPU time in each period; `None` lifts the limit. On a hybrid machine, the
    /// limit is on the cgroup with the same path in the other hierarchy, which its processes do not
    /// join by themselves.
    pub fn limit(&self, quota: Option<Duration>, period: Duration) {
        let us = |time: Duration| time.as_micros().to_string();
        let directory = self.cpu_directory();
        if self.mounts.hierarchy == Hierarchy::V2 {
            let quota = quota.map_or_else(|| "max".to_owned(), us);
            return write(&directory.join("cpu.max"), &format!("{quota} {}", us(period)));
        }
        write(&directory.join("cpu.cfs_period_us"), &us(period));
        let quota = quota.map_or_else(|| "-1".to_owned(), us);
        write(&directory.join("cpu.cfs_quota_us"), &quota);
    }

    /// Puts a process under the limit, if it is not already because it is in the cgroup.
    pub fn put_under_limit(&self, process: Pid) {
        if self.mounts.hierarchy == Hierarchy::Hybrid {
            write(&self.cpu_directory().join("cgroup.procs"), &process.to_string());
        }
    }

    /// The kernel's counts of its limit.
    pub fn throttling(&self) -> Throttling {
        let stat = stat(&self.cpu_directory());
        let ns = number(&stat, "throttled_time");
        Throttling {
            periods: number(&stat, "nr_periods").unwrap(),
            throttled_periods: number(&stat, "nr_throttled").unwrap(),
            throttled_ns: ns.unwrap_or_else(|| number(&stat, "throttled_usec").unwrap() * 1_000),
        }
    }

    /// Its directory in the hierarchy with the controller `cpu`, which this enables for it.
    fn cpu_directory(&self) -> PathBuf {
        let directory = below(&self.mounts.cpu, &self.path);
        match self.mounts.hierarchy {
            Hierarchy::V1 => {}
            Hierarchy::Hybrid => fs::create_dir_all(&directory).unwrap(),
            Hierarchy::V2 => {
                let mut above: Vec<_> = directory.ancestors().skip(1).collect();
                above.retain(|place| place.starts_with(&self.mounts.cpu));
                for place in above.into_iter().rev() {
                    write(&place.join("cgroup.subtree_control"), "+cpu");
                }
            }
        }
        directory
    }

    /// Removes it once its last process is gone.
    #[track_caller]
    pub fn remove(self) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = fs::remove_dir(self.directory()) {
            let is_busy = error.raw_os_error() == Some(Errno::EBUSY as i32);
            assert!(is_busy && Instant::now() < deadline, "{}: {error}", self.path);
            thread::sleep(Duration::from_micros(50));
        }
    }
}

/// The kernel's counts of a limit on CPU time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Throttling {
    /// Periods in which a task ran.
    pub periods: u64,
    /// Those in which the limit was reached.
    pub throttled_periods: u64,
    /// How long tasks could not run because of that, summed over CPUs.
    pub throttled_ns: u64,
}

/// A process of a test; killed when dropped, and when the thread that started it ends.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    is_reaped: bool,
}

impl Process {
    /// Starts one in the cgroup of the caller that does `work`, which must only compute and make
    /// system calls, and exits.
    #[track_caller]
    pub fn start(work: impl FnOnce()) -> Self {
        Self::of(clone3(None), work)
    }

    /// As [`Process::start`], but `work` may also allocate and start threads, which the C library
    /// allows after its own `fork`.
    #[track_caller]
    pub fn fork(work: impl FnOnce()) -> Self {
        // SAFETY: other threads of this process hold no lock of the C library in the child, and the
        // child takes no other lock that they may hold.
        Self::of(unsafe { fork() }.unwrap(), work)
    }

    fn of(result: ForkResult, work: impl FnOnce()) -> Self {
        match result {
            ForkResult::Parent { child } => Self { pid: child, is_reaped: false },
            ForkResult::Child => {
                let _ = set_pdeathsig(Signal::SIGKILL);
                let status = i32::from(catch_unwind(AssertUnwindSafe(work)).is_err());
                // SAFETY: exits without running any code of the parent.
                unsafe { libc::_exit(status) }
            }
        }
    }

    /// Its PID.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The TIDs of its threads.
    pub fn threads(&self) -> Vec<Pid> {
        let entries = fs::read_dir(format!("/proc/{}/task", self.pid)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        let mut threads: Vec<_> =
            names.map(|name| Pid::from_raw(name.to_str().unwrap().parse().unwrap())).collect();
        threads.sort_unstable();
        threads
    }

    /// Waits until it exits.
    #[track_caller]
    pub fn wait(mut self) {
        self.is_reaped = true;
        let status = waitpid(self.pid, None).unwrap();
        assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.is_reaped {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
        }
    }
}

/// A process that works when it is asked to, and sleeps otherwise.
#[derive(Debug)]
pub struct Task {
    process: Process,
    control: UnixStream,
}

impl Task {
    /// Its PID.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Lets it do its work once.
    pub fn begin(&self) {
        (&self.control).write_all(&[0]).unwrap();
    }

    /// Waits until it sleeps after its work.
    #[track_caller]
    pub fn finish(&self) {
        (&self.control).read_exact(&mut [0]).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while self.state() != "S" {
            assert!(Instant::now() < deadline, "{} does not sleep", self.pid());
            thread::sleep(Duration::from_millis(1));
        }
        // It is asleep before the CPU switches to another task.
        thread::sleep(Duration::from_millis(10));
    }

    /// Lets it do its work once, and waits until it sleeps.
    #[track_caller]
    pub fn run(&self) {
        self.begin();
        self.finish();
    }

    fn state(&self) -> String {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // The name in parentheses can contain anything.
        stat.rsplit_once(") ").unwrap().1.split(' ').next().unwrap().to_owned()
    }

    /// The kernel's own figures of it.
    pub fn schedstat(&self) -> Schedstat {
        let task = self.pid().as_raw().cast_unsigned();
        Schedstat::of(task, task).unwrap()
    }

    /// How many times it was switched out: voluntarily, and preempted.
    pub fn switches(&self) -> [u64; 2] {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"].map(|name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().trim().parse().unwrap()
        })
    }
}

/// The time of all cgroups in an exposition, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// Time of the series of cgroups, `other` included.
    pub shown: u64,
    /// Time of tasks in cgroups that were removed before.
    pub removed: u64,
    /// Time of series that are no longer shown.
    pub forgotten: u64,
    /// Time of all CPUs outside their idle tasks.
    pub busy: u64,
}

impl Account {
    /// Adds up an exposition.
    pub fn of(exposition: &Exposition) -> Self {
        let seconds = |name| exposition.sum_ns(name, &[]);
        let idle = exposition.sum_ns("sched_cpu_seconds_total", &["mode=\"idle\""]);
        Self {
            shown: seconds("sched_cgroup_cpu_seconds_total"),
            removed: seconds("sched_exporter_cgroup_removed_seconds_total"),
            forgotten: seconds("sched_exporter_cgroup_forgotten_seconds_total"),
            busy: seconds("sched_cpu_seconds_total") - idle,
        }
    }

    /// Whether no time is missing or counted twice.
    pub fn is_conserved(&self) -> bool {
        self.shown + self.removed + self.forgotten == self.busy
    }
}

/// Works in bursts with pauses in between, for a whole duration.
pub fn bursts(total: Duration, burst: Duration, pause: Duration) {
    let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let end = monotonic_ns() + ns(total);
    while monotonic_ns() < end {
        let now = monotonic_ns();
        spin_until(now + ns(burst));
        sleep_until(now + ns(burst + pause));
    }
}

/// Copies this process without running handlers of the C library, into a cgroup of version 2 or the
/// same cgroup. <https://man7.org/linux/man-pages/man2/clone.2.html>
#[track_caller]
fn clone3(cgroup: Option<&File>) -> ForkResult {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let args = libc::clone_args {
        flags: if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 },
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD.cast_unsigned().into(),
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.map_or(0, |directory| directory.as_raw_fd().cast_unsigned().into()),
    };
    // SAFETY: the arguments outlive the call. The child shares no memory, and only computes and makes
    // system calls until it exits.
    let pid =
        unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    match i32::try_from(pid).unwrap() {
        0 => ForkResult::Child,
        -1 => panic!("clone3: {}", io::Error::last_os_error()),
        child => ForkResult::Parent { child: Pid::from_raw(child) },
    }
}

/// The directory of a cgroup's path.
fn below(mount: &Path, path: &str) -> PathBuf {
    mount.join(path.trim_start_matches('/'))
}

/// Writes to a control file, which exists.
#[track_caller]
fn write(path: &Path, text: &str) {
    let written = OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    if let Err(error) = written {
        panic!("writing {text} to {}: {error}", path.display());
    }
}

fn stat(directory: &Path) -> String {
    fs::read_to_string(directory.join("cpu.stat")).unwrap()
}

/// The number with a name in a `cpu.stat`.
fn number(stat: &str, name: &str) -> Option<u64> {
    let mut pairs = stat.lines().filter_map(|line| line.split_once(' '));
    Some(pairs.find(|(found, _)| *found == name)?.1.parse().unwrap())
}

/// Removes a cgroup with all processes and cgroups in it, as far as that is possible.
fn clear(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            clear(&entry.path());
        }
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while fs::remove_dir(directory).is_err() && directory.exists() && Instant::now() < deadline {
        let processes = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        for process in processes.lines().filter_map(|line| line.parse().ok()) {
            let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(5));
    }
}
