//! `cargo xtask run`: runs the exporter on this machine, with the shipped configuration.

use std::{ffi::OsString, os::unix::process::CommandExt, process::ExitCode};

use anyhow::{Context, Result};

use crate::workspace::{build_exporter, root, root_command, spell};

const CONFIG: &str = "--config.file";
const ADDRESS: &str = "--web.listen-address";
const LOCAL: &str = "127.0.0.1:10435";

/// Builds the exporter and replaces this process with it, so that signals reach it directly.
pub(crate) fn run(args: &[OsString]) -> Result<ExitCode> {
    let given = |flag: &str| args.iter().any(|arg| arg.to_string_lossy().starts_with(flag));
    let mut command = root_command(&build_exporter()?, &[]);
    if !given(CONFIG) {
        let mut flag = OsString::from(format!("{CONFIG}="));
        flag.push(root().join("config/exporter.yaml"));
        command.arg(flag);
    }
    if !given(ADDRESS) {
        command.arg(format!("{ADDRESS}={LOCAL}"));
        eprintln!("http://{LOCAL}/metrics");
    }
    command.args(args);
    Err(command.exec()).with_context(|| spell(&command))
}
