//! What scrapes ask for, and what they cost the exporter in memory.

use std::{io, mem, ptr};

use nix::unistd::Pid;
use sched_exporter_tests::{client::OPEN_METRICS, exposition::Exposition, process::Exporter};

/// The sample names of an answer, without duplicates, as written.
fn names(text: &str) -> Vec<&str> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let mut names: Vec<_> = samples.filter_map(|line| line.split(['{', ' ']).next()).collect();
    names.dedup();
    names
}

#[test]
fn a_scrape_gets_the_families_that_it_names() {
    let exporter = Exporter::start(&["--web.telemetry-path=/all"]);
    let mut client = exporter.connect();
    for (query, expected) in [
        ("name[]=sched_cpu_seconds", &["sched_cpu_seconds_total"][..]),
        // As Prometheus writes it, with the name of a sample.
        ("name%5B%5D=sched_cpu_seconds_total", &["sched_cpu_seconds_total"]),
        (
            "name[]=process_threads&other=1&name[]=sched_exporter_config_reloads_total",
            &["process_threads", "sched_exporter_config_reloads_total"],
        ),
    ] {
        for accept in [OPEN_METRICS, ("Accept", "*/*")] {
            let text = client.request("GET", &format!("/all?{query}"), &[accept]).text();
            assert_eq!(names(&text), expected, "{query}\n{text}");
            let families = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
            assert_eq!(families, expected.len(), "{text}");
            assert_eq!(text.ends_with("# EOF\n"), accept == OPEN_METRICS, "{text}");
        }
    }
}

#[test]
fn a_scrape_gets_the_collectors_that_it_names() {
    let exporter = Exporter::start(&["--no-collector.context-switches"]);
    let mut client = exporter.connect();
    let measured = [
        ("cpu", "sched_cpu_seconds_total"),
        ("context-switches", "sched_context_switches_total"),
        ("runqueue-latency", "sched_runqueue_latency_seconds_bucket"),
    ];
    for (asked, _) in measured {
        let text = client.get(&format!("/metrics?collect[]={asked}")).text();
        let names = names(&text);
        for (collector, name) in measured {
            let is_shown = collector == asked && collector != "context-switches";
            assert_eq!(names.contains(&name), is_shown, "{asked}: {name}");
        }
        // One that is off has no samples; this says why.
        for name in ["sched_exporter_feature_enabled", "process_open_fds"] {
            assert!(names.contains(&name), "{asked}: {name}");
        }
    }
}

#[test]
fn unknown_and_contradictory_filters_are_rejected() {
    let exporter = Exporter::start(&[]);
    let mut client = exporter.connect();
    for (query, expected) in [
        ("collect[]=disk", "unknown collector `disk`; known are cpu, context-switches, "),
        ("name[]=up", "unknown name `up`; known are these families"),
        ("name[]=sched_cpu_seconds&collect[]=cpu", "collect[] and name[] exclude each other"),
    ] {
        let answer = client.get(&format!("/metrics?{query}"));
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.text().contains(expected), "{query}: {}", answer.text());
    }
    assert_eq!(client.get("/metrics?collect=disk").status, 200);
}

/// Sets the soft limit of open files of a process; returns the old one.
fn limit_files(pid: Pid, soft: u64) -> u64 {
    // SAFETY: an all-zero `rlimit64` is valid.
    let (mut limits, none) = (unsafe { mem::zeroed::<libc::rlimit64>() }, ptr::null());
    // SAFETY: both pointers are valid, or null where that is allowed.
    let read = unsafe { libc::prlimit64(pid.as_raw(), libc::RLIMIT_NOFILE, none, &raw mut limits) };
    assert_eq!(read, 0, "{}", io::Error::last_os_error());
    let old = mem::replace(&mut limits.rlim_cur, soft);
    let none = ptr::null_mut();
    // SAFETY: as above.
    let set =
        unsafe { libc::prlimit64(pid.as_raw(), libc::RLIMIT_NOFILE, &raw const limits, none) };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
    old
}

#[test]
fn process_metrics_that_cannot_be_read_are_counted_and_logged() {
    let exporter = Exporter::start(&[]);
    let mut client = exporter.connect();
    let mut scrape = |path: &str| {
        let exposition = Exposition::parse(&client.get(path).text());
        let of_process =
            exposition.iter().filter(|(series, _)| series.starts_with("process_")).count();
        (of_process, exposition.sum("sched_exporter_process_metrics_errors_total", &[]))
    };
    assert_eq!(scrape("/metrics"), (7, 0));
    // Descriptors that are open stay open.
    let old = limit_files(exporter.pid(), 0);
    assert_eq!(scrape("/metrics"), (0, 1));
    // Whoever does not ask for them misses nothing.
    assert_eq!(scrape("/metrics?name[]=sched_exporter_process_metrics_errors"), (0, 1));
    exporter.wait_for_log("cannot read the metrics of the process");
    assert!(exporter.log().contains("Too many open files"), "{}", exporter.log());
    limit_files(exporter.pid(), old);
    assert_eq!(scrape("/metrics"), (7, 1));
}
