//! `cargo xtask docs`: the documents that are generated from the code.

use std::{fs, process::ExitCode};

use anyhow::{Context, Result, bail};

use crate::workspace::{command, output, root};

const METRICS: &str = "docs/metrics.md";

/// Writes the generated documents, or with `check` compares them with the committed ones.
pub(crate) fn docs(check: bool) -> Result<ExitCode> {
    let generated = output(command("cargo").args([
        "run",
        "--quiet",
        "--release",
        "--package",
        "sched_exporter",
        "--example",
        "metrics_md",
    ]))?;
    let path = root().join(METRICS);
    if !check {
        fs::write(&path, generated).context(METRICS)?;
    } else if fs::read(&path).context(METRICS)? != generated {
        bail!("{METRICS} is not what the code gives; run `cargo xtask docs` and commit it");
    }
    Ok(ExitCode::SUCCESS)
}
