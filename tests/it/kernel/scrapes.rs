//! What scrapes ask for, and what they cost the exporter in memory.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    mem, ptr, thread,
    time::{Duration, Instant},
};

use nix::unistd::Pid;
use sched_exporter_tests::{
    client::{Client, OPEN_METRICS},
    exposition::Exposition,
    process::{Exporter, PATIENCE},
};

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
    // Without them, nothing is left out.
    assert_eq!(scrape("/metrics?name[]=sched_exporter_process_metrics_errors"), (0, 1));
    exporter.wait_for_log("cannot read the metrics of the process");
    assert!(exporter.log().contains("Too many open files"), "{}", exporter.log());
    limit_files(exporter.pid(), old);
    assert_eq!(scrape("/metrics"), (7, 1));
}

/// A configuration whose exposition has more than 2.5 MB on two CPUs.
fn large_config() -> String {
    let mut config =
        String::from("runqueue_latency: {buckets: {min: 1us, max: 64s, factor: 2}}\nlabels:\n");
    for label in 0..32 {
        let _ = writeln!(config, "  label_{label}: \"{}\"", "x".repeat(1_000));
    }
    config
}

/// A line of `/proc/PID/status`, in MiB.
fn memory(pid: Pid, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib: u64 = line.unwrap().trim().trim_end_matches(" kB").parse().unwrap();
    kib / 1_024
}

/// Bytes that the kernel holds for the clients of this port: sent or to be sent, and not acknowledged.
fn unsent(port: u16) -> u64 {
    let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
    let of_port = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let is_of_port = fields[1].ends_with(&format!(":{port:04X}"));
        let queued = fields[4].split(':').next().unwrap();
        is_of_port.then(|| u64::from_str_radix(queued, 16).unwrap())
    };
    sockets.lines().skip(1).filter_map(of_port).sum()
}

#[test]
fn clients_that_do_not_read_cost_a_bounded_amount_of_memory() {
    const CLIENTS: usize = 200;
    let exporter = Exporter::start_with(&large_config(), &[]);
    let scrape = |headers: &[(&str, &str)]| {
        let started = Instant::now();
        let answer = exporter.connect().request("GET", "/metrics", headers);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        answer.body.len()
    };
    let len = scrape(&[OPEN_METRICS]);
    assert!(len > 2_500_000, "{len}");
    let before = memory(exporter.pid(), "VmRSS");
    // From here on, `VmHWM` is the peak since now.
    fs::write(format!("/proc/{}/clear_refs", exporter.pid()), "5").unwrap();

    let stuck: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let mut client = (client, exporter.connect());
            // Different formats share no rendering.
            let accept = ["*/*", "application/openmetrics-text"][client.0 % 2];
            let request =
                format!("GET /metrics HTTP/1.1\r\nHost: test\r\nAccept: {accept}\r\n\r\n");
            let _ = client.1.stream().write_all(&request.into_bytes().repeat(8));
            client.1
        })
        .collect::<Vec<Client>>();
    for _ in 0..20 {
        scrape(&[OPEN_METRICS, ("Accept-Encoding", "gzip")]);
        scrape(&[OPEN_METRICS]);
        let unsent = unsent(exporter.address.port());
        assert!(unsent < 16 << 20, "{unsent} bytes in the kernel");
    }
    let peak = memory(exporter.pid(), "VmHWM");
    assert!(peak < 48, "{peak} MiB");

    drop(stuck);
    let deadline = Instant::now() + PATIENCE;
    while memory(exporter.pid(), "VmRSS") > before + 2 {
        let now = memory(exporter.pid(), "VmRSS");
        assert!(Instant::now() < deadline, "{now} MiB after, {before} MiB before");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn scrapes_of_one_moment_share_a_rendering_and_later_ones_are_newer() {
    let exporter = Exporter::start_with(&large_config(), &[]);
    let renderings = |text: &str| {
        Exposition::parse(text).sum("sched_exporter_scrape_duration_seconds_count", &[])
    };
    let name = "/metrics?name[]=sched_exporter_scrape_duration_seconds";
    let first = renderings(&exporter.connect().get(name).text());
    let second = renderings(&exporter.connect().get(name).text());
    assert_eq!(second, first + 1);

    // Many at once, which arrive while the exporter renders the first.
    let mut clients: Vec<_> = (0..30).map(|_| exporter.connect()).collect();
    for client in &mut clients {
        client.stream().write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    }
    for client in &mut clients {
        assert_eq!(client.answer(false).unwrap().status, 200);
    }
    let shared = renderings(&exporter.connect().get(name).text()) - second;
    assert!(shared <= 15, "{shared} renderings for 30 scrapes");

    // Each scrape that begins after another has ended is newer.
    let mut client = exporter.connect();
    let mut last = 0;
    for _ in 0..50 {
        let total = Exposition::parse(&client.get("/metrics?name[]=sched_cpu_seconds").text())
            .sum_ns("sched_cpu_seconds_total", &[]);
        assert!(total > last, "{total} after {last}");
        last = total;
    }
}
