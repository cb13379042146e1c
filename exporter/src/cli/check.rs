//! The report of `--config.check`: the labels that a configuration gives this machine, and the origin of
//! each. Pure.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use serde_json::{Value, json};

use crate::{
    config::{CPU, Diagnostic},
    cpu::list,
    expr::{print, values::Reading},
    generation::Inputs,
    labels::{self, Labels},
    metrics::catalog::SERIES,
};

/// Output format of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Formats the report of a valid file.
pub fn report(path: &Path, inputs: &Inputs, format: CheckFormat) -> String {
    let expansion = labels::expand(&inputs.config, &inputs.values, &inputs.topology, true);
    let host = expansion.host.clone().unwrap_or_default();
    let cpus = expansion.cpus.clone();
    let (sets, _) = labels::group(&inputs.config, expansion, SERIES);
    let buckets = inputs.config.runqueue_latency().bucket_indices().len();
    let (groups, latency) = (sets.groups.as_slice().len(), sets.latency.as_slice().len());
    let series = groups * SERIES.totals + latency * SERIES.latency(buckets);
    let report = Report { path, inputs, host, cpus, sets: groups, series };
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
    sets: usize,
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
        for (source, Reading { error, .. }) in self.inputs.values.readings() {
            let state = error.as_deref().unwrap_or("ok");
            rows.push([source.name().into(), print::escape(state)]);
        }
        if rows.len() > 1 {
            write_rows(&mut text, &rows);
        }
        let (series, sets) = (self.series, self.sets);
        let noun = if sets == 1 { "set" } else { "sets" };
        let _ = writeln!(text, "\n{series} series at most, {sets} {noun} of labels");
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
        let sources = self.inputs.values.readings().map(|(source, reading)| {
            json!({ "source": source.name(), "up": reading.error.is_none(), "error": reading.error })
        });
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
            "series": self.series,
        })
    }
}

/// Aligns all columns except the last.
fn write_rows<const N: usize>(text: &mut String, rows: &[[String; N]]) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    text.push('\n');
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = width(column).unwrap_or_default();
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
        expr::values::{Source, Values},
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
        let text = report(Path::new("f.yaml"), &inputs(CONFIG), CheckFormat::Table);
        let expected = "\
f.yaml: valid

ON       LABEL  VALUE   FROM
host     host   web-17  labels.host: hostname
         short  web     relabel_configs[0]
         zone   a\\nb    labels.zone: node.labels
cpu 0-1  cpu    0-1     the CPU
         host   web-17  labels.host: hostname
         short  web     relabel_configs[0]
         zone   a\\nb    labels.zone: node.labels
cpu 2    cpu    2       the CPU
         host   web-17  labels.host: hostname
         pool   web-b   cpus[0].labels.pool: label short
         short  web     relabel_configs[0]
         zone   a\\nb    labels.zone: node.labels

SOURCE       STATE
hostname     ok
node.labels  environment variable NODE_NAME is not set

84 series at most, 3 sets of labels
";
        assert_eq!(text, expected);
    }

    #[test]
    fn json_has_the_same_content() {
        let config = "labels: {host: \"{{ hostname }}\"}\nwithout: [cpu]\n";
        let table = report(Path::new("f.yaml"), &inputs(config), CheckFormat::Table);
        assert!(table.ends_with("\n28 series at most, 1 set of labels\n"), "{table}");
        let text = report(Path::new("f.yaml"), &inputs(config), CheckFormat::Json);
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
            ],
            "sets": 1,
            "series": 28,
        });
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
    }

    #[test]
    fn both_show_the_warnings() {
        let inputs = inputs("labels:\n  a: ${RACK}\n  b: $(POD)\n");
        let text = report(Path::new("f.yaml"), &inputs, CheckFormat::Table);
        let expected = "\
f.yaml: valid, with 2 warnings
f.yaml:2:6: labels.a: ${RACK} is served as written; write {{ env.RACK }}
f.yaml:3:6: labels.b: $(POD) is served as written; write {{ env.POD }}

ON ";
        assert!(text.starts_with(expected), "{text}");
        let text = report(Path::new("f.yaml"), &inputs, CheckFormat::Json);
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
