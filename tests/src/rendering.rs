//! Renders snapshots as a scrape does, for machines larger than this one.

use std::{array, time::Duration};

use sched_exporter::{
    accounting::{
        Budget, CGROUPS, CONTEXT_SWITCHES, CgroupSets, Counters as _, Cpu, Feature,
        RUNQUEUE_LATENCY, Snapshot, Totals,
    },
    config::Config,
    cpu::topology::Topology,
    exposition::{Encoder, Format, Labels},
    expr::values::Values,
    generation::Generation,
    labels::LabelSets,
    metrics::{
        catalog::{Cgroups, SERIES, State},
        process::ProcessReader,
        render::{capacity, render},
        selection::Selection,
        telemetry::Telemetry,
    },
};

use crate::{maps::Maps, rules};

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
    sets: Option<CgroupSets<Labels>>,
    generation: Generation,
    telemetry: Telemetry,
    process: ProcessReader,
}

impl Rendering {
    /// A machine with this number of CPUs and without cgroups, under the shipped configuration.
    pub fn of(cpus: u32) -> Self {
        Self::under(SHIPPED_CONFIG, cpus)
    }

    /// A machine with this number of CPUs and without cgroups, under a configuration.
    pub fn under(config: &str, cpus: u32) -> Self {
        Self::new(config, snapshot(cpus))
    }

    /// A machine with these maps, whose cgroups have labels for this number of sets, under the shipped
    /// configuration.
    pub fn of_maps(maps: &Maps, sets: usize) -> Self {
        let mut rendering = Self::new(SHIPPED_CONFIG, maps.snapshot());
        rendering.sets = Some(grouped(&rendering.snapshot, sets));
        rendering
    }

    fn new(config: &str, snapshot: Snapshot) -> Self {
        let config = Config::parse(config).unwrap();
        let topology = Topology::of(snapshot.cpus.iter().map(|cpu| cpu.id).collect());
        let (generation, unfit) =
            Generation::new(&config, &"0".repeat(64), &Values::default(), &topology, SERIES);
        assert_eq!(unfit, []);
        let telemetry = Telemetry::new().unwrap();
        telemetry.request("/metrics", 200);
        Self { snapshot, sets: None, generation, telemetry, process: ProcessReader::default() }
    }

    /// Label sets of all series.
    pub const fn labels(&self) -> &LabelSets {
        &self.generation.labels
    }

    /// Does the part of [`sched_exporter::metrics::scrape::Exporter::scrape`] after reading the
    /// maps, in OpenMetrics.
    pub fn render(&self) -> String {
        self.render_as(Format::OpenMetrics, &self.snapshot)
    }

    /// As [`Rendering::render`], but another snapshot of the same machine, in any format.
    pub fn render_as(&self, format: Format, snapshot: &Snapshot) -> String {
        let cgroups = self.sets.as_ref().zip(snapshot.cgroups.as_ref()).map(|(sets, cgroups)| {
            let used = cgroups.cgroups.len() as u64;
            Cgroups {
                values: sets.values(snapshot.taken_at, cgroups),
                epoch: 0.0,
                hierarchy: "v2",
                nameless: "",
                slots: used,
                slots_used: used,
                slots_refused: 0,
            }
        });
        let names = [CONTEXT_SWITCHES, RUNQUEUE_LATENCY].into_iter();
        let names = names.chain(cgroups.as_ref().map(|_| CGROUPS));
        let features: Vec<_> = names.map(|name| Feature { name, off: None }).collect();
        let (process, _) = self.process.read();
        let state = State {
            generation: &self.generation,
            features: &features,
            torn_reads: 0,
            log_messages: [("error", 0), ("warn", 0)],
            log_messages_dropped: 0,
            process: &process,
            process_began: None,
            cgroups: cgroups.as_ref(),
        };
        let all = &Selection::ALL;
        let capacity = capacity(snapshot.cpus.len(), cgroups.as_ref(), &self.generation, all);
        let encoder = Encoder::new(format, capacity, None);
        render(encoder, all, snapshot, state, &self.telemetry.gather(all))
    }
}

/// Assigns the cgroups of a snapshot to this number of sets.
fn grouped(snapshot: &Snapshot, sets: usize) -> CgroupSets<Labels> {
    let cgroups = snapshot.cgroups.as_ref().unwrap();
    let mut grouped = CgroupSets::new(0, Budget { limit: sets, keep: Duration::ZERO });
    let labels = |number: usize| {
        let unit = format!("service-{:04}.service", number % sets);
        let host = [("host", "example-host"), ("zone", "example-zone")];
        host.into_iter().chain([("container_id", ""), ("unit", &unit)]).collect()
    };
    // The root belongs to `other`.
    let all = cgroups.cgroups.iter().filter(|cgroup| cgroup.serial != 0);
    let named = all.enumerate().map(|(number, cgroup)| (cgroup.serial, Some(labels(number))));
    grouped.assign(snapshot.taken_at, cgroups, named);
    grouped
}

/// How long the CPUs of synthetic snapshots have been up.
pub(crate) const MONTH_NS: u64 = 30 * 86_400 * 1_000_000_000;

/// Pseudo-random numbers, the same each time.
pub(crate) struct Numbers(u64);

impl Default for Numbers {
    fn default() -> Self {
        Self(1)
    }
}

impl Numbers {
    /// The next number, which is less than `end`.
    pub(crate) const fn below(&mut self, end: u64) -> u64 {
        // Knuth's MMIX generator; its high bits are good.
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) % end
    }

    /// The totals of a CPU that has been up for a month.
    pub(crate) fn totals(&mut self) -> Totals {
        let mut totals = Totals::ZERO;
        totals.mode_ns = array::from_fn(|_| self.below(MONTH_NS));
        totals.switches = array::from_fn(|_| self.below(10_000_000_000));
        totals.missed_switches = self.below(100);
        totals.wait_ns = self.below(MONTH_NS);
        totals.wait_slots = array::from_fn(|_| self.below(1_000_000_000));
        totals
    }
}

/// A synthetic snapshot of CPUs that have been up for a month, without cgroups.
pub fn snapshot(cpus: u32) -> Snapshot {
    let mut numbers = Numbers::default();
    let cpus = (0..cpus).map(|id| Cpu {
        id,
        totals: Some(numbers.totals()),
        unattributed_ns: numbers.below(1_000_000),
    });
    Snapshot { cpus: cpus.collect(), offline: Vec::new(), taken_at: MONTH_NS, cgroups: None }
}
