//! The counters compared with an independent trace of `sched_switch`: perf's, on the same clock.

use std::{iter::zip, thread, time::Duration};

use sched_exporter::accounting::Snapshot;
use sched_exporter_ebpf::Reason;
use sched_exporter_tests::{
    kernel::{attach, kthreads, times},
    quiet,
    trace::{CLOCKS_APART_NS, Class, Recording},
    workload::{Load, monotonic_ns, online, pin, realtime, sleep_until, spin_until},
};

#[test]
fn times_and_switches_match_an_independent_trace() {
    quiet::attempt(compare_with_a_trace);
}

fn compare_with_a_trace() {
    pin(0);
    let scheduler = attach();
    // Some end meanwhile, and some begin.
    let mut known_kthreads = kthreads();
    let recording = Recording::start();

    // Some of everything, with intervals much longer than reading a clock takes.
    let cpus = online();
    let sleepers = Load::on(&cpus, || {
        spin_until(monotonic_ns() + 300_000);
        thread::sleep(Duration::from_micros(400));
    });
    let bursts = thread::spawn(|| {
        pin(1);
        realtime();
        let mut next = monotonic_ns();
        for _ in 0..500 {
            next += 4_000_000;
            sleep_until(next);
            spin_until(monotonic_ns() + 500_000);
        }
    });
    let snapshots: Vec<Snapshot> = (0..40)
        .map(|_| {
            thread::sleep(Duration::from_millis(50));
            scheduler.snapshot().unwrap()
        })
        .collect();
    known_kthreads.extend(kthreads());
    bursts.join().unwrap();
    drop(sleepers);
    let trace = recording.finish();

    let (mut compared, mut uneven, mut apart) = (0, 0, Vec::new());
    for &cpu in &cpus {
        let cpu = u32::try_from(cpu).unwrap();
        let (mut drift_ns, mut allowed_ns) = ([0; Class::ALL.len()], 0);
        for pair in snapshots.windows(2) {
            let (from, to) = (&pair[0], &pair[1]);
            let (old, new) = (times(from, cpu), times(to, cpu));
            let trace = trace.account(cpu, from.taken_at, to.taken_at, &known_kthreads);
            let Some(trace) = trace else { continue };
            if old.missed_switches != new.missed_switches {
                continue;
            }
            let ours: Vec<_> =
                new.switches.iter().zip(&old.switches).map(|(new, old)| new - old).collect();
            // A switch at either end is in one window only, or the kernel reported it to only one.
            if ours.iter().sum::<u64>() != trace.switches.iter().sum::<u64>() {
                uneven += 1;
                continue;
            }
            compared += 1;
            for reason in Reason::ALL {
                let error = ours[reason as usize].abs_diff(trace.switches[reason as usize]);
                assert!(
                    error <= 1,
                    "CPU {cpu} {reason:?}: {ours:?}, {:?} by trace",
                    trace.switches
                );
            }
            let switches: u64 = ours.iter().sum();
            let tolerance = 5_000 + CLOCKS_APART_NS * switches;
            allowed_ns += tolerance;
            let ours = Class::ALL.map(|class| class.ours(&new.mode_ns) - class.ours(&old.mode_ns));
            let pairs = || zip(ours, trace.class_ns);
            for (drift_ns, (ours, trace)) in zip(&mut drift_ns, pairs()) {
                *drift_ns += ours.cast_signed() - trace.cast_signed();
            }
            if pairs().any(|(ours, trace)| ours.abs_diff(trace) > tolerance) {
                apart.push(format!(
                    "CPU {cpu}: {ours:?} ns, {:?} ns by trace, {switches} switches",
                    trace.class_ns
                ));
            }
        }
        assert!(
            drift_ns.iter().all(|drift_ns| drift_ns.unsigned_abs() <= allowed_ns),
            "CPU {cpu}: we have {drift_ns:?} ns more than the trace, by {:?}",
            Class::ALL
        );
    }
    assert!(compared >= 20, "only {compared} windows without a gap in ours or the trace");
    assert!(
        uneven <= compared,
        "{uneven} windows with different numbers of switches, {compared} with equal ones"
    );
    // A hypervisor that takes the CPU away between the two clock readings of a switch separates
    // them.
    assert!(
        apart.len() * 10 <= compared,
        "{} of {compared} windows differ, by {:?}: {apart:#?}",
        apart.len(),
        Class::ALL
    );
}
