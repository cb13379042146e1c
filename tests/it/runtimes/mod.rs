//! Names of cgroups, as container runtimes, systemd and Kubernetes make them.

mod containerd;
mod docker;
mod fakes;
mod kubernetes;
mod podman;
mod sockets;
mod units;

use std::time::{Duration, Instant};

use sched_exporter_tests::{
    cgroups::{Account, Cgroup},
    exposition::Exposition,
    namespaces::Namespaces,
    process::Exporter,
};

const SECONDS: &str = "sched_cgroup_cpu_seconds_total";

/// Maximum time from the start of a container until it is found.
const SOON: Duration = Duration::from_secs(2);

/// The most that a process runs while it joins the hierarchies of cgroups one after another: the kernel's figure is of
/// another hierarchy than ours.
const JOINING_NS: u64 = 5_000_000;

/// The same for Docker and systemd.
const JOINING_SLOWLY_NS: u64 = 40_000_000;

/// Starts an exporter that sees the mounts of namespaces, and so the sockets in their `/run`.
fn exporter_in(namespaces: &Namespaces, config: &str) -> Exporter {
    Exporter::start_with_prepared(config, &[], |command| namespaces.share_mounts(command))
}

/// Waits until a set of cgroups has its series; panics if that is later than [`SOON`].
#[track_caller]
fn find(exporter: &Exporter, pairs: &[impl AsRef<str>]) -> Exposition {
    let started = Instant::now();
    let found = wait_for(exporter, pairs);
    assert!(started.elapsed() < SOON, "found after {:?}", started.elapsed());
    found
}

/// Waits until a set of cgroups has its series.
#[track_caller]
fn wait_for(exporter: &Exporter, pairs: &[impl AsRef<str>]) -> Exposition {
    let pairs: Vec<_> = pairs.iter().map(AsRef::as_ref).collect();
    exporter.wait_until(&pairs.join(" "), |it| it.select(SECONDS, &pairs).next().is_some())
}

/// How many sets have these labels.
fn sets(exposition: &Exposition, pairs: &[impl AsRef<str>]) -> usize {
    let pairs: Vec<_> = pairs.iter().map(AsRef::as_ref).collect();
    exposition.select(SECONDS, &pairs).count()
}

/// The CPU time of the only set with these labels, in nanoseconds.
#[track_caller]
fn cpu_ns(exposition: &Exposition, pairs: &[impl AsRef<str>]) -> u64 {
    let pairs: Vec<_> = pairs.iter().map(AsRef::as_ref).collect();
    assert_eq!(sets(exposition, &pairs), 1, "{pairs:?}");
    exposition.sum_ns(SECONDS, &pairs)
}

/// Checks that no time is missing or counted twice.
#[track_caller]
fn check_account(exposition: &Exposition) {
    let account = Account::of(exposition);
    assert!(account.is_conserved(), "{account:?}");
}

/// The CPU time of the series of a set, which may not exist yet, in nanoseconds.
fn counted(exporter: &Exporter, pairs: &[impl AsRef<str>]) -> u64 {
    let pairs: Vec<_> = pairs.iter().map(AsRef::as_ref).collect();
    exporter.scrape().sum_ns(SECONDS, &pairs)
}

/// Checks that a set has used what the kernel says of its only cgroup, next to what it `had` before. It may differ by
/// 0.5 %, because we charge interrupts and the way from a wakeup to the switch to a task, and many kernels do not,
/// and by [`JOINING_NS`].
#[track_caller]
fn check_usage(exporter: &Exporter, pairs: &[impl AsRef<str>], cgroup: &Cgroup, had: u64) {
    check_usage_within(exporter, pairs, cgroup, had, JOINING_NS);
}

/// As [`check_usage`], but it may differ by `joining_ns`.
#[track_caller]
fn check_usage_within(
    exporter: &Exporter,
    pairs: &[impl AsRef<str>],
    cgroup: &Cgroup,
    had: u64,
    joining_ns: u64,
) {
    let least = cgroup.usage_ns();
    let exposition = exporter.scrape();
    let most = cgroup.usage_ns();
    check_account(&exposition);
    let ours = cpu_ns(&exposition, pairs) - had;
    let tolerance = most / 200 + joining_ns;
    assert!(
        least <= ours + tolerance && ours <= most + tolerance,
        "{}: {ours} ns by us, {least} to {most} ns by the kernel",
        cgroup.path()
    );
}
