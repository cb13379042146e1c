//! Measures how accurate our figures are, for `cargo xtask accuracy`: workloads whose time is known, by
//! us, by an independent trace, by the tasks' own clocks and by `/proc/stat`. Fails where we are
//! farther from the trace than the reading of clocks explains.
//!
//! Nothing outlasts the run.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for the terminal: results on one stream, what is being done on the other"
)]

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum as _};
use sched_exporter::kernel::scheduler::Scheduler;
use sched_exporter_tests::{
    kernel::attach,
    machine::machine,
    trace::Class,
    workload::{online, pin},
};
use serde_json::json;

mod page;
mod report;
mod window;
mod workloads;

use report::Measured;
use window::Window;
use workloads::Workload;

#[derive(Parser)]
#[command(
    bin_name = "cargo xtask accuracy",
    about = "Measures how accurate the exporter's figures are"
)]
struct Args {
    /// Workloads to measure; all where none is named
    only: Vec<Workload>,
    /// Measure less, for a look
    #[arg(long)]
    quick: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Write docs/accuracy.md too, if nothing is wrong
    #[arg(long, conflicts_with_all = ["only", "quick"])]
    write: bool,
}

/// How much to measure of a workload: windows, so many to a round.
#[derive(Clone, Copy)]
struct Effort {
    rounds: usize,
    windows: usize,
}

const FULL: Effort = Effort { rounds: 5, windows: 6 };
const QUICK: Effort = Effort { rounds: 2, windows: 1 };

/// The length of a window: the shorter it is, the less is lost where a switch is not reported.
const WINDOW: Duration = Duration::from_millis(500);

/// How many times as many windows may be measured as are needed.
const PATIENCE: usize = 4;

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let scheduler = attach();
    let cpu = choose_cpu(&scheduler)?;
    let effort = if args.quick { QUICK } else { FULL };
    let mut all = Vec::new();
    for &workload in Workload::value_variants() {
        if args.only.is_empty() || args.only.contains(&workload) {
            eprintln!("{}", workload.title());
            all.push(measure(&scheduler, workload, cpu, effort)?);
        }
    }
    if args.json {
        let workloads: Vec<_> = all.iter().map(Measured::json).collect();
        println!("{:#}", json!({ "machine": machine(), "workloads": workloads }));
    } else {
        println!("{}\n\n{}", machine(), page::results(&all)?);
    }
    let failures: Vec<_> = all.iter().flat_map(Measured::failures).collect();
    for failure in &failures {
        eprintln!("failed: {failure}");
    }
    if !failures.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    if args.write {
        page::write(&all)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The last CPU that perf sees leave its idle task. The driver, and perf which it starts, are bound
/// to another.
///
/// On a virtual machine used in development neither perf nor ftrace is told of that switch once the
/// CPU has been offline; our program is.
fn choose_cpu(scheduler: &Scheduler) -> Result<u32> {
    const WINDOWS: usize = 40;
    const SHORT: Duration = Duration::from_millis(20);
    for &cpu in online().iter().rev() {
        let driver = online().into_iter().find(|other| *other != cpu);
        pin(driver.context("this takes two CPUs")?);
        let cpu = u32::try_from(cpu)?;
        let windows = window::measure(scheduler, Workload::Bursts, cpu, WINDOWS, SHORT)?;
        let idle_ns = |window: &Window| window.trace_ns[Class::Idle as usize];
        if windows.iter().flatten().any(|window| idle_ns(window) > 0) {
            return Ok(cpu);
        }
        eprintln!("CPU {cpu} is passed over: it is never idle, or perf does not see it leave that");
    }
    bail!("no CPU is idle at times and seen by `perf record`; try again when this machine rests")
}

/// Measures the rounds of a workload, from windows in which nothing was missed.
fn measure(
    scheduler: &Scheduler,
    workload: Workload,
    cpu: u32,
    effort: Effort,
) -> Result<Measured> {
    let mut measured = Measured {
        workload,
        cpu,
        wanted: effort.rounds,
        rounds: Vec::new(),
        unusable: Vec::new(),
        refused: None,
    };
    if let Err(refused) = workload.start(cpu as usize) {
        measured.refused = Some(refused);
        return Ok(measured);
    }
    let wanted = effort.rounds * effort.windows;
    let mut whole = Vec::new();
    while whole.len() < wanted && whole.len() + measured.unusable.len() < PATIENCE * wanted {
        // Some more, since not all will be whole, and each run takes a while to set up.
        let count = (wanted - whole.len()) * 4 / 3 + 1;
        for window in window::measure(scheduler, workload, cpu, count, WINDOW)? {
            match window {
                Ok(window) => whole.push(window),
                Err(unusable) => measured.unusable.push(unusable),
            }
        }
    }
    let rounds = whole.chunks_exact(effort.windows).take(effort.rounds);
    measured.rounds = rounds.map(Window::sum).collect();
    Ok(measured)
}
