//! `cargo xtask truth`: how true the exporter's figures are on this machine.

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;

use crate::workspace::{build, named, root_command, run};

/// Builds the program `truth` of package `sched_exporter-tests` and runs it as root.
pub(crate) fn truth(args: &[OsString]) -> Result<ExitCode> {
    let built =
        build(&["build", "--release", "--package", "sched_exporter-tests", "--bin", "truth"])?;
    run(root_command(&named(&built, "truth")?, &[]).args(args))?;
    Ok(ExitCode::SUCCESS)
}
