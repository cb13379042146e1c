//! `cargo xtask runtimes`: runs the tests in `tests/it/runtimes` with the container runtimes of several Debian
//! releases. `cargo xtask test` runs them with those of one release, except those of Docker and systemd.

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::{arch::Arch, shipped::build_suite, suites::suites, test, tools};

/// The release whose runtimes `cargo xtask test` uses.
pub(crate) const USUAL: &str = "trixie";

/// The variable with the directory of the runtimes' programs, for tests.
pub(crate) const VARIABLE: &str = "SCHED_EXPORTER_RUNTIMES";

/// The arguments of `cargo xtask runtimes`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Debian releases with containerd 1.6, 1.7 and 2.1, and Docker 20.10, 26.1 and 28.5
    #[arg(default_values = ["bookworm", USUAL, "sid"])]
    releases: Vec<String>,
    /// Run only tests whose path contains this
    #[arg(long, default_value = "runtimes::")]
    test: String,
}

/// Runs the tests once for each release.
pub(crate) fn runtimes(args: &Args) -> Result<ExitCode> {
    let mut suites = suites()?.into_iter();
    let suite = suites.find(|suite| suite.name == "it").context("no suite is called `it`")?;
    let mut code = ExitCode::SUCCESS;
    for release in &args.releases {
        let built = build_suite(Arch::host()?, &suite)?;
        let unpacked = tools::runtimes(release)?;
        println!("\nDebian {release}");
        if test::run(built, Some(&args.test), &[(VARIABLE, unpacked)])? != ExitCode::SUCCESS {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}
