//! Tests with promtool, which comes with Prometheus: its linter of the text format (it does not
//! know OpenMetrics), its relabelling compared with ours, and its checks of our rules.

use std::{
    env,
    io::Write as _,
    process::{Command, Stdio},
};

use sched_exporter_tests::process::Exporter;

mod relabel;
mod rules;

fn promtool() -> Command {
    Command::new(env::var_os("SCHED_EXPORTER_PROMTOOL").expect("run by `cargo xtask test`"))
}

#[test]
fn promtool_accepts_the_text_format() {
    let exporter = Exporter::start_with("labels:\n  host: \"a\\\"b\\\\c\\nd\"\n", &[]);
    let mut client = exporter.connect();
    client.get("/metrics");
    let text = client.request("GET", "/metrics", &[("Accept", "text/plain")]).text();
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
