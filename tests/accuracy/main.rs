//! Measures the accuracy of the exporter, for `cargo xtask accuracy`: runs known workloads and
//! compares our times with an independent trace, the tasks' own clocks and `/proc/stat`. Fails if
//! ours differ from the trace by more than reading the clocks explains.
//!
//! Leaves nothing behind.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a terminal program: results on standard output, progress on standard error"
)]

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum as _};
use sched_exporter_tests::{
    kernel::attach,
    machine::machine,
    trace::Class,
    workload::{online, pin},
};
use serde_json::json;

mod cgroups;
mod page;
mod report;
mod window;
mod workloads;

use report::Measured;
use window::{Observer, Window};
use workloads::Workload;

#[derive(Parser)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[command(bin_name = "cargo xtask accuracy", about = "Measures the accuracy of the exporter")]
struct Args {
    /// Workloads to measure; all by default
    only: Vec<Workload>,
    /// Measure less, for a rough result
    #[arg(long)]
    quick: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Also write docs/accuracy.md, unless something fails
    #[arg(long, conflicts_with_all = ["only", "quick"])]
    write: bool,
    /// Write only the section on quantiles of docs/accuracy.md, which is computed
    #[arg(long, conflicts_with_all = ["only", "quick", "json", "write"])]
    quantiles: bool,
}

/// How much to measure of each workload: rounds, and windows per round.
#[derive(Clone, Copy)]
struct Effort {
    rounds: usize,
    windows: usize,
}

const FULL: Effort = Effort { rounds: 5, windows: 6 };
const QUICK: Effort = Effort { rounds: 2, windows: 1 };

/// Length of a window. The shorter it is, the less is left out for an unreported switch.
const WINDOW: Duration = Duration::from_millis(500);

/// Measure at most this many times the number of windows needed.
const PATIENCE: usize = 4;

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    if args.quantiles {
        page::write_quantiles()?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut observer = Observer::new(attach());
    let cpu = choose_cpu(&mut observer)?;
    let effort = if args.quick { QUICK } else { FULL };
    let mut all = Vec::new();
    for &workload in Workload::value_variants() {
        if args.only.is_empty() || args.only.contains(&workload) {
            eprintln!("{}", workload.title());
            all.push(measure(&mut observer, workload, cpu, effort)?);
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

/// Chooses the last CPU for which perf records switches from the idle task. Pins the driver, and so
/// perf, to another.
///
/// On one development VM, the kernel stops reporting these switches to perf and ftrace once the CPU
/// has been offline; it still reports them to our program.
fn choose_cpu(observer: &mut Observer) -> Result<u32> {
    const WINDOWS: usize = 40;
    const SHORT: Duration = Duration::from_millis(20);
    for &cpu in online().iter().rev() {
        let driver = online().into_iter().find(|other| *other != cpu);
        pin(driver.context("needs at least two CPUs")?);
        let cpu = u32::try_from(cpu)?;
        let windows = window::measure(observer, Workload::Bursts, cpu, WINDOWS, SHORT)?;
        let idle_ns = |window: &Window| window.trace_ns[Class::Idle as usize];
        if windows.iter().flatten().any(|window| idle_ns(window) > 0) {
            return Ok(cpu);
        }
        eprintln!(
            "skipping CPU {cpu}: it is never idle, or perf does not record its switches from idle"
        );
    }
    bail!("`perf record` saw no CPU switch from idle; try again when this machine is calm")
}

/// Measures the rounds of a workload, using only windows without a missed switch.
fn measure(
    observer: &mut Observer,
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
        // A third more, because some will be unusable and each run takes a while to set up.
        let count = (wanted - whole.len()) * 4 / 3 + 1;
        for window in window::measure(observer, workload, cpu, count, WINDOW)? {
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
