//! Child processes that don't outlive this one.

use std::{
    io,
    os::unix::process::CommandExt as _,
    process::{Child, Command},
};

use anyhow::{Context as _, Result};
use nix::sys::{prctl::set_pdeathsig, signal::Signal};

/// Starts a command that gets SIGTERM when this process ends, however it ends.
///
/// To be called by the main thread: the kernel takes the end of the calling thread for that of the
/// process.
pub(crate) fn spawn(command: &mut Command) -> Result<Child> {
    let end_with_us = || set_pdeathsig(Signal::SIGTERM).map_err(io::Error::from);
    // SAFETY: between fork and exec, a system call and nothing else.
    let command = unsafe { command.pre_exec(end_with_us) };
    command.spawn().with_context(|| format!("starting `{}`", command.get_program().display()))
}
