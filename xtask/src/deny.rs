//! `cargo xtask deny`: checks licenses, bans, sources and known vulnerabilities of all dependencies with
//! cargo-deny, by the rules in `.cargo/deny.toml`.

use std::{path::Path, process::ExitCode};

use anyhow::Result;

use crate::{
    tally::closing_line,
    tools,
    workspace::{command, run},
};

/// The rules.
const RULES: &str = ".cargo/deny.toml";
/// The checks that need only the crates.
const CHECKS: [&str; 3] = ["licenses", "bans", "sources"];
/// The check that needs the database of `RustSec`.
const ADVISORIES: &str = "advisories";
/// How long to fetch the database, for timeout(1).
const FETCH_TIMEOUT: &str = "2m";

/// A workspace with a lock file of its own.
struct Workspace {
    manifest: &'static str,
    /// What to do about rules that match nothing. Those for the larger workspace must all be needed.
    unused_rules: &'static [&'static str],
}

const WORKSPACES: [Workspace; 2] = [
    Workspace {
        manifest: "Cargo.toml",
        unused_rules: &[
            "--deny=unmatched-skip",
            "--deny=unnecessary-skip",
            "--deny=license-not-encountered",
            "--allow=unmatched-bypass",
        ],
    },
    Workspace {
        manifest: "tests/fuzz/Cargo.toml",
        unused_rules: &[
            "--allow=unmatched-skip",
            "--allow=unnecessary-skip",
            "--allow=license-not-encountered",
        ],
    },
];

/// Runs every check on each workspace, even after one has failed. Without the database, its check is
/// skipped and counted as such, on CI too: its server may be unreachable from there.
pub(crate) fn deny() -> Result<ExitCode> {
    let program = tools::cargo_deny()?;
    let database = fetch_database(&program);
    let (mut passed, mut failed) = (0, 0);
    for workspace in &WORKSPACES {
        let advisories = database.is_ok().then_some(ADVISORIES);
        for check in CHECKS.into_iter().chain(advisories) {
            println!("\n{check} of {}", workspace.manifest);
            match workspace.check(&program, check) {
                Ok(()) => passed += 1,
                Err(error) => {
                    println!("failed: {error:#}");
                    failed += 1;
                }
            }
        }
    }
    println!();
    let mut skipped = 0;
    if let Err(why) = database {
        println!("not run: {ADVISORIES}: the database of RustSec is unavailable: {why:#}");
        skipped = WORKSPACES.len();
    }
    println!("{}", closing_line(passed, failed, skipped));
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Fetches the database of known vulnerabilities into cargo's home, with git and its settings.
fn fetch_database(program: &Path) -> Result<()> {
    let mut fetch = command("timeout");
    fetch.arg(FETCH_TIMEOUT).arg(program).args(["--config", RULES, "fetch", "db"]);
    run(fetch.env("GIT_TERMINAL_PROMPT", "0"))
}

impl Workspace {
    fn check(&self, program: &Path, check: &str) -> Result<()> {
        let mut deny = command(program);
        deny.args(["--manifest-path", self.manifest, "--workspace", "--locked", "--config", RULES]);
        run(deny.arg("check").args(self.unused_rules).arg(check))
    }
}
