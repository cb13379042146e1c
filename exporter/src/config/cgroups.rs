//! The section `cgroups`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    labels::{CPU, Limits, Scope, templates},
    relabel,
    yaml::{Entry, Report},
};
use crate::expr::{
    cgroup::CgroupUses,
    print::{MAX_CHARS, shorten},
    relabel::{Compiler, Rule, RuleSpec},
    template::Template,
};

/// By default, the containers of pods have the labels that kube-state-metrics and kubelet give them, other
/// containers those of their runtime, users' sessions and services the user, and all other units theirs.
///
/// The unit of a container is left out: it is a scope with the container's id, or a service that runs many
/// containers. If the name of a pod or container is unknown, its id takes the place of the name. The pause
/// container and the cgroup of the pod itself have only the name of the pod; podman also lists the image of the former.
/// An id in a cgroup of a user has the user, too: users can give their cgroups the ids of other people's containers.
const DEFAULT_LABELS: [(&str, &str); 8] = [
    (
        "container",
        "{{ cgroup.container_name or (cgroup.container_id if not cgroup.pod_name) if cgroup.pod_uid }}",
    ),
    ("image", "{{ cgroup.image if not cgroup.pod_uid }}"),
    (
        "name",
        "{{ cgroup.container_name or (cgroup.container_id if not cgroup.pod_name) if not cgroup.pod_uid }}",
    ),
    ("namespace", "{{ cgroup.namespace }}"),
    ("pod", "{{ cgroup.pod_name or cgroup.pod_uid }}"),
    (
        "slice",
        "{{ cgroup.slice if cgroup.unit and not (cgroup.container_id or cgroup.pod_uid or cgroup.user) }}",
    ),
    ("unit", "{{ cgroup.unit if not (cgroup.container_id or cgroup.pod_uid or cgroup.user) }}"),
    ("user", "{{ cgroup.user if not (cgroup.container_name or cgroup.pod_name) }}"),
];

/// By default, units whose names are new each time have no labels: those of `systemd-run`, whose names
/// `make_unit_name` in <https://github.com/systemd/systemd/blob/v257/src/run/run.c> makes of the connection to
/// systemd, a random number, or the process; and those with the id of a container, which podman makes to supervise
/// it and to check its health.
const DEFAULT_DROP: [&str; 2] = [
    r"run-(u?\d+(-s\d+)?|r[0-9a-f]{32}|p\d+-i\d+)\.(service|scope)",
    r"(.+-)?[0-9a-f]{64}(-.+)?\.(service|scope)",
];

const DEFAULT_KEEP: Duration = Duration::from_mins(5);

const MAX_KEEP: Duration = Duration::from_hours(24);

/// Maximum number of sockets of runtimes.
const MAX_RUNTIMES: usize = 16;

/// Maximum size of the path of a socket: <https://man7.org/linux/man-pages/man7/unix.7.html>.
const MAX_SOCKET_BYTES: usize = 107;

/// What the address of a runtime starts with.
const UNIX: &str = "unix://";

const KEYS: [&str; 5] = ["labels", "relabel_configs", "keep", "runtimes", "kubernetes_pods"];

/// The labels of cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroups {
    /// The templates by label name. They can use labels of the host, and the names of a cgroup.
    pub labels: BTreeMap<String, Template>,
    /// The rules for the labels of each cgroup, in order.
    pub relabel_configs: Vec<Rule>,
    /// How long a set of labels is shown after its last cgroup ended.
    pub keep: Duration,
    /// The sockets of the container runtimes to ask for names; `None` for those at the usual paths.
    pub runtimes: Option<Vec<PathBuf>>,
    /// Whether to ask the Kubernetes API for the pods of this node.
    pub kubernetes_pods: bool,
}

impl Cgroups {
    /// What templates and rules use of cgroups.
    pub fn uses(&self) -> CgroupUses {
        let keys = self.labels.values().flat_map(Template::cgroup);
        CgroupUses::new(keys, &self.relabel_configs)
    }
}

impl Default for Cgroups {
    fn default() -> Self {
        let template = |text| {
            Template::parse_for_cgroups(text, &BTreeSet::new())
                .expect("the default templates are valid")
        };
        let mut compiler = Compiler::default();
        let drop = DEFAULT_DROP.map(|regex| RuleSpec {
            source_labels: Some(vec!["unit"]),
            regex: Some(regex),
            action: Some("drop"),
            ..RuleSpec::default()
        });
        let rules = drop.iter().map(|rule| compiler.rule(rule).expect("the rules are valid"));
        Self {
            labels: DEFAULT_LABELS.map(|(name, text)| (name.into(), template(text))).into(),
            relabel_configs: rules.collect(),
            keep: DEFAULT_KEEP,
            runtimes: None,
            kubernetes_pods: false,
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
            "relabel_configs" | "runtimes" | "kubernetes_pods" if entry.is_null() => {}
            "relabel_configs" => cgroups.relabel_configs = relabel::rules(report, entry),
            "keep" => cgroups.keep = keep(report, entry).unwrap_or_default(),
            "runtimes" => cgroups.runtimes = Some(runtimes(report, entry)),
            "kubernetes_pods" => cgroups.kubernetes_pods = report.boolean(entry),
            _ => report.unknown_key(entry, &KEYS),
        }
    }
    // After the rules: without rules, a label that starts with `__` is an error.
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

/// Parses the list of sockets.
fn runtimes(report: &mut Report<'_>, section: &Entry<'_>) -> Vec<PathBuf> {
    let items = report.items(section);
    if items.len() > MAX_RUNTIMES {
        let count = items.len();
        report
            .error(section, |_| format!("there are {count} sockets; keep at most {MAX_RUNTIMES}"));
    }
    let mut sockets = Vec::new();
    for item in &items {
        let Some(address) = report.string(item) else { continue };
        match socket(address) {
            Ok(socket) if sockets.contains(&socket) => {
                report.error(item, |value| format!("{value} is here twice; remove one"));
            }
            Ok(socket) => sockets.push(socket),
            Err(advice) => {
                report.error(item, |value| {
                    format!("{value} is not the address of a socket; {advice}")
                });
            }
        }
    }
    sockets
}

/// Parses `unix:///PATH`. The error says what to write instead.
fn socket(address: &str) -> Result<PathBuf, String> {
    const EXAMPLE: &str = "unix:///run/containerd/containerd.sock";
    let path = address.strip_prefix(UNIX).unwrap_or_default();
    if !path.starts_with('/') {
        let path = address.strip_prefix("unix:").unwrap_or(address);
        return Err(match path.strip_prefix('/') {
            Some(path) => {
                format!("write {UNIX}/{}", shorten(path.trim_start_matches('/'), MAX_CHARS))
            }
            None => format!("write one like {EXAMPLE}"),
        });
    }
    if path.ends_with('/') {
        return Err(format!("write the path of the socket, like {EXAMPLE}"));
    }
    if path.len() > MAX_SOCKET_BYTES {
        let length = path.len();
        return Err(format!("the path has {length} bytes, the kernel allows {MAX_SOCKET_BYTES}"));
    }
    Ok(Path::new(path).components().collect())
}
