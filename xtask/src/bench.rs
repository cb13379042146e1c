//! `cargo xtask bench`: what the exporter costs on this machine, as it is shipped.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use anyhow::Result;

use crate::{
    arch::Arch,
    shipped::build_shipped,
    tools::on_path,
    workspace::{build, named, root_command, run},
};

/// Builds the benchmarks of package `sched_exporter-tests` and runs, as root, the one that makes the
/// table. It runs the other.
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

/// Builds the binary of each architecture where their size is asked for, and spells them `ARCH=PATH`,
/// with spaces between.
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
            releases.push(build_shipped(arch)?);
            releases.push(" ");
        }
    }
    Ok(releases.into())
}
