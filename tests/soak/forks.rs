//! A bounded fork bomb: processes fork twice and exit, a few levels deep.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result};
use nix::{
    sys::wait::waitpid,
    unistd::{ForkResult, Pid, fork},
};

use crate::Shared;

/// Levels of processes; 2^6 - 1 = 63 processes at most.
const LEVELS: u32 = 6;

/// Time between two bombs.
const PAUSE: Duration = Duration::from_millis(50);

/// Starts bombs until the soak ends. Returns the number of processes, assuming that all forks
/// succeeded.
pub(crate) fn bombs(shared: &Shared) -> Result<u64> {
    let mut processes = 0;
    while !shared.is_over() {
        let bomb = fork_and(|| burst(LEVELS - 1)).context("fork")?;
        waitpid(bomb, None).context("waitpid")?;
        processes += (1 << LEVELS) - 1;
        thread::sleep(PAUSE);
    }
    Ok(processes)
}

/// Forks twice, as do the children, for this number of levels. Makes only system calls, because
/// nothing else is safe in a child of a process with threads.
fn burst(levels: u32) {
    if levels == 0 {
        return;
    }
    let children = [fork_and(|| burst(levels - 1)), fork_and(|| burst(levels - 1))];
    for child in children.into_iter().flatten() {
        let _ = waitpid(child, None);
    }
}

/// Forks a child that does `work` and exits.
fn fork_and(work: impl FnOnce()) -> nix::Result<Pid> {
    // SAFETY: the child only makes system calls until it exits.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            work();
            // SAFETY: exits without running any code of this process.
            unsafe { libc::_exit(0) }
        }
    }
}
