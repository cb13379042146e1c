//! `cargo xtask image`: builds a container image of the static binary. It pulls nothing.

use std::{
    env,
    fs::{self, File},
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
    layer(arch)?;
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

/// The attribute that holds the capabilities of a file, as an extended header of tar.
const CAPABILITIES: &str = "SCHILY.xattr.security.capability";

/// `cap_bpf,cap_perfmon=p`. With `=ep`, the kernel would refuse to execute the file if it could not grant both,
/// and the exporter could not say what it lacks.
/// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/capability.h>, `vfs_cap_data`.
fn permitted() -> Vec<u8> {
    const VFS_CAP_REVISION_2: u32 = 0x0200_0000;
    const CAP_PERFMON: u32 = 38;
    const CAP_BPF: u32 = 39;
    let high = 1 << (CAP_PERFMON - 32) | 1 << (CAP_BPF - 32);
    // Permitted and inheritable, of the lower and then of the higher capabilities.
    let fields = [VFS_CAP_REVISION_2, 0, 0, high, 0];
    fields.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// Writes the image's layer that holds the binary. In an archive, it can have capabilities on any machine and
/// filesystem.
fn layer(arch: Arch) -> Result<()> {
    let binary = dist::binary(arch)?;
    let directory = root().join("target/image");
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    let path = directory.join(format!("{}.tar", arch.debian()));
    let layer = File::create(&path).with_context(|| path.display().to_string())?;
    let mut layer = tar::Builder::new(layer);
    layer.append_pax_extensions([(CAPABILITIES, permitted().as_slice())])?;
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o755);
    header.set_mtime(epoch()?.parse()?);
    let binary = File::open(&binary).with_context(|| binary.display().to_string())?;
    header.set_size(binary.metadata()?.len());
    layer.append_data(&mut header, "bin/sched_exporter", binary)?;
    layer.finish().with_context(|| path.display().to_string())
}
