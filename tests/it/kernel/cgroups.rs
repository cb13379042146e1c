//! What cgroups use and wait for, against the kernel's own figures.

use std::{
    thread,
    time::{Duration, Instant},
};

use sched_exporter_tests::{
    cgroups::{Account, Cgroup, Hierarchy, Process, Task, Tree, bursts},
    exposition::{Exposition, nanoseconds},
    process::{Exporter, PATIENCE},
    quiet,
    workload::{is_emulated, monotonic_ns, online, pin},
};

pub(super) const SECONDS: &str = "sched_cgroup_cpu_seconds_total";
pub(super) const WAITED: &str = "sched_cgroup_runqueue_latency_seconds_sum";
pub(super) const WAITS: &str = "sched_cgroup_runqueue_latency_seconds_count";
pub(super) const SWITCHES: &str = "sched_cgroup_context_switches_total";
const SLOTS: &str = "sched_exporter_cgroup_slots";
pub(super) const SLOTS_USED: &str = "sched_exporter_cgroup_slots_used";
const REFUSED: &str = "sched_exporter_cgroup_slots_refused_total";
pub(super) const OTHER: &str = "path=\"other\"";

/// The CPU that workloads are pinned to; the test itself runs on CPU 0.
pub(super) const CPU: usize = 1;

/// Each cgroup has series of its own.
pub(super) const EACH: &str = "cgroups: {labels: {path: \"{{ cgroup.path }}\"}}\n";

pub(super) fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Scrapes, and checks that no time is missing or counted twice.
#[track_caller]
pub(super) fn scrape(exporter: &Exporter) -> Exposition {
    let exposition = exporter.scrape();
    let account = Account::of(&exposition);
    assert!(account.is_conserved(), "{account:?}");
    exposition
}

/// Checks that no counter of cgroups has decreased, and none is missing.
#[track_caller]
pub(super) fn check_forward(before: &Exposition, after: &Exposition) {
    let counters = before.iter().filter(|(series, _)| {
        let name = series.split('{').next().unwrap();
        series.starts_with("sched_cgroup_")
            && ["_total", "_sum", "_count"].iter().any(|end| name.ends_with(end))
    });
    for (series, old) in counters {
        let Some((_, new)) = after.iter().find(|(found, _)| *found == series) else {
            panic!("{series} is missing");
        };
        let (old, new): (f64, f64) = (old.parse().unwrap(), new.parse().unwrap());
        assert!(old <= new, "{series} fell from {old} to {new}");
    }
}

/// Waits until a cgroup in which a task has run has series.
#[track_caller]
pub(super) fn wait_for_series(exporter: &Exporter, cgroup: &Cgroup) -> Exposition {
    let pair = cgroup.pair();
    exporter.wait_until(&pair, |it| it.select(SECONDS, &[&pair]).next().is_some())
}

/// A task in a cgroup that has series.
#[track_caller]
pub(super) fn known_task(exporter: &Exporter, cgroup: &Cgroup, work: impl Fn()) -> Task {
    let task = cgroup.task(CPU, work);
    task.run();
    wait_for_series(exporter, cgroup);
    task
}

/// What a cgroup has used and waited for, in nanoseconds and events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Figures {
    cpu: u64,
    waited: u64,
    waits: u64,
    /// Voluntary and preempted.
    switches: [u64; 2],
}

impl Figures {
    #[track_caller]
    fn of(exposition: &Exposition, cgroup: &Cgroup) -> Self {
        let only = |name: &str, pairs: &[&str]| {
            let found: Vec<_> = exposition.select(name, pairs).collect();
            assert_eq!(found.len(), 1, "{name} {pairs:?}: {found:?}");
            found[0].1.to_owned()
        };
        let pair = cgroup.pair();
        let switches = |reason| {
            let reason = format!("reason=\"{reason}\"");
            only(SWITCHES, &[&pair, &reason]).parse().unwrap()
        };
        Self {
            cpu: nanoseconds(&only(SECONDS, &[&pair])),
            waited: nanoseconds(&only(WAITED, &[&pair])),
            waits: only(WAITS, &[&pair]).parse().unwrap(),
            switches: ["voluntary", "preempted"].map(switches),
        }
    }

    fn since(self, old: Self) -> Self {
        let [voluntary, preempted] = self.switches;
        Self {
            cpu: self.cpu - old.cpu,
            waited: self.waited - old.waited,
            waits: self.waits - old.waits,
            switches: [voluntary - old.switches[0], preempted - old.switches[1]],
        }
    }
}

/// The switches on [`CPU`] that the kernel did not report.
pub(super) fn missed(exposition: &Exposition) -> u64 {
    let cpu = format!("cpu=\"{CPU}\"");
    exposition.sum("sched_exporter_missed_switches_total", &[&cpu])
}

/// Scrapes before and after `work`. Repeats all three if the kernel did not report a switch on [`CPU`]
/// meanwhile, because it is then unknown whose time that was.
#[track_caller]
fn around<T>(exporter: &Exporter, work: impl Fn() -> T) -> (Exposition, T, Exposition) {
    for _ in 0..10 {
        let before = scrape(exporter);
        let result = work();
        let after = scrape(exporter);
        check_forward(&before, &after);
        if missed(&before) == missed(&after) {
            return (before, result, after);
        }
    }
    panic!("switches were not reported in each of 10 tries");
}

/// Most nanoseconds by which we may differ from the kernel: we charge interrupts and time taken by a
/// hypervisor to the task; many kernels do not. Under emulation an interrupt can take milliseconds.
fn tolerance(ns: u64) -> u64 {
    if is_emulated() { ns / 10 } else { ns / 200 }
}

#[test]
fn times_match_the_kernels_own() {
    quiet::attempt(|| {
        pin(0);
        let exporter = Exporter::start_with(EACH, &[]);
        let tree = Tree::new();
        let (frugal, greedy) = (tree.create("frugal"), tree.create("greedy"));
        let of = |cgroup: &Cgroup, burst, pause| {
            known_task(&exporter, cgroup, move || bursts(ms(800), ms(burst), ms(pause)))
        };
        // They wait for each other now and then.
        let tasks = [of(&frugal, 20, 80), of(&greedy, 70, 30)];
        let (before, kernel, after) = around(&exporter, || {
            let usage = || [&frugal, &greedy].map(Cgroup::usage_ns);
            let before = usage();
            tasks.iter().for_each(Task::begin);
            tasks.iter().for_each(Task::finish);
            let after = usage();
            [after[0] - before[0], after[1] - before[1]]
        });
        for (cgroup, kernel) in [&frugal, &greedy].into_iter().zip(kernel) {
            let ours = Figures::of(&after, cgroup).since(Figures::of(&before, cgroup)).cpu;
            assert!(
                ours.abs_diff(kernel) <= tolerance(kernel),
                "{}: {ours} ns by us, {kernel} ns by the kernel",
                cgroup.path()
            );
        }
        assert!(kernel[1] > 2 * kernel[0] && kernel[0] > 20_000_000, "{kernel:?}");
    });
}

/// While its tasks sleep, neither the kernel's figures nor ours change.
#[test]
fn waits_and_switches_match_the_tasks_own_exactly() {
    pin(0);
    let exporter = Exporter::start_with(EACH, &[]);
    let tree = Tree::new();
    let (pair, single) = (tree.create("pair"), tree.create("single"));
    let work = || bursts(ms(200), ms(9), ms(1));
    let tasks = [
        known_task(&exporter, &pair, work),
        known_task(&exporter, &pair, work),
        known_task(&exporter, &single, work),
    ];
    // Of the pair, and of the single task.
    let kernel = || {
        let of = |tasks: &[Task]| {
            let waited: u64 = tasks.iter().map(|task| task.schedstat().run_delay_ns).sum();
            let switches = tasks.iter().map(Task::switches);
            let sum = |[a, b]: [u64; 2], [c, d]: [u64; 2]| [a + c, b + d];
            (waited, switches.fold([0; 2], sum))
        };
        [of(&tasks[..2]), of(&tasks[2..])]
    };
    let (before, (old, new), after) = around(&exporter, || {
        let old = kernel();
        tasks.iter().for_each(Task::begin);
        tasks.iter().for_each(Task::finish);
        (old, kernel())
    });
    for (index, cgroup) in [&pair, &single].into_iter().enumerate() {
        let ours = Figures::of(&after, cgroup).since(Figures::of(&before, cgroup));
        let ((old, old_switches), (new, new_switches)) = (old[index], new[index]);
        let name = cgroup.path();
        assert_eq!(ours.waited, new - old, "{name}: nanoseconds of waiting");
        let switches = [0, 1].map(|reason| new_switches[reason] - old_switches[reason]);
        assert_eq!(ours.switches, switches, "{name}: voluntary and preempted switches");
        // Each switch to a task ends a wait, and each switch away from it begins one or a sleep.
        assert_eq!(ours.waits, switches[0] + switches[1], "{name}: waits");
        assert!(ours.waited > 20_000_000 && ours.switches[1] > 5, "{name}: {ours:?}");
    }
}

#[test]
fn throttling_and_quotas_are_those_of_the_kernel() {
    let exporter = Exporter::start_with(EACH, &[]);
    let tree = Tree::new();
    let (limited, free) = (tree.create("limited"), tree.create("free"));
    limited.limit(Some(ms(20)), ms(100));
    let tasks =
        [&limited, &free].map(|cgroup| cgroup.task(CPU, || bursts(ms(900), ms(90), ms(10))));
    limited.put_under_limit(tasks[0].pid());
    tasks.iter().for_each(Task::run);
    // The timer of the periods stops after one in which nothing ran.
    thread::sleep(ms(300));
    let kernel = limited.throttling();
    assert!(
        kernel.throttled_periods > 3 && kernel.periods >= kernel.throttled_periods,
        "{kernel:?}"
    );
    assert!(kernel.throttled_ns > 100_000_000, "{kernel:?}");
    let pair = limited.pair();
    let shown = exporter.wait_until("read the statistics", |it| {
        it.sum("sched_cgroup_periods_total", &[&pair]) == kernel.periods
    });
    assert_eq!(limited.throttling(), kernel);
    assert_eq!(
        shown.sum("sched_cgroup_throttled_periods_total", &[&pair]),
        kernel.throttled_periods
    );
    // Version 1 counts nanoseconds, version 2 microseconds.
    assert_eq!(shown.sum_ns("sched_cgroup_throttled_seconds_total", &[&pair]), kernel.throttled_ns);
    assert!((shown.value("sched_cgroup_quota_cpus", &[&pair]) - 0.2).abs() < 1e-9);
    for name in ["throttled_seconds_total", "periods_total", "quota_cpus"] {
        let name = format!("sched_cgroup_{name}");
        assert_eq!(shown.select(&name, &[&free.pair()]).next(), None, "it has no quota");
    }
    // What it was throttled for stays in its set after its end.
    drop(tasks);
    limited.remove();
    thread::sleep(ms(1_500));
    let after = scrape(&exporter);
    assert_eq!(after.sum_ns("sched_cgroup_throttled_seconds_total", &[&pair]), kernel.throttled_ns);
}

#[test]
fn a_running_task_that_moves_is_charged_where_it_is() {
    quiet::attempt(|| {
        pin(0);
        let exporter = Exporter::start_with(EACH, &[]);
        let tree = Tree::new();
        let cgroups = [tree.create("a"), tree.create("b")];
        let _tasks = cgroups.each_ref().map(|cgroup| known_task(&exporter, cgroup, || ()));
        // It is switched out often, so that the kernel's figures and ours follow a move soon.
        let runner = cgroups[0].task(CPU, || bursts(ms(3_000), ms(3), Duration::from_micros(100)));
        let usage = || cgroups.each_ref().map(Cgroup::usage_ns);
        let (old, before) = (usage(), scrape(&exporter));
        runner.begin();
        for round in 1..=8 {
            thread::sleep(ms(200));
            cgroups[round % 2].take(runner.pid());
            scrape(&exporter);
        }
        runner.finish();
        let (after, new) = (scrape(&exporter), usage());
        for (index, cgroup) in cgroups.iter().enumerate() {
            let ours = Figures::of(&after, cgroup).since(Figures::of(&before, cgroup)).cpu;
            let kernel = new[index] - old[index];
            // A move takes effect at the next switch.
            let moves = 8 * 3_500_000;
            let error = ours.abs_diff(kernel);
            assert!(error <= tolerance(kernel) * 4 + moves, "{ours} ns by us, {kernel} ns");
            assert!(kernel > 300_000_000, "{kernel}");
        }
    });
}

#[test]
fn threaded_cgroups_are_told_apart() {
    quiet::attempt(|| {
        let tree = Tree::new();
        let exporter = Exporter::start_with(EACH, &[]);
        let domain = tree.create("domain");
        let is_v1 = tree.hierarchy() == Hierarchy::V1;
        let thread = domain.create("thread", !is_v1);
        let work = || {
            pin(CPU);
            bursts(ms(3_000), ms(8), ms(12));
        };
        let process = Process::fork(move || {
            let second = thread::spawn(move || {
                // Once moved, it works.
                thread::sleep(ms(500));
                work();
            });
            thread::sleep(ms(500));
            work();
            second.join().unwrap();
            thread::sleep(PATIENCE);
        });
        let deadline = Instant::now() + PATIENCE;
        while process.threads().len() < 2 {
            assert!(Instant::now() < deadline, "the process has no second thread");
            thread::sleep(ms(1));
        }
        domain.take(process.pid());
        thread.take_thread(process.threads()[1]);
        for cgroup in [&domain, &thread] {
            wait_for_series(&exporter, cgroup);
        }
        // The kernel's figures include the cgroups below.
        let usage = || [domain.usage_ns() - thread.usage_ns(), thread.usage_ns()];
        let (old, before) = (usage(), scrape(&exporter));
        while process.threads().len() == 2 {
            assert!(Instant::now() < deadline, "the second thread does not end");
            scrape(&exporter);
            thread::sleep(ms(50));
        }
        thread::sleep(ms(50));
        let (after, new) = (scrape(&exporter), usage());
        for (index, cgroup) in [&domain, &thread].into_iter().enumerate() {
            let ours = Figures::of(&after, cgroup).since(Figures::of(&before, cgroup)).cpu;
            let kernel = new[index] - old[index];
            // Between the readings of both, at the start, they ran for one burst at most.
            let error = ours.abs_diff(kernel);
            let bound = tolerance(kernel) * 4 + 10_000_000;
            assert!(error <= bound, "{}: {ours} ns by us, {kernel} ns", cgroup.path());
            assert!(kernel > 100_000_000, "{}: {kernel}", cgroup.path());
        }
    });
}

#[test]
fn cgroups_without_a_slot_are_in_other() {
    // Enough for some hundred.
    let memory = format!("--ebpf.cgroup-memory={}KiB", 128 + 16 * online().len());
    let exporter = Exporter::start_with(EACH, &[&memory]);
    let tree = Tree::new();
    let slots = exporter.scrape().sum(SLOTS, &[]);
    assert!((20..1_000).contains(&slots), "{slots}");
    let before = scrape(&exporter);
    let work = || bursts(ms(2), ms(1), ms(1));
    let filling: Vec<_> = (0..slots + 10)
        .map(|number| {
            let cgroup = tree.create(&format!("n{number}"));
            cgroup.start(work).wait();
            cgroup
        })
        .collect();
    let full = scrape(&exporter);
    assert!(full.sum(SLOTS_USED, &[]) <= slots);
    assert!(full.sum(REFUSED, &[]) > before.sum(REFUSED, &[]));
    let late = tree.create("late");
    let task = late.task(CPU, || bursts(ms(200), ms(10), ms(5)));
    let (other, usage) = (full.sum_ns(SECONDS, &[OTHER]), late.usage_ns());
    task.run();
    let refused = scrape(&exporter);
    check_forward(&full, &refused);
    let (other, usage) = (refused.sum_ns(SECONDS, &[OTHER]) - other, late.usage_ns() - usage);
    assert!(other > usage - usage / 10, "{usage} ns used, `other` grew by {other}");
    assert_eq!(refused.select(SECONDS, &[&late.pair()]).next(), None);
    // Slots that become free are given to those that wait.
    filling.into_iter().for_each(Cgroup::remove);
    exporter.wait_until("freed", |it| it.sum(SLOTS_USED, &[]) < slots / 2);
    let deadline = Instant::now() + PATIENCE;
    while scrape(&exporter).select(SECONDS, &[&late.pair()]).next().is_none() {
        assert!(Instant::now() < deadline, "it gets no slot");
        task.run();
    }
}

/// Kernel threads are in the root cgroup, as are most processes of a machine without systemd.
#[test]
fn the_root_cgroup_is_a_cgroup_like_others() {
    let exporter = Exporter::start_with(EACH, &[]);
    pin(0);
    let before = scrape(&exporter);
    let busy = Process::start(|| {
        pin(CPU);
        bursts(ms(300), ms(20), ms(5));
    });
    Tree::new().root().take(busy.pid());
    let start = monotonic_ns();
    busy.wait();
    let spent = monotonic_ns() - start;
    let after = scrape(&exporter);
    let grown = after.sum_ns(SECONDS, &["path=\"/\""]) - before.sum_ns(SECONDS, &["path=\"/\""]);
    assert!(grown > spent / 4, "{grown} of {spent}");
}
