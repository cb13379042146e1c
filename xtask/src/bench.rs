//! `cargo xtask bench`: what the exporter costs on this machine.

use std::{ffi::OsString, process::ExitCode};

use anyhow::{Context, Result};

use crate::workspace::{build, build_exporter, root_command, run};

/// Builds the benchmarks of package `sched_exporter-tests` and runs, as root, the one that makes the
/// table. It runs the other.
pub(crate) fn bench(args: &[OsString]) -> Result<ExitCode> {
    let exporter = build_exporter()?;
    let mut built = build(&["bench", "--package", "sched_exporter-tests", "--no-run"])?;
    let mut find = |name: &str| {
        let index = built.iter().position(|built| built.kind == "bench" && built.name == name);
        let index = index.with_context(|| format!("cargo built no benchmark `{name}`"))?;
        anyhow::Ok(built.swap_remove(index).path)
    };
    let variables =
        [("SCHED_EXPORTER_BIN", exporter), ("SCHED_EXPORTER_RENDER_BENCH", find("render")?)];
    run(root_command(&find("bench")?, &variables).args(args))?;
    Ok(ExitCode::SUCCESS)
}
