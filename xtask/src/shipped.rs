//! Programs that run wherever their kernel does, whatever libraries are there: what is shipped, and
//! the tests of it, so that one build of them serves this machine and emulated ones.

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

/// Builds the exporter likewise in another workspace, offline. Dependencies that are built are reused.
pub(crate) fn build_from_crates(workspace: &Path, arch: Arch) -> Result<PathBuf> {
    let mut cargo = cargo(arch, "rustc")?;
    cargo.current_dir(workspace).arg("--offline").arg("--target-dir").arg(workspace.join("built"));
    shipped(cargo.env("CARGO_BUILD_BUILD_DIR", target_directory()))
}

fn shipped(cargo: &mut Command) -> Result<PathBuf> {
    cargo.args(["--release", "--package", "sched_exporter", "--bin", "sched_exporter", MESSAGES]);
    // Only for the last step, so that other static builds share what comes before.
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

/// Runs the examples in the documentation; arguments for the harness come after `--`.
pub(crate) fn doctests(arch: Arch) -> Result<Command> {
    let mut cargo = cargo(arch, "test")?;
    cargo.args(["--workspace", "--doc", "--quiet"]);
    Ok(cargo)
}

/// An example of the exporter, which writes what is generated from its code.
pub(crate) fn example(name: &str) -> Result<Command> {
    let mut cargo = cargo(Arch::host()?, "build")?;
    let built = executables(cargo.args(["--workspace", "--example", name, MESSAGES]))?;
    Ok(command(named(&built, name)?))
}

/// A command of cargo that builds static programs that hold no path of this machine.
fn cargo(arch: Arch, subcommand: &str) -> Result<Command> {
    // Without it, what the linker says would take half a page.
    arch.libc()?;
    let mut cargo = command("cargo");
    cargo.args([subcommand, "--locked"]);
    let library = tools::target(&mut cargo, arch.target())?;
    let mut flags = vec!["-Ctarget-feature=+crt-static".into()];
    flags.extend(remap_flags(&library)?);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}".as_ref()));
    // Named for others alone: it would be one of the settings that the build scripts of this machine
    // are built with, and so build them anew.
    if arch.is_foreign() {
        let variable = arch.target().replace('-', "_").to_uppercase();
        cargo.env(format!("CARGO_TARGET_{variable}_LINKER"), arch.gcc());
    }
    if let Some(revision) = revision() {
        cargo.env(REVISION, revision);
    }
    Ok(cargo)
}
