//! Child processes that don't outlive this one.

use std::{
    io,
    os::unix::process::CommandExt as _,
    process::{Child, Command},
};

use anyhow::{Context as _, Result};
use nix::sys::{prctl::set_pdeathsig, signal::Signal};

/// Starts a command that gets SIGTERM when this process ends for whatever reason.
///
/// Call it on the main thread: the kernel sends the signal when the calling thread ends.
pub(crate) fn spawn(command: &mut Command) -> Result<Child> {
    let end_with_us = || set_pdeathsig(Signal::SIGTERM).map_err(io::Error::from);
    // SAFETY: makes only a system call between fork and exec.
    let command = unsafe { command.pre_exec(end_with_us) };
    command.spawn().with_context(|| format!("starting `{}`", command.get_program().display()))
}

/// A child that is killed when dropped.
pub(crate) struct Running(Child);

impl Running {
    /// As [`spawn`].
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        spawn(command).map(Self)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
