//! `cargo xtask vm`: runs the tests on other kernels, in QEMU.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    arch::Arch,
    shipped::{build_shipped, build_tests},
    tally::Tally,
    vm::{
        guests::{GUESTS, Guest, NOT_OF_THE_SCHEDULER},
        qemu::Console,
    },
    workspace::{named, root},
};

mod debian;
mod guests;
mod initramfs;
mod page;
mod qemu;

/// The arguments of `cargo xtask vm`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Guests to run; the default is all
    #[arg(value_parser = guests::names())]
    guests: Vec<String>,
    /// Run only the oldest kernel, the newest and one in between, and only tests that depend on it
    #[arg(long, conflicts_with = "guests")]
    quick: bool,
    /// Run only tests whose path contains one of these
    #[arg(long = "test", value_name = "FILTER")]
    filters: Vec<String>,
    /// Write docs/kernels.md, or the rows of these guests in it
    #[arg(long, conflicts_with_all = ["quick", "filters"])]
    write: bool,
    /// Print the names of the guests and exit
    #[arg(long)]
    list: bool,
}

/// The results of a guest.
struct Outcome {
    guest: &'static Guest,
    /// The kernel's release, as `uname -r` prints it.
    release: String,
    tally: Tally,
    /// Facts about the kernel program that the guest prints.
    facts: BTreeMap<String, String>,
    /// Failures other than failed tests.
    failures: Vec<String>,
    /// The time from start to end of QEMU.
    took: Duration,
}

impl Outcome {
    fn is_good(&self) -> bool {
        self.failures.is_empty() && self.tally.failed == 0
    }

    fn fact(&self, name: &str) -> &str {
        self.facts.get(name).map_or("-", String::as_str)
    }
}

/// Runs guests one after the other, since their tests measure times.
pub(crate) fn vm(args: &Args) -> Result<ExitCode> {
    if args.list {
        for guest in &GUESTS {
            println!("{:<16} {}", guest.name, guest.what);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = |guest: &&Guest| {
        if args.guests.is_empty() {
            !args.quick || guest.quick().is_some()
        } else {
            args.guests.iter().any(|name| name == guest.name)
        }
    };
    let guests: Vec<_> = GUESTS.iter().filter(wanted).collect();
    // Check for missing tools before spending minutes on the first guest.
    for guest in &guests {
        qemu::find(guest.arch)?;
    }
    let mut initramfs = BTreeMap::new();
    let mut kernels = Vec::new();
    for guest in &guests {
        if !initramfs.contains_key(guest.arch.name()) {
            initramfs.insert(guest.arch.name(), build(guest.arch)?);
        }
        kernels.push(debian::kernel(guest).with_context(|| format!("kernel of {}", guest.name))?);
    }
    let mut outcomes = Vec::new();
    for (guest, kernel) in guests.into_iter().zip(kernels) {
        println!("\n{}: {}, {}", guest.name, kernel.release, guest.what);
        outcomes.push(run(guest, kernel, &initramfs[guest.arch.name()], args)?);
    }
    if args.write {
        page::write(&outcomes)?;
    }
    Ok(report(&outcomes))
}

/// Downloads the kernels of a quick run.
pub(crate) fn download_quick() -> Result<()> {
    for guest in GUESTS.iter().filter(|guest| guest.quick().is_some()) {
        debian::kernel(guest)?;
    }
    Ok(())
}

/// Builds the programs for a guest and returns the initramfs that holds them.
fn build(arch: Arch) -> Result<PathBuf> {
    let mut files = vec![("sched_exporter", build_shipped(arch)?)];
    let built = build_tests(arch)?;
    for (place, name) in [("init", "guest"), ("tests", "it")] {
        files.push((place, named(&built, name)?));
    }
    let path = root().join("target/vm").join(format!("{}.cpio", arch.name()));
    initramfs::write(&path, &files).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// Tests that need more than a kernel, tests that need no kernel, tests that wait for the exporter's
/// timeouts, and tests of cryptography, which is slow on emulated machines and the same on every kernel.
const SKIPPED: [&str; 19] = [
    "booted::",
    "container::",
    "crates::",
    "docs::",
    "fuse::",
    "kernel::tls::",
    "kernel::web::",
    "manifests::",
    "pod::",
    "prometheus::",
    "promtool::",
    "properties::",
    "python::",
    "release::",
    "runtimes::",
    "systemd::",
    "trace::",
    "clients_that_do_not_read",
    "half_open",
];

fn run(
    guest: &'static Guest,
    kernel: debian::Kernel,
    initramfs: &Path,
    args: &Args,
) -> Result<Outcome> {
    let started = Instant::now();
    let mut harness = vec!["--test-threads=1".to_owned()];
    let not_quick = if args.quick { NOT_OF_THE_SCHEDULER } else { &[] };
    let skip = SKIPPED.iter().chain(guest.skip).chain(guest.hierarchy.skip()).chain(not_quick);
    let skip: Vec<_> = skip.copied().collect();
    // One argument: the kernel passes at most 31 to init.
    // <https://github.com/torvalds/linux/blob/v6.12/init/main.c>, `MAX_INIT_ARGS`.
    harness.push(format!("--skip={}", skip.join(",")));
    harness.extend_from_slice(&args.filters);
    if let Some(quick) = guest.quick().filter(|_| args.quick && args.filters.is_empty()) {
        harness.extend(quick.iter().map(|filter| (*filter).to_owned()));
    }
    let mut console = Console::start(guest, &kernel.image, initramfs, &harness)?;
    let mut outcome = Outcome {
        guest,
        release: kernel.release,
        tally: Tally::default(),
        facts: BTreeMap::new(),
        failures: Vec::new(),
        took: Duration::ZERO,
    };
    let mut written = String::new();
    while let Some(line) = console.line()? {
        println!("  {line}");
        if let Some(facts) = line.strip_prefix("guest: ") {
            let pairs = facts.split(' ').filter_map(|pair| pair.split_once('='));
            outcome.facts.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
            if outcome.facts.is_empty() {
                outcome.failures.push(line.clone());
            }
        }
        if qemu::is_complaint(&line) {
            outcome.failures.push(format!("the kernel reports: {line}"));
        }
        written.push_str(&line);
        written.push('\n');
    }
    outcome.took = started.elapsed();
    outcome.tally.add(&written);
    if outcome.facts.is_empty() {
        outcome.failures.push("the guest stopped before its tests ended".to_owned());
    } else if outcome.tally.passed == 0 {
        outcome.failures.push("no test ran".to_owned());
    }
    Ok(outcome)
}

fn report(outcomes: &[Outcome]) -> ExitCode {
    println!();
    let mut sum = Tally::default();
    for outcome in outcomes {
        let Outcome { guest, release, tally, failures, took, .. } = outcome;
        let Tally { passed, failed, .. } = tally;
        println!("{:<16} {release}: {passed} passed, {failed} failed, {took:.0?}", guest.name);
        for failure in failures {
            println!("    {failure}");
        }
        sum.passed += passed;
        sum.failed += failed + usize::from(!outcome.is_good() && *failed == 0);
    }
    println!("{} passed, {} failed", sum.passed, sum.failed);
    if sum.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
