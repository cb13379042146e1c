//! `cargo xtask soak`: the exporter as it is shipped, held to its invariants under load.

use std::{ffi::OsString, process::ExitCode};

use anyhow::{Context, Result};

use crate::workspace::{build, build_exporter, root_command, run};

/// Builds the soak of package `sched_exporter-tests` and runs it as root.
pub(crate) fn soak(args: &[OsString]) -> Result<ExitCode> {
    let exporter = build_exporter()?;
    let built = build(&["build", "--package", "sched_exporter-tests", "--bin", "soak"])?;
    let soak = built.into_iter().find(|executable| executable.name == "soak");
    let soak = soak.context("package `sched_exporter-tests` has no soak")?;
    run(root_command(&soak.path, &[("SCHED_EXPORTER_BIN", exporter)]).args(args))?;
    Ok(ExitCode::SUCCESS)
}
