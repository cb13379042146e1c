//! Renders snapshots as a scrape does, for machines larger than this one.

use std::array;

use sched_exporter::{
    accounting::{
        CONTEXT_SWITCHES, Counters as _, Cpu, Feature, RUNQUEUE_LATENCY, Snapshot, Totals,
    },
    config::Config,
    cpu::topology::Topology,
    exposition::{Encoder, Format},
    expr::values::Values,
    generation::Generation,
    labels::LabelSets,
    metrics::{
        catalog::{SERIES, State},
        process::ProcessReader,
        render::{capacity, render},
        selection::Selection,
        telemetry::Telemetry,
    },
};

use crate::rules;

/// Sizes of the measured machines, in CPUs.
pub const CPUS: [u32; 4] = [2, 64, 512, 4096];

/// The configuration shipped in the repository.
pub const SHIPPED_CONFIG: &str = include_str!("../../config/exporter.yaml");

/// Names and texts of other configurations, for 512 CPUs.
pub fn variants() -> [(&'static str, String); 2] {
    let summed = SHIPPED_CONFIG.replace("\nwithout: []\n", "\nwithout: [cpu]\n");
    [("1,000 rules", rules::config(0)), ("without cpu", summed)]
}

/// The input of a scrape: a synthetic snapshot, a configuration, and the exporter's own metrics.
pub struct Rendering {
    snapshot: Snapshot,
    generation: Generation,
    telemetry: Telemetry,
    process: ProcessReader,
}

impl Rendering {
    /// A machine with this number of CPUs, under the shipped configuration.
    pub fn of(cpus: u32) -> Self {
        Self::under(SHIPPED_CONFIG, cpus)
    }

    /// A machine with this number of CPUs, under a configuration.
    pub fn under(config: &str, cpus: u32) -> Self {
        let config = Config::parse(config).unwrap();
        let topology = Topology::of((0..cpus).collect());
        let (generation, unfit) =
            Generation::new(&config, &"0".repeat(64), &Values::default(), &topology, SERIES);
        assert_eq!(unfit, []);
        let telemetry = Telemetry::new().unwrap();
        telemetry.request("/metrics", 200);
        Self { snapshot: snapshot(cpus), generation, telemetry, process: ProcessReader::default() }
    }

    /// Label sets of all series.
    pub const fn labels(&self) -> &LabelSets {
        &self.generation.labels
    }

    /// Does the part of [`sched_exporter::metrics::scrape::Exporter::scrape`] after reading the
    /// map, in OpenMetrics.
    pub fn render(&self) -> String {
        let features = [CONTEXT_SWITCHES, RUNQUEUE_LATENCY].map(|name| Feature { name, off: None });
        let log_messages = [("error", 0), ("warn", 0)];
        let (process, _) = self.process.read();
        let state = State {
            generation: &self.generation,
            features: &features,
            torn_reads: 0,
            log_messages,
            log_messages_dropped: 0,
            process: &process,
            cgroups: None,
        };
        let all = &Selection::ALL;
        let capacity = capacity(self.snapshot.cpus.len(), None, &self.generation, all);
        let encoder = Encoder::new(Format::OpenMetrics, capacity, None);
        render(encoder, all, &self.snapshot, state, &self.telemetry.gather(all))
    }
}

/// A synthetic snapshot of CPUs that have been up for a month, with pseudo-random numbers.
pub fn snapshot(cpus: u32) -> Snapshot {
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
        totals: Some({
            let mut totals = Totals::ZERO;
            totals.mode_ns = array::from_fn(|_| any(MONTH_NS));
            totals.switches = array::from_fn(|_| any(10_000_000_000));
            totals.missed_switches = any(100);
            totals.wait_ns = any(MONTH_NS);
            totals.wait_slots = array::from_fn(|_| any(1_000_000_000));
            totals
        }),
        unattributed_ns: any(1_000_000),
    });
    Snapshot { cpus: cpus.collect(), offline: Vec::new(), taken_at: MONTH_NS, cgroups: None }
}
