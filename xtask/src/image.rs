//! `cargo xtask image`: a container image of the static binary, without pulling anything.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};

use crate::{
    arch::Arch,
    dist::{self, VERSION, epoch},
    tools::on_path,
    workspace::{command, revision, root, run},
};

/// What the command line asks for.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Architecture; that of this machine where none is named
    #[arg(long)]
    arch: Option<Arch>,
}

pub(crate) fn image(args: &Args) -> Result<ExitCode> {
    let arch = args.arch.map_or_else(Arch::host, Ok)?;
    println!("{}", build(arch)?);
    Ok(ExitCode::SUCCESS)
}

/// Builds the image for this machine, and returns its name.
pub(crate) fn for_this_machine() -> Result<PathBuf> {
    let arch = Arch::host()?;
    on_path("podman").context("`podman` is not on PATH")?;
    build(arch).map(PathBuf::from)
}

fn build(arch: Arch) -> Result<String> {
    dist::binary(arch)?;
    let name = format!("localhost/sched_exporter:{VERSION}");
    let builder = ["podman", "buildah"].into_iter().find(|program| on_path(program).is_some());
    let mut build = command(builder.context("neither `podman` nor `buildah` is on PATH")?);
    build.args([
        "build",
        "--quiet",
        "--pull=never",
        "--format=docker",
        "--file=deploy/Containerfile",
    ]);
    build.args(["--platform", &format!("linux/{}", arch.debian()), "--timestamp", &epoch()?]);
    build.args(["--build-arg", &format!("VERSION={VERSION}"), "--build-arg"]);
    build.arg(format!("REVISION={}", revision().unwrap_or_default()));
    run(build.args(["--tag", &name]).arg(root()))?;
    Ok(name)
}
