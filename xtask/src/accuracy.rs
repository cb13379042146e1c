//! `cargo xtask accuracy`: measures how accurate the exporter's figures are on this machine.

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;

use crate::workspace::{build, named, root_command, run};

/// Builds the program `accuracy` of package `sched_exporter-tests` and runs it as root.
pub(crate) fn accuracy(args: &[OsString]) -> Result<ExitCode> {
    let built =
        build(&["build", "--release", "--package", "sched_exporter-tests", "--bin", "accuracy"])?;
    run(root_command(&named(&built, "accuracy")?, &[]).args(args))?;
    Ok(ExitCode::SUCCESS)
}
