//! `cargo xtask dist`: builds the files of a release in target/dist.
//!
//! Their bytes depend only on the source, the commit's time, and the Rust and C toolchains, so that
//! anyone can check that a release was built from its source.

use std::{
    env, fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};

use crate::{
    arch::Arch,
    shipped::{build_shipped, example},
    tools,
    workspace::{REVISION, cargo_home, command, output, probe, revision, root, run},
};

mod sbom;

/// The arguments of `cargo xtask dist`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Architectures to build for; the default is all
    #[arg(long = "arch", value_name = "ARCH")]
    archs: Vec<Arch>,
    /// Build only the binaries, and keep the other files
    #[arg(long)]
    binaries: bool,
    /// Build again in another directory, with another cargo home, and compare; all architectures, or
    /// only this one
    #[arg(long, value_name = "ARCH", require_equals = true, num_args = 0..=1)]
    #[arg(conflicts_with = "binaries")]
    check: Option<Vec<Arch>>,
}

/// The version to release.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The file name of the manual page.
const MANUAL: &str = "sched_exporter.8.gz";

/// The directory of the release.
pub(crate) fn directory() -> PathBuf {
    root().join("target/dist")
}

pub(crate) fn dist(args: &Args) -> Result<ExitCode> {
    let archs = if args.archs.is_empty() { &Arch::ALL[..] } else { &args.archs };
    let directory = directory();
    if !args.binaries && directory.exists() {
        fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())?;
    }
    for arch in archs {
        binary(*arch)?;
    }
    if args.binaries {
        return Ok(ExitCode::SUCCESS);
    }
    let sums = package(&directory, archs)?;
    print!("{sums}");
    match args.check.as_deref() {
        None => Ok(ExitCode::SUCCESS),
        Some([]) => check(archs, &sums),
        Some(checked) => check(checked, &sums),
    }
}

/// Builds a release for this machine's architecture and returns its directory.
pub(crate) fn for_this_machine() -> Result<PathBuf> {
    let arch = Arch::host()?;
    binary(arch)?;
    package(&directory(), &[arch])?;
    Ok(directory())
}

/// The stem of a release's file names, named as in Prometheus's releases.
pub(crate) fn name(arch: Arch) -> String {
    format!("sched_exporter-{VERSION}.linux-{}", arch.debian())
}

/// Builds a binary and copies it to the release.
pub(crate) fn binary(arch: Arch) -> Result<PathBuf> {
    let built = build_shipped(arch)?;
    let binary = directory().join(name(arch));
    fs::create_dir_all(directory()).with_context(|| directory().display().to_string())?;
    fs::copy(&built, &binary).with_context(|| binary.display().to_string())?;
    Ok(binary)
}

/// Makes everything else from the binaries, and returns the checksums of all files.
fn package(directory: &Path, archs: &[Arch]) -> Result<String> {
    let epoch = epoch()?;
    let manual = output(&mut example("man")?)?;
    let page = directory.join(MANUAL).with_extension("");
    fs::write(&page, manual).with_context(|| page.display().to_string())?;
    run(command("gzip").args(["--no-name", "--best", "--force"]).arg(&page))?;
    for &arch in archs {
        archive(directory, arch, &epoch)?;
        let sbom = sbom::sbom(arch, &directory.join(name(arch)), &epoch)?;
        let path = directory.join(format!("{}.cdx.json", name(arch)));
        fs::write(&path, sbom).with_context(|| path.display().to_string())?;
        debian(directory, arch, &epoch)?;
    }
    checksums(directory)
}

/// The time of the commit, as a Unix timestamp.
pub(crate) fn epoch() -> Result<String> {
    const VARIABLE: &str = "SOURCE_DATE_EPOCH";
    let commit = || probe(command("git").args(["log", "-1", "--format=%ct"]));
    let epoch = env::var(VARIABLE).ok().or_else(commit);
    epoch.with_context(|| format!("this is not a git repository; set {VARIABLE} and {REVISION}"))
}

/// Makes the archive for manual installation.
fn archive(directory: &Path, arch: Arch, epoch: &str) -> Result<()> {
    let name = name(arch);
    let parent = tempfile::tempdir()?;
    let content = parent.path().join(&name);
    fs::create_dir(&content)?;
    let (binary, page) = (directory.join(&name), directory.join(MANUAL));
    let unit = Path::new("deploy/systemd/sched_exporter.service");
    let drop_ins = Path::new("deploy/systemd/sched_exporter.service.d");
    for (from, to) in [
        (binary.as_path(), "sched_exporter"),
        (page.as_path(), MANUAL),
        (unit, "sched_exporter.service"),
        (drop_ins.join("names.conf").as_path(), "names.conf"),
        (drop_ins.join("web-config.conf").as_path(), "web-config.conf"),
        (drop_ins.join("notify-reload.conf").as_path(), "notify-reload.conf"),
        (Path::new("deploy/systemd/run-sched_exporter_bpf.mount"), "run-sched_exporter_bpf.mount"),
        (Path::new("deploy/systemd/sched_exporter.socket"), "sched_exporter.socket"),
        (Path::new("deploy/systemd/sched_exporter.sysusers"), "sched_exporter.sysusers"),
        (Path::new("deploy/exporter.yaml"), "exporter.yaml"),
        (Path::new("LICENSE-APACHE"), "LICENSE-APACHE"),
        (Path::new("LICENSE-MIT"), "LICENSE-MIT"),
    ] {
        let to = content.join(to);
        fs::copy(root().join(from), &to).with_context(|| from.display().to_string())?;
        let mode = if from == binary { 0o755 } else { 0o644 };
        fs::set_permissions(&to, fs::Permissions::from_mode(mode))?;
    }
    fs::set_permissions(&content, fs::Permissions::from_mode(0o755))?;
    let mut tar = command("tar");
    tar.args(["--create", "--format=ustar", "--sort=name", "--numeric-owner"]);
    tar.args(["--owner=0", "--group=0", &format!("--mtime=@{epoch}")]);
    tar.args(["--use-compress-program=gzip --no-name --best", "--file"]);
    tar.arg(directory.join(format!("{name}.tar.gz"))).arg("--directory").arg(parent.path());
    run(tar.arg(name))
}

/// Makes the Debian package, as exporter/Cargo.toml describes it.
fn debian(directory: &Path, arch: Arch, epoch: &str) -> Result<()> {
    let mut cargo = command("cargo");
    cargo.args(["deb", "--quiet", "--locked", "--no-build", "--no-strip", "--compress-system"]);
    cargo.args(["--package", "sched_exporter", "--target", arch.target(), "--output"]);
    run(cargo
        .arg(directory.join(format!("sched-exporter_{VERSION}-1_{}.deb", arch.debian())))
        .env("PATH", tools::path_with_cargo_deb()?)
        .env("SOURCE_DATE_EPOCH", epoch))
}

/// Writes and returns the checksums of all files except a signature of the checksums.
fn checksums(directory: &Path) -> Result<String> {
    const FILE: &str = "SHA256SUMS";
    const SIGNATURE: &str = "SHA256SUMS.sig";
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if name != FILE && name != SIGNATURE {
            names.push(name);
        }
    }
    names.sort();
    let mut sums = command("sha256sum");
    let sums = output(sums.args(names).current_dir(directory))?;
    fs::write(directory.join(FILE), &sums)?;
    Ok(String::from_utf8(sums)?)
}

/// Builds the binaries again with every path changed, packages them and compares the checksums. Both
/// Debian packages contain the first binary, so for these only the packaging is compared.
fn check(archs: &[Arch], sums: &str) -> Result<ExitCode> {
    let temporary = root().join("target/tmp");
    fs::create_dir_all(&temporary).with_context(|| temporary.display().to_string())?;
    let elsewhere = tempfile::tempdir_in(&temporary)?;
    let (source, home) = (elsewhere.path().join("source"), elsewhere.path().join("cargo"));
    copy_source(&source)?;
    // Share cargo's downloads, under another path.
    fs::create_dir(&home)?;
    for entry in fs::read_dir(cargo_home()?)? {
        let entry = entry?;
        symlink(entry.path(), home.join(entry.file_name()))?;
    }
    let mut build = command(env::current_exe()?);
    build.args(["dist", "--binaries"]);
    for arch in archs {
        build.args(["--arch", arch.name()]);
    }
    build.env("CARGO_MANIFEST_DIR", source.join("xtask")).env("CARGO_HOME", &home);
    build.env("CARGO_TARGET_DIR", elsewhere.path().join("built"));
    run(build.envs(revision().map(|revision| (REVISION, revision))))?;

    let again = source.join("target/dist");
    let second = package(&again, archs)?;
    // The first may hold more architectures.
    let differ = second.lines().filter(|line| !sums.contains(line));
    let differ: Vec<_> = differ.filter_map(|line| line.split_whitespace().nth(1)).collect();
    if !differ.is_empty() {
        let kept = elsewhere.keep();
        bail!("{}: different when built in {}", differ.join(", "), kept.display());
    }
    println!("{} files are the same when built in {}", second.lines().count(), again.display());
    Ok(ExitCode::SUCCESS)
}

/// Copies the files that git tracks, including uncommitted changes.
fn copy_source(to: &Path) -> Result<()> {
    let files = output(command("git").args(["ls-files", "-z"]))?;
    for file in String::from_utf8(files)?.split_terminator('\0') {
        let copy = to.join(file);
        copy.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::copy(root().join(file), copy).with_context(|| file.to_owned())?;
    }
    Ok(())
}
