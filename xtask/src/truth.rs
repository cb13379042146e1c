//! `cargo xtask truth`: how true the exporter's figures are on this machine.

use std::{ffi::OsString, process::ExitCode};

use anyhow::{Context, Result};

use crate::workspace::{build, root_command, run};

/// Builds the program `truth` of package `sched_exporter-tests` and runs it as root.
pub(crate) fn truth(args: &[OsString]) -> Result<ExitCode> {
    let built =
        build(&["build", "--release", "--package", "sched_exporter-tests", "--bin", "truth"])?;
    let truth = built.into_iter().find(|executable| executable.name == "truth");
    let truth = truth.context("package `sched_exporter-tests` has no program `truth`")?;
    run(root_command(&truth.path, &[]).args(args))?;
    Ok(ExitCode::SUCCESS)
}
