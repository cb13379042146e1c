//! `cargo xtask check`: runs the checks that take about a minute and need neither root nor BPF.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::{
    arch::Arch,
    docs,
    needs::NEEDS,
    shipped::build_tests,
    tally::Tally,
    test::runs_exporter,
    workspace::{command, run},
};

/// The name of a check, and the check.
type Check = (&'static str, fn() -> Result<()>);

const CHECKS: [Check; 4] = [
    ("format", || run(command("cargo").args(["fmt", "--all", "--check"]))),
    ("clippy", clippy),
    ("pure tests", pure_tests),
    ("generated documents", || docs::docs(true).map(drop)),
];

/// Runs every check, even after one has failed, and ends with a line that names those that failed.
pub(crate) fn check() -> ExitCode {
    let started = Instant::now();
    let mut times = Vec::new();
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        eprintln!("\n== {name}");
        let started = Instant::now();
        if let Err(error) = check() {
            eprintln!("error: {error:#}");
            failed.push(name);
        }
        times.push(format!("{name} {}", seconds(started.elapsed())));
    }
    let took = seconds(started.elapsed());
    println!("\n{}", times.join(", "));
    if failed.is_empty() {
        println!("check passed in {took}");
        return ExitCode::SUCCESS;
    }
    println!("check failed in {took}: {}", failed.join(", "));
    ExitCode::FAILURE
}

fn seconds(time: Duration) -> String {
    format!("{:.0} s", time.as_secs_f64())
}

fn clippy() -> Result<()> {
    let mut clippy = command("cargo");
    clippy.args(["clippy", "--quiet", "--workspace", "--all-targets", "--locked"]);
    run(clippy.args(["--", "--deny", "warnings"]))
}

/// Runs the tests that need nothing from the machine.
fn pure_tests() -> Result<()> {
    let modules = NEEDS.iter().flat_map(|need| need.modules);
    let skip: Vec<_> = modules.map(|module| format!("--skip={module}::")).collect();
    let mut tally = Tally::default();
    for harness in build_tests(Arch::host()?)?.iter().filter(|built| built.test) {
        let skip = if runs_exporter(harness) { skip.as_slice() } else { &[] };
        tally.run(&harness.title(), harness.command().arg("--quiet").args(skip))?;
    }
    ensure!(tally.failed == 0, "{} of {} tests failed", tally.failed, tally.failed + tally.passed);
    Ok(())
}
