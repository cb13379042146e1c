//! Rendering for machines of any size: time by Criterion, in the child process `render`;
//! allocations counted in this process.

use std::{
    env, fs,
    hint::black_box,
    io,
    iter::zip,
    os::fd::AsFd as _,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use sched_exporter_tests::rendering::{CPUS, Rendering, SHIPPED_CONFIG, variants};
use serde_json::Value;

use crate::{
    Effort, allocations, children,
    report::{Group, Row, Unit},
    rounds::in_turn,
    summary::{Summary, number, us},
};

const NOTE: &str = "\
Rendering a snapshot as OpenMetrics, with a histogram for each CPU and the exporter's own metrics.
The snapshots are synthetic, with numbers as long as those of a machine that has been up for a
month. Time is measured by Criterion; minimum and maximum are those of its samples, each of many
renderings. Time for each CPU is the time divided by the number of CPUs; it falls towards a
constant, so rendering grows no faster than the number of CPUs. The configuration with 1,000 rules
makes the same labels as the shipped one, so that only the rules differ; \"without cpu\" is the
shipped one with `without: [cpu]`, which sums over all CPUs. Their ratios are from alternating
renderings, without Criterion. Series are lines, including the exporter's own.";

/// Variable with the path of the benchmark, set by `cargo xtask bench`.
const BENCHMARK: &str = "SCHED_EXPORTER_RENDER_BENCH";

/// Renders a snapshot of each size repeatedly.
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
    for ((name, _), times) in zip(variants(), &times[CPUS.len()..]) {
        let row = format!("512 CPUs, {name}: time");
        group.push(Row::new(row, Unit::Us, Summary::of(times.iter().copied())));
    }
    push_variants(&mut group, effort)?;
    Ok(group)
}

/// Compares other configurations for 512 CPUs: times, measured in turn, and series.
fn push_variants(group: &mut Group, effort: Effort) -> Result<()> {
    const RENDERINGS: usize = 20;
    let [rules, summed] = variants();
    let configs = [("as shipped", SHIPPED_CONFIG.to_owned()), rules, summed];
    let renderings = configs.each_ref().map(|(_, config)| Rendering::under(config, 512));
    let [shipped, thousand] = [0, 1].map(|it| renderings[it].labels());
    let is_same = shipped.groups == thousand.groups && shipped.latency == thousand.latency;
    ensure!(is_same, "the rules make different labels");
    let times = in_turn(&renderings, effort.choose(51, 11), |rendering| {
        let started = Instant::now();
        for _ in 0..RENDERINGS {
            black_box(rendering.render());
        }
        Ok(us(started.elapsed()))
    })?;
    for ((name, _), with) in zip(&configs, &times).skip(1) {
        let ratio = Summary::of_ratios(with, &times[0]);
        let row = Row::new(format!("512 CPUs, {name} / as shipped: time"), Unit::Ratio, ratio);
        group.push(if *name == configs[1].0 { row.at_most(1.1) } else { row });
    }
    for ((name, _), rendering) in zip(&configs, &renderings) {
        let text = rendering.render();
        let series = text.lines().filter(|line| !line.starts_with('#')).count();
        let row = format!("512 CPUs, {name}: series");
        group.push(Row::new(row, Unit::Count, Summary::of([number(series)])));
    }
    Ok(())
}

/// Runs the benchmark, which writes to our standard error. Returns samples in microseconds per
/// rendering, for each number of CPUs, then for each variant.
fn times_us(effort: Effort) -> Result<Vec<Vec<f64>>> {
    let benchmark = env::var_os(BENCHMARK)
        .with_context(|| format!("no {BENCHMARK}: run this with `cargo xtask bench`"))?;
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
    let names = CPUS.iter().map(ToString::to_string);
    let names = names.chain(variants().map(|(name, _)| format!("512, {name}")));
    names.map(|name| samples_us(&results.path().join(format!("render/{name}/new")))).collect()
}

/// Criterion's samples: numbers of renderings, and total nanoseconds of each.
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

/// Number of allocations of each rendering.
fn allocations(cpus: u32) -> Summary {
    const REPETITIONS: usize = 10;
    let rendering = Rendering::of(cpus);
    Summary::of((0..REPETITIONS).map(|_| {
        let before = allocations::count();
        black_box(rendering.render());
        number(allocations::count() - before)
    }))
}
