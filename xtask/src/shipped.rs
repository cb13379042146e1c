//! Programs that run on other machines than the one that builds them.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::{
    arch::Arch,
    tools,
    workspace::{
        Executable, MESSAGES, REVISION, command, executables, exporter_of, remap_flags, revision,
    },
};

/// Runs `cargo` with these arguments for an architecture and returns the executables that it names,
/// linked statically, so that they run where no library is.
pub(crate) fn build_static(arch: Arch, args: &[&str]) -> Result<Vec<Executable>> {
    executables(&mut cargo_static(arch, args)?)
}

/// Builds the exporter as others get it: static, without symbols, and the same bytes wherever the
/// workspace, cargo's home and its target directory are.
pub(crate) fn build_shipped(arch: Arch) -> Result<PathBuf> {
    let args = ["rustc", "--package", "sched_exporter", "--bin", "sched_exporter"];
    let mut cargo = cargo_static(arch, &args)?;
    // For the last step alone, so that what comes before is shared with other static builds.
    exporter_of(executables(cargo.args(["--", "-Cstrip=symbols"]))?)
}

/// Cargo with arguments, building static programs that hold no path of this machine.
fn cargo_static(arch: Arch, args: &[&str]) -> Result<Command> {
    let mut cargo = command("cargo");
    cargo.args(args).args(["--release", "--locked", MESSAGES]);
    let library = tools::target(&mut cargo, arch.target())?;
    let mut flags = vec!["-Ctarget-feature=+crt-static".into()];
    flags.extend(remap_flags(&library)?);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}".as_ref()));
    // Named for others alone: it would be one of the settings that the build scripts of this machine
    // are built with, and so build them anew.
    if Some(arch) != Arch::host() {
        let variable = arch.target().replace('-', "_").to_uppercase();
        cargo.env(format!("CARGO_TARGET_{variable}_LINKER"), arch.gcc());
    }
    if let Some(revision) = revision() {
        cargo.env(REVISION, revision);
    }
    Ok(cargo)
}
