//! CPUs that go offline and come back. Needs a machine that allows it.

use std::{fs, thread, time::Duration};

use sched_exporter::{accounting::Snapshot, kernel::scheduler::Scheduler};
use sched_exporter_ebpf::{CpuRecord, Mode};
use sched_exporter_tests::{
    exposition::nanoseconds,
    kernel::{attach, times},
    process::Exporter,
    workload::{monotonic_ns, online, pin},
};

const ONLINE: &str = "/sys/devices/system/cpu/cpu1/online";

/// Puts CPU 1 back online when dropped, even if the test fails.
struct Cpu1;

impl Cpu1 {
    fn set(online: bool) {
        fs::write(ONLINE, if online { "1" } else { "0" }).unwrap();
    }
}

impl Drop for Cpu1 {
    fn drop(&mut self) {
        let _ = fs::write(ONLINE, "1");
    }
}

#[test]
fn offline_time_is_unattributed_and_offline_cpus_are_hidden() {
    pin(0);
    let scheduler = attach();
    let _cpu1 = Cpu1;
    let before = scheduler.snapshot().unwrap();
    for round in 1..=3_u64 {
        let earliest = monotonic_ns();
        Cpu1::set(false);
        let down = monotonic_ns();
        let offline = scheduler.snapshot().unwrap();
        assert!(offline.cpus.iter().all(|cpu| cpu.id != 1), "CPU 1 is shown offline");
        thread::sleep(Duration::from_millis(500));
        let up = monotonic_ns();
        Cpu1::set(true);
        let latest = monotonic_ns();
        let online = scheduler.snapshot().unwrap();
        let cpu = online.cpus.iter().find(|cpu| cpu.id == 1).unwrap();
        let unattributed = cpu.unattributed_ns - before.cpus[1].unattributed_ns;
        // Up to this much of each offline period may be charged to the stopper.
        let stopper = CpuRecord::STOPPER_NS;
        let (least, most) =
            ((up - down - stopper) * round, (latest - earliest) * round + 500_000_000);
        assert!((least..most).contains(&unattributed), "{unattributed} not in {least}..{most}");

        // The stopper's interval, the first after the CPU is up, is charged in full when it ends.
        let exact = (0..100).any(|_| {
            thread::sleep(Duration::from_millis(1));
            is_exact(&scheduler, &scheduler.snapshot().unwrap())
        });
        assert!(exact, "CPU 1 is never exact again after round {round}");

        let new = times(&online, 1);
        let old = times(&before, 1);
        for mode in Mode::ALL {
            assert!(old.mode_ns[mode as usize] <= new.mode_ns[mode as usize], "{mode:?}");
        }
    }
}

#[test]
fn a_cpu_offline_at_start_is_counted_from_its_first_switch() {
    pin(0);
    let _cpu1 = Cpu1;
    Cpu1::set(false);
    let scheduler = attach();
    assert_eq!(scheduler.snapshot().unwrap().cpus.len(), online().len());
    Cpu1::set(true);
    thread::sleep(Duration::from_millis(50));
    let snapshot = scheduler.snapshot().unwrap();
    assert!(is_exact(&scheduler, &snapshot));
}

#[test]
fn sums_keep_the_total_of_an_offline_cpu() {
    let config = "cpus: [{match: '0-1', labels: {pool: a}}]\nwithout: [cpu]\n";
    let exporter = Exporter::start_with(config, &[]);
    let _cpu1 = Cpu1;
    let sums = || {
        let exposition = exporter.scrape();
        ["sched_cpu_seconds_total", "sched_runqueue_latency_seconds_sum"].map(|name| {
            let of_pool = exposition.select(name, &["pool=\"a\""]);
            of_pool.map(|(_, value)| nanoseconds(value)).collect::<Vec<_>>()
        })
    };
    let mut last = sums();
    assert_eq!(last.each_ref().map(Vec::len), [Mode::ALL.len(), 1]);
    for online in [false, true, false, true] {
        Cpu1::set(online);
        let now = sums();
        for (old, new) in last.iter().flatten().zip(now.iter().flatten()) {
            assert!(old <= new, "CPU 1 online: {online}\n{last:?}\n{now:?}");
        }
        last = now;
    }
}

/// Whether the times of CPU 1 add up to the time since attach, within 100 µs.
fn is_exact(scheduler: &Scheduler, snapshot: &Snapshot) -> bool {
    let modes: u64 = times(snapshot, 1).mode_ns.iter().sum();
    let cpu = snapshot.cpus.iter().find(|cpu| cpu.id == 1).unwrap();
    let accounted = scheduler.attached_at() + modes + cpu.unattributed_ns;
    accounted.abs_diff(snapshot.taken_at) < 100_000
}
