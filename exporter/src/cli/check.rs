//! The report of `--config.check`: the labels that a configuration gives this machine, and the origin of
//! each. Pure.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use serde_json::{Value, json};

use crate::{
    config::{CPU, Diagnostic},
    cpu::list,
    expr::{
        cgroup::{CgroupNames, NamesFrom},
        print,
    },
    generation::Inputs,
    labels::{self, CgroupsByLabels, Labels, Set},
    metrics::catalog::SERIES,
    runtimes::SourceState,
};

/// Output format of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// A cgroup of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundCgroup {
    /// Its names.
    pub names: CgroupNames,
    /// Where they come from.
    pub from: NamesFrom,
}

/// The cgroups of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundCgroups {
    /// Those that can be read.
    pub cgroups: Vec<FoundCgroup>,
    /// Why some or all cannot be read.
    pub error: Option<String>,
    /// Those who were asked for the names of containers.
    pub sources: Vec<SourceState>,
}

/// Formats the report of a valid file. `found` is `None` if cgroups are not accounted for.
pub fn report(
    path: &Path,
    inputs: &Inputs,
    found: Option<&FoundCgroups>,
    format: CheckFormat,
) -> String {
    let expansion = labels::expand(&inputs.config, &inputs.values, &inputs.topology, true);
    let host = expansion.host.clone().unwrap_or_default();
    let cpus = expansion.cpus.clone();
    let (sets, _) = labels::group(&inputs.config, expansion, SERIES);
    let buckets = inputs.config.runqueue_latency().bucket_indices().len();
    let (groups, latency) = (sets.groups.as_slice().len(), sets.latency.as_slice().len());
    let series = groups * SERIES.totals + latency * SERIES.latency(buckets);
    let containers = found.map_or(&[][..], |found| &found.sources);
    let cgroups = sets.cgroups.as_ref().zip(found).map(|(labeller, found)| Cgroups {
        found,
        groups: labeller.group(found.cgroups.iter().map(|cgroup| &cgroup.names)),
        max_sets: labeller.max_sets(),
        series: SERIES.cgroups(labeller.max_sets()),
    });
    let report = Report { path, inputs, host, cpus, sets: groups, series, containers, cgroups };
    match format {
        CheckFormat::Table => report.table(),
        CheckFormat::Json => format!("{:#}\n", report.json()),
    }
}

struct Report<'a> {
    path: &'a Path,
    inputs: &'a Inputs,
    host: Labels,
    cpus: Vec<(u32, Labels)>,
    /// Sets of labels of CPUs.
    sets: usize,
    /// Series of CPUs.
    series: usize,
    /// Those who were asked for the names of containers.
    containers: &'a [SourceState],
    /// `None` if the rules drop the host, or cgroups are not accounted for.
    cgroups: Option<Cgroups<'a>>,
}

struct Cgroups<'a> {
    found: &'a FoundCgroups,
    groups: CgroupsByLabels,
    /// Maximum number of sets, besides `other`.
    max_sets: usize,
    series: usize,
}

/// Groups CPUs whose labels are equal except for the CPU number: `{cpu="0", host="a"}` of CPU 0 and
/// `{cpu="1", host="a"}` of CPU 1 become `{cpu="0-1", host="a"}` of both.
fn blocks(cpus: &[(u32, Labels)]) -> Vec<(Vec<u32>, Labels)> {
    let mut blocks: BTreeMap<_, (Vec<u32>, &Labels)> = BTreeMap::new();
    for (cpu, labels) in cpus {
        let mut set = labels.set.clone();
        if let Some(number) = set.get_mut(CPU).filter(|number| **number == cpu.to_string()) {
            number.clear();
        }
        let block = blocks.entry((set, &labels.origins)).or_insert_with(|| (vec![], labels));
        block.0.push(*cpu);
    }
    let mut blocks: Vec<_> = blocks
        .into_iter()
        .map(|((set, _), (cpus, labels))| {
            let mut labels = labels.clone();
            if set.get(CPU).is_some_and(String::is_empty) {
                labels.set.insert(CPU.into(), list::format(&cpus));
            }
            (cpus, labels)
        })
        .collect();
    blocks.sort_by(|(a, _), (b, _)| a.cmp(b));
    blocks
}

impl Report<'_> {
    /// The names of the sources of templates and of containers, each with its error.
    fn sources(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let readings = self.inputs.values.readings();
        let of_templates =
            readings.map(|(source, reading)| (source.name(), reading.error.as_deref()));
        let states = self.containers.iter();
        of_templates.chain(states.map(|it| (it.name.as_str(), it.error.as_deref())))
    }

    fn table(&self) -> String {
        let warnings = self.inputs.config.warnings();
        let count = match warnings.count() {
            0 => String::new(),
            1 => ", with 1 warning".into(),
            count => format!(", with {count} warnings"),
        };
        let mut text = format!("{}: valid{count}\n", self.path.display());
        for warning in warnings.located(self.path) {
            text.extend([&warning, "\n"]);
        }
        let mut rows = vec![["ON", "LABEL", "VALUE", "FROM"].map(str::to_owned)];
        self.rows("host", &self.host, &mut rows);
        for (cpus, labels) in &blocks(&self.cpus) {
            self.rows(&format!("cpu {}", list::format(cpus)), labels, &mut rows);
        }
        write_rows(&mut text, &rows);
        let mut rows = vec![["SOURCE", "STATE"].map(str::to_owned)];
        for (source, error) in self.sources() {
            rows.push([source.into(), print::escape(error.unwrap_or("ok"))]);
        }
        if rows.len() > 1 {
            write_rows(&mut text, &rows);
        }
        let (series, sets) = (self.series, self.sets);
        let noun = if sets == 1 { "set" } else { "sets" };
        let Some(cgroups) = &self.cgroups else {
            let _ = writeln!(text, "\n{series} series at most, {sets} {noun} of labels");
            return text;
        };
        cgroups.write(&mut text);
        let _ = writeln!(
            text,
            "\n{} series at most: {series} of CPUs, in {sets} {noun} of labels, and {} of cgroups, in at \
             most {}",
            series + cgroups.series,
            cgroups.series,
            cgroups.max_sets + 1,
        );
        text
    }

    fn rows(&self, whose: &str, labels: &Labels, rows: &mut Vec<[String; 4]>) {
        let mut whose = whose;
        if labels.set.is_empty() {
            rows.push([whose.into(), "none".into(), String::new(), String::new()]);
        }
        for (name, value) in &labels.set {
            let from = self.from(labels, name);
            rows.push([whose.into(), name.clone(), print::escape(value), from]);
            whose = "";
        }
    }

    /// The key that set a label, with the names in its template.
    fn from(&self, labels: &Labels, name: &str) -> String {
        let origin = labels.origins.get(name).map_or("", String::as_str);
        let config = &self.inputs.config;
        let of_entry = || {
            let (place, _) = origin.strip_prefix("cpus[")?.split_once(']')?;
            config.cpus().get(place.parse::<usize>().ok()?)?.labels.get(name)
        };
        let template = match origin.strip_prefix("labels.") {
            Some(name) => config.labels().get(name),
            None => of_entry(),
        };
        let Some(template) = template else { return origin.into() };
        let of_labels = template.labels().iter().map(|label| format!("label {label}"));
        let of_sources = template.uses().iter().map(|(source, _)| source.name().to_owned());
        let named: Vec<_> = of_labels.chain(of_sources).collect();
        if named.is_empty() { origin.into() } else { format!("{origin}: {}", named.join(", ")) }
    }

    fn json(&self) -> Value {
        let labels = |labels: &Labels| -> Value {
            let label = |(name, value): (&String, &String)| {
                (name.clone(), json!({ "value": value, "from": self.from(labels, name) }))
            };
            Value::Object(labels.set.iter().map(label).collect())
        };
        let sources = self.sources().map(
            |(source, error)| json!({ "source": source, "up": error.is_none(), "error": error }),
        );
        let warnings = self.inputs.config.warnings().shown.iter().map(|warning| {
            let Diagnostic { line, column, key, message } = warning;
            json!({ "line": line, "column": column, "key": key, "message": message })
        });
        json!({
            "file": self.path.display().to_string(),
            "sha256": self.inputs.sha256,
            "warnings": warnings.collect::<Vec<_>>(),
            "host": labels(&self.host),
            "cpus": self.cpus.iter().map(|(cpu, of_cpu)| {
                json!({ "cpu": cpu, "labels": labels(of_cpu) })
            }).collect::<Vec<_>>(),
            "sources": sources.collect::<Vec<_>>(),
            "sets": self.sets,
            "series": self.series + self.cgroups.as_ref().map_or(0, |cgroups| cgroups.series),
            "cgroups": self.cgroups.as_ref().map(Cgroups::json),
        })
    }
}

impl Cgroups<'_> {
    /// Writes a row for each cgroup; those with the same labels follow each other, and those in `other`
    /// come last.
    fn write(&self, text: &mut String) {
        if let Some(error) = &self.found.error {
            let _ = writeln!(text, "\ncgroups: {}", print::escape(error));
        }
        let mut rows = vec![["LABELS", "FROM", "CGROUP"].map(str::to_owned)];
        for (set, cgroups) in self.sets() {
            let is_other = *set == self.groups.other;
            let mut labels = if is_other { labels::OTHER.to_owned() } else { shown(set) };
            for FoundCgroup { names, from } in cgroups {
                let from = print::escape(&from.to_string());
                rows.push([std::mem::take(&mut labels), from, print::escape(&names.path)]);
            }
        }
        if rows.len() > 1 {
            write_rows(text, &rows);
            let _ = writeln!(text, "\n{} is {}", labels::OTHER, shown(&self.groups.other));
        }
        let (sets, max) = (self.groups.sets.len(), self.max_sets);
        if sets > max {
            let _ = writeln!(
                text,
                "\n{sets} sets of cgroups, {max} at most: those that use most keep their labels, the others \
                 are `other`"
            );
        }
    }

    /// Iterates over the sets, each with its cgroups. The last is `other`.
    fn sets(&self) -> impl Iterator<Item = (&Set, impl Iterator<Item = &FoundCgroup>)> {
        let CgroupsByLabels { sets, other, in_other } = &self.groups;
        let cgroup = |index: &usize| self.found.cgroups.get(*index);
        sets.iter()
            .chain([(other, in_other)])
            .map(move |(set, members)| (set, members.iter().filter_map(cgroup)))
    }

    fn json(&self) -> Value {
        let cgroup = |FoundCgroup { names, from }: &FoundCgroup| json!({ "path": names.path, "from": from.to_string() });
        let mut sets: Vec<_> = self
            .sets()
            .map(|(set, cgroups)| {
                json!({ "labels": set, "cgroups": cgroups.map(cgroup).collect::<Vec<_>>() })
            })
            .collect();
        let other = sets.pop();
        json!({
            "error": self.found.error,
            "sets": sets,
            "other": other,
            "max_sets": self.max_sets,
            "series": self.series,
        })
    }
}

/// Writes labels as in a query.
fn shown(set: &Set) -> String {
    let pair = |(name, value): (&String, &String)| {
        let value = value.replace('\\', r"\\").replace('"', "\\\"");
        format!("{name}=\"{}\"", print::escape(&value))
    };
    format!("{{{}}}", set.iter().map(pair).collect::<Vec<_>>().join(", "))
}

/// Aligns all columns except the last.
fn write_rows(text: &mut String, rows: &[impl AsRef<[String]>]) {
    let mut widths = Vec::new();
    for row in rows {
        for (column, cell) in row.as_ref().iter().enumerate() {
            let width = cell.chars().count();
            match widths.get_mut(column) {
                Some(widest) => *widest = width.max(*widest),
                None => widths.push(width),
            }
        }
    }
    text.push('\n');
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.as_ref().iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        config::Config,
        cpu::topology::Topology,
        expr::values::{Reading, Source, Values},
    };

    fn inputs(config: &str) -> Inputs {
        let reading = Reading::of([(String::new(), "web-17".to_owned())].into());
        let values: Values = [
            (Source::Hostname, reading),
            (Source::NodeLabels, Reading::failed("environment variable NODE_NAME is not set")),
        ]
        .into_iter()
        .collect();
        Inputs {
            config: Arc::new(Config::parse(config).unwrap()),
            sha256: "5a".into(),
            values,
            topology: Topology::of((0..4).collect()),
        }
    }

    /// A container of a pod in two cgroups, a service, and the root.
    fn cgroups() -> FoundCgroups {
        let runtime = NamesFrom::Runtime("unix:///run/containerd/containerd.sock".into());
        let in_pod = |path: &str| CgroupNames {
            path: path.into(),
            container_id: "c1".into(),
            container_name: "cart".into(),
            pod_uid: "1".into(),
            pod_name: "cart-0".into(),
            namespace: "shop".into(),
            ..CgroupNames::default()
        };
        let service = CgroupNames {
            path: "/system.slice/ssh.service".into(),
            slice: "system.slice".into(),
            unit: "ssh.service".into(),
            ..CgroupNames::default()
        };
        let root = CgroupNames { path: "/".into(), ..CgroupNames::default() };
        let found = |names, from| FoundCgroup { names, from };
        let cgroups = vec![
            found(root, NamesFrom::Path),
            found(in_pod("/kubepods/pod1/c1"), runtime.clone()),
            found(service, NamesFrom::Path),
            found(in_pod("/kubepods/pod1/c1/init"), runtime),
        ];
        let name = "unix:///run/docker.sock".to_owned();
        let sources = vec![SourceState { name, error: Some("no\tsocket".into()) }];
        FoundCgroups { cgroups, error: None, sources }
    }

    fn report(config: &str, found: Option<&FoundCgroups>, format: CheckFormat) -> String {
        super::report(Path::new("f.yaml"), &inputs(config), found, format)
    }

    const CONFIG: &str = "\
labels:
  host: \"{{ hostname }}\"
  zone: \"{{ node.labels['zone'] | default('a\\nb') }}\"
relabel_configs:
- {source_labels: [host], target_label: short, regex: '(.*)-.*'}
cpus:
- match: \"2-3\"
  labels: {pool: \"{{ short }}-b\"}
cpu_relabel_configs:
- {source_labels: [__cpu__], regex: '3', action: drop}
";

    #[test]
    fn table_lists_every_label_with_its_origin() {
        let text = report(CONFIG, Some(&cgroups()), CheckFormat::Table);
        let expected = r#"f.yaml: valid

ON       LABEL  VALUE   FROM
host     host   web-17  labels.host: hostname
         short  web     relabel_configs[0]
         zone   a\nb    labels.zone: node.labels
cpu 0-1  cpu    0-1     the CPU
         host   web-17  labels.host: hostname
         short  web     relabel_configs[0]
         zone   a\nb    labels.zone: node.labels
cpu 2    cpu    2       the CPU
         host   web-17  labels.host: hostname
         pool   web-b   cpus[0].labels.pool: label short
         short  web     relabel_configs[0]
         zone   a\nb    labels.zone: node.labels

SOURCE                   STATE
hostname                 ok
node.labels              environment variable NODE_NAME is not set
unix:///run/docker.sock  no\tsocket

LABELS                                              FROM                                    CGROUP
{container="cart", namespace="shop", pod="cart-0"}  unix:///run/containerd/containerd.sock  /kubepods/pod1/c1
                                                    unix:///run/containerd/containerd.sock  /kubepods/pod1/c1/init
{slice="system.slice", unit="ssh.service"}          path                                    /system.slice/ssh.service
other                                               path                                    /

other is {container="other", image="other", name="other", namespace="other", pod="other", slice="other", unit="other", user="other"}

2343 series at most: 84 of CPUs, in 3 sets of labels, and 2259 of cgroups, in at most 251
"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn json_has_the_same_content() {
        let config = "labels: {host: \"{{ hostname }}\"}\nwithout: [cpu]\nlimits: {cgroups: 1}\n\
                      cgroups: {labels: {pod: \"{{ cgroup.pod_name }}\", unit: \"{{ cgroup.unit }}\"}}\n";
        let table = report(config, Some(&cgroups()), CheckFormat::Table);
        let end = "\n46 series at most: 28 of CPUs, in 1 set of labels, and 18 of cgroups, in at most 2\n";
        assert!(table.ends_with(end), "{table}");
        let text = report(config, Some(&cgroups()), CheckFormat::Json);
        let host = json!({ "host": { "value": "web-17", "from": "labels.host: hostname" } });
        let cpus = [0, 1, 2, 3].map(|cpu| json!({ "cpu": cpu, "labels": host }));
        let expected = json!({
            "file": "f.yaml",
            "sha256": "5a",
            "warnings": [],
            "host": host,
            "cpus": cpus,
            "sources": [
                { "source": "hostname", "up": true, "error": null },
                { "source": "node.labels", "up": false, "error": "environment variable NODE_NAME is not set" },
                { "source": "unix:///run/docker.sock", "up": false, "error": "no\tsocket" },
            ],
            "sets": 1,
            "series": 46,
            "cgroups": {
                "error": null,
                "sets": [
                    {
                        "labels": { "pod": "cart-0" },
                        "cgroups": [
                            {
                                "path": "/kubepods/pod1/c1",
                                "from": "unix:///run/containerd/containerd.sock",
                            },
                            {
                                "path": "/kubepods/pod1/c1/init",
                                "from": "unix:///run/containerd/containerd.sock",
                            },
                        ],
                    },
                    {
                        "labels": { "unit": "ssh.service" },
                        "cgroups": [{ "path": "/system.slice/ssh.service", "from": "path" }],
                    },
                ],
                "other": {
                    "labels": { "pod": "other", "unit": "other" },
                    "cgroups": [{ "path": "/", "from": "path" }],
                },
                "max_sets": 1,
                "series": 18,
            },
        });
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
    }

    #[test]
    fn table_says_what_is_left_out_of_the_cgroups() {
        let table = |config: &str, cgroups: &FoundCgroups| {
            report(config, Some(cgroups), CheckFormat::Table)
        };
        let text = table("limits: {cgroups: 1}", &cgroups());
        let note = "\n2 sets of cgroups, 1 at most: those that use most keep their labels, the others are \
                    `other`\n";
        assert!(text.contains(note), "{text}");
        let error = Some("no\ncgroups".to_owned());
        let text = table("{}", &FoundCgroups { error: error.clone(), ..FoundCgroups::default() });
        assert!(text.contains("\n\ncgroups: no\\ncgroups\n\n2371 series"), "{text}");
        let text = table("{}", &FoundCgroups { error, ..cgroups() });
        assert!(text.contains("\n\ncgroups: no\\ncgroups\n\nLABELS "), "{text}");
        let text = table("relabel_configs: [{action: drop, regex: ''}]", &cgroups());
        assert!(text.ends_with("\n\n0 series at most, 0 sets of labels\n"), "{text}");
        let text = table("cgroups: {labels: {}}", &cgroups());
        let all = "\n\nLABELS  FROM                                    CGROUP\n\
                   other   path                                    /\n        unix";
        assert!(text.contains(all) && text.contains("\n\nother is {}\n\n"), "{text}");
    }

    #[test]
    fn cgroups_that_are_not_accounted_for_are_not_listed() {
        let text = report("without: [cpu]", None, CheckFormat::Table);
        assert!(text.ends_with("\n\n28 series at most, 1 set of labels\n"), "{text}");
        let text = report("without: [cpu]", None, CheckFormat::Json);
        let json = serde_json::from_str::<Value>(&text).unwrap();
        assert_eq!((&json["cgroups"], &json["series"]), (&Value::Null, &json!(28)));
    }

    #[test]
    fn labels_are_shown_as_in_queries() {
        let set = [("a".to_owned(), "b\"\\\n".to_owned()), ("c".to_owned(), "d".to_owned())];
        assert_eq!(shown(&set.into()), r#"{a="b\"\\\n", c="d"}"#);
        assert_eq!(shown(&Set::new()), "{}");
    }

    #[test]
    fn both_show_the_warnings() {
        let config = "labels:\n  a: ${RACK}\n  b: $(POD)\n";
        let text = report(config, Some(&cgroups()), CheckFormat::Table);
        let expected = "\
f.yaml: valid, with 2 warnings
f.yaml:2:6: labels.a: ${RACK} is served as written; write {{ env.RACK }}
f.yaml:3:6: labels.b: $(POD) is served as written; write {{ env.POD }}

ON ";
        assert!(text.starts_with(expected), "{text}");
        let text = report(config, Some(&cgroups()), CheckFormat::Json);
        let warnings = &serde_json::from_str::<Value>(&text).unwrap()["warnings"];
        let first = json!({
            "line": 2,
            "column": 6,
            "key": "labels.a",
            "message": "${RACK} is served as written; write {{ env.RACK }}",
        });
        assert_eq!((&warnings[0], warnings.as_array().unwrap().len()), (&first, 2));
    }
}
