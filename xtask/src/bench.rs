//! `cargo xtask bench`: what the exporter costs on this machine.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use anyhow::Result;

use crate::{
    arch::Arch,
    dist,
    tools::on_path,
    workspace::{build, build_exporter, named, root_command, run},
};

/// Builds the benchmarks of package `sched_exporter-tests` and runs, as root, the one that makes the
/// table. It runs the other.
pub(crate) fn bench(args: &[OsString]) -> Result<ExitCode> {
    let exporter = build_exporter()?;
    let built = build(&["bench", "--package", "sched_exporter-tests", "--no-run"])?;
    let variables = [
        ("SCHED_EXPORTER_BIN", exporter),
        ("SCHED_EXPORTER_RENDER_BENCH", named(&built, "render")?),
        ("SCHED_EXPORTER_RELEASES", releases(args)?),
    ];
    run(root_command(&named(&built, "bench")?, &variables).args(args))?;
    Ok(ExitCode::SUCCESS)
}

/// Builds the static binaries where they are measured, and spells them `ARCH=PATH`, with spaces
/// between.
fn releases(args: &[OsString]) -> Result<PathBuf> {
    let is_flag = |arg: &OsString| arg.to_string_lossy().starts_with('-');
    let mut releases = OsString::new();
    if args.iter().all(is_flag) || args.iter().any(|arg| arg == "memory") {
        for arch in Arch::ALL {
            if on_path(&arch.gcc()).is_none() {
                eprintln!(
                    "`{}` is not on PATH: the size for {} is left out",
                    arch.gcc(),
                    arch.name()
                );
                continue;
            }
            releases.push(format!("{}=", arch.name()));
            releases.push(dist::binary(arch)?);
            releases.push(" ");
        }
    }
    Ok(releases.into())
}
