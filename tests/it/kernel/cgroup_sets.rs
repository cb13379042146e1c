//! Sets of cgroups with equal labels: what is shown of each, for how long, and how many.

use std::{thread, time::Instant};

use sched_exporter_tests::{
    cgroups::{Account, Cgroup, Task, Tree, bursts},
    exposition::Exposition,
    process::{Exporter, PATIENCE},
};

use super::cgroups::{
    CPU, EACH, OTHER, SECONDS, SWITCHES, WAITED, WAITS, known_task, ms, scrape, wait_for_series,
};

const FORGOTTEN: &str = "sched_exporter_cgroup_forgotten_seconds_total";

#[test]
fn a_cgroup_that_returns_continues_its_series() {
    let exporter = Exporter::start_with(EACH, &[]);
    let tree = Tree::new();
    let mut last = 0;
    for round in 0..3 {
        let service = tree.create("service");
        let pair = service.pair();
        let task = service.task(CPU, || bursts(ms(20), ms(20), ms(1)));
        // Its series are there from the last round. Until the cgroup is known, its time is in `other`.
        exporter.wait_until("joined", |it| {
            task.run();
            it.sum_ns(SECONDS, &[&pair]) > last + 10_000_000
        });
        let before = scrape(&exporter);
        let usage = service.usage_ns();
        task.run();
        let used = service.usage_ns() - usage;
        let after = scrape(&exporter);
        let grown = after.sum_ns(SECONDS, &[&pair]) - before.sum_ns(SECONDS, &[&pair]);
        assert!(grown > used / 2, "round {round}: grown by {grown} of {used} ns");
        drop(task);
        service.remove();
        last = scrape(&exporter).sum_ns(SECONDS, &[&pair]);
        assert!(last >= after.sum_ns(SECONDS, &[&pair]), "round {round}: after its end");
    }
}

/// Moves of what ended and what is kept, to the nanosecond.
#[test]
fn an_ended_set_is_kept_then_forgotten() {
    let config = "cgroups: {labels: {path: \"{{ cgroup.path }}\"}, keep: 2s}\n";
    let exporter = Exporter::start_with(config, &[]);
    let tree = Tree::new();
    let ended = tree.create("ended");
    let pair = ended.pair();
    let task = known_task(&exporter, &ended, || bursts(ms(50), ms(10), ms(5)));
    task.run();
    drop(task);
    let removed_at = Instant::now();
    ended.remove();
    let before = scrape(&exporter);
    let (shown, forgotten) = (before.sum_ns(SECONDS, &[&pair]), before.sum_ns(FORGOTTEN, &[]));
    assert!(shown > 20_000_000, "{shown}");
    let after = loop {
        let exposition = scrape(&exporter);
        if exposition.select(SECONDS, &[&pair]).next().is_none() {
            break exposition;
        }
        assert!(removed_at.elapsed() < PATIENCE, "{pair} stays");
        thread::sleep(ms(20));
    };
    assert!(removed_at.elapsed() >= ms(2_000), "{:?}", removed_at.elapsed());
    let grown = after.sum_ns(FORGOTTEN, &[]) - forgotten;
    assert!(grown >= shown, "{grown} ns forgotten of {shown}");
    for name in [WAITED, WAITS, SWITCHES] {
        assert_eq!(after.select(name, &[&pair]).next(), None, "{name}");
    }
}

#[test]
fn sets_beyond_the_budget_are_in_other() {
    let config = format!("{EACH}limits: {{cgroups: 2}}\n");
    let exporter = Exporter::start_with(&config, &[]);
    let tree = Tree::new();
    let cgroups = ["a", "b", "c", "d"].map(|name| tree.create(name));
    let tasks =
        cgroups.each_ref().map(|cgroup| cgroup.task(CPU, || bursts(ms(100), ms(10), ms(10))));
    let before = scrape(&exporter);
    for _ in 0..3 {
        tasks.iter().for_each(Task::begin);
        tasks.iter().for_each(Task::finish);
        let exposition = scrape(&exporter);
        let own = exposition.select(SECONDS, &[]).filter(|(series, _)| !series.contains(OTHER));
        assert!(own.count() <= 2);
    }
    let after = scrape(&exporter);
    let used: u64 = cgroups.iter().map(Cgroup::usage_ns).sum();
    let shown = |it: &Exposition| Account::of(it).shown;
    assert!(shown(&after) - shown(&before) > used * 9 / 10, "{used}");
    // At least two of the four are in it.
    let other = after.sum_ns(SECONDS, &[OTHER]) - before.sum_ns(SECONDS, &[OTHER]);
    assert!(other > used / 4, "{other} of {used}");
}

#[test]
fn rules_drop_cgroups_into_other() {
    let config = "\
cgroups:
  labels: {path: \"{{ cgroup.path }}\", unit: \"{{ cgroup.unit }}\"}
  relabel_configs:
  - {source_labels: [__meta_cgroup_path], regex: \".*/dropped\", action: drop}
  - {source_labels: [__meta_cgroup_path], regex: \".*/renamed\", target_label: path, replacement: new}
";
    let exporter = Exporter::start_with(config, &[]);
    let tree = Tree::new();
    let [plain, renamed, dropped] = ["plain", "renamed", "dropped"].map(|name| tree.create(name));
    let work = || bursts(ms(100), ms(10), ms(10));
    let tasks = [&plain, &renamed, &dropped].map(|cgroup| cgroup.task(CPU, work));
    tasks.iter().for_each(Task::run);
    // A cgroup outside of a unit has an empty label, so that servers do not fill in another.
    let shown = wait_for_series(&exporter, &plain);
    assert_eq!(shown.select(SECONDS, &[&plain.pair(), "unit=\"\""]).count(), 1);
    let new = "path=\"new\"";
    let before = exporter.wait_until("renamed", |it| it.select(SECONDS, &[new]).next().is_some());
    tasks.iter().for_each(Task::run);
    let after = scrape(&exporter);
    let grown = |pair: &str| after.sum_ns(SECONDS, &[pair]) - before.sum_ns(SECONDS, &[pair]);
    for pair in [new, OTHER] {
        assert!(grown(pair) > 30_000_000, "{pair}: {}", grown(pair));
    }
    assert_eq!(after.select(SECONDS, &[&dropped.pair()]).next(), None);
    let other = after.select(SECONDS, &[OTHER, "unit=\"other\""]).count();
    assert_eq!(other, 1, "each label of `other` has that value");
}

#[test]
fn without_the_collector_there_are_no_series_of_cgroups() {
    let exporter = Exporter::start_with(EACH, &["--no-collector.cgroups"]);
    let tree = Tree::new();
    let cgroup = tree.create("unseen");
    cgroup.task(CPU, || bursts(ms(20), ms(10), ms(1))).run();
    let exposition = exporter.scrape();
    assert!(exposition.sum_ns("sched_cpu_seconds_total", &[]) > 0);
    let of_cgroups = |series: &str| {
        series.starts_with("sched_cgroup_") || series.starts_with("sched_exporter_cgroup_")
    };
    let found: Vec<_> = exposition.iter().filter(|(series, _)| of_cgroups(series)).collect();
    assert!(found.is_empty(), "{found:?}");
}
