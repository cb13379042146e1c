//! What is shown: the name, help and kind of every family that this exporter writes itself, and how
//! a snapshot under one generation of the configuration fills them. Pure.

use sched_exporter_ebpf::{HOOK, Mode, Reason, WAIT_BUCKETS};

use crate::{
    exposition::{Encoder, Family, Kind, Labels, Value},
    generation::Generation,
    groups::Group,
    labels::series,
    layout::{CONTEXT_SWITCHES, Feature, RUNQUEUE_LATENCY},
    snapshot::{Cpu, Snapshot},
};

const TARGET: Family<'_> = Family {
    name: "target",
    kind: Kind::Info,
    help: "The labels of the host, with attach: target_info or both in the configuration.",
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
pub struct Condition<'a> {
    /// Every feature, on or off.
    pub features: &'a [Feature],
    /// See [`crate::ebpf::Scheduler::torn_reads`].
    pub torn_reads: u64,
    /// See [`crate::log::LogCounts::read`].
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

/// Writes the families that the exporter has of itself beside those of [`crate::telemetry`].
pub fn write_own(
    encoder: &mut Encoder<'_>,
    snapshot: &Snapshot,
    generation: &Generation,
    condition: Condition<'_>,
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
