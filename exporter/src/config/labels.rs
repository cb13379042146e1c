//! The sections about labels of the host and of CPUs. Each error is reported at its key or value.

use std::collections::{BTreeMap, BTreeSet};

use super::yaml::{Entry, Report};
use crate::{
    cpu,
    expr::{
        lookalike::{self, Lookalike},
        print::{MAX_CHARS, shorten},
        relabel::{Rule, is_label_name},
        substitution::{self, Substitution},
        template::{Template, TemplateError},
    },
};

/// Maximum number of entries of `cpus`.
const MAX_CPU_ENTRIES: usize = 4096;

/// Names of labels that the exporter's own series use, or will use.
pub const RESERVED: [&str; 5] = ["behind", "le", "mode", "quantile", "reason"];

/// The name of the label with the CPU's number.
pub const CPU: &str = "cpu";

/// Which series have the labels of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LabelsOn {
    /// The scheduler's series.
    #[default]
    Series,
    /// `target_info`.
    TargetInfo,
    /// The scheduler's series and `target_info`.
    Both,
}

const LIMITS: [&str; 6] =
    ["labels", "name_bytes", "value_bytes", "values_per_label", "series", "cgroups"];

/// Limits of labels and series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Labels of a series, besides `cpu`, `le`, `mode` and `reason`.
    pub labels: usize,
    /// Bytes of a label name.
    pub name_bytes: usize,
    /// Bytes of a label value.
    pub value_bytes: usize,
    /// Distinct values of a label, except `cpu`.
    pub values_per_label: usize,
    /// Series of the scheduler, in total.
    pub series: usize,
    /// Sets of labels of cgroups, besides `other`.
    pub cgroups: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            labels: 32,
            name_bytes: 128,
            value_bytes: 1_024,
            values_per_label: 1_000,
            series: 200_000,
            cgroups: 250,
        }
    }
}

/// An entry of `cpus`: labels for some CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuLabels {
    /// The CPUs that have the labels.
    pub matches: CpuMatch,
    /// The templates by label name. They can use labels of the host.
    pub labels: BTreeMap<String, Template>,
}

/// A selection of CPUs. The numbers ascend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CpuMatch {
    /// These CPUs.
    Cpus(Vec<u32>),
    /// The CPUs of these NUMA nodes.
    NumaNodes(Vec<u32>),
    /// The CPUs of these packages.
    Packages(Vec<u32>),
    /// The CPUs of these clusters.
    Clusters(Vec<u32>),
    /// The CPUs that were isolated at boot.
    Isolated,
}

/// Parses `labels`. A label that starts with `__` is an error unless there are rules or entries of
/// `cpus`, since nothing else could use it.
pub(super) fn host(
    report: &mut Report<'_>,
    section: &Entry<'_>,
    limits: &Limits,
    has_rules: bool,
) -> BTreeMap<String, Template> {
    let scope = Scope { labels: BTreeSet::new(), parse: Template::parse };
    templates(report, section, &scope, limits, |name| match name {
        CPU => Some("each CPU has this label already; choose another, or set it for CPUs"),
        _ if name.starts_with("__") && !has_rules => {
            Some("labels that start with __ are only for rules, and there are none; choose another")
        }
        _ => None,
    })
}

/// Parses `cpus`. The templates can use the labels `host`, and those that `rules` set by name.
pub(super) fn cpus(
    report: &mut Report<'_>,
    section: &Entry<'_>,
    host: &BTreeMap<String, Template>,
    rules: &[Rule],
    limits: &Limits,
) -> Vec<CpuLabels> {
    let scope = Scope { labels: names(host, rules), parse: Template::parse };
    let items = report.items(section);
    if items.len() > MAX_CPU_ENTRIES {
        report.error(section, |_| {
            format!("there are {} entries; keep at most {MAX_CPU_ENTRIES}", items.len())
        });
        return Vec::new();
    }
    items.iter().filter_map(|item| cpu_labels(report, item, &scope, limits)).collect()
}

/// The names of the host's labels: those of `labels`, and those that `rules` set by name.
pub(super) fn names<'a>(
    host: &'a BTreeMap<String, Template>,
    rules: &'a [Rule],
) -> BTreeSet<&'a str> {
    let mut names: BTreeSet<_> = host.keys().map(String::as_str).collect();
    names.extend(rules.iter().filter_map(Rule::target));
    names
}

fn cpu_labels(
    report: &mut Report<'_>,
    item: &Entry<'_>,
    scope: &Scope<'_>,
    limits: &Limits,
) -> Option<CpuLabels> {
    let mut matches = None;
    // An item that is not a map is an error already.
    let mut has_match = !item.is_map();
    let mut labels = BTreeMap::new();
    for entry in report.entries(item) {
        match entry.name {
            "match" => {
                has_match = true;
                matches = cpu_match(report, &entry);
            }
            "labels" => labels = templates(report, &entry, scope, limits, |_| None),
            _ => report.unknown_key(&entry, &["match", "labels"]),
        }
    }
    if !has_match {
        report.error(item, |_| "match is missing; write one like match: \"0-15\"".into());
    }
    Some(CpuLabels { matches: matches?, labels })
}

fn cpu_match(report: &mut Report<'_>, entry: &Entry<'_>) -> Option<CpuMatch> {
    let text = report.string(entry)?;
    if text == "isolated" {
        return Some(CpuMatch::Isolated);
    }
    let (kind, list) = text.split_once(':').unwrap_or(("cpu", text));
    let selection: Option<fn(Vec<u32>) -> CpuMatch> = match kind {
        "cpu" => Some(CpuMatch::Cpus),
        "numa" => Some(CpuMatch::NumaNodes),
        "package" => Some(CpuMatch::Packages),
        "cluster" => Some(CpuMatch::Clusters),
        _ => None,
    };
    if let (Some(selection), Some(numbers)) = (selection, cpu::list::parse(list.trim())) {
        return Some(selection(numbers));
    }
    report.error(entry, |value| {
        format!(
            "{value} is not a selection of CPUs; write an ascending list like \"0-15,32\", the same \
             after numa:, package: or cluster:, or isolated"
        )
    });
    None
}

/// What the templates of a section can use.
pub(super) struct Scope<'a> {
    /// The labels that they can name.
    pub(super) labels: BTreeSet<&'a str>,
    /// Parses a template.
    pub(super) parse: fn(&str, &BTreeSet<&str>) -> Result<Template, TemplateError>,
}

/// Parses a map of label names to templates. `objection` says why a name is not allowed here.
pub(super) fn templates(
    report: &mut Report<'_>,
    section: &Entry<'_>,
    scope: &Scope<'_>,
    limits: &Limits,
    objection: impl Fn(&str) -> Option<&'static str>,
) -> BTreeMap<String, Template> {
    let entries = report.entries(section);
    let max = limits.labels;
    if entries.len() > max {
        report
            .error(section, |_| format!("there are {} labels; keep at most {max}", entries.len()));
    }
    let mut labels = BTreeMap::new();
    for entry in entries {
        name(report, &entry, limits);
        if let Some(objection) = objection(entry.name) {
            report.key_error(&entry, |_| objection.into());
        }
        // Keep the name even after an error, for the templates that use it.
        let template = template(report, &entry, scope, limits).unwrap_or_default();
        labels.insert(entry.name.into(), template);
    }
    labels
}

/// Checks the name of a label.
fn name(report: &mut Report<'_>, entry: &Entry<'_>, limits: &Limits) {
    let (name, max) = (entry.name, limits.name_bytes);
    if !is_label_name(name) {
        report.key_error(entry, |name| {
            format!("{name} is not a label name; write letters, digits and _, no digit first")
        });
    } else if name.len() > max {
        report.key_error(entry, |_| format!("the name has {} bytes; keep it to {max}", name.len()));
    } else if RESERVED.contains(&name) {
        report.key_error(entry, |_| {
            "this name is reserved for the exporter's own series; choose another".into()
        });
    }
}

fn template(
    report: &mut Report<'_>,
    entry: &Entry<'_>,
    scope: &Scope<'_>,
    limits: &Limits,
) -> Option<Template> {
    let text = report.string(entry)?;
    let max = limits.value_bytes;
    if text.is_empty() {
        report.error(entry, |value| format!("{value} is the same as no label; remove the key"));
        return None;
    }
    match (scope.parse)(text, &scope.labels) {
        Ok(template) if template.is_literal() && text.len() > max => {
            report.error(entry, |printed| {
                format!("{printed} has {} bytes; keep it to {max}", text.len())
            });
            None
        }
        Ok(template) => {
            warn(report, entry, &template);
            Some(template)
        }
        Err(error) => {
            report.error_within(entry, error.offset, &error.message);
            None
        }
    }
}

/// Warns of text that is probably not meant to be part of the value.
fn warn(report: &mut Report<'_>, entry: &Entry<'_>, template: &Template) {
    for (start, text) in template.literals() {
        if let Some(found) = lookalike::find_invisible(text) {
            report.lookalike(entry, &Lookalike { offset: start + found.offset, ..found });
        }
        if let Some(Substitution { offset, written, instead }) = substitution::find(text) {
            let written = shorten(written, MAX_CHARS);
            let message = format!("{written} is served as written; write {instead}");
            report.warning_within(entry, start + offset, &message);
        }
    }
}

/// Parses `labels_on`.
pub(super) fn labels_on(report: &mut Report<'_>, entry: &Entry<'_>) -> LabelsOn {
    match report.string(entry) {
        Some("target_info") => LabelsOn::TargetInfo,
        Some("both") => LabelsOn::Both,
        Some("series") | None => LabelsOn::Series,
        Some(_) => {
            report.error(entry, |value| {
                format!("{value} is not a choice; write series, target_info or both")
            });
            LabelsOn::Series
        }
    }
}

/// Parses `without`.
pub(super) fn without(report: &mut Report<'_>, section: &Entry<'_>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for item in report.items(section) {
        let Some(name) = report.string(&item) else { continue };
        if RESERVED.contains(&name) {
            report.error(&item, |value| {
                format!("{value} cannot be summed over here; sum over it in PromQL")
            });
        } else if !is_label_name(name) {
            report.error(&item, |value| format!("{value} is not a label name"));
        }
        names.insert(name.into());
    }
    names
}

/// Parses `limits`.
pub(super) fn limits(report: &mut Report<'_>, section: &Entry<'_>) -> Limits {
    /// Upper bounds of the limits. They bound the memory of labels.
    const MAX: Limits = Limits {
        labels: 64,
        name_bytes: 128,
        value_bytes: 1_024,
        values_per_label: 65_536,
        series: 10_000_000,
        cgroups: 65_536,
    };
    let mut limits = Limits::default();
    for entry in report.entries(section) {
        let (limit, max) = match entry.name {
            "labels" => (&mut limits.labels, MAX.labels),
            "name_bytes" => (&mut limits.name_bytes, MAX.name_bytes),
            "value_bytes" => (&mut limits.value_bytes, MAX.value_bytes),
            "values_per_label" => (&mut limits.values_per_label, MAX.values_per_label),
            "series" => (&mut limits.series, MAX.series),
            "cgroups" => (&mut limits.cgroups, MAX.cgroups),
            _ => {
                report.unknown_key(&entry, &LIMITS);
                continue;
            }
        };
        let Some(number) = report.integer(&entry) else { continue };
        match usize::try_from(number) {
            Ok(number) if (1..=max).contains(&number) => *limit = number,
            _ => report.error(&entry, |value| {
                format!("{value} is out of range; write a number from 1 to {max}")
            }),
        }
    }
    limits
}
