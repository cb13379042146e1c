//! The configuration, the rules and their unit tests in `deploy/prometheus`.

use std::{fmt::Write as _, fs, path::PathBuf, process::Output};

use sched_exporter_tests::commands::{block, cgroup_queries, name_queries};
use tempfile::TempDir;

use super::promtool;

/// Directory of the files.
const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/prometheus");

/// Runs promtool on files, which must not be empty; panics unless it succeeds. Returns its output.
#[track_caller]
fn good(args: &[&str], files: &[PathBuf]) -> String {
    assert!(!files.is_empty());
    let Output { status, stdout, stderr } = promtool().args(args).args(files).output().unwrap();
    let said = String::from_utf8_lossy(&stdout) + String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{args:?}: {said}");
    said.into_owned()
}

/// Files in a directory whose names end with `suffix`.
fn files(directory: &str, suffix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(format!("{DEPLOY}/{directory}")).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.to_string_lossy().ends_with(suffix));
    files.sort();
    files
}

#[test]
fn prometheus_accepts_the_configuration_and_every_rule() {
    let rules = files("", ".rules.yaml");
    assert_eq!(rules.len(), 2);
    good(&["check", "rules", "--lint=all", "--lint-fatal"], &rules);
    let said =
        good(&["check", "config", "--lint=all", "--lint-fatal"], &files("", "prometheus.yaml"));
    assert!(said.contains("2 rule files found"), "{said}");
}

/// Writes a rule for each query, named by its number, to `rules.yaml`, and checks them.
#[track_caller]
fn rules_of(queries: &[&str]) -> TempDir {
    let mut rules = "groups:\n- name: docs\n  rules:\n".to_owned();
    for (number, query) in queries.iter().enumerate() {
        let query = query.replace('\n', "\n      ");
        let _ = write!(rules, "  - record: docs:query:{number}\n    expr: |\n      {query}\n");
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rules.yaml");
    fs::write(&file, rules).unwrap();
    good(&["check", "rules", "--lint=all", "--lint-fatal"], &[file]);
    directory
}

#[test]
fn queries_in_docs_cgroups_md_are_valid() {
    let queries = cgroup_queries();
    assert!(queries.len() > 5, "{}", queries.len());
    rules_of(&queries);
}

#[test]
fn queries_in_docs_deploy_md_join_names() {
    let queries = name_queries();
    let directory = rules_of(&queries);
    let test = include_str!("names.yaml");
    for number in 0..queries.len() {
        assert!(test.contains(&format!("- expr: docs:query:{number}\n")), "no test of {number}");
    }
    let file = directory.path().join("names.yaml");
    fs::write(&file, test).unwrap();
    good(&["test", "rules"], &[file]);
}

#[test]
fn prometheus_accepts_the_configuration_in_docs_deploy_md() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("prometheus.yaml");
    let config = block("Names of pods and containers", "yaml", 0);
    assert!(config.contains("\n  honor_labels: true\n"), "{config}");
    // Debian builds Prometheus without the discovery of Kubernetes.
    let discovery = "\n  kubernetes_sd_configs:\n  - role: pod\n";
    assert_eq!(config.matches(discovery).count(), 1);
    fs::write(&file, config.replace(discovery, "\n")).unwrap();
    good(&["check", "config", "--lint=all", "--lint-fatal"], &[file]);
}

#[test]
fn every_rule_passes_its_unit_tests() {
    good(&["test", "rules"], &files("tests", ".yaml"));
    let tests = files("tests", ".yaml").into_iter().map(|file| fs::read_to_string(file).unwrap());
    let tests = tests.collect::<String>();
    for rules in files("", ".rules.yaml") {
        for line in fs::read_to_string(rules).unwrap().lines() {
            if let Some((_, name)) = line.split_once("- record: ") {
                // A pattern covers all windows.
                let name = name.split_once("ratio_rate").map_or(name, |(before, _)| before);
                let tested = |line: &str| line.contains("expr:") || line.contains("__name__=~");
                let mut lines = tests.lines().filter(|line| tested(line));
                assert!(lines.any(|line| line.contains(name)), "no test covers {name}");
            } else if let Some((_, alert)) = line.split_once("- alert: ") {
                let blocks = tests.split("- alertname: ");
                let blocks: Vec<_> = blocks.filter_map(|it| it.strip_prefix(alert)).collect();
                for expected in ["exp_alerts: []", "exp_labels"] {
                    let found = blocks.iter().any(|block| block.contains(expected));
                    assert!(found, "no test of {alert} has {expected}");
                }
            }
        }
    }
}
