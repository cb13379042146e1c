//! Names of cgroups, as container runtimes, systemd and Kubernetes make them.

mod containerd;
mod docker;
mod fakes;
mod kubernetes;
mod podman;
mod sockets;
mod units;

use std::{
    thread,
    time::{Duration, Instant},
};

use sched_exporter_tests::{
    cgroups::{Account, Cgroup},
    exposition::Exposition,
    namespaces::Namespaces,
    process::Exporter,
    quiet,
};

const SECONDS: &str = "sched_cgroup_cpu_seconds_total";

/// Maximum time from the start of a container until it is found.
const SOON: Duration = Duration::from_secs(2);

/// How long a set's time is compared with the kernel's.
const WINDOW: Duration = Duration::from_secs(2);

/// The longest tick of the kernels in use, at 100 Hz.
const TICK_NS: u64 = 10_000_000;

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

/// Checks that a set uses, for [`WINDOW`], what the kernel says of its only cgroup. It may differ by 0.5 %, because we
/// charge interrupts and the way from a wakeup to the switch to a task, and many kernels do not, and by a tick at
/// either end, since the kernel's figure is as of the last one.
#[track_caller]
fn check_usage(exporter: &Exporter, pairs: &[impl AsRef<str>], cgroup: &Cgroup) {
    quiet::attempt(|| {
        let (shown, usage) = (cpu_ns(&exporter.scrape(), pairs), cgroup.usage_ns());
        thread::sleep(WINDOW);
        let exposition = exporter.scrape();
        let used = cgroup.usage_ns() - usage;
        check_account(&exposition);
        let ours = cpu_ns(&exposition, pairs) - shown;
        assert!(
            ours.abs_diff(used) <= used / 200 + 2 * TICK_NS,
            "{}: {ours} ns by us, {used} ns by the kernel",
            cgroup.path()
        );
    });
}

/// Waits until a set whose only cgroup has ended goes on from what it had, in nanoseconds.
#[track_caller]
fn continues(exporter: &Exporter, pairs: &[impl AsRef<str>], had: u64) {
    let expected = format!("more than {had} ns");
    let found = exporter.wait_until(&expected, |it| cpu_ns(it, pairs) != had);
    assert!(cpu_ns(&found, pairs) > had);
}
