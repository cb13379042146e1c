//! `cargo xtask ebpf`: builds the BPF objects. They are committed, so that the exporter builds with
//! stable Rust alone.
//!
//! Their bytes depend only on the source, the compiler and the linker: everything else is remapped,
//! pinned or stripped. So anyone can check that an object was built from its source.

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
        bail!("{files}: not built from this source; run `cargo xtask ebpf` and commit the result");
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the programs in their own target directory.
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

/// The compiler's flags, for `CARGO_ENCODED_RUSTFLAGS`.
fn flags(rust: &PinnedRust) -> Result<OsString> {
    let mut flags: Vec<OsString> = [
        "-Cdebuginfo=2",
        "-Cpanic=abort",
        "-Clinker=bpf-linker",
        "-Clink-arg=--btf",
        // It affects only file names. The default would be the build machine's architecture.
        "--cfg=bpf_target_arch=\"x86_64\"",
    ]
    .map(OsString::from)
    .into();
    // The linker copies source lines into the object if it finds the file. It finds relative names in
    // the checkout; absolute ones must not exist.
    flags.extend(remap_flags(&rust.library())?);
    Ok(flags.join("\u{1f}".as_ref()))
}
