//! `cargo xtask fuzz`: the properties of package `sched_exporter-tests` under libFuzzer, or where
//! this machine can't, under proptest with many cases.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};

use crate::{
    tools::Nightly,
    workspace::{command, root, run},
};

/// Where the targets are.
const FUZZ: &str = "tests/fuzz";
/// Cases of each property test: several times what `cargo xtask test` has.
const CASES: &str = "2000";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long, in all
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// What to fuzz; all where none is named
    targets: Vec<Target>,
}

/// A property.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Target {
    Btf,
    Config,
    Accept,
    Exposition,
    Relabel,
}

impl Target {
    const fn name(self) -> &'static str {
        match self {
            Self::Btf => "btf",
            Self::Config => "config",
            Self::Accept => "accept",
            Self::Exposition => "exposition",
            Self::Relabel => "relabel",
        }
    }
}

/// Fuzzes each target for its part of the time.
pub(crate) fn fuzz(args: &Args) -> Result<ExitCode> {
    let targets = match args.targets.as_slice() {
        [] => <Target as clap::ValueEnum>::value_variants(),
        some => some,
    };
    let nightly = match Nightly::find() {
        Ok(nightly) => nightly,
        Err(why) => {
            eprintln!("no fuzzer, property tests instead: {why:#}");
            return property_tests(targets);
        }
    };
    // What is locked is what is fuzzed.
    let manifest = format!("{FUZZ}/Cargo.toml");
    run(command("cargo").args(["fetch", "--quiet", "--locked", "--manifest-path", &manifest]))?;
    let output = root().join("target/fuzz");
    run(nightly
        .command("cargo")
        .args(["fuzz", "build", "--fuzz-dir", FUZZ, "--target", &nightly.host, "--target-dir"])
        .arg(&output))?;
    let seconds = (args.seconds / targets.len() as u64).max(1);
    for target in targets {
        let binary = output.join(&nightly.host).join("release").join(target.name());
        run_target(*target, &binary, &output, seconds)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a target, and says in a line how often. What it finds and learns stays under `output`.
fn run_target(target: Target, binary: &Path, output: &Path, seconds: u64) -> Result<()> {
    let name = target.name();
    let learned = output.join("corpus").join(name);
    let artifacts = output.join("artifacts").join(name);
    for directory in [&learned, &artifacts] {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    let log = output.join(format!("{name}.log"));
    let mut fuzzer = Command::new(binary);
    fuzzer
        .current_dir(root().join(FUZZ))
        // What is learned goes into the first.
        .args([learned, PathBuf::from("corpus").join(name)])
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg(format!("-max_total_time={seconds}"))
        .args(["-timeout=10", "-rss_limit_mb=2048", "-max_len=8192", "-reload=0"])
        .stderr(File::create(&log).with_context(|| log.display().to_string())?);
    let dictionary = format!("{name}.dict");
    if root().join(FUZZ).join(&dictionary).exists() {
        fuzzer.arg(format!("-dict={dictionary}"));
    }
    let status = fuzzer.status().with_context(|| binary.display().to_string())?;
    let written = fs::read(&log).with_context(|| log.display().to_string())?;
    let written = String::from_utf8_lossy(&written);
    let last = written.lines().rfind(|line| line.starts_with("Done "));
    let Some(done) = last.filter(|_| status.success()) else {
        // The message of a panic is in the line after its place; the last says where the bytes are.
        let starts = ["thread ", "==", "SUMMARY: ", "artifact_prefix="];
        let mut why = Vec::new();
        for (at, line) in written.lines().enumerate() {
            if starts.iter().any(|start| line.starts_with(start)) {
                let lines = if line.starts_with("thread ") { 2 } else { 1 };
                why.extend(written.lines().skip(at).take(lines));
            }
        }
        let (why, binary, log) = (why.join("\n"), binary.display(), log.display());
        bail!("{name}: {status}\n{why}\nall of it: {log}\nonce more: {binary} FILE");
    };
    println!("{name}: {}", done.trim_start_matches("Done "));
    Ok(())
}

/// The same properties, for bytes that proptest makes.
fn property_tests(targets: &[Target]) -> Result<ExitCode> {
    let mut cargo = command("cargo");
    cargo.args(["test", "--quiet", "--package", "sched_exporter-tests", "--test", "it", "--"]);
    cargo.args(targets.iter().map(|target| format!("properties::{}", target.name())));
    run(cargo.env("PROPTEST_CASES", CASES))?;
    Ok(ExitCode::SUCCESS)
}
