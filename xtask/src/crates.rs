//! Packages the crates as for publication, and builds the exporter from the packages.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    arch::Arch,
    dist::VERSION,
    shipped::build_from_crates,
    workspace::{command, root, run},
};

/// The crates of the kernel program and of the exporter.
const CRATES: [&str; 2] = ["sched_exporter-ebpf", "sched_exporter"];

/// Packages the crates, unpacks them next to each other and builds the exporter from them, offline.
/// Returns the directory that holds the unpacked crates and the exporter, as `sched_exporter`.
pub(crate) fn for_this_machine() -> Result<PathBuf> {
    let directory = root().join("target/crates");
    if directory.exists() {
        fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())?;
    }
    package(&directory)?;
    let manifest = fs::read_to_string(root().join("Cargo.toml")).context("Cargo.toml")?;
    fs::write(directory.join("Cargo.toml"), workspace(&manifest)?)?;
    // Cargo keeps the locked versions, and removes packages that only other members need.
    fs::copy(root().join("Cargo.lock"), directory.join("Cargo.lock")).context("Cargo.lock")?;
    let update = ["update", "--quiet", "--offline", "--workspace"];
    run(command("cargo").args(update).current_dir(&directory))?;
    let built = build_from_crates(&directory, Arch::host()?)?;
    fs::copy(&built, directory.join("sched_exporter"))
        .with_context(|| built.display().to_string())?;
    Ok(directory)
}

/// Makes the `.crate` files and unpacks them.
fn package(directory: &Path) -> Result<()> {
    let mut cargo = command("cargo");
    cargo.args(["package", "--quiet", "--offline", "--no-verify", "--allow-dirty"]);
    // Cargo resolves a lock file with crates.io, which lacks the other crate.
    cargo.arg("--exclude-lockfile");
    run(cargo
        .args(CRATES.map(|name| format!("--package={name}")))
        .arg("--target-dir")
        .arg(directory))?;
    for name in CRATES {
        // The times in the archive are constant, so cargo would not notice changes. Use the current time.
        let mut tar = command("tar");
        tar.args(["--extract", "--touch", "--directory"]).arg(directory).arg("--file");
        run(tar.arg(directory.join("package").join(format!("{}.crate", unpacked(name)))))?;
    }
    Ok(())
}

/// The directory in a `.crate` file.
fn unpacked(name: &str) -> String {
    format!("{name}-{VERSION}")
}

/// The manifest of a workspace in which the exporter depends on the unpacked kernel program. It has our
/// release profile, so that built dependencies are reused; only the exporter is not optimized.
fn workspace(manifest: &str) -> Result<String> {
    let [program, exporter] = CRATES;
    let profile = manifest.split("\n\n").find(|table| table.starts_with("[profile.release]"));
    let profile = profile.context("Cargo.toml lacks [profile.release]")?;
    Ok(format!(
        r#"[workspace]
resolver = "3"
members = ["{}"]

[patch.crates-io]
{program} = {{ path = "{}" }}

{profile}

[profile.release.package.{exporter}]
opt-level = 0
codegen-units = 16
"#,
        unpacked(exporter),
        unpacked(program),
    ))
}
