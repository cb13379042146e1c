//! Rendering for machines of any size: time by Criterion, in the benchmark `render`, which runs as
//! a child; allocations by counting them here.

use std::{
    env, fs,
    hint::black_box,
    io,
    iter::zip,
    os::fd::AsFd as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use sched_exporter_tests::rendering::{CPUS, Rendering};
use serde_json::Value;

use crate::{
    Effort, allocations, children,
    report::{Group, Row, Unit},
    summary::{Summary, number},
};

const NOTE: &str = "\
From a snapshot to OpenMetrics with a histogram for each CPU, the exporter's own metrics included,
of invented snapshots with numbers as long as those of a machine that has been up for a month. Time
is measured by Criterion; least and most are those of its samples, each of many renderings. Time for
each CPU is the time divided by the CPUs: that it falls towards a constant shows that rendering grows
with the CPUs and no faster.";

/// Where `cargo xtask bench` says that the benchmark is.
const BENCHMARK: &str = "SCHED_EXPORTER_RENDER_BENCH";

/// Renders a snapshot of each size over and over.
pub(crate) fn measure(effort: Effort) -> Result<Group> {
    let times = times_us(effort)?;
    let counts = CPUS.map(allocations);
    let mut group = Group::new("Rendering", NOTE);
    for (cpus, times) in zip(CPUS, &times) {
        let row =
            Row::new(format!("{cpus} CPUs: time"), Unit::Us, Summary::of(times.iter().copied()));
        group.push(if cpus == 512 { row.at_most(3_000.0) } else { row });
    }
    for (cpus, times) in zip(CPUS, &times).skip(1) {
        let each = times.iter().map(|us| us * 1e3 / f64::from(cpus));
        group.push(Row::new(
            format!("{cpus} CPUs: time for each CPU"),
            Unit::Ns,
            Summary::of(each),
        ));
    }
    let least = counts[0].median;
    for (cpus, count) in zip(CPUS, counts) {
        let row = Row::new(format!("{cpus} CPUs: allocations"), Unit::Count, count);
        group.push(if cpus == 512 { row.at_most(least) } else { row });
    }
    Ok(group)
}

/// Runs the benchmark, which writes to our standard error, and returns microseconds for each
/// rendering: its samples, for each number of CPUs.
fn times_us(effort: Effort) -> Result<Vec<Vec<f64>>> {
    let benchmark = env::var_os(BENCHMARK)
        .with_context(|| format!("no {BENCHMARK}: run this by `cargo xtask bench`"))?;
    let results = tempfile::tempdir()?;
    let (warm_up, seconds, samples) = effort.choose(("1", "3", "50"), ("0.3", "1", "20"));
    let status = children::spawn(
        Command::new(benchmark)
            .args(["--bench", "--noplot", "--warm-up-time", warm_up])
            .args(["--measurement-time", seconds, "--sample-size", samples])
            .env("CRITERION_HOME", results.path())
            .stdin(Stdio::null())
            .stdout(io::stderr().as_fd().try_clone_to_owned()?),
    )?
    .wait()?;
    ensure!(status.success(), "the benchmark `render`: {status}");
    CPUS.iter().map(|cpus| samples_us(&results.path().join(format!("render/{cpus}/new")))).collect()
}

/// What Criterion writes of each sample: how many renderings, and how many nanoseconds for all.
fn samples_us(directory: &Path) -> Result<Vec<f64>> {
    let path = directory.join("sample.json");
    let name = || path.display().to_string();
    let samples: Value = serde_json::from_slice(&fs::read(&path).with_context(name)?)?;
    let numbers = |key: &str| -> Option<Vec<f64>> {
        samples.get(key)?.as_array()?.iter().map(Value::as_f64).collect()
    };
    let (counts, ns) = numbers("iters").zip(numbers("times")).with_context(name)?;
    Ok(zip(ns, counts).map(|(ns, count)| ns / count / 1e3).collect())
}

/// Allocations of each rendering.
fn allocations(cpus: u32) -> Summary {
    const REPETITIONS: usize = 10;
    let rendering = Rendering::of(cpus);
    Summary::of((0..REPETITIONS).map(|_| {
        let before = allocations::count();
        black_box(rendering.render());
        number(allocations::count() - before)
    }))
}
