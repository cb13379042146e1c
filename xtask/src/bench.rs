//! `cargo xtask bench`: measures the cost of the shipped exporter on this machine.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use anyhow::Result;

use crate::{
    arch::Arch,
    shipped::build_shipped,
    tools::on_path,
    workspace::{build, named, root_command, run},
};

/// Builds the benchmarks of package `sched_exporter-tests` and runs `bench` as root, which runs
/// `render`.
pub(crate) fn bench(args: &[OsString]) -> Result<ExitCode> {
    let exporter = build_shipped(Arch::host()?)?;
    let built = build(&["bench", "--package", "sched_exporter-tests", "--no-run"])?;
    let variables = [
        ("SCHED_EXPORTER_BIN", exporter),
        ("SCHED_EXPORTER_RENDER_BENCH", named(&built, "render")?),
        ("SCHED_EXPORTER_RELEASES", releases(args)?),
    ];
    run(root_command(&named(&built, "bench")?, &variables).args(args))?;
    Ok(ExitCode::SUCCESS)
}

/// Builds the binary of each architecture if the arguments ask for their size. Returns `ARCH=PATH` for
/// each, separated by spaces.
fn releases(args: &[OsString]) -> Result<PathBuf> {
    let is_flag = |arg: &OsString| arg.to_string_lossy().starts_with('-');
    let mut releases = OsString::new();
    if args.iter().all(is_flag) || args.iter().any(|arg| arg == "memory") {
        for arch in Arch::ALL {
            if on_path(&arch.gcc()).is_none() {
                eprintln!("`{}` is not on PATH: skipping the size for {}", arch.gcc(), arch.name());
                continue;
            }
            releases.push(format!("{}=", arch.name()));
            releases.push(build_shipped(arch)?);
            releases.push(" ");
        }
    }
    Ok(releases.into())
}
