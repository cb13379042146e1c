//! The section `cgroups`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    labels::{CPU, Limits, Scope, templates},
    relabel,
    yaml::{Entry, Report},
};
use crate::expr::{
    relabel::{Compiler, Rule, RuleSpec},
    template::Template,
};

/// By default, each systemd unit and each container has its own labels. A container's unit is either a scope
/// with the container's id, or a service that runs many containers.
const DEFAULT_LABELS: [(&str, &str); 2] = [
    ("container_id", "{{ cgroup.container_id }}"),
    ("unit", "{{ cgroup.unit if not cgroup.container_id }}"),
];

/// By default, login sessions and the units of `systemd-run` have none: their names are new each time.
/// `make_unit_name` in <https://github.com/systemd/systemd/blob/v257/src/run/run.c> numbers the latter
/// by the connection to systemd, at random, or by the process.
const DEFAULT_DROP: RuleSpec<'_> = RuleSpec {
    source_labels: None,
    separator: None,
    regex: Some(r"session-.+\.scope|run-(u?\d+(-s\d+)?|r[0-9a-f]{32}|p\d+-i\d+)\.(service|scope)"),
    modulus: None,
    target_label: None,
    replacement: None,
    action: Some("drop"),
};

const DEFAULT_KEEP: Duration = Duration::from_mins(5);

const MAX_KEEP: Duration = Duration::from_hours(24);

/// The labels of cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroups {
    /// The templates by label name. They can use labels of the host, and the names of a cgroup.
    pub labels: BTreeMap<String, Template>,
    /// The rules for the labels of each cgroup, in order.
    pub relabel_configs: Vec<Rule>,
    /// How long a set of labels is shown after its last cgroup ended.
    pub keep: Duration,
}

impl Default for Cgroups {
    fn default() -> Self {
        let template = |text| {
            Template::parse_for_cgroups(text, &BTreeSet::new())
                .expect("the default templates are valid")
        };
        let source_labels = Some(vec!["unit"]);
        let rule = Compiler::default().rule(&RuleSpec { source_labels, ..DEFAULT_DROP });
        Self {
            labels: DEFAULT_LABELS.map(|(name, text)| (name.into(), template(text))).into(),
            relabel_configs: vec![rule.expect("the default rule is valid")],
            keep: DEFAULT_KEEP,
        }
    }
}

/// Parses the section. The templates can use the labels `host`. A missing or empty key has its default.
pub(super) fn cgroups(
    report: &mut Report<'_>,
    section: &Entry<'_>,
    host: &BTreeSet<&str>,
    limits: &Limits,
) -> Cgroups {
    let mut cgroups = Cgroups::default();
    let entries = report.entries(section);
    for entry in &entries {
        match entry.name {
            "labels" => {}
            "relabel_configs" if entry.is_null() => {}
            "relabel_configs" => cgroups.relabel_configs = relabel::rules(report, entry),
            "keep" => cgroups.keep = keep(report, entry).unwrap_or_default(),
            _ => report.unknown_key(entry, &["labels", "relabel_configs", "keep"]),
        }
    }
    // After the rules, which a label that starts with `__` needs.
    let has_rules = !cgroups.relabel_configs.is_empty();
    for entry in entries.iter().filter(|entry| entry.name == "labels" && !entry.is_null()) {
        cgroups.labels = labels(report, entry, host, limits, has_rules);
    }
    cgroups
}

fn labels(
    report: &mut Report<'_>,
    section: &Entry<'_>,
    host: &BTreeSet<&str>,
    limits: &Limits,
    has_rules: bool,
) -> BTreeMap<String, Template> {
    let scope = Scope { labels: host.clone(), parse: Template::parse_for_cgroups };
    let labels = templates(report, section, &scope, limits, |name| match name {
        CPU => Some("series of cgroups are summed over CPUs; choose another"),
        _ if name.starts_with("__") && !has_rules => {
            Some("labels that start with __ are only for rules, and there are none; choose another")
        }
        _ => None,
    });
    for entry in report.entries(section).iter().filter(|entry| host.contains(entry.name)) {
        let message = "the host has this label, too; a cgroup has this value instead of the host's";
        report.key_warning(entry, message);
    }
    labels
}

fn keep(report: &mut Report<'_>, entry: &Entry<'_>) -> Option<Duration> {
    match entry.string().map(humantime::parse_duration) {
        Some(Ok(keep)) if keep <= MAX_KEEP => return Some(keep),
        Some(Ok(_) | Err(humantime::DurationError::NumberOverflow)) => {
            report.error(entry, |value| {
                format!("{value} is out of range; write a duration from 0s to 24h")
            });
        }
        Some(Err(_)) | None => report.error(entry, |value| {
            format!("{value} is not a duration; write a number and s, m or h, like 5m")
        }),
    }
    None
}
