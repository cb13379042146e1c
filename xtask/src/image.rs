//! `cargo xtask image`: builds a container image of the static binary. It pulls nothing.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};

use crate::{
    arch::Arch,
    dist::{self, VERSION, epoch},
    tools::on_path,
    workspace::{command, revision, root, run},
};

/// The arguments of `cargo xtask image`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Architecture; the default is this machine's
    #[arg(long)]
    arch: Option<Arch>,
}

pub(crate) fn image(args: &Args) -> Result<ExitCode> {
    let arch = args.arch.map_or_else(Arch::host, Ok)?;
    println!("{}", build(arch)?);
    Ok(ExitCode::SUCCESS)
}

/// Builds the image for this machine and returns its name.
pub(crate) fn for_this_machine() -> Result<PathBuf> {
    let arch = Arch::host()?;
    on_path("podman").context("`podman` is not on PATH")?;
    build(arch).map(PathBuf::from)
}

/// The variable that names podman's configuration.
pub(crate) const CONTAINERS_CONF: &str = "CONTAINERS_CONF";

/// The configuration that podman needs on this machine: the one that the environment names, or
/// `tests/containers.conf` if podman's defaults would fail.
pub(crate) fn containers_conf() -> Option<PathBuf> {
    let named = env::var_os(CONTAINERS_CONF).filter(|path| !path.is_empty());
    named.map(PathBuf::from).or_else(|| {
        let needed = !has_only_cgroups_v2() || !may_raise_limits();
        needed.then(|| root().join("tests/containers.conf"))
    })
}

fn has_only_cgroups_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Whether root can have `CAP_SYS_RESOURCE` here.
fn may_raise_limits() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let bounding = bounding.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    bounding.is_some_and(|set| set & (1 << CAP_SYS_RESOURCE) != 0)
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
    build.args(["--build-arg", concat!("SOURCE=", env!("CARGO_PKG_REPOSITORY"))]);
    build.envs(containers_conf().map(|path| (CONTAINERS_CONF, path)));
    run(build.args(["--tag", &name]).arg(root()))?;
    Ok(name)
}
