//! Builds static programs, which do not depend on a machine's libraries: the shipped exporter and its
//! tests. So the same files run on this machine and in emulated ones.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{
    arch::Arch,
    suites::Suite,
    tools,
    workspace::{
        Executable, MESSAGES, REVISION, command, executables, named, remap_flags, revision,
        target_directory,
    },
};

/// Builds the exporter as users get it: static, without symbols, and with the same bytes wherever the
/// workspace, cargo's home and its target directory are.
pub(crate) fn build_shipped(arch: Arch) -> Result<PathBuf> {
    shipped(&mut cargo(arch, "rustc")?)
}

/// Builds the exporter the same way in another workspace, offline, and reuses built dependencies.
pub(crate) fn build_from_crates(workspace: &Path, arch: Arch) -> Result<PathBuf> {
    let mut cargo = cargo(arch, "rustc")?;
    cargo.current_dir(workspace).arg("--offline").arg("--target-dir").arg(workspace.join("built"));
    shipped(cargo.env("CARGO_BUILD_BUILD_DIR", target_directory()))
}

fn shipped(cargo: &mut Command) -> Result<PathBuf> {
    cargo.args(["--release", "--package", "sched_exporter", "--bin", "sched_exporter", MESSAGES]);
    // Strips only in the last step, so that other static builds can share the steps before it.
    named(&executables(cargo.args(["--", "-Cstrip=symbols"]))?, "sched_exporter")
}

/// Builds every test of the workspace, and the programs of the packages with integration tests.
pub(crate) fn build_tests(arch: Arch) -> Result<Vec<Executable>> {
    executables(cargo(arch, "test")?.args(["--workspace", "--tests", "--no-run", MESSAGES]))
}

/// Builds one test suite.
pub(crate) fn build_suite(arch: Arch, suite: &Suite) -> Result<Vec<Executable>> {
    executables(cargo(arch, "test")?.args(["--no-run", MESSAGES]).args(&suite.selection))
}

/// Returns the command that runs the examples in the documentation.
pub(crate) fn doctests(arch: Arch) -> Result<Command> {
    let mut cargo = cargo(arch, "test")?;
    cargo.args(["--workspace", "--doc", "--quiet"]);
    Ok(cargo)
}

/// Builds an example of the exporter, which prints text generated from its code. Returns the command
/// that runs it.
pub(crate) fn example(name: &str) -> Result<Command> {
    let mut cargo = cargo(Arch::host()?, "build")?;
    let built = executables(cargo.args(["--workspace", "--example", name, MESSAGES]))?;
    Ok(command(named(&built, name)?))
}

/// A cargo command that builds static programs without paths of this machine.
fn cargo(arch: Arch, subcommand: &str) -> Result<Command> {
    // Check for the library first: without it, the linker's error fills half a page.
    arch.libc()?;
    let mut cargo = command("cargo");
    cargo.args([subcommand, "--locked"]);
    let library = tools::target(&mut cargo, arch.target())?;
    let mut flags = vec!["-Ctarget-feature=+crt-static".into()];
    flags.extend(remap_flags(&library)?);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}".as_ref()));
    // Only for other architectures: for this machine's, the setting would also cause build scripts to be
    // rebuilt.
    if arch.is_foreign() {
        let variable = arch.target().replace('-', "_").to_uppercase();
        cargo.env(format!("CARGO_TARGET_{variable}_LINKER"), arch.gcc());
    }
    if let Some(revision) = revision() {
        cargo.env(REVISION, revision);
    }
    Ok(cargo)
}
