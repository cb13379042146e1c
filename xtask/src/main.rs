//! The commands for developing `sched_exporter`, as `cargo xtask <command>`.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for the terminal: results on stdout, progress on stderr"
)]

use std::{ffi::OsString, process::ExitCode};

use clap::Parser;

mod accuracy;
mod apt;
mod arch;
mod bench;
mod check;
mod cluster;
mod crates;
mod deny;
mod dist;
mod docs;
mod downloads;
mod ebpf;
mod fuzz;
mod image;
mod kubernetes;
mod needs;
mod object;
mod run;
mod runtimes;
mod shipped;
mod soak;
mod suites;
mod tally;
mod test;
mod tools;
mod vm;
mod workspace;

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "Commands for developing sched_exporter")]
enum Command {
    /// Build the exporter and run it with the shipped configuration, as root
    Run {
        /// Arguments for the exporter
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Run all tests, including those on this machine's kernel, and report any that could not run
    Test(test::Args),
    /// Check format, clippy, pure tests and generated documents; needs neither root nor BPF
    Check,
    /// Check licenses, sources, duplicates and known vulnerabilities of all dependencies
    Deny,
    /// Run the tests of names of containers with the runtimes of several Debian releases, as root
    Runtimes(runtimes::Args),
    /// Run the DaemonSet on a Kubernetes node of this machine, as root; builds Kubernetes at first
    Cluster,
    /// Run the tests on Debian's kernels in QEMU
    Vm(vm::Args),
    /// Build a release: static binaries, archives, Debian packages and bills of materials
    Dist(dist::Args),
    /// Build a container image of the static binary with podman or buildah
    Image(image::Args),
    /// Measure the exporter's cost, as root
    Bench {
        /// Arguments for the benchmark
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Check the exporter's invariants under load, as root
    Soak {
        /// Arguments for the soak
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Fuzz the parsers and the encoder
    Fuzz(fuzz::Args),
    /// Check accuracy against perf and the kernel, as root
    Accuracy {
        /// Arguments for the check
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Download in advance the tools that the other commands download when they need them
    Tools,
    /// Build the kernel programs and write the committed objects
    Ebpf {
        /// Only check that the committed objects are up to date
        #[arg(long)]
        check: bool,
    },
    /// Write the generated documents and manifests
    Docs {
        /// Only check that the committed files are up to date
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Run { args } => run::run(&args),
        Command::Test(args) => test::test(&args),
        Command::Check => Ok(check::check()),
        Command::Deny => deny::deny(),
        Command::Runtimes(args) => runtimes::runtimes(&args),
        Command::Cluster => cluster::cluster(),
        Command::Vm(args) => vm::vm(&args),
        Command::Dist(args) => dist::dist(&args),
        Command::Image(args) => image::image(&args),
        Command::Bench { args } => bench::bench(&args),
        Command::Soak { args } => soak::soak(&args),
        Command::Fuzz(args) => fuzz::fuzz(&args),
        Command::Accuracy { args } => accuracy::accuracy(&args),
        Command::Tools => Ok(downloads::download()),
        Command::Ebpf { check } => ebpf::ebpf(check),
        Command::Docs { check } => docs::docs(check),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
