//! `cargo xtask docs`: writes the documents that are generated from the code, and the copies of
//! Prometheus's rules for kustomize and Helm, which read no files outside of their directories.

use std::{fs, process::ExitCode};

use anyhow::{Context, Result, bail};

mod chart;
mod evidence;

use self::evidence::{Evidence, with_block};
use crate::{
    shipped::example,
    workspace::{output, root},
};

/// Prometheus's rules, each a file of groups.
const RULES: [&str; 2] =
    ["deploy/prometheus/recording.rules.yaml", "deploy/prometheus/alerts.rules.yaml"];

/// Writes the generated documents, or with `check` compares them with the committed ones.
pub(crate) fn docs(check: bool) -> Result<ExitCode> {
    let read = |path: &str| fs::read_to_string(root().join(path)).with_context(|| path.to_owned());
    let mut groups = String::new();
    for path in RULES {
        let text = read(path)?;
        groups += groups_of(&text).with_context(|| format!("{path} has no line `groups:`"))?;
    }
    let evidence = Evidence::read(&read("docs/accuracy.md")?, &read("docs/performance.md")?)?;
    let readme = with_block(&read("README.md")?, "evidence", &evidence.table());
    let generated = [
        ("docs/metrics.md", metrics()?),
        ("docs/evidence.svg", chart::draw(&evidence)),
        ("README.md", readme.context("README.md")?),
        ("deploy/kubernetes/components/monitoring/prometheusrule.yaml", custom_resource(&groups)),
        ("deploy/helm/sched_exporter/rules.yaml", format!("{}groups:\n{groups}", origin())),
    ];
    for (path, text) in generated {
        let file = root().join(path);
        if !check {
            fs::write(&file, text).context(path)?;
        } else if fs::read_to_string(&file).context(path)? != text {
            bail!("{path} is out of date; run `cargo xtask docs` and commit the result");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn metrics() -> Result<String> {
    let text = output(&mut example("metrics_md")?)?;
    String::from_utf8(text).context("docs/metrics.md")
}

/// Returns the lines below `groups:`, the only key of a rules file.
fn groups_of(text: &str) -> Option<&str> {
    text.strip_prefix("groups:\n").or_else(|| Some(text.split_once("\ngroups:\n")?.1))
}

fn origin() -> String {
    format!("# Written by `cargo xtask docs` from {}.\n", RULES.join(" and "))
}

/// Wraps the groups in the custom resource of prometheus-operator.
fn custom_resource(groups: &str) -> String {
    let mut text = origin();
    text += "apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: sched-exporter
  namespace: sched-exporter
  labels: {app.kubernetes.io/name: sched-exporter}
spec:
  groups:
";
    for line in groups.lines() {
        if !line.is_empty() {
            text += "  ";
        }
        text += line;
        text += "\n";
    }
    text
}
