//! Nothing is lost while cgroups come and go, whatever else happens meanwhile.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use sched_exporter_tests::{
    cgroups::{Account, Cgroup, Hierarchy, Process, Tree, bursts},
    exposition::Exposition,
    process::Exporter,
    quiet,
    workload::{Ending, Load, is_emulated, monotonic_ns, online, pin, sleep_until, spin_until},
};

use super::cgroups::{CPU, SECONDS, SLOTS_USED, check_forward, scrape};

/// All cgroups below `churn` are one set, those of [`load`] another, and the rest of the machine is a
/// third. So only cgroups that have no name yet are in `other`.
pub(super) const SETS: &str = "
cgroups:
  labels: {set: \"{{ cgroup.path }}\"}
  relabel_configs:
  - {source_labels: [set], regex: \"/sched_exporter-test-.*/(churn|load).*\", target_label: set}
  - {source_labels: [set], regex: \"/.*\", target_label: set, replacement: rest}
";

/// As [`SETS`], but with everything in one set.
const ONE_SET: &str = "
cgroups:
  labels: {set: all}
";

fn us(count: u64) -> Duration {
    Duration::from_micros(count)
}

/// How many cgroups come and go. Moving a process into one takes milliseconds, which version 1
/// requires.
fn count(tree: &Tree) -> u64 {
    match (tree.hierarchy(), is_emulated()) {
        (Hierarchy::V1, true) => 100,
        (Hierarchy::V1, false) | (_, true) => 400,
        (_, false) => 10_000,
    }
}

/// On how many CPUs [`load`] runs: an emulator shows all of a guest's CPUs on one of the host's.
const LOADED: usize = 2;

/// Processes in two cgroups on some CPUs that switch often, with pauses: without them, the kernel's
/// own threads get no time, and it cannot remove cgroups.
fn load(tree: &Tree) -> Vec<Process> {
    let cgroups = ["load-a", "load-b"].map(|name| tree.create(name));
    let on = |cpu: usize| {
        cgroups.each_ref().map(|cgroup| {
            cgroup.start(move || {
                pin(cpu);
                loop {
                    for _ in 0..100 {
                        thread::yield_now();
                    }
                    thread::sleep(us(2_000));
                }
            })
        })
    };
    online().into_iter().take(LOADED).flat_map(on).collect()
}

/// Creates cgroups below `parent`, in each of which a process works briefly, and removes them.
/// Returns the CPU time of their tasks by the kernel, in nanoseconds.
pub(super) fn churn(parent: &Cgroup, count: u64) -> u64 {
    const ALIVE: usize = 4;
    let mut alive = std::collections::VecDeque::new();
    let mut used = 0;
    for number in 0..count {
        let cgroup = parent.create(&number.to_string(), false);
        let process = cgroup.start(move || {
            let half = (50 + number * 7_919 % 700) * 1_000 / 2;
            spin_until(monotonic_ns() + half);
            sleep_until(monotonic_ns() + 50_000);
            spin_until(monotonic_ns() + half);
        });
        alive.push_back((cgroup, process));
        while alive.len() > ALIVE || (number == count - 1 && !alive.is_empty()) {
            let Some((cgroup, process)) = alive.pop_front() else { break };
            process.wait();
            used += cgroup.usage_ns();
            cgroup.remove();
        }
    }
    used
}

/// Scrapes and checks while `work` runs. Returns its result and the number of scrapes.
#[track_caller]
fn scraping<T: Send>(
    exporter: &Exporter,
    period: Duration,
    check: impl Fn(&Exposition, &Exposition),
    work: impl FnOnce() -> T + Send,
) -> (T, u64) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let working = scope.spawn(|| {
            let _ending = Ending(&done);
            work()
        });
        let (mut last, mut scrapes) = (scrape(exporter), 1);
        while !done.load(Ordering::Relaxed) {
            let next = scrape(exporter);
            check(&last, &next);
            last = next;
            scrapes += 1;
            thread::sleep(period);
        }
        (working.join().unwrap(), scrapes)
    })
}

#[test]
fn nothing_is_lost_while_cgroups_come_and_go() {
    quiet::attempt(|| {
        let exporter = Exporter::start_with(SETS, &[]);
        let tree = Tree::new();
        let _load = load(&tree);
        let parent = tree.create("churn");
        // The parent's own set exists before, so that nothing of it is new.
        parent.start(|| bursts(us(2_000), us(500), us(500))).wait();
        let set = "set=\"churn\"";
        exporter.wait_until("named", |it| it.select(SECONDS, &[set]).next().is_some());
        let before = scrape(&exporter);
        let count = count(&tree);
        let work = || churn(&parent, count);
        let (used, scrapes) = scraping(&exporter, us(20_000), check_forward, work);
        let after = scrape(&exporter);
        assert!(scrapes > 10, "{scrapes} scrapes");

        // What ended before it was named is in `other`.
        let grown = |pair: &str| after.sum_ns(SECONDS, &[pair]) - before.sum_ns(SECONDS, &[pair]);
        let removed = Account::of(&after).removed - Account::of(&before).removed;
        let ours = grown(set) + grown("set=\"other\"") + removed;
        let bound = used / if is_emulated() { 5 } else { 25 };
        assert!(ours.abs_diff(used) <= bound, "{ours} ns by us, {used} ns by the kernel");
        assert_eq!(after.sum("sched_exporter_cgroup_slots_refused_total", &[]), 0);
        // All slots come back, whether the exporter is scraped or not.
        thread::sleep(Duration::from_millis(1_500));
        let slots = |it: &Exposition| it.sum(SLOTS_USED, &[]);
        let left = scrape(&exporter);
        assert!(slots(&left) <= slots(&before) + 2, "{} of {}", slots(&left), slots(&before));
    });
}

#[test]
fn reloads_that_regroup_in_the_midst_of_churn_lose_nothing() {
    let exporter = Exporter::start_with(SETS, &["--config.auto-reload-interval=0s"]);
    let tree = Tree::new();
    let _load = load(&tree);
    let parent = tree.create("churn");
    // A series that a reload takes away ends; what others continue with does not leap.
    let check = |before: &Exposition, after: &Exposition| {
        let (old, new) = (Account::of(before), Account::of(after));
        assert!(old.busy <= new.busy && old.forgotten <= new.forgotten, "{old:?} {new:?}");
        let passed = new.busy - old.busy;
        let generation = |it: &Exposition| it.sum("sched_exporter_config_generation", &[]);
        if generation(after) > generation(before) + 1 {
            // A series that ended and is back begins at 0.
            return;
        }
        for (series, value) in before.select(SECONDS, &[]) {
            let Some((_, next)) = after.iter().find(|(found, _)| *found == series) else {
                continue;
            };
            let (value, next): (f64, f64) = (value.parse().unwrap(), next.parse().unwrap());
            let grown = Duration::try_from_secs_f64(next - value).unwrap_or_else(|wrong| {
                panic!("{series} fell from {value} to {next}: {wrong}");
            });
            assert!(grown.as_nanos() <= u128::from(passed) + 1_000, "{series} leaps by {grown:?}");
        }
    };
    let (reloads, _) = scraping(&exporter, us(5_000), check, || {
        thread::scope(|scope| {
            let churned = scope.spawn(|| churn(&parent, count(&tree) / 5));
            let mut reloads = 0_u64;
            while !churned.is_finished() {
                let config = if reloads.is_multiple_of(2) { ONE_SET } else { SETS };
                let new = exporter.config().with_extension("new");
                fs::write(&new, config).unwrap();
                fs::rename(&new, exporter.config()).unwrap();
                exporter.signal(Signal::SIGHUP);
                reloads += 1;
                thread::sleep(us(100_000));
            }
            reloads
        })
    });
    let applied = exporter.wait_until("reloaded", |it| {
        it.sum("sched_exporter_config_reloads_total", &["outcome=\"applied\""]) > 0
    });
    assert!(reloads > 2, "{reloads}");
    assert_eq!(applied.sum("sched_exporter_config_reloads_total", &["outcome=\"failed\""]), 0);
    // A set that returns, and one that is new, count what happens from then on.
    fs::write(exporter.config(), SETS).unwrap();
    exporter.signal(Signal::SIGHUP);
    let set = "set=\"load\"";
    let before = exporter.wait_until("back", |it| it.select(SECONDS, &[set]).next().is_some());
    thread::sleep(us(200_000));
    let after = scrape(&exporter);
    assert!(after.sum_ns(SECONDS, &[set]) > before.sum_ns(SECONDS, &[set]));
}

/// Levels of processes that fork twice and exit.
fn fork_twice(levels: u32) {
    if levels > 0 {
        let children = [(); 2].map(|()| Process::start(|| fork_twice(levels - 1)));
        children.into_iter().for_each(Process::wait);
    }
}

#[test]
fn a_fork_storm_is_charged_to_its_cgroup() {
    quiet::attempt(|| {
        let exporter = Exporter::start_with(SETS, &[]);
        let tree = Tree::new();
        let cgroup = tree.create("churn");
        let storm = |times: u64| {
            for _ in 0..times {
                cgroup.start(|| fork_twice(6)).wait();
                // Kernel threads need a pause to clean up.
                thread::sleep(us(20_000));
            }
        };
        storm(1);
        let set = "set=\"churn\"";
        exporter.wait_until("named", |it| it.select(SECONDS, &[set]).next().is_some());
        let (before, old) = (scrape(&exporter), cgroup.usage_ns());
        let times = if is_emulated() { 5 } else { 40 };
        scraping(&exporter, us(10_000), check_forward, || storm(times));
        let (after, new) = (scrape(&exporter), cgroup.usage_ns());
        let ours = after.sum_ns(SECONDS, &[set]) - before.sum_ns(SECONDS, &[set]);
        let kernel = new - old;
        // The kernel charges the path from a wakeup to the switch to the task that wakes up.
        let bound = kernel / if is_emulated() { 5 } else { 20 };
        assert!(ours.abs_diff(kernel) <= bound, "{ours} ns by us, {kernel} ns by the kernel");
        assert!(kernel > 1_000_000, "{kernel}");
    });
}

/// A storm of switches between cgroups, while nothing is created.
#[test]
fn every_scrape_is_conserved_in_a_storm_of_switches() {
    let exporter = Exporter::start_with(SETS, &[]);
    let tree = Tree::new();
    let _in_cgroups = load(&tree);
    let _in_ours = Load::on(&[CPU], || {
        thread::yield_now();
        thread::sleep(us(30));
    });
    let end = Instant::now() + Duration::from_secs(3);
    let mut last = scrape(&exporter);
    let mut scrapes = 0;
    while scrapes < 20 || Instant::now() < end {
        let next = scrape(&exporter);
        check_forward(&last, &next);
        last = next;
        scrapes += 1;
    }
    assert!(last.sum_ns(SECONDS, &["set=\"load\""]) > 10_000_000);
}
