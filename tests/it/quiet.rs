//! How often tests that need a quiet machine are retried. Needs neither root nor tools.

use std::time::Duration;

use sched_exporter_tests::quiet::{MachineLoad, is_retried};

/// Two CPUs for 10 s, and how many seconds of their time others and the hypervisor took.
fn machine(others: f64, steal: f64) -> MachineLoad {
    MachineLoad {
        elapsed: Duration::from_secs(10),
        cpus: 2,
        others: Duration::from_secs_f64(others),
        steal: Duration::from_secs_f64(steal),
        pressure: Some(Duration::from_secs(5)),
        load_average: "1.50".to_owned(),
    }
}

/// How often a test is tried that always fails after this many seconds.
fn tries(machine: &MachineLoad, seconds: u32) -> u32 {
    let elapsed = |tries: u32| Duration::from_secs(u64::from(tries * seconds));
    (1..100).find(|tries| !is_retried(*tries, machine, elapsed(*tries))).unwrap()
}

#[test]
fn failures_on_a_calm_machine_are_retried_once() {
    assert_eq!(tries(&machine(0.3, 0.0), 1), 2);
    assert_eq!(tries(&machine(0.0, 0.1), 1), 2);
}

#[test]
fn failures_on_a_busy_machine_are_retried_within_bounds() {
    for busy in [machine(0.5, 0.0), machine(0.0, 0.3), machine(20.0, 5.0)] {
        assert_eq!(tries(&busy, 1), 5);
        assert_eq!(tries(&busy, 50), 3);
    }
}

#[test]
fn messages_say_how_busy_the_machine_was() {
    assert_eq!(
        machine(5.0, 0.2).to_string(),
        "the machine was busy for these 10.0s: others used 25.0% of the time of 2 CPUs, the \
         hypervisor took 1.0%, tasks waited for a CPU 50% of the time; load average 1.50"
    );
}
