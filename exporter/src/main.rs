//! Parses the command line, runs what it asks for, and prints the error that ends it.

use std::{io, process::ExitCode};

use anyhow::Context as _;
use sched_exporter::{
    cli::{
        args::{Args, Mode},
        healthcheck::healthcheck,
        modes,
    },
    os::{
        heap,
        log::{self, LogWriter},
        nss,
    },
};
use tokio::runtime::Builder;

/// Exit code of an invalid command line, as usual with clap.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    heap::share();
    nss::use_built_in_resolvers();
    let log = LogWriter::new(io::stderr());
    log.print_panics();
    let code = match Args::of_process() {
        Ok(args) => match run(&args, &log) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                log.print(&format!("sched_exporter: {}\n", log::chain(error.as_ref())));
                ExitCode::FAILURE
            }
        },
        Err(error) if error.use_stderr() => {
            log.print(&error.to_string());
            ExitCode::from(USAGE)
        }
        // Help and version go to standard output.
        Err(help) => help.exit(),
    };
    log.close();
    code
}

/// Runs on this thread: privileges can be dropped only while it is the only one.
fn run(args: &Args, log: &LogWriter) -> anyhow::Result<()> {
    let runtime =
        Builder::new_current_thread().enable_all().build().context("cannot start tokio")?;
    // Threads that read from a filesystem that hangs end with the process.
    runtime.block_on(async {
        match args.mode()? {
            Mode::Serve => modes::serve(args, log).await,
            Mode::Check(format) => modes::check(args, format, log).await,
            Mode::Once(format) => modes::once(args, format, log).await,
            Mode::Healthcheck(address, web) => Ok(healthcheck(address, web).await?),
            Mode::Unpin(path) => modes::unpin(path),
        }
    })
}
