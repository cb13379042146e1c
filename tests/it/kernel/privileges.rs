//! The capabilities that the serving exporter keeps, on every thread.

use std::{collections::BTreeMap, fs, path::Path};

use sched_exporter::kernel::preflight::Facts;
use sched_exporter_tests::process::{CONFIG, Exporter};

/// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/capability.h>
const CAP_BPF: u64 = 39;

/// Privileges of every thread, from `/proc/PID/task/TID/status`.
fn threads(exporter: &Exporter) -> Vec<BTreeMap<String, u64>> {
    let tasks = fs::read_dir(format!("/proc/{}/task", exporter.pid())).unwrap();
    let status = |task: &Path| fs::read_to_string(task.join("status")).unwrap();
    let threads = tasks.map(|task| {
        let status = status(&task.unwrap().path());
        let fields = status.lines().filter_map(|line| line.split_once(":\t"));
        fields
            .filter(|(name, _)| name.starts_with("Cap") || *name == "NoNewPrivs")
            .map(|(name, value)| (name.to_owned(), u64::from_str_radix(value, 16).unwrap()))
            .collect()
    });
    threads.collect()
}

/// Capabilities that this kernel requires to read a map.
fn reading() -> u64 {
    let kernel = Facts::gather().kernel;
    let mut numbers = kernel.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
    let sysctl = fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled").unwrap();
    if version < (5, 19) && sysctl.trim() != "0" { 1 << CAP_BPF } else { 0 }
}

/// Starts an exporter and makes it start more threads: a reload runs on threads of its own, and a
/// label from a file needs one to watch the file.
fn busy(args: &[&str]) -> Exporter {
    let exporter = Exporter::start_with(CONFIG, args);
    let zone = exporter.directory().join("zone");
    fs::write(&zone, "z1").unwrap();
    let label = format!("labels: {{zone: \"{{{{ file('{}') }}}}\"}}\n", zone.display());
    fs::write(exporter.config(), label).unwrap();
    exporter.wait_until("reloaded", |scrape| {
        scrape.select("sched_cpu_seconds_total", &["zone=\"z1\""]).next().is_some()
    });
    exporter
}

#[test]
fn no_thread_keeps_more_capabilities_than_the_kernel_requires() {
    let exporter = busy(&[]);
    let threads = threads(&exporter);
    assert!(threads.len() > 1, "{threads:?}");
    let kept = reading();
    for thread in &threads {
        for set in ["CapInh", "CapBnd", "CapAmb"] {
            assert_eq!(thread[set], 0, "{set} of {threads:x?}");
        }
        for set in ["CapPrm", "CapEff"] {
            assert_eq!(thread[set], kept, "{set} of {threads:x?}");
        }
        assert_eq!(thread["NoNewPrivs"], 1);
    }
    let scrape = exporter.scrape();
    for (capability, is_kept) in [("CAP_BPF", kept != 0), ("CAP_PERFMON", false)] {
        let label = format!("capability=\"{capability}\"");
        assert_eq!(scrape.sum("sched_exporter_capability_kept", &[&label]), u64::from(is_kept));
    }
    assert_eq!(exporter.log().contains("before Linux 5.19"), kept != 0);
}

#[test]
fn privileges_are_kept_on_request() {
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    let own = u64::from_str_radix(own, 16).unwrap();
    let exporter = busy(&["--privileges.keep"]);
    for thread in threads(&exporter) {
        assert_eq!((thread["CapEff"], thread["NoNewPrivs"]), (own, 0));
    }
    let label = "capability=\"CAP_BPF\"";
    assert_eq!(exporter.scrape().sum("sched_exporter_capability_kept", &[label]), 1);
}
