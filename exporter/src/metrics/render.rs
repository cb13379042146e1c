//! Renders an exposition: a snapshot under one generation of the configuration, in the order of the
//! catalog. Pure.

use prometheus::proto::MetricFamily;
use sched_exporter_ebpf::{CgroupTotals, Totals, wait_slot_of_index};

use crate::{
    accounting::{Cpu, Group, SeriesValues, Snapshot},
    exposition::{Encoder, Labels, Value},
    generation::Generation,
    metrics::{
        catalog::{ALL, Cgroups, Family, SERIES, Source, State},
        selection::Selection,
        telemetry,
    },
};

/// Writes the exposition of the families in `selection`: the catalog's, then those in `gathered`, which
/// [`telemetry::Telemetry`] keeps.
pub fn render<'a>(
    mut encoder: Encoder<'a>,
    selection: &Selection,
    snapshot: &Snapshot,
    state: State<'_>,
    gathered: &'a [MetricFamily],
) -> String {
    let generation = state.generation;
    let groups = generation.labels.groups.as_slice();
    let is_shown =
        |family: &&&Family| family.is_on(state.features) && selection.contains(family.name);
    for family in ALL.iter().filter(is_shown) {
        let encoder = &mut encoder;
        match family.source {
            // It comes first, if the configuration asks for it.
            // https://prometheus.io/docs/specs/om/open_metrics_spec/#supporting-target-metadata-in-both-push-based-and-pull-based-systems
            Source::Target => {
                if let Some(labels) = &generation.labels.target_info {
                    encoder.family(family.metadata());
                    encoder.sample(labels, "", Value::Integer(1));
                }
            }
            Source::Totals { of, pairs, value } => {
                encoder.family(family.metadata());
                for group in groups {
                    group.with_totals(snapshot, |totals| {
                        for (pair, total) in pairs.iter().zip(of(totals)) {
                            encoder.sample(group.labels(), pair, value(*total));
                        }
                    });
                }
            }
            Source::Waits => {
                encoder.family(family.metadata());
                for group in generation.labels.latency.as_slice() {
                    group.with_totals(snapshot, |totals| {
                        write_waits(encoder, group.labels(), &generation.bounds, totals);
                    });
                }
            }
            Source::Cgroups(samples) => {
                encoder.family(family.metadata());
                for_sets(encoder, state, |encoder, labels, values| {
                    for (pair, value) in samples {
                        if let Some(value) = value(values) {
                            encoder.sample(labels, pair, value);
                        }
                    }
                });
            }
            Source::CgroupWaits => {
                encoder.family(family.metadata());
                for_sets(encoder, state, |encoder, labels, values| {
                    let CgroupTotals { wait_ns, waits, .. } = values.totals;
                    encoder.summary(labels, Value::Nanoseconds(wait_ns), waits);
                });
            }
            Source::CgroupRest(of) => {
                if let Some(cgroups) = state.cgroups {
                    encoder.family(family.metadata());
                    let value = Value::Nanoseconds(of(&cgroups.values));
                    encoder.sample(&Labels::default(), "", value);
                }
            }
            Source::Cpu { of, value } => {
                encoder.family(family.metadata());
                write_cpus(encoder, snapshot, generation, of, value);
            }
            Source::State(samples) => {
                encoder.family(family.metadata());
                encoder.started(state.process_began.filter(|_| family.is_of_process()));
                samples(state, &mut |pairs, number| {
                    let labels: Labels = pairs.iter().copied().collect();
                    encoder.sample(&labels, "", Value::Integer(number));
                });
            }
            Source::Process(value) => {
                if let Some(value) = value(state.process) {
                    encoder.family(family.metadata());
                    encoder.started(state.process_began);
                    encoder.sample(&Labels::default(), "", value);
                }
            }
            Source::Registry => {}
        }
    }
    telemetry::write(&mut encoder, gathered, state.process_began);
    encoder.finish()
}

/// Calls `write` for each set of cgroups, and then for `other`.
fn for_sets<'e>(
    encoder: &mut Encoder<'e>,
    state: State<'_>,
    write: impl Fn(&mut Encoder<'e>, &Labels, &SeriesValues),
) {
    let Some(labeller) = &state.generation.labels.cgroups else { return };
    let Some(cgroups) = state.cgroups else { return };
    for set in &cgroups.values.sets {
        encoder.started(Some(cgroups.epoch + seconds(set.created_at)));
        write(encoder, set.labels, &set.values);
    }
    encoder.started(None);
    write(encoder, labeller.other(), &cgroups.values.other);
}

#[expect(clippy::cast_precision_loss, reason = "nobody needs a start to the nanosecond")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// Writes a histogram of waits with the buckets `bounds`: `i`, for a bound of `2^(i/8)` seconds, and its
/// `le`, ascending. Each bound is the end of a slot, so the cumulative counts are exact.
fn write_waits(
    encoder: &mut Encoder<'_>,
    labels: &Labels,
    bounds: &[(i32, String)],
    totals: &Totals,
) {
    let mut slots = totals.wait_slots.iter();
    let mut cumulative = 0;
    let mut next = 0;
    let up_to = bounds.iter().map(|(index, le)| {
        let end = wait_slot_of_index(*index) + 1;
        cumulative += slots.by_ref().take(end - next).sum::<u64>();
        next = end;
        (le.as_str(), cumulative)
    });
    let count = totals.wait_slots.iter().sum();
    encoder.histogram(labels, up_to, Value::Nanoseconds(totals.wait_ns), count);
}

/// Writes a number for each online CPU, or if the configuration drops the label `cpu`, the sum over all
/// CPUs that have been online.
fn write_cpus(
    encoder: &mut Encoder<'_>,
    snapshot: &Snapshot,
    generation: &Generation,
    number: fn(&Cpu) -> Option<u64>,
    value: fn(u64) -> Value,
) {
    if generation.labels.without_cpu {
        let sum = snapshot.cpus.iter().chain(&snapshot.offline).filter_map(number).sum();
        encoder.sample(&Labels::default(), "", value(sum));
        return;
    }
    // One buffer for all CPUs, instead of an allocation for each.
    let mut labels = Labels::with_capacity(16);
    for cpu in &snapshot.cpus {
        let Some(number) = number(cpu) else { continue };
        labels.truncate(0);
        labels.push("cpu", itoa::Buffer::new().format(cpu.id));
        encoder.sample(&labels, "", value(number));
    }
}

/// Returns an upper estimate of the size, in bytes, of an exposition of the families in `selection`
/// for `cpus` CPUs.
pub fn capacity(
    cpus: usize,
    cgroups: Option<&Cgroups<'_>>,
    generation: &Generation,
    selection: &Selection,
) -> usize {
    const LINE: usize = 96;
    const FIXED: usize = 16 * 1024;
    let bytes = |groups: &[Group<Labels>], series: usize| {
        // The series of a single offline CPU are hidden, so about `cpus` groups are shown at most. The
        // labels of all groups are about equally long.
        let label_bytes = groups.iter().map(|group| LINE + group.labels().len()).max();
        groups.len().min(cpus) * series * label_bytes.unwrap_or_default()
    };
    let labels = &generation.labels;
    let sets = cgroups.iter().flat_map(|cgroups| &cgroups.values.sets);
    let set_lines = sets.map(|set| LINE + set.labels.len()).sum::<usize>() + 2 * LINE;
    let selected = ALL.iter().filter(|family| selection.contains(family.name));
    let of_families = selected.map(|family| match family.source {
        Source::Target => labels.target_info.as_ref().map_or(0, Labels::len),
        Source::Totals { pairs, .. } => bytes(labels.groups.as_slice(), pairs.len()),
        Source::Waits => bytes(labels.latency.as_slice(), SERIES.latency(generation.bounds.len())),
        Source::Cpu { .. } => cpus * LINE,
        Source::Cgroups(samples) => set_lines * samples.len(),
        Source::CgroupWaits => set_lines * 2,
        Source::CgroupRest(_) => LINE,
        Source::State(_) | Source::Process(_) | Source::Registry => 0,
    });
    FIXED + of_families.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use sched_exporter_ebpf::wait_slot;

    use super::*;
    use crate::{
        accounting::{
            CGROUPS, CONTEXT_SWITCHES, CgroupValues, Counters as _, Feature, QuotaCounts, Quotas,
            RUNQUEUE_LATENCY, SetValues,
        },
        config::Config,
        cpu::topology::Topology,
        exposition::Format,
        expr::values::Values,
        metrics::process::ProcessStats,
    };

    /// A CPU whose numbers all differ, so that a misplaced number is detected.
    fn cpu(id: u32) -> Cpu {
        let base = u64::from(id + 1) * 1_000;
        let mut totals = Totals::ZERO;
        totals.mode_ns = std::array::from_fn(|mode| base + mode as u64);
        totals.switches = std::array::from_fn(|reason| base + 10 + reason as u64);
        totals.missed_switches = base + 20;
        totals.wait_ns = base + 21;
        // Each wait is at a bound or a nanosecond above: 2^-20 s are 953.7 ns, 2^-17 s are 7,629.4 ns.
        for (wait, waits) in [(953, 1), (954, 2), (3_815, 4), (7_629, 8), (7_630, 16)] {
            totals.wait_slots[wait_slot(wait)] += waits * u64::from(id + 1);
        }
        Cpu { id, totals: Some(totals), unattributed_ns: base + 22 }
    }

    /// The samples of an online and an offline CPU, except `_build_info`.
    fn shown(config: &str) -> String {
        selected(config, &Selection::ALL)
    }

    /// As [`shown`], but of some families.
    fn selected(config: &str, selection: &Selection) -> String {
        let buckets = "runqueue_latency: {buckets: {min: 1us, max: 7us, factor: 2}}";
        let config = Config::parse(&format!("{config}\n{buckets}\n")).unwrap();
        let (generation, _) =
            Generation::new(&config, "5a", &Values::default(), &Topology::of(vec![0, 1]), SERIES);
        let snapshot =
            Snapshot { taken_at: 0, cpus: vec![cpu(0)], offline: vec![cpu(1)], cgroups: None };
        let features = [(CONTEXT_SWITCHES, None), (RUNQUEUE_LATENCY, None), ("other", Some("why"))];
        let features = features.map(|(name, off)| Feature { name, off: off.map(Into::into) });
        let log_messages = [("error", 3), ("warn", 4)];
        let process = ProcessStats { threads: Some(6), ..ProcessStats::default() };
        let state = State {
            generation: &generation,
            features: &features,
            torn_reads: 5,
            log_messages,
            log_messages_dropped: 6,
            process: &process,
            process_began: None,
            cgroups: None,
        };
        let encoder = Encoder::new(Format::OpenMetrics, 0, None);
        let text = render(encoder, selection, &snapshot, state, &[]);
        let is_shown = |line: &&str| !line.starts_with('#') && !line.contains("_build_");
        text.split_inclusive('\n').filter(is_shown).collect()
    }

    /// Samples of the online CPU.
    const OF_CPU: &str = r#"sched_cpu_seconds_total{cpu="0",mode="idle"} 0.000001
sched_cpu_seconds_total{cpu="0",mode="kthread"} 0.000001001
sched_cpu_seconds_total{cpu="0",mode="fair"} 0.000001002
sched_cpu_seconds_total{cpu="0",mode="batch"} 0.000001003
sched_cpu_seconds_total{cpu="0",mode="idle_policy"} 0.000001004
sched_cpu_seconds_total{cpu="0",mode="realtime"} 0.000001005
sched_cpu_seconds_total{cpu="0",mode="deadline"} 0.000001006
sched_cpu_seconds_total{cpu="0",mode="ext"} 0.000001007
sched_context_switches_total{cpu="0",reason="voluntary"} 1010
sched_context_switches_total{cpu="0",reason="preempted"} 1011
sched_context_switches_total{cpu="0",reason="idle"} 1012
sched_runqueue_latency_seconds_bucket{cpu="0",le="9.5367431640625e-07"} 1
sched_runqueue_latency_seconds_bucket{cpu="0",le="1.9073486328125e-06"} 3
sched_runqueue_latency_seconds_bucket{cpu="0",le="3.814697265625e-06"} 3
sched_runqueue_latency_seconds_bucket{cpu="0",le="7.62939453125e-06"} 15
sched_runqueue_latency_seconds_bucket{cpu="0",le="+Inf"} 31
sched_runqueue_latency_seconds_count{cpu="0"} 31
sched_runqueue_latency_seconds_sum{cpu="0"} 0.000001021
sched_exporter_unattributed_seconds_total{cpu="0"} 0.000001022
sched_exporter_missed_switches_total{cpu="0"} 1020
"#;

    /// Samples of both CPUs.
    const OF_SUMS: &str = r#"sched_cpu_seconds_total{mode="idle"} 0.000003
sched_cpu_seconds_total{mode="kthread"} 0.000003002
sched_cpu_seconds_total{mode="fair"} 0.000003004
sched_cpu_seconds_total{mode="batch"} 0.000003006
sched_cpu_seconds_total{mode="idle_policy"} 0.000003008
sched_cpu_seconds_total{mode="realtime"} 0.00000301
sched_cpu_seconds_total{mode="deadline"} 0.000003012
sched_cpu_seconds_total{mode="ext"} 0.000003014
sched_context_switches_total{reason="voluntary"} 3020
sched_context_switches_total{reason="preempted"} 3022
sched_context_switches_total{reason="idle"} 3024
sched_runqueue_latency_seconds_bucket{le="9.5367431640625e-07"} 3
sched_runqueue_latency_seconds_bucket{le="1.9073486328125e-06"} 9
sched_runqueue_latency_seconds_bucket{le="3.814697265625e-06"} 9
sched_runqueue_latency_seconds_bucket{le="7.62939453125e-06"} 45
sched_runqueue_latency_seconds_bucket{le="+Inf"} 93
sched_runqueue_latency_seconds_count 93
sched_runqueue_latency_seconds_sum 0.000003042
sched_exporter_unattributed_seconds_total 0.000003044
sched_exporter_missed_switches_total 3040
"#;

    /// Samples of the exporter.
    const OF_NONE: &str = r#"sched_exporter_config_info{sha256="5a"} 1
sched_exporter_config_generation 1
sched_exporter_program_attached{hook="sched_switch"} 1
sched_exporter_feature_enabled{feature="context_switches",reason=""} 1
sched_exporter_feature_enabled{feature="runqueue_latency",reason=""} 1
sched_exporter_feature_enabled{feature="other",reason="why"} 0
sched_exporter_torn_reads_total 5
sched_exporter_log_messages_total{level="error"} 3
sched_exporter_log_messages_total{level="warn"} 4
sched_exporter_log_messages_dropped_total 6
process_threads 6
"#;

    #[test]
    fn each_number_of_a_cpu_is_in_its_place() {
        assert_eq!(shown(""), format!("{OF_CPU}{OF_NONE}"));
    }

    #[test]
    fn only_selected_families_are_shown() {
        let selection =
            Selection::of_names(&["sched_context_switches", "process_threads"]).unwrap();
        let is_switches = |line: &&str| line.starts_with("sched_context_switches_total");
        let switches: String = OF_CPU.split_inclusive('\n').filter(is_switches).collect();
        assert_eq!(selected("", &selection), format!("{switches}process_threads 6\n"));
    }

    #[test]
    fn sums_include_offline_cpus() {
        assert_eq!(shown("without: [cpu]"), format!("{OF_SUMS}{OF_NONE}"));
    }

    /// The families about cgroups: two sets, one of which has a quota, and the rest.
    #[test]
    fn sets_of_cgroups_have_their_own_start_and_other_comes_last() {
        let config = Config::parse("labels: {host: a}\ncgroups: {labels: {unit: b}}\n").unwrap();
        let (values, topology) = (Values::default(), Topology::of(vec![0]));
        let (generation, _) = Generation::new(&config, "5a", &values, &topology, SERIES);
        let totals = |cpu_ns| CgroupTotals {
            cpu_ns,
            wait_ns: cpu_ns + 1,
            waits: cpu_ns + 2,
            voluntary: cpu_ns + 3,
            preempted: cpu_ns + 4,
        };
        let counts = QuotaCounts { throttled_ns: 1_000, periods: 7, throttled_periods: 6 };
        let labels: Vec<Labels> =
            ["b", "c"].iter().map(|unit| [("unit", *unit)].into_iter().collect()).collect();
        let set = |index: usize, quotas| SetValues {
            labels: &labels[index],
            created_at: 2_500_000_000 + index as u64,
            values: SeriesValues { totals: totals(10 * (index as u64 + 1)), quotas },
        };
        let cgroups = Cgroups {
            values: CgroupValues {
                sets: vec![set(0, None), set(1, Some(Quotas { counts, cpus: Some(0.5) }))],
                other: SeriesValues { totals: totals(30), quotas: None },
                removed: totals(40),
                forgotten: totals(50),
            },
            epoch: 100.0,
            hierarchy: "v2",
            nameless: "",
            slots: 60,
            slots_used: 61,
            slots_refused: 62,
        };
        let features =
            [CGROUPS, CONTEXT_SWITCHES, RUNQUEUE_LATENCY].map(|name| Feature { name, off: None });
        let process = ProcessStats::default();
        let state = State {
            generation: &generation,
            features: &features,
            torn_reads: 0,
            log_messages: [("error", 0), ("warn", 0)],
            log_messages_dropped: 0,
            process: &process,
            process_began: None,
            cgroups: Some(&cgroups),
        };
        let encoder = Encoder::new(Format::OpenMetrics, 0, Some(1.0));
        let text = render(encoder, &Selection::ALL, &Snapshot::default(), state, &[]);
        let text: String = text
            .split_inclusive('\n')
            .filter(|line| {
                line.contains("cgroup") && !line.starts_with('#') && !line.contains("feature")
            })
            .filter(|line| !line.contains("reason=\"preempted"))
            .collect();
        assert_eq!(text, OF_CGROUPS);
    }

    const OF_CGROUPS: &str = r#"sched_cgroup_cpu_seconds_total{unit="b"} 0.00000001
sched_cgroup_cpu_seconds_created{unit="b"} 102.5
sched_cgroup_cpu_seconds_total{unit="c"} 0.00000002
sched_cgroup_cpu_seconds_created{unit="c"} 102.500000001
sched_cgroup_cpu_seconds_total{host="a",unit="other"} 0.00000003
sched_cgroup_cpu_seconds_created{host="a",unit="other"} 1
sched_cgroup_runqueue_latency_seconds_count{unit="b"} 12
sched_cgroup_runqueue_latency_seconds_sum{unit="b"} 0.000000011
sched_cgroup_runqueue_latency_seconds_created{unit="b"} 102.5
sched_cgroup_runqueue_latency_seconds_count{unit="c"} 22
sched_cgroup_runqueue_latency_seconds_sum{unit="c"} 0.000000021
sched_cgroup_runqueue_latency_seconds_created{unit="c"} 102.500000001
sched_cgroup_runqueue_latency_seconds_count{host="a",unit="other"} 32
sched_cgroup_runqueue_latency_seconds_sum{host="a",unit="other"} 0.000000031
sched_cgroup_runqueue_latency_seconds_created{host="a",unit="other"} 1
sched_cgroup_context_switches_total{unit="b",reason="voluntary"} 13
sched_cgroup_context_switches_created{unit="b",reason="voluntary"} 102.5
sched_cgroup_context_switches_total{unit="c",reason="voluntary"} 23
sched_cgroup_context_switches_created{unit="c",reason="voluntary"} 102.500000001
sched_cgroup_context_switches_total{host="a",unit="other",reason="voluntary"} 33
sched_cgroup_context_switches_created{host="a",unit="other",reason="voluntary"} 1
sched_cgroup_throttled_seconds_total{unit="c"} 0.000001
sched_cgroup_throttled_seconds_created{unit="c"} 102.500000001
sched_cgroup_periods_total{unit="c"} 7
sched_cgroup_periods_created{unit="c"} 102.500000001
sched_cgroup_throttled_periods_total{unit="c"} 6
sched_cgroup_throttled_periods_created{unit="c"} 102.500000001
sched_cgroup_quota_cpus{unit="c"} 0.5
sched_exporter_cgroup_hierarchy_info{version="v2",reason=""} 1
sched_exporter_cgroup_slots 60
sched_exporter_cgroup_slots_used 61
sched_exporter_cgroup_slots_refused_total 62
sched_exporter_cgroup_slots_refused_created 1
sched_exporter_cgroup_removed_seconds_total 0.00000004
sched_exporter_cgroup_removed_seconds_created 1
sched_exporter_cgroup_forgotten_seconds_total 0.00000005
sched_exporter_cgroup_forgotten_seconds_created 1
"#;
}
