//! Time to render a scrape, by number of CPUs and configuration:
//! `cargo bench --package sched_exporter-tests --bench render`, which needs no root.
//!
//! `cargo xtask bench` runs it too, for its report.

use criterion::{BenchmarkId, Criterion, Throughput};
use sched_exporter_tests::rendering::{CPUS, Rendering, variants};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("render");
    for cpus in CPUS {
        let rendering = Rendering::of(cpus);
        group.throughput(Throughput::Elements(cpus.into()));
        group.bench_function(BenchmarkId::from_parameter(cpus), |bencher| {
            bencher.iter(|| rendering.render());
        });
    }
    group.throughput(Throughput::Elements(512));
    for (name, config) in variants() {
        let rendering = Rendering::under(&config, 512);
        group.bench_function(format!("512, {name}"), |bencher| {
            bencher.iter(|| rendering.render());
        });
    }
    group.finish();
    criterion.final_summary();
}
