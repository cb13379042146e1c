//! The catalog: one row for each metric family. HELP texts, docs/metrics.md, what a scrape writes and
//! can select, the limits on series and the registration of the daemon's own metrics all follow from it.

use sched_exporter_ebpf::{HOOK, Totals};

use crate::{
    accounting::{
        CGROUPS, CONTEXT_SWITCHES, CgroupValues, Cpu, Feature, RUNQUEUE_LATENCY, SeriesValues,
        is_on,
    },
    exposition::{self, Kind, Value},
    generation::Generation,
    labels::SeriesCounts,
    metrics::process::ProcessStats,
};

/// A metric family.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// The name without `_total` or `_info`. If the family has a unit, the name ends in it.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its HELP text.
    pub help: &'static str,
    /// Names of its own labels, besides those of the configuration.
    pub labels: &'static [&'static str],
    /// The feature that it requires, if any, besides that of its source; it is left out while one is off.
    pub feature: Option<&'static str>,
    /// Where its samples come from.
    pub source: Source,
}

/// Where the samples of a family come from.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// The host's labels, if the configuration puts them into `target_info`.
    Target,
    /// A range of the totals of each group of CPUs, under the group's labels.
    Totals {
        /// Selects the range.
        of: fn(&Totals) -> &[u64],
        /// The label pair of each total in the range, as written in the exposition; `""` for none.
        pairs: &'static [&'static str],
        /// Converts a total to the value of its sample.
        value: fn(u64) -> Value,
    },
    /// The run-queue waits of each group of CPUs.
    Waits,
    /// Samples of each set of cgroups, under the set's labels: for each, its label pair, `""` for none, and
    /// its value, `None` if the set has none.
    Cgroups(&'static [(&'static str, CgroupValue)]),
    /// The run-queue waits of each set of cgroups.
    CgroupWaits,
    /// A number for each CPU, with `cpu` as the only label.
    Cpu {
        /// Selects the number; `None` if the CPU has none.
        of: fn(&Cpu) -> Option<u64>,
        /// Converts the number to the value of its sample.
        value: fn(u64) -> Value,
    },
    /// Nanoseconds that no set of cgroups shows.
    CgroupRest(fn(&CgroupValues<'_, exposition::Labels>) -> u64),
    /// The state of the exporter itself.
    State(fn(State<'_>, &mut WriteSample<'_>)),
    /// The metrics of the process. The family is left out if its value cannot be read.
    Process(fn(&ProcessStats) -> Option<Value>),
    /// The `prometheus` crate, through [`super::telemetry`].
    Registry,
}

/// Selects a value of a set of cgroups.
pub type CgroupValue = fn(&SeriesValues) -> Option<Value>;

/// Writes a sample, given its label pairs and its value.
pub type WriteSample<'a> = dyn FnMut(&[(&str, &str)], u64) + 'a;

/// The state that [`Source::State`] reads.
#[derive(Clone, Copy, Debug)]
pub struct State<'a> {
    /// The generation that the exposition is rendered under.
    pub generation: &'a Generation,
    /// Every feature, on or off.
    pub features: &'a [Feature],
    /// Records read again; see `kernel::scheduler::Scheduler::torn_reads`.
    pub torn_reads: u64,
    /// Messages by level; see `os::log::LogCounts`.
    pub log_messages: [(&'static str, u64); 2],
    /// Lines of the log that were dropped.
    pub log_messages_dropped: u64,
    /// The metrics of the process.
    pub process: &'a ProcessStats,
    /// When the counters of the process began, in seconds since the epoch; `None` if all others began then, too.
    pub process_began: Option<f64>,
    /// The cgroups; `None` if they are not accounted for.
    pub cgroups: Option<&'a Cgroups<'a>>,
}

/// What a scrape shows of cgroups.
#[derive(Debug)]
pub struct Cgroups<'a> {
    /// The sets and the rest.
    pub values: CgroupValues<'a, exposition::Labels>,
    /// When each set started, in seconds since the epoch, is this plus its nanoseconds.
    pub epoch: f64,
    /// The hierarchy that they are from: `v1` or `v2`.
    pub hierarchy: &'static str,
    /// Why they have no names, or not all of them; empty if they have.
    pub nameless: &'a str,
    /// The number of slots.
    pub slots: u64,
    /// How many of them are in use.
    pub slots_used: u64,
    /// Times that a cgroup found none.
    pub slots_refused: u64,
}

impl Family {
    /// The name to use in a query; the samples of a histogram have further suffixes.
    pub fn sample_name(&self) -> String {
        self.metadata().sample_name()
    }

    /// The metadata that an exposition writes before its samples.
    pub const fn metadata(&self) -> exposition::Family<'static> {
        exposition::Family { name: self.name, kind: self.kind, help: self.help }
    }

    /// Whether the features that it depends on are on.
    pub fn is_on(&self, features: &[Feature]) -> bool {
        let of_source = self.is_of_cgroups().then_some(CGROUPS);
        self.feature.into_iter().chain(of_source).all(|name| is_on(features, name))
    }

    /// Whether its counters begin at zero with each process, although others may continue.
    pub fn is_of_process(&self) -> bool {
        match self.source {
            Source::State(_) => self.name != CGROUP_SLOTS_REFUSED.name,
            Source::Process(_) | Source::Registry => true,
            _ => false,
        }
    }

    /// Whether its samples are about cgroups.
    pub const fn is_of_cgroups(&self) -> bool {
        matches!(self.source, Source::Cgroups(_) | Source::CgroupWaits | Source::CgroupRest(_))
    }
}

/// Writes a number about cgroups, if they are accounted for.
fn of_cgroups(state: State<'_>, sample: &mut WriteSample<'_>, number: fn(&Cgroups<'_>) -> u64) {
    if let Some(cgroups) = state.cgroups {
        sample(&[], number(cgroups));
    }
}

/// The number of series of one set of labels.
pub const SERIES: SeriesCounts = {
    let (mut totals, mut cgroup) = (0, 0);
    let mut row = 0;
    while row < ALL.len() {
        match ALL[row].source {
            Source::Totals { pairs, .. } => totals += pairs.len(),
            Source::Cgroups(samples) => cgroup += samples.len(),
            // The count and the sum.
            Source::CgroupWaits => cgroup += 2,
            _ => {}
        }
        row += 1;
    }
    // Besides its buckets, a histogram has the bucket `+Inf`, the count and the sum.
    SeriesCounts { totals, latency: 3, cgroup }
};

/// The pairs of a label, as written in the exposition: `pairs!("mode": "idle")` is `["mode=\"idle\""]`.
macro_rules! pairs {
    ($label:literal: $($value:literal),+) => {
        &[$(concat!($label, "=\"", $value, "\"")),+]
    };
}

macro_rules! catalog {
    ($($row:ident: $family:expr;)+) => {
        $(pub(super) const $row: Family = $family;)+

        /// Every family, in the order of the exposition.
        pub const ALL: &[&Family] = &[$(&$row),+];
    };
}

catalog! {
    TARGET: Family {
        name: "target",
        kind: Kind::Info,
        help: "Labels of the host, if labels_on in the configuration is target_info or both.",
        labels: &[],
        feature: None,
        source: Source::Target,
    };
    CPU_SECONDS: Family {
        name: "sched_cpu_seconds",
        kind: Kind::Counter,
        help: "Time that each CPU spent in each mode, to the nanosecond, including the interval still \
               open. A CPU is in the mode of the task that is current on it: idle (the idle task), \
               kthread (kernel threads), or a user task by class: fair, batch, idle_policy, realtime, \
               deadline, ext. The modes add up to the time that the CPU was online.",
        labels: &["cpu", "mode"],
        feature: None,
        source: Source::Totals {
            of: |totals| &totals.mode_ns,
            pairs: pairs!("mode": "idle", "kthread", "fair", "batch", "idle_policy", "realtime",
                "deadline", "ext"),
            value: Value::Nanoseconds,
        },
    };
    CONTEXT_SWITCHES_BY_REASON: Family {
        name: "sched_context_switches",
        kind: Kind::Counter,
        help: "Context switches of each CPU by reason: voluntary (the task blocked), preempted (it was \
               still runnable), idle (the CPU left its idle task).",
        labels: &["cpu", "reason"],
        feature: Some(CONTEXT_SWITCHES),
        source: Source::Totals {
            of: |totals| &totals.switches,
            pairs: pairs!("reason": "voluntary", "preempted", "idle"),
            value: Value::Integer,
        },
    };
    LATENCY: Family {
        name: "sched_runqueue_latency_seconds",
        kind: Kind::Histogram,
        help: "Time that tasks waited on a CPU's run queue until that CPU ran them: the amount that the \
               kernel adds to their run_delay at that switch.",
        labels: &["cpu", "le"],
        feature: Some(RUNQUEUE_LATENCY),
        source: Source::Waits,
    };
    CGROUP_CPU_SECONDS: Family {
        name: "sched_cgroup_cpu_seconds",
        kind: Kind::Counter,
        help: "CPU time of the tasks in each set of cgroups, to the nanosecond, including the interval \
               still open. With sched_exporter_cgroup_removed_seconds_total and \
               sched_exporter_cgroup_forgotten_seconds_total, the sets add up to the time of all CPUs in \
               modes other than idle.",
        labels: &[],
        feature: None,
        source: Source::Cgroups(&[("", |set| Some(Value::Nanoseconds(set.totals.cpu_ns)))]),
    };
    CGROUP_LATENCY: Family {
        name: "sched_cgroup_runqueue_latency_seconds",
        kind: Kind::Summary,
        help: "Time that the tasks in each set of cgroups waited on a CPU's run queue until that CPU ran \
               them.",
        labels: &[],
        feature: Some(RUNQUEUE_LATENCY),
        source: Source::CgroupWaits,
    };
    CGROUP_SWITCHES: Family {
        name: "sched_cgroup_context_switches",
        kind: Kind::Counter,
        help: "Context switches away from the tasks in each set of cgroups by reason: voluntary (the task \
               blocked), preempted (it was still runnable).",
        labels: &["reason"],
        feature: Some(CONTEXT_SWITCHES),
        source: Source::Cgroups(&[
            ("reason=\"voluntary\"", |set| Some(Value::Integer(set.totals.voluntary))),
            ("reason=\"preempted\"", |set| Some(Value::Integer(set.totals.preempted))),
        ]),
    };
    CGROUP_THROTTLED_SECONDS: Family {
        name: "sched_cgroup_throttled_seconds",
        kind: Kind::Counter,
        help: "Time that the cgroups of each set could not run because their own CPU quota was used up, \
               on all CPUs together, as the kernel reports it; read every 5 seconds while there are \
               scrapes. Sets in which no cgroup has had a quota are left out.",
        labels: &[],
        feature: None,
        source: Source::Cgroups(&[("", |set| {
            Some(Value::Nanoseconds(set.quotas?.counts.throttled_ns))
        })]),
    };
    CGROUP_PERIODS: Family {
        name: "sched_cgroup_periods",
        kind: Kind::Counter,
        help: "Periods of the CPU quotas of each set of cgroups in which tasks were runnable.",
        labels: &[],
        feature: None,
        source: Source::Cgroups(&[("", |set| Some(Value::Integer(set.quotas?.counts.periods)))]),
    };
    CGROUP_THROTTLED_PERIODS: Family {
        name: "sched_cgroup_throttled_periods",
        kind: Kind::Counter,
        help: "Periods in which a cgroup of each set used up its CPU quota.",
        labels: &[],
        feature: None,
        source: Source::Cgroups(&[("", |set| {
            Some(Value::Integer(set.quotas?.counts.throttled_periods))
        })]),
    };
    CGROUP_QUOTA_CPUS: Family {
        name: "sched_cgroup_quota_cpus",
        kind: Kind::Gauge,
        help: "CPU quota of each set of cgroups, in CPUs: the sum of the quotas of its cgroups, without \
               those that have none.",
        labels: &[],
        feature: None,
        source: Source::Cgroups(&[("", |set| set.quotas?.cpus.map(Value::Float))]),
    };
    UNATTRIBUTED: Family {
        name: "sched_exporter_unattributed_seconds",
        kind: Kind::Counter,
        help: "Time of each CPU since attach that is charged to no mode: before its first switch, and \
               while it was offline.",
        labels: &["cpu"],
        feature: None,
        source: Source::Cpu { of: |cpu| Some(cpu.unattributed_ns), value: Value::Nanoseconds },
    };
    MISSED_SWITCHES: Family {
        name: "sched_exporter_missed_switches",
        kind: Kind::Counter,
        help: "Switches of each CPU that the kernel's hook did not report, detected because the next \
               switch left an unexpected task. Their time is charged to the mode before them.",
        labels: &["cpu"],
        feature: None,
        source: Source::Cpu {
            of: |cpu| Some(cpu.totals.as_ref()?.missed_switches),
            value: Value::Integer,
        },
    };
    CGROUP_HIERARCHY: Family {
        name: "sched_exporter_cgroup_hierarchy",
        kind: Kind::Info,
        help: "Version of the cgroup hierarchy that is accounted for; reason says why some or all cgroups \
               have no names, and so belong to the set other.",
        labels: &["version", "reason"],
        feature: Some(CGROUPS),
        source: Source::State(|state, sample| {
            let Some(cgroups) = state.cgroups else { return };
            sample(&[("version", cgroups.hierarchy), ("reason", cgroups.nameless)], 1);
        }),
    };
    CGROUP_SLOTS: Family {
        name: "sched_exporter_cgroup_slots",
        kind: Kind::Gauge,
        help: "Number of cgroups that can be accounted for at the same time.",
        labels: &[],
        feature: Some(CGROUPS),
        source: Source::State(|state, sample| of_cgroups(state, sample, |it| it.slots)),
    };
    CGROUP_SLOTS_USED: Family {
        name: "sched_exporter_cgroup_slots_used",
        kind: Kind::Gauge,
        help: "Number of cgroups that are accounted for.",
        labels: &[],
        feature: Some(CGROUPS),
        source: Source::State(|state, sample| of_cgroups(state, sample, |it| it.slots_used)),
    };
    CGROUP_SLOTS_REFUSED: Family {
        name: "sched_exporter_cgroup_slots_refused",
        kind: Kind::Counter,
        help: "Times that a cgroup asked for a slot when none was free; its time is in the set other. A \
               CPU asks at most once a second.",
        labels: &[],
        feature: Some(CGROUPS),
        source: Source::State(|state, sample| of_cgroups(state, sample, |it| it.slots_refused)),
    };
    CGROUP_REMOVED_SECONDS: Family {
        name: "sched_exporter_cgroup_removed_seconds",
        kind: Kind::Counter,
        help: "CPU time of tasks that still ran when their cgroup was already removed, such as those that \
               were exiting.",
        labels: &[],
        feature: None,
        source: Source::CgroupRest(|values| values.removed.cpu_ns),
    };
    CGROUP_FORGOTTEN_SECONDS: Family {
        name: "sched_exporter_cgroup_forgotten_seconds",
        kind: Kind::Counter,
        help: "CPU time that sets of cgroups had counted when their series ended.",
        labels: &[],
        feature: None,
        source: Source::CgroupRest(|values| values.forgotten.cpu_ns),
    };
    BUILD: Family {
        name: "sched_exporter_build",
        kind: Kind::Info,
        help: "Version, revision and target of this exporter.",
        labels: &["version", "revision", "target"],
        feature: None,
        source: Source::State(|_, sample| {
            let version = ("version", env!("CARGO_PKG_VERSION"));
            sample(&[version, ("revision", env!("REVISION")), ("target", env!("TARGET"))], 1);
        }),
    };
    CONFIG: Family {
        name: "sched_exporter_config",
        kind: Kind::Info,
        help: "SHA-256 of the configuration file that this exposition was rendered from.",
        labels: &["sha256"],
        feature: None,
        source: Source::State(|state, sample| sample(&[("sha256", &state.generation.sha256)], 1)),
    };
    GENERATION: Family {
        name: "sched_exporter_config_generation",
        kind: Kind::Gauge,
        help: "Number of the configuration generation that this exposition was rendered from: 1 at \
               start, plus 1 for each reload that changed the configuration or the values of its labels.",
        labels: &[],
        feature: None,
        source: Source::State(|state, sample| sample(&[], state.generation.number)),
    };
    ATTACHED: Family {
        name: "sched_exporter_program_attached",
        kind: Kind::Gauge,
        help: "1 for each hook that a BPF program is attached to; the exporter exits if it cannot attach.",
        labels: &["hook"],
        feature: None,
        source: Source::State(|_, sample| sample(&[("hook", HOOK)], 1)),
    };
    FEATURE_ENABLED: Family {
        name: "sched_exporter_feature_enabled",
        kind: Kind::Gauge,
        help: "Whether each feature of the kernel program is on (1) or off (0); reason says why it is \
               off.",
        labels: &["feature", "reason"],
        feature: None,
        source: Source::State(|state, sample| {
            for Feature { name, off } in state.features {
                let reason = off.as_deref().unwrap_or_default();
                sample(&[("feature", name), ("reason", reason)], u64::from(off.is_none()));
            }
        }),
    };
    TORN_READS: Family {
        name: "sched_exporter_torn_reads",
        kind: Kind::Counter,
        help: "Records read again because their CPU switched tasks during the read.",
        labels: &[],
        feature: None,
        source: Source::State(|state, sample| sample(&[], state.torn_reads)),
    };
    LOG_MESSAGES: Family {
        name: "sched_exporter_log_messages",
        kind: Kind::Counter,
        help: "Messages at the levels error and warn, including those that the log left out because \
               they were too frequent, or dropped.",
        labels: &["level"],
        feature: None,
        source: Source::State(|state, sample| {
            for (level, lines) in state.log_messages {
                sample(&[("level", level)], lines);
            }
        }),
    };
    LOG_MESSAGES_DROPPED: Family {
        name: "sched_exporter_log_messages_dropped",
        kind: Kind::Counter,
        help: "Lines of the log that were dropped because standard error was not read in time, or could \
               not be written to.",
        labels: &[],
        feature: None,
        source: Source::State(|state, sample| sample(&[], state.log_messages_dropped)),
    };
    CAPABILITY_KEPT: Family {
        name: "sched_exporter_capability_kept",
        kind: Kind::Gauge,
        help: "Whether the exporter still holds each capability that loading its program can require. \
               It drops all capabilities after loading; before Linux 5.19, writing a map can \
               require one.",
        labels: &["capability"],
        feature: None,
        source: Source::Registry,
    };
    PROTECTION_ENABLED: Family {
        name: "sched_exporter_protection_enabled",
        kind: Kind::Gauge,
        help: "Whether a protection of the exporter's process is in force: landlock, no_new_privs, \
               not_dumpable or seccomp.",
        labels: &["protection"],
        feature: None,
        source: Source::Registry,
    };
    LAST_RELOAD_SUCCESSFUL: Family {
        name: "sched_exporter_config_last_reload_successful",
        kind: Kind::Gauge,
        help: "Whether the last attempt to load the configuration succeeded.",
        labels: &[],
        feature: None,
        source: Source::Registry,
    };
    LAST_RELOAD_SUCCESS_TIMESTAMP: Family {
        name: "sched_exporter_config_last_reload_success_timestamp_seconds",
        kind: Kind::Gauge,
        help: "When the configuration was last loaded successfully, in seconds since the epoch.",
        labels: &[],
        feature: None,
        source: Source::Registry,
    };
    WEB_CONFIG_LAST_RELOAD_SUCCESSFUL: Family {
        name: "sched_exporter_web_config_last_reload_successful",
        kind: Kind::Gauge,
        help: "Whether the web configuration and the certificates in it are valid as they are (1 or 0). While it \
               is 0, the last valid ones apply. Left out without --web.config.file.",
        labels: &[],
        feature: None,
        source: Source::Registry,
    };
    WEB_CONFIG_LAST_RELOAD_SUCCESS_TIMESTAMP: Family {
        name: "sched_exporter_web_config_last_reload_success_timestamp_seconds",
        kind: Kind::Gauge,
        help: "When the web configuration and the certificates in it were last read and valid, in seconds since \
               the epoch. Left out without --web.config.file.",
        labels: &[],
        feature: None,
        source: Source::Registry,
    };
    RELOADS: Family {
        name: "sched_exporter_config_reloads",
        kind: Kind::Counter,
        help: "Configuration reloads by outcome: applied, unchanged (the file is already being served), \
               failed (the last good file is kept).",
        labels: &["outcome"],
        feature: None,
        source: Source::Registry,
    };
    HTTP_REQUESTS: Family {
        name: "sched_exporter_http_requests",
        kind: Kind::Counter,
        help: "HTTP requests answered, by path and status code; unknown paths count as other.",
        labels: &["path", "code"],
        feature: None,
        source: Source::Registry,
    };
    CONNECTIONS_OPEN: Family {
        name: "sched_exporter_connections_open",
        kind: Kind::Gauge,
        help: "Open connections of clients, including this one.",
        labels: &[],
        feature: None,
        source: Source::Registry,
    };
    CONNECTIONS_CLOSED: Family {
        name: "sched_exporter_connections_closed",
        kind: Kind::Counter,
        help: "Connections that the exporter closed or lost early, by reason: evicted (to make room for \
               another), refused (all others are busy), timeout (the client took too long to send a \
               request or to read its answer), error (a malformed request, or a failed read or write).",
        labels: &["reason"],
        feature: None,
        source: Source::Registry,
    };
    LABEL_SOURCE_UP: Family {
        name: "sched_exporter_label_source_up",
        kind: Kind::Gauge,
        help: "Whether the last read of each source of label values that a template names succeeded; likewise of \
               each container runtime (by the URL of its socket) and of the Kubernetes API (kubernetes-pods) \
               that is asked for the names of containers.",
        labels: &["source"],
        feature: None,
        source: Source::Registry,
    };
    LABELS_REJECTED: Family {
        name: "sched_exporter_labels_rejected",
        kind: Kind::Counter,
        help: "Labels dropped or replaced because of the values of their sources or the names of cgroups, \
               by reason: a template that cannot be rendered or an invalid name (dropped), or a limit \
               (dropped, or replaced by other). A configuration that gives such labels to the host or \
               to a CPU when it is loaded is rejected.",
        labels: &["reason"],
        feature: None,
        source: Source::Registry,
    };
    SCRAPE_DURATION: Family {
        name: "sched_exporter_scrape_duration_seconds",
        kind: Kind::Histogram,
        help: "Time to read the kernel's maps and render an exposition, excluding this scrape.",
        labels: &["le"],
        feature: None,
        source: Source::Registry,
    };
    SCRAPES_IN_FLIGHT: Family {
        name: "sched_exporter_scrapes_in_flight",
        kind: Kind::Gauge,
        help: "Scrapes rendered but not yet fully sent, excluding this one.",
        labels: &[],
        feature: None,
        source: Source::Registry,
    };
    PROCESS_METRICS_ERRORS: Family {
        name: "sched_exporter_process_metrics_errors",
        kind: Kind::Counter,
        help: "Scrapes without the families named process_*, because the exporter could not read \
               them, e.g. when file descriptors are used up; the log says why.",
        labels: &[],
        feature: None,
        source: Source::Registry,
    };
    // Names and texts are those of Prometheus's client libraries.
    // https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics
    PROCESS_CPU_SECONDS: Family {
        name: "process_cpu_seconds",
        kind: Kind::Counter,
        help: "Total user and system CPU time spent in seconds.",
        labels: &[],
        feature: None,
        source: Source::Process(|process| Some(Value::Float(process.cpu_seconds?))),
    };
    PROCESS_MAX_FDS: Family {
        name: "process_max_fds",
        kind: Kind::Gauge,
        help: "Maximum number of open file descriptors.",
        labels: &[],
        feature: None,
        source: Source::Process(|process| Some(Value::Integer(process.max_fds?))),
    };
    PROCESS_OPEN_FDS: Family {
        name: "process_open_fds",
        kind: Kind::Gauge,
        help: "Number of open file descriptors.",
        labels: &[],
        feature: None,
        source: Source::Process(|process| Some(Value::Integer(process.open_fds?))),
    };
    PROCESS_RESIDENT_MEMORY: Family {
        name: "process_resident_memory_bytes",
        kind: Kind::Gauge,
        help: "Resident memory size in bytes.",
        labels: &[],
        feature: None,
        source: Source::Process(|process| Some(Value::Integer(process.resident_bytes?))),
    };
    PROCESS_START_TIME: Family {
        name: "process_start_time_seconds",
        kind: Kind::Gauge,
        help: "Start time of the process since unix epoch in seconds.",
        labels: &[],
        feature: None,
        source: Source::Process(|process| Some(Value::Integer(process.start_time?))),
    };
    PROCESS_THREADS: Family {
        name: "process_threads",
        kind: Kind::Gauge,
        help: "Number of OS threads in the process.",
        labels: &[],
        feature: None,
        source: Source::Process(|process| Some(Value::Integer(process.threads?))),
    };
    PROCESS_VIRTUAL_MEMORY: Family {
        name: "process_virtual_memory_bytes",
        kind: Kind::Gauge,
        help: "Virtual memory size in bytes.",
        labels: &[],
        feature: None,
        source: Source::Process(|process| Some(Value::Integer(process.virtual_bytes?))),
    };
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::accounting::Counters as _;

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<_> = ALL.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn each_total_has_a_label_pair() {
        for family in ALL {
            if let Source::Totals { of, pairs, .. } = family.source {
                assert_eq!(of(&Totals::ZERO).len(), pairs.len(), "{}", family.name);
            }
        }
    }
}
