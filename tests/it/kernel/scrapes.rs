//! What scrapes ask for, and what they cost the exporter in memory.

use std::{io, mem, ptr};

use nix::unistd::Pid;
use sched_exporter_tests::{exposition::Exposition, process::Exporter};

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
    exporter.wait_for_log("cannot read the metrics of the process");
    assert!(exporter.log().contains("Too many open files"), "{}", exporter.log());
    limit_files(exporter.pid(), old);
    assert_eq!(scrape("/metrics"), (7, 1));
}
