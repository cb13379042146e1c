//! `cargo xtask bench`: what the exporter costs on this machine.

use std::{ffi::OsString, process::ExitCode};

use anyhow::{Context, Result};

use crate::workspace::{build, build_exporter, root_command, run};

/// Builds the benchmark of package `sched_exporter-tests` and runs it as root.
pub(crate) fn bench(args: &[OsString]) -> Result<ExitCode> {
    let exporter = build_exporter()?;
    let built = build(&["bench", "--package", "sched_exporter-tests", "--no-run"])?;
    let bench = built.into_iter().find(|executable| executable.kind == "bench");
    let bench = bench.context("package `sched_exporter-tests` has no benchmark")?;
    run(root_command(&bench.path, &[("SCHED_EXPORTER_BIN", exporter)]).args(args))?;
    Ok(ExitCode::SUCCESS)
}
