//! Measures how true our figures are, for `cargo xtask truth`: workloads whose time is known, by
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

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum as _};
use sched_exporter::ebpf::Scheduler;
use sched_exporter_tests::{
    kernel::attach,
    machine::machine,
    workload::{online, pin},
};
use serde_json::json;

mod page;
mod report;
mod window;
mod workloads;

use report::Measured;
use workloads::Workload;

#[derive(Parser)]
#[command(bin_name = "cargo xtask truth", about = "Measures how true the exporter's figures are")]
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

/// How much to measure of a workload.
#[derive(Clone, Copy)]
struct Effort {
    windows: usize,
    length: Duration,
}

const FULL: Effort = Effort { windows: 5, length: Duration::from_secs(3) };
const QUICK: Effort = Effort { windows: 2, length: Duration::from_secs(1) };

/// How often a window is measured before it is given up.
const TRIES: usize = 12;

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let online = online();
    // What the driver does, and perf which it starts, is on another CPU than the workload.
    let (first, last) = (online[0], online[online.len() - 1]);
    pin(first);
    let cpu = u32::try_from(last)?;
    let scheduler = attach();
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

/// Measures the windows of a workload, each again where it turns out to say nothing.
fn measure(
    scheduler: &Scheduler,
    workload: Workload,
    cpu: u32,
    effort: Effort,
) -> Result<Measured> {
    let mut measured = Measured {
        workload,
        cpu,
        wanted: effort.windows,
        windows: Vec::new(),
        again: Vec::new(),
        refused: None,
    };
    if let Err(refused) = workload.start(cpu as usize) {
        measured.refused = Some(refused);
        return Ok(measured);
    }
    let most = effort.windows * TRIES;
    while measured.windows.len() < effort.windows && measured.again.len() < most {
        let window = window::measure(scheduler, workload, cpu, effort.length);
        match window.with_context(|| workload.title())? {
            Ok(window) => measured.windows.push(window),
            Err(unusable) => measured.again.push(unusable),
        }
    }
    Ok(measured)
}
