//! From a snapshot to text, as a scrape does it, for machines larger than this one.

use std::{array, hint::black_box, path::Path, time::Instant};

use anyhow::Result;
use sched_exporter::{
    config,
    exporter::render,
    exposition::Encoder,
    families::{self, Condition},
    layout::{CONTEXT_SWITCHES, Feature, RUNQUEUE_LATENCY},
    negotiate::Format,
    reload::Generation,
    snapshot::{Cpu, Snapshot, Times},
    telemetry::Telemetry,
};

use crate::{
    Effort, allocations,
    daemon::CONFIG,
    report::{Group, Row, Unit},
    summary::{Summary, ms, number},
};

const NOTE: &str = "\
From a snapshot to OpenMetrics with a histogram for each CPU, the exporter's own metrics included,
of invented snapshots with numbers as long as those of a machine that has been up for a month.";

const CPUS: [u32; 4] = [2, 64, 512, 4096];

/// Renders a snapshot of each size over and over.
pub(crate) fn measure(effort: Effort) -> Result<Group> {
    let repetitions = effort.choose(200, 30);
    let source = config::read(Path::new(CONFIG))?;
    let generation =
        Generation { config: source.parse()?, number: 1, sha256: source.sha256().to_owned() };
    let telemetry = Telemetry::new()?;
    telemetry.request("/metrics", 200);
    let mut times = Vec::new();
    let mut counts = Vec::new();
    for cpus in CPUS {
        let snapshot = snapshot(cpus);
        let mut time = Vec::with_capacity(repetitions);
        let mut count = Vec::with_capacity(repetitions);
        for _ in 0..repetitions {
            let (before, started) = (allocations::count(), Instant::now());
            let text = rendered(&snapshot, &generation, &telemetry);
            time.push(ms(started.elapsed()));
            count.push(number(allocations::count() - before));
            black_box(text);
        }
        times.push((cpus, Summary::of(time)));
        counts.push((cpus, Summary::of(count)));
    }
    let mut group = Group::new("Rendering", NOTE);
    for (cpus, time) in times {
        let row = Row::new(format!("{cpus} CPUs: time"), Unit::Ms, time);
        group.push(if cpus == 512 { row.at_most(3.0) } else { row });
    }
    let least = counts[0].1.median;
    for (cpus, count) in counts {
        let row = Row::new(format!("{cpus} CPUs: allocations"), Unit::Count, count);
        group.push(if cpus == 512 { row.at_most(least) } else { row });
    }
    Ok(group)
}

/// The part of [`sched_exporter::exporter::Exporter::scrape`] that follows the reading of the map.
fn rendered(snapshot: &Snapshot, generation: &Generation, telemetry: &Telemetry) -> String {
    let features = [CONTEXT_SWITCHES, RUNQUEUE_LATENCY].map(|name| Feature { name, off: None });
    let condition =
        Condition { features: &features, torn_reads: 0, log_messages: [("error", 0), ("warn", 0)] };
    let capacity = families::capacity(snapshot.cpus.len(), &generation.config);
    let encoder = Encoder::new(Format::OpenMetrics, capacity, None);
    render(encoder, snapshot, generation, condition, &telemetry.gather())
}

/// CPUs that have been up for a month, no two numbers alike.
fn snapshot(cpus: u32) -> Snapshot {
    const MONTH_NS: u64 = 30 * 86_400 * 1_000_000_000;
    let mut state = 1_u64;
    let mut any = |below: u64| {
        // Knuth's MMIX generator; its high bits are good.
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) % below
    };
    let cpus = (0..cpus).map(|id| Cpu {
        id,
        times: Some(Times {
            mode_ns: array::from_fn(|_| any(MONTH_NS)),
            switches: array::from_fn(|_| any(10_000_000_000)),
            missed_switches: any(100),
            wait_ns: any(MONTH_NS),
            wait_buckets: array::from_fn(|_| any(1_000_000_000)),
        }),
        unattributed_ns: any(1_000_000),
    });
    Snapshot { cpus: cpus.collect(), taken_at: MONTH_NS }
}
