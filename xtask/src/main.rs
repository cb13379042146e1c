//! Everything a developer of `sched_exporter` runs, as `cargo xtask <command>`.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for the terminal: results on one stream, what is being done on the other"
)]

use std::{ffi::OsString, process::ExitCode};

use clap::Parser;

mod apt;
mod arch;
mod bench;
mod check;
mod crates;
mod dist;
mod docs;
mod ebpf;
mod fuzz;
mod image;
mod needs;
mod object;
mod run;
mod shipped;
mod soak;
mod suites;
mod test;
mod tools;
mod truth;
mod vm;
mod workspace;

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "Everything a developer of sched_exporter runs")]
enum Command {
    /// Build the exporter and run it with the shipped configuration, as root
    Run {
        /// Arguments for the exporter
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Run every test, those that need a kernel included, and say which could not run and why
    Test(test::Args),
    /// Run what needs neither root nor a kernel: format, clippy, pure tests, generated documents
    Check,
    /// Run the tests on Debian's kernels, in QEMU
    Vm(vm::Args),
    /// Build what a release consists of: static binaries, archives, packages, bills of materials
    Dist(dist::Args),
    /// Build a container image of the static binary, by podman or buildah
    Image(image::Args),
    /// Measure the exporter, as root
    Bench {
        /// Arguments for the benchmark
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Hold the exporter to its invariants under load, as root
    Soak {
        /// Arguments for the soak
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Fuzz the parsers and the encoder
    Fuzz(fuzz::Args),
    /// Compare the exporter's figures with the truth, as root
    Truth {
        /// Arguments for the comparison
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Build the kernel programs and write the objects that are committed
    Ebpf {
        /// Only compare the committed objects with what the source gives
        #[arg(long)]
        check: bool,
    },
    /// Write the documents and manifests that are generated
    Docs {
        /// Only compare the committed ones with what they are generated from
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Run { args } => run::run(&args),
        Command::Test(args) => test::test(&args),
        Command::Check => check::check(),
        Command::Vm(args) => vm::vm(&args),
        Command::Dist(args) => dist::dist(&args),
        Command::Image(args) => image::image(&args),
        Command::Bench { args } => bench::bench(&args),
        Command::Soak { args } => soak::soak(&args),
        Command::Fuzz(args) => fuzz::fuzz(&args),
        Command::Truth { args } => truth::truth(&args),
        Command::Ebpf { check } => ebpf::ebpf(check),
        Command::Docs { check } => docs::docs(check),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
