//! What is shown: the name, help and kind of every family that this exporter writes itself, and how
//! a snapshot under one generation of the configuration fills them. Pure.

use sched_exporter_ebpf::{HOOK, Mode, Reason, WAIT_BUCKETS};

use crate::{
    accounting::{
        groups::Group,
        snapshot::{Cpu, Snapshot},
    },
    exposition::{Encoder, Family, Kind, Labels, Value},
    generation::Generation,
    kernel::layout::{CONTEXT_SWITCHES, Feature, RUNQUEUE_LATENCY},
    labels::series,
};

const TARGET: Family<'_> = Family {
    name: "target",
    kind: Kind::Info,
    help: "The labels of the host, with labels_on: target_info or both in the configuration.",
};

const CPU_SECONDS: Family<'_> = Family {
    name: "sched_cpu_seconds",
    kind: Kind::Counter,
    help: "Time each CPU spent in each mode, to the nanosecond, the interval still open included. \
           A CPU is in the mode of the task that is current on it: idle (the idle task), kthread \
           (kernel threads), or a user task by class: fair, batch, idle_policy, realtime, \
           deadline, ext. The modes add up to the time the CPU was online.",
};

const SWITCHES: Family<'_> = Family {
    name: "sched_context_switches",
    kind: Kind::Counter,
    help: "Context switches of each CPU: voluntary (the task blocked), preempted (it was still \
           runnable), idle (the CPU left its idle task).",
};

const LATENCY: Family<'_> = Family {
    name: "sched_runqueue_latency_seconds",
    kind: Kind::Histogram,
    help: "Time tasks waited on a CPU's run queue until that CPU ran them: what the kernel adds to \
           their run_delay at that switch.",
};

const UNATTRIBUTED: Family<'_> = Family {
    name: "sched_exporter_unattributed_seconds",
    kind: Kind::Counter,
    help: "Time of each CPU since attach that is charged to no mode: before its first switch, and \
           while it was offline.",
};

const MISSED: Family<'_> = Family {
    name: "sched_exporter_missed_switches",
    kind: Kind::Counter,
    help: "Switches of each CPU that the kernel's hook did not report, found when the next one was \
           away from another task than expected. Their time is charged to the mode before them.",
};

const BUILD: Family<'_> = Family {
    name: "sched_exporter_build",
    kind: Kind::Info,
    help: "Version and target that this exporter was built for.",
};

const CONFIG: Family<'_> = Family {
    name: "sched_exporter_config",
    kind: Kind::Info,
    help: "SHA-256 of the configuration file that this exposition was rendered from.",
};

const GENERATION: Family<'_> = Family {
    name: "sched_exporter_config_generation",
    kind: Kind::Gauge,
    help: "Number of the generation that this exposition was rendered from: 1 at start, one more \
           with each reload that changed the configuration, and each change of its labels' values.",
};

const ATTACHED: Family<'_> = Family {
    name: "sched_exporter_program_attached",
    kind: Kind::Gauge,
    help: "1 for each hook that a BPF program is attached to; the exporter does not run without.",
};

const FEATURE: Family<'_> = Family {
    name: "sched_exporter_feature_enabled",
    kind: Kind::Gauge,
    help: "Whether each feature of the kernel program is on (1) or off (0), and why it is off.",
};

const TORN_READS: Family<'_> = Family {
    name: "sched_exporter_torn_reads",
    kind: Kind::Counter,
    help: "Records read again because the CPU switched tasks during the read.",
};

const LOG_MESSAGES: Family<'_> = Family {
    name: "sched_exporter_log_messages",
    kind: Kind::Counter,
    help: "Lines of the levels error and warn that were logged.",
};

/// Every family that this module writes, with its labels, in the order of the exposition.
pub const ALL: [(Family<'_>, &[&str]); 13] = [
    (TARGET, &[]),
    (CPU_SECONDS, &["cpu", "mode"]),
    (SWITCHES, &["cpu", "reason"]),
    (LATENCY, &["cpu", "le"]),
    (UNATTRIBUTED, &["cpu"]),
    (MISSED, &["cpu"]),
    (BUILD, &["version", "revision", "target"]),
    (CONFIG, &["sha256"]),
    (GENERATION, &[]),
    (ATTACHED, &["hook"]),
    (FEATURE, &["feature", "reason"]),
    (TORN_READS, &[]),
    (LOG_MESSAGES, &["level"]),
];

/// What the exporter says of itself beside the snapshot.
#[derive(Clone, Copy, Debug)]
pub struct SelfState<'a> {
    /// Every feature, on or off.
    pub features: &'a [Feature],
    /// See [`crate::kernel::scheduler::Scheduler::torn_reads`].
    pub torn_reads: u64,
    /// See [`crate::os::log::LogCounts::read`].
    pub log_messages: [(&'static str, u64); 2],
}

/// The label pair of each mode, in the order of [`Mode::ALL`].
const MODES: [&str; Mode::ALL.len()] = [
    "mode=\"idle\"",
    "mode=\"kthread\"",
    "mode=\"fair\"",
    "mode=\"batch\"",
    "mode=\"idle_policy\"",
    "mode=\"realtime\"",
    "mode=\"deadline\"",
    "mode=\"ext\"",
];

/// The label pair of each reason, in the order of [`Reason::ALL`].
const REASONS: [&str; Reason::ALL.len()] =
    ["reason=\"voluntary\"", "reason=\"preempted\"", "reason=\"idle\""];

/// Bytes that the text needs at most under a generation on so many CPUs, or little more.
pub fn capacity(cpus: usize, generation: &Generation) -> usize {
    const LINE: usize = 96;
    const FIXED: usize = 16 * 1024;
    let (of_group, of_latency) = series(generation.bounds.len());
    let bytes = |groups: &[Group], series: usize| {
        // A group of one CPU may be shown or not; one of those is as long as another.
        let label_bytes = groups.iter().map(|group| LINE + group.labels().len()).max();
        groups.len().min(cpus) * series * label_bytes.unwrap_or_default()
    };
    let labels = &generation.labels;
    FIXED
        + 2 * cpus * LINE
        + bytes(labels.groups.as_slice(), of_group)
        + bytes(labels.latency.as_slice(), of_latency)
        + labels.target_info.as_ref().map_or(0, Labels::len)
}

/// Writes `target_info`, which comes before all others, where the configuration asks for it.
/// <https://prometheus.io/docs/specs/om/open_metrics_spec/#supporting-target-metadata-in-both-push-based-and-pull-based-systems>
pub fn write_target(encoder: &mut Encoder<'_>, generation: &Generation) {
    if let Some(labels) = &generation.labels.target_info {
        encoder.family(TARGET);
        encoder.sample(labels, "", Value::Integer(1));
    }
}

/// Writes the scheduler's families, each series with the labels of its group.
pub fn write_scheduler(
    encoder: &mut Encoder<'_>,
    snapshot: &Snapshot,
    generation: &Generation,
    features: &[Feature],
) {
    let on = |name| features.iter().any(|feature| feature.name == name && feature.off.is_none());
    let Generation { labels, bounds, .. } = generation;

    encoder.family(CPU_SECONDS);
    for group in labels.groups.as_slice() {
        group.with_times(snapshot, |times| {
            for (mode, ns) in MODES.iter().zip(times.mode_ns) {
                encoder.sample(group.labels(), mode, Value::Nanoseconds(ns));
            }
        });
    }
    if on(CONTEXT_SWITCHES) {
        encoder.family(SWITCHES);
        for group in labels.groups.as_slice() {
            group.with_times(snapshot, |times| {
                for (reason, switches) in REASONS.iter().zip(times.switches) {
                    encoder.sample(group.labels(), reason, Value::Integer(switches));
                }
            });
        }
    }
    if on(RUNQUEUE_LATENCY) {
        encoder.family(LATENCY);
        for group in labels.latency.as_slice() {
            group.with_times(snapshot, |times| {
                let (buckets, sum_ns) = (&times.wait_buckets, times.wait_ns);
                write_waits(encoder, group.labels(), bounds, buckets, sum_ns);
            });
        }
    }
}

/// Kernel bucket `i` holds the waits above `2^(i-1)` ns and up to `2^i` ns, so that those up to
/// `2^e` ns are the buckets up to and with `e`.
fn write_waits(
    encoder: &mut Encoder<'_>,
    labels: &Labels,
    bounds: &[(u32, String)],
    buckets: &[u64; WAIT_BUCKETS],
    sum_ns: u64,
) {
    let mut cumulative = 0;
    let mut next = 0;
    let up_to = bounds.iter().map(|(exponent, le)| {
        while next < WAIT_BUCKETS && next <= *exponent as usize {
            cumulative += buckets[next];
            next += 1;
        }
        (le.as_str(), cumulative)
    });
    encoder.histogram(labels, up_to, Value::Nanoseconds(sum_ns), buckets.iter().sum());
}

/// Writes the families that the exporter has of itself beside those of [`crate::metrics::telemetry`].
pub fn write_own(
    encoder: &mut Encoder<'_>,
    snapshot: &Snapshot,
    generation: &Generation,
    condition: SelfState<'_>,
) {
    let unattributed = |cpu: &Cpu| Some(cpu.unattributed_ns);
    let missed = |cpu: &Cpu| Some(cpu.times.as_ref()?.missed_switches);
    encoder.family(UNATTRIBUTED);
    write_of_cpus(encoder, snapshot, generation, unattributed, Value::Nanoseconds);
    encoder.family(MISSED);
    write_of_cpus(encoder, snapshot, generation, missed, Value::Integer);
    let labels = Labels::default();
    let of = |pairs: &[(&'static str, &str)]| pairs.iter().copied().collect::<Labels>();
    encoder.family(BUILD);
    let build = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("revision", env!("REVISION")),
        ("target", env!("TARGET")),
    ];
    encoder.sample(&of(&build), "", Value::Integer(1));
    encoder.family(CONFIG);
    encoder.sample(&of(&[("sha256", &generation.sha256)]), "", Value::Integer(1));
    encoder.family(GENERATION);
    encoder.sample(&labels, "", Value::Integer(generation.number));
    encoder.family(ATTACHED);
    encoder.sample(&of(&[("hook", HOOK)]), "", Value::Integer(1));
    encoder.family(FEATURE);
    for Feature { name, off } in condition.features {
        let pairs = of(&[("feature", name), ("reason", off.as_deref().unwrap_or(""))]);
        encoder.sample(&pairs, "", Value::Integer(u64::from(off.is_none())));
    }
    encoder.family(TORN_READS);
    encoder.sample(&labels, "", Value::Integer(condition.torn_reads));
    encoder.family(LOG_MESSAGES);
    for (level, lines) in condition.log_messages {
        encoder.sample(&of(&[("level", level)]), "", Value::Integer(lines));
    }
}

/// Writes one number of each online CPU, or their sum with what offline CPUs have had.
fn write_of_cpus(
    encoder: &mut Encoder<'_>,
    snapshot: &Snapshot,
    generation: &Generation,
    number: impl Fn(&Cpu) -> Option<u64>,
    value: impl Fn(u64) -> Value,
) {
    if generation.labels.without_cpu {
        let sum = snapshot.cpus.iter().chain(&snapshot.offline).filter_map(number).sum();
        encoder.sample(&Labels::default(), "", value(sum));
        return;
    }
    // Room for any CPU: the number of allocations is not to depend on how many there are.
    let mut labels = Labels::with_capacity(16);
    for cpu in &snapshot.cpus {
        let Some(number) = number(cpu) else { continue };
        labels.truncate(0);
        labels.push("cpu", itoa::Buffer::new().format(cpu.id));
        encoder.sample(&labels, "", value(number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        accounting::snapshot::Times, config::Config, cpu::topology::Topology, exposition::Format,
        metrics::scrape::render, sources::Values,
    };

    /// No two numbers alike, so that each is seen where it belongs.
    fn cpu(id: u32) -> Cpu {
        let base = u64::from(id + 1) * 1_000;
        let mut times = Times::ZERO;
        times.mode_ns = std::array::from_fn(|mode| base + mode as u64);
        times.switches = std::array::from_fn(|reason| base + 10 + reason as u64);
        times.missed_switches = base + 20;
        times.wait_ns = base + 21;
        for (bucket, waits) in [(10, 1), (11, 2), (13, 4), (14, 8)] {
            times.wait_buckets[bucket] = waits * u64::from(id + 1);
        }
        Cpu { id, times: Some(times), unattributed_ns: base + 22 }
    }

    /// The samples of an online and an offline CPU, but for what the build is called.
    fn shown(config: &str) -> String {
        let buckets = "runqueue_latency: {buckets: {min: 1us, max: 8us, factor: 2}}";
        let config = Config::parse(&format!("{config}\n{buckets}\n")).unwrap();
        let (generation, _) =
            Generation::new(&config, "5a", &Values::default(), &Topology::of(vec![0, 1]));
        let snapshot = Snapshot { taken_at: 0, cpus: vec![cpu(0)], offline: vec![cpu(1)] };
        let features = [(CONTEXT_SWITCHES, None), (RUNQUEUE_LATENCY, None), ("other", Some("why"))];
        let features = features.map(|(name, off)| Feature { name, off: off.map(Into::into) });
        let log_messages = [("error", 3), ("warn", 4)];
        let condition = SelfState { features: &features, torn_reads: 5, log_messages };
        let encoder = Encoder::new(Format::OpenMetrics, 0, None);
        let text = render(encoder, &snapshot, &generation, condition, &[]);
        let is_shown = |line: &&str| !line.starts_with('#') && !line.contains("_build_");
        text.split_inclusive('\n').filter(is_shown).collect()
    }

    /// Of the online CPU.
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
sched_runqueue_latency_seconds_bucket{cpu="0",le="1.024e-06"} 1
sched_runqueue_latency_seconds_bucket{cpu="0",le="2.048e-06"} 3
sched_runqueue_latency_seconds_bucket{cpu="0",le="4.096e-06"} 3
sched_runqueue_latency_seconds_bucket{cpu="0",le="8.192e-06"} 7
sched_runqueue_latency_seconds_bucket{cpu="0",le="+Inf"} 15
sched_runqueue_latency_seconds_count{cpu="0"} 15
sched_runqueue_latency_seconds_sum{cpu="0"} 0.000001021
sched_exporter_unattributed_seconds_total{cpu="0"} 0.000001022
sched_exporter_missed_switches_total{cpu="0"} 1020
"#;

    /// Of both.
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
sched_runqueue_latency_seconds_bucket{le="1.024e-06"} 3
sched_runqueue_latency_seconds_bucket{le="2.048e-06"} 9
sched_runqueue_latency_seconds_bucket{le="4.096e-06"} 9
sched_runqueue_latency_seconds_bucket{le="8.192e-06"} 21
sched_runqueue_latency_seconds_bucket{le="+Inf"} 45
sched_runqueue_latency_seconds_count 45
sched_runqueue_latency_seconds_sum 0.000003042
sched_exporter_unattributed_seconds_total 0.000003044
sched_exporter_missed_switches_total 3040
"#;

    /// Of none.
    const OF_NONE: &str = r#"sched_exporter_config_info{sha256="5a"} 1
sched_exporter_config_generation 1
sched_exporter_program_attached{hook="sched_switch"} 1
sched_exporter_feature_enabled{feature="context_switches",reason=""} 1
sched_exporter_feature_enabled{feature="runqueue_latency",reason=""} 1
sched_exporter_feature_enabled{feature="other",reason="why"} 0
sched_exporter_torn_reads_total 5
sched_exporter_log_messages_total{level="error"} 3
sched_exporter_log_messages_total{level="warn"} 4
"#;

    #[test]
    fn each_number_of_a_cpu_is_where_it_belongs() {
        assert_eq!(shown(""), format!("{OF_CPU}{OF_NONE}"));
    }

    #[test]
    fn each_sum_has_what_offline_cpus_have_had() {
        assert_eq!(shown("without: [cpu]"), format!("{OF_SUMS}{OF_NONE}"));
    }
}
