//! `cargo xtask ebpf`: the BPF objects, which are committed so that the exporter builds with nothing
//! but stable Rust.
//!
//! Their bytes depend on the source, the compiler and the linker alone: whatever else could get in
//! is remapped, pinned or stripped. So anyone can check that an object is what its source gives.

use std::{ffi::OsString, fs, process::ExitCode};

use anyhow::{Context, Result, bail};

use crate::{
    object,
    tools::{PinnedRust, path_with_bpf_linker},
    workspace::{remap_flags, root, run},
};

const PROGRAMS: [&str; 2] = ["sched", "reference"];
/// BPF bytecode for every little-endian architecture.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// Builds the objects and writes them, or with `check` compares them with the committed ones.
pub(crate) fn ebpf(check: bool) -> Result<ExitCode> {
    let rust = PinnedRust::find()?;
    build(&rust)?;

    let mut stale = Vec::new();
    for program in PROGRAMS {
        let output = root().join("target/bpf").join(TARGET).join("release").join(program);
        let bytes = fs::read(&output).with_context(|| output.display().to_string())?;
        let object = object::finish(&bytes).with_context(|| format!("program `{program}`"))?;

        let name = format!("exporter-ebpf/{program}.bpf.o");
        let committed = root().join(&name);
        if fs::read(&committed).is_ok_and(|bytes| bytes == object) {
            println!("{name}: {} bytes, as committed", object.len());
        } else if check {
            stale.push(name);
        } else {
            fs::write(&committed, &object).context(name.clone())?;
            println!("{name}: {} bytes, written", object.len());
        }
    }
    if !stale.is_empty() {
        let files = stale.join(" and ");
        bail!("{files}: not what the source gives; run `cargo xtask ebpf` and commit the result");
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the programs, in a target directory and with flags of their own.
fn build(rust: &PinnedRust) -> Result<()> {
    run(rust
        .command("cargo")
        .args(["build", "--release", "--locked", "-Z", "build-std=core", "--target", TARGET])
        .args(["--package", "sched_exporter-ebpf", "--features", "program", "--bins"])
        .args(["--target-dir", "target/bpf"])
        .env("PATH", path_with_bpf_linker(rust)?)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_INCREMENTAL", "0")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(rust)?))
}

/// The compiler's flags, as `CARGO_ENCODED_RUSTFLAGS` takes them.
fn flags(rust: &PinnedRust) -> Result<OsString> {
    let mut flags: Vec<OsString> = [
        "-Cdebuginfo=2",
        "-Cpanic=abort",
        "-Clinker=bpf-linker",
        "-Clink-arg=--btf",
        // Nothing but names of files depends on it, and it would be the building machine's.
        "--cfg=bpf_target_arch=\"x86_64\"",
    ]
    .map(OsString::from)
    .into();
    // The linker puts the text of a source line into the object where it finds the file: relative
    // names are found in the checkout, the absolute ones must not exist.
    flags.extend(remap_flags(&rust.library())?);
    Ok(flags.join("\u{1f}".as_ref()))
}
