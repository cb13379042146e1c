//! Makes idle CPUs switch tasks once, so that their accounting starts at once rather than when they next
//! have work.

use std::thread;

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

/// Stack size of a thread, which does little more than one system call.
const STACK_BYTES: usize = 64 * 1024;

/// Starts a thread for each of `cpus` that moves itself there and ends; its arrival is a switch on that
/// CPU. Does not wait: the thread may never run on a CPU monopolized by a real-time task, or outside
/// its cpuset; that is harmless.
pub fn visit(cpus: &[u32]) {
    for &cpu in cpus {
        let mut target = CpuSet::new();
        if target.set(cpu as usize).is_err() {
            continue;
        }
        let visitor = thread::Builder::new()
            .name(format!("seed-{cpu}"))
            .stack_size(STACK_BYTES)
            .spawn(move || sched_setaffinity(Pid::from_raw(0), &target));
        if let Err(error) = visitor {
            tracing::warn!(cpu, %error, "cannot start a thread to seed this CPU");
        }
    }
}
