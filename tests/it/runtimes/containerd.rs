//! Pods of containerd, made as kubelet makes them.

use std::{
    thread,
    time::{Duration, Instant},
};

use sched_exporter_tests::{
    containerd::Containerd,
    kubelet::{Class, Kubelet, Pod, pairs},
    process::{CONFIG, Exporter},
};

use super::{check_account, check_usage, continues, cpu_ns, exporter_in, find, sets, wait_for};

/// Uses a fifth of a CPU, for longer than any test takes.
const SPIN: [&str; 4] = ["spin", "20", "80", "300"];

/// Starts an exporter that finds containerd at its usual path.
fn exporter(containerd: &Containerd) -> Exporter {
    exporter_in(&containerd.namespaces, CONFIG)
}

/// Starts the only container of a pod.
fn start(kubelet: &Kubelet, pod: &Pod) -> String {
    kubelet.start(pod, "main", 0, &SPIN)
}

#[test]
fn pods_of_each_class_are_found_soon_and_counted_exactly() {
    let containerd = Containerd::start();
    let (kubelet, exporter) = (containerd.kubelet(), exporter(&containerd));
    for (class, name) in
        [(Class::Guaranteed, "database"), (Class::Burstable, "web"), (Class::BestEffort, "batch")]
    {
        let pod = kubelet.run_pod("shop", name, class);
        let container = start(&kubelet, &pod);
        let series = pod.pairs("main");
        let found = find(&exporter, &series);
        // The container that holds the pod's namespaces is in the pod's own series.
        assert_eq!(sets(&found, &pod.pairs("")), 1);
        check_usage(&exporter, &series, &containerd.cgroup(&pod, &container));
        kubelet.remove_pod(&pod);
    }
}

#[test]
fn a_restarted_container_continues_its_series() {
    let containerd = Containerd::start();
    let (kubelet, exporter) = (containerd.kubelet(), exporter(&containerd));
    let pod = kubelet.run_pod("shop", "web", Class::Burstable);
    let pairs = pod.pairs("main");
    let mut container = start(&kubelet, &pod);
    find(&exporter, &pairs);
    for attempt in 1..3 {
        let running = cpu_ns(&exporter.scrape(), &pairs);
        kubelet.remove(&container);
        let removed = exporter.scrape();
        check_account(&removed);
        let had = cpu_ns(&removed, &pairs);
        assert!(had >= running);
        container = kubelet.start(&pod, "main", attempt, &SPIN);
        continues(&exporter, &pairs, had);
        check_usage(&exporter, &pairs, &containerd.cgroup(&pod, &container));
    }
}

#[test]
fn a_restarted_containerd_is_found_again() {
    let mut containerd = Containerd::start();
    let (kubelet, exporter) = (containerd.kubelet(), exporter(&containerd));
    let first = kubelet.run_pod("shop", "web", Class::Burstable);
    start(&kubelet, &first);
    find(&exporter, &first.pairs("main"));
    for round in 0..2 {
        containerd.kill();
        // Its containers keep running, and keep their names.
        let before = cpu_ns(&exporter.scrape(), &first.pairs("main"));
        exporter.wait_until("still counting", |it| cpu_ns(it, &first.pairs("main")) > before);
        containerd.resume();
        let next = kubelet.run_pod("shop", &format!("next-{round}"), Class::BestEffort);
        start(&kubelet, &next);
        wait_for(&exporter, &next.pairs("main"));
    }
}

#[test]
fn a_restarted_exporter_finds_what_runs() {
    let containerd = Containerd::start();
    let kubelet = containerd.kubelet();
    let pod = kubelet.run_pod("shop", "web", Class::Burstable);
    let container = start(&kubelet, &pod);
    for _ in 0..2 {
        let exporter = exporter(&containerd);
        find(&exporter, &pod.pairs("main"));
        let usage = containerd.cgroup(&pod, &container).usage_ns();
        // It counts from its own start.
        assert!(cpu_ns(&exporter.scrape(), &pod.pairs("main")) < usage);
    }
}

/// Three hundred sets fit into the budget.
const MANY: &str = "limits: {cgroups: 300}\n";

#[test]
fn two_hundred_pods_in_a_minute_are_named_and_counted() {
    const WORKERS: usize = 10;
    const PODS: usize = 200;
    let containerd = Containerd::start();
    let (kubelet, exporter) = (containerd.kubelet(), exporter_in(&containerd.namespaces, MANY));
    let slots = exporter.scrape().sum("sched_exporter_cgroup_slots_used", &[]);
    let started = Instant::now();
    let names: Vec<_> = (0..PODS).map(|number| format!("pod-{number}")).collect();
    thread::scope(|scope| {
        let run = |name: &String| {
            let pod = kubelet.run_pod("shop", name, Class::BestEffort);
            thread::sleep(Duration::from_millis(1_500));
            kubelet.remove_pod(&pod);
        };
        let works = names
            .chunks(PODS / WORKERS)
            .map(|names| scope.spawn(move || names.iter().for_each(run)));
        let works: Vec<_> = works.collect();
        while works.iter().any(|work| !work.is_finished()) {
            check_account(&exporter.scrape());
            thread::sleep(Duration::from_millis(100));
        }
    });
    let elapsed = started.elapsed();
    assert!(elapsed < Duration::from_mins(1), "{elapsed:?}");
    let exposition = exporter
        .wait_until("freed", |it| it.sum("sched_exporter_cgroup_slots_used", &[]) <= slots + 5);
    check_account(&exposition);
    let unnamed: Vec<_> =
        names.iter().filter(|name| sets(&exposition, &pairs("shop", name, "")) != 1).collect();
    assert!(unnamed.is_empty(), "{unnamed:?}");
}
