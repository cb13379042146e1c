//! A fork bomb that is bounded: processes that fork twice and end, a few levels deep.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result};
use nix::{
    sys::wait::waitpid,
    unistd::{ForkResult, Pid, fork},
};

use crate::Shared;

/// Levels of processes: 2^6 - 1 of them, or 63, at most.
const LEVELS: u32 = 6;

/// Between two bombs.
const PAUSE: Duration = Duration::from_millis(50);

/// Sets off bombs until the soak is over. Returns how many processes there were, if all forks
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

/// Forks twice, and so do the children, for so many levels. Only system calls: in a child of a
/// process with threads nothing else is safe.
fn burst(levels: u32) {
    if levels == 0 {
        return;
    }
    let children = [fork_and(|| burst(levels - 1)), fork_and(|| burst(levels - 1))];
    for child in children.into_iter().flatten() {
        let _ = waitpid(child, None);
    }
}

/// A child that does `work` and ends.
fn fork_and(work: impl FnOnce()) -> nix::Result<Pid> {
    // SAFETY: the child makes system calls until it ends.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            work();
            // SAFETY: ends the process, with nothing run at its exit.
            unsafe { libc::_exit(0) }
        }
    }
}
