//! The families that a scrape asks for. Pure.

use std::collections::BTreeSet;

use super::catalog::{ALL, Family, Source};
use crate::{
    accounting::{CGROUPS, CONTEXT_SWITCHES, RUNQUEUE_LATENCY},
    exposition::Kind,
};

/// The measurements that can be asked for by name: the one that is always on, and those that
/// `--no-collector.NAME` turns off.
pub const COLLECTORS: [&str; 4] = ["cpu", "context-switches", "runqueue-latency", "cgroups"];

/// A set of families.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection(Names);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Names {
    All,
    These(BTreeSet<&'static str>),
}

/// The error for a name that no collector or family has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownName {
    /// No collector has this name.
    #[error("unknown collector `{0}`; known are {known}", known = COLLECTORS.join(", "))]
    Collector(String),
    /// No family, and no sample of a family, has this name.
    #[error(
        "unknown name `{0}`; known are these families and the names of their samples: {known}",
        known = ALL.iter().map(|family| family.name).collect::<Vec<_>>().join(", ")
    )]
    Family(String),
}

impl Selection {
    /// Every family.
    pub const ALL: Self = Self(Names::All);

    /// The measurements of these collectors, and every family that belongs to no collector. A
    /// collector that is off is known, but has no samples.
    pub fn of_collectors(names: &[impl AsRef<str>]) -> Result<Self, UnknownName> {
        let names = names.iter().map(AsRef::as_ref);
        if let Some(unknown) = names.clone().find(|name| !COLLECTORS.contains(name)) {
            return Err(UnknownName::Collector(unknown.to_owned()));
        }
        let names: BTreeSet<_> = names.collect();
        Ok(Self::of(|family| collector(family).is_none_or(|of| names.contains(of))))
    }

    /// The families with these names, each the name of a family or of one of its samples.
    pub fn of_names(names: &[impl AsRef<str>]) -> Result<Self, UnknownName> {
        let family = |name: &str| {
            let family = ALL.iter().find(|family| has_name(family, name));
            family.ok_or_else(|| UnknownName::Family(name.to_owned()))
        };
        let families = names.iter().map(|name| Ok(family(name.as_ref())?.name));
        Ok(Self(Names::These(families.collect::<Result<_, _>>()?)))
    }

    /// Every family except those of the process, for a process that lives too briefly to be
    /// monitored. In a text file that another exporter serves, they would also collide with its own.
    pub fn without_process() -> Self {
        Self::of(|family| !matches!(family.source, Source::Process(_)))
    }

    fn of(is_in: impl Fn(&Family) -> bool) -> Self {
        let families = ALL.iter().filter(|family| is_in(family));
        Self(Names::These(families.map(|family| family.name).collect()))
    }

    /// Whether the family with this name is in the set.
    pub fn contains(&self, name: &str) -> bool {
        match &self.0 {
            Names::All => true,
            Names::These(names) => names.contains(name),
        }
    }

    /// Whether any family with such a source is in the set.
    pub fn any(&self, is_such: impl Fn(&Source) -> bool) -> bool {
        ALL.iter().any(|family| is_such(&family.source) && self.contains(family.name))
    }
}

/// The collector of a family; `None` if the family says something about the host or the exporter.
fn collector(family: &Family) -> Option<&'static str> {
    if family.is_of_cgroups() {
        return Some("cgroups");
    }
    match (family.feature, family.source) {
        (Some(CONTEXT_SWITCHES), _) => Some("context-switches"),
        (Some(RUNQUEUE_LATENCY), _) => Some("runqueue-latency"),
        (Some(CGROUPS), _) => Some("cgroups"),
        (_, Source::Totals { .. } | Source::Waits) => Some("cpu"),
        _ => None,
    }
}

/// Whether this is the name of the family, or of one of its samples in either format.
fn has_name(family: &Family, name: &str) -> bool {
    let suffixes: &[&str] = match family.kind {
        Kind::Counter => &["", "_total", "_created"],
        Kind::Gauge => &[""],
        Kind::Histogram => &["", "_bucket", "_count", "_sum", "_created"],
        Kind::Info => &["", "_info"],
        Kind::Summary => &["", "_count", "_sum", "_created"],
    };
    name.strip_prefix(family.name).is_some_and(|suffix| suffixes.contains(&suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_collector_selects_its_measurements() {
        let measurements = [
            ("cpu", "sched_cpu_seconds"),
            ("context-switches", "sched_context_switches"),
            ("runqueue-latency", "sched_runqueue_latency_seconds"),
            ("cgroups", "sched_cgroup_runqueue_latency_seconds"),
        ];
        assert!(COLLECTORS.starts_with(&measurements.map(|(collector, _)| collector)));
        for asked in COLLECTORS {
            let selection = Selection::of_collectors(&[asked, asked]).unwrap();
            for (collector, family) in measurements {
                assert_eq!(selection.contains(family), collector == asked, "{asked} {family}");
            }
            for other in ["target", "sched_exporter_build", "process_open_fds"] {
                assert!(selection.contains(other), "{asked} {other}");
            }
        }
        let two = Selection::of_collectors(&["cpu", "runqueue-latency"]).unwrap();
        assert!(two.contains("sched_cpu_seconds") && !two.contains("sched_context_switches"));
    }

    #[test]
    fn names_are_those_of_families_and_samples() {
        for (name, family) in [
            ("sched_cpu_seconds", "sched_cpu_seconds"),
            ("sched_cpu_seconds_total", "sched_cpu_seconds"),
            ("sched_cpu_seconds_created", "sched_cpu_seconds"),
            ("sched_runqueue_latency_seconds_bucket", "sched_runqueue_latency_seconds"),
            ("sched_runqueue_latency_seconds_sum", "sched_runqueue_latency_seconds"),
            ("target_info", "target"),
            ("process_open_fds", "process_open_fds"),
            ("sched_exporter_http_requests_total", "sched_exporter_http_requests"),
        ] {
            let selection = Selection::of_names(&[name]).unwrap();
            let selected = ALL.iter().map(|family| family.name).filter(|it| selection.contains(it));
            assert_eq!(selected.collect::<Vec<_>>(), [family], "{name}");
        }
    }

    #[test]
    fn every_sample_name_is_known() {
        for family in ALL {
            let selection = Selection::of_names(&[family.sample_name()]).unwrap();
            assert!(selection.contains(family.name));
        }
    }

    #[test]
    fn unknown_names_are_errors_that_list_the_known_ones() {
        let error = Selection::of_collectors(&["cpu", "loadavg"]).unwrap_err().to_string();
        let expected = "unknown collector `loadavg`; known are cpu, context-switches, runqueue-latency, cgroups";
        assert_eq!(error, expected);
        for unknown in ["", "sched_", "sched_cpu_seconds_bucket", "process_open_fds_total", "up"] {
            let error = Selection::of_names(&["target", unknown]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("unknown name `{unknown}`; ")), "{error}");
            assert!(error.contains(": target, sched_cpu_seconds, "), "{error}");
        }
    }

    #[test]
    fn all_but_the_process_leaves_only_that_out() {
        let selection = Selection::without_process();
        for family in ALL {
            let is_of_process = family.name.starts_with("process_");
            assert_eq!(selection.contains(family.name), !is_of_process, "{}", family.name);
        }
        assert!(Selection::ALL.any(|source| matches!(source, Source::Process(_))));
        assert!(!selection.any(|source| matches!(source, Source::Process(_))));
    }
}
