//! Parses the command line, runs what it asks for, and prints the error that ends it.

use std::process::ExitCode;

use anyhow::Context as _;
use sched_exporter::{
    cli::{
        args::{Args, Mode},
        healthcheck::healthcheck,
        modes,
    },
    os::{log, nss},
};
use tokio::runtime::Builder;

fn main() -> ExitCode {
    nss::use_built_in_resolvers();
    match run(&Args::of_process()) {
        Ok(()) => ExitCode::SUCCESS,
        #[expect(clippy::print_stderr, reason = "fatal errors are printed even if logging failed")]
        Err(error) => {
            eprintln!("sched_exporter: {}", log::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// Runs on this thread: privileges can be dropped only while it is the only one.
fn run(args: &Args) -> anyhow::Result<()> {
    let runtime =
        Builder::new_current_thread().enable_all().build().context("cannot start tokio")?;
    let result = runtime.block_on(async {
        match args.mode() {
            Mode::Serve => modes::serve(args).await,
            Mode::Check => modes::check(args).await,
            Mode::Once => modes::once(args).await,
            Mode::Healthcheck(address) => Ok(healthcheck(address).await?),
        }
    });
    // Do not wait for threads that read from a filesystem that hangs.
    runtime.shutdown_background();
    result
}
