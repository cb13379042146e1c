//! Makes idle CPUs switch once, so that their accounting begins at start and not whenever they next
//! have something to do.

use std::thread;

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

/// A visit needs little more than the system call.
const STACK_BYTES: usize = 64 * 1024;

/// Starts a thread for each of `cpus` that moves itself there and ends. The arrival is a switch on
/// that CPU. Does not wait: a CPU that a real-time task keeps for itself lets no visitor in, and a
/// cpuset may not allow the visit at all; then the thread has done no harm.
pub fn visit(cpus: &[u32]) {
    for &cpu in cpus {
        let mut there = CpuSet::new();
        if there.set(cpu as usize).is_err() {
            continue;
        }
        let visitor = thread::Builder::new()
            .name(format!("seed-{cpu}"))
            .stack_size(STACK_BYTES)
            .spawn(move || sched_setaffinity(Pid::from_raw(0), &there));
        if let Err(error) = visitor {
            tracing::warn!(cpu, %error, "no thread to seed this CPU with");
        }
    }
}
