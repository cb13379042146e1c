//! `cargo xtask soak`: checks the invariants of the shipped exporter under load.

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;

use crate::{
    arch::Arch,
    shipped::{build_shipped, build_tests},
    workspace::{named, root_command, run},
};

/// Builds the soak of package `sched_exporter-tests` and runs it as root.
pub(crate) fn soak(args: &[OsString]) -> Result<ExitCode> {
    let arch = Arch::host()?;
    let (exporter, soak) = (build_shipped(arch)?, named(&build_tests(arch)?, "soak")?);
    run(root_command(&soak, &[("SCHED_EXPORTER_BIN", exporter)]).args(args))?;
    Ok(ExitCode::SUCCESS)
}
