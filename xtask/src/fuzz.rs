//! `cargo xtask fuzz`: tests the properties of package `sched_exporter-tests` with libFuzzer, or if it
//! is unavailable with many proptest cases.

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

/// The directory of the targets.
const FUZZ: &str = "tests/fuzz";
/// Cases of each property test: several times the number in `cargo xtask test`.
const CASES: &str = "2000";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Total time, divided among the targets
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Properties to fuzz; the default is all
    targets: Vec<Target>,
}

/// A property with a fuzz target.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Target {
    Btf,
    Config,
    Accept,
    Exposition,
    Path,
    Relabel,
    Runtimes,
}

impl Target {
    const fn name(self) -> &'static str {
        match self {
            Self::Btf => "btf",
            Self::Config => "config",
            Self::Accept => "accept",
            Self::Exposition => "exposition",
            Self::Path => "path",
            Self::Relabel => "relabel",
            Self::Runtimes => "runtimes",
        }
    }
}

/// Fuzzes each target for its share of the time.
pub(crate) fn fuzz(args: &Args) -> Result<ExitCode> {
    let targets = match args.targets.as_slice() {
        [] => <Target as clap::ValueEnum>::value_variants(),
        some => some,
    };
    let nightly = match Nightly::find() {
        Ok(nightly) => nightly,
        Err(why) => {
            eprintln!("running property tests instead of the fuzzer: {why:#}");
            return property_tests(targets);
        }
    };
    // Fails if the lock file is out of date, which cargo-fuzz would update.
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

/// Runs a target and prints a line with the number of runs. Keeps its findings and corpus in `output`.
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
        // libFuzzer writes new inputs to the first directory.
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
        // A panic's message follows the line with its location; the last line names the input's file.
        let starts = ["thread ", "==", "SUMMARY: ", "artifact_prefix="];
        let mut why = Vec::new();
        for (at, line) in written.lines().enumerate() {
            if starts.iter().any(|start| line.starts_with(start)) {
                let lines = if line.starts_with("thread ") { 2 } else { 1 };
                why.extend(written.lines().skip(at).take(lines));
            }
        }
        let (why, binary, log) = (why.join("\n"), binary.display(), log.display());
        bail!("{name}: {status}\n{why}\nfull log: {log}\nto reproduce: {binary} FILE");
    };
    println!("{name}: {}", done.trim_start_matches("Done "));
    Ok(())
}

/// Tests the same properties with bytes from proptest.
fn property_tests(targets: &[Target]) -> Result<ExitCode> {
    let mut cargo = command("cargo");
    cargo.args(["test", "--quiet", "--package", "sched_exporter-tests", "--test", "it", "--"]);
    cargo.args(targets.iter().map(|target| format!("properties::{}", target.name())));
    run(cargo.env("PROPTEST_CASES", CASES))?;
    Ok(ExitCode::SUCCESS)
}
