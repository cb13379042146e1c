//! Tests with promtool, which comes with Prometheus: its linter of the text format (it does not
//! know OpenMetrics), its relabelling compared with ours, and its checks of our rules.

use std::{
    env, fs,
    io::Write as _,
    process::{Command, Stdio},
};

use sched_exporter_tests::process::{Exporter, run};

mod relabel;
mod rules;
mod web;

fn promtool() -> Command {
    Command::new(env::var_os("SCHED_EXPORTER_PROMTOOL").expect("run by `cargo xtask test`"))
}

const CONFIG: &str = "labels:\n  host: \"a\\\"b\\\\c\\nd\"\n";

#[test]
fn promtool_accepts_what_curl_gets() {
    let exporter = Exporter::start_with(CONFIG, &[]);
    let mut client = exporter.connect();
    let mut curl = |path| client.request("GET", path, &[("Accept", "*/*")]).text();
    curl("/metrics");
    check_metrics(&curl("/metrics"));
    check_metrics(&curl("/metrics?collect[]=cpu"));
}

#[test]
fn promtool_accepts_what_once_prints() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("exporter.yaml");
    fs::write(&config, CONFIG).unwrap();
    let output = run(&[&format!("--config.file={}", config.display()), "--once"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    check_metrics(&String::from_utf8(output.stdout).unwrap());
}

/// Passes an exposition to `promtool check metrics`.
#[track_caller]
fn check_metrics(text: &str) {
    let mut child = promtool()
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
}
