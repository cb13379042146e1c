//! A Prometheus that discovers the exporter's pods.

use std::{env, fs, path::Path, process::Command};

use sched_exporter_tests::namespaces::Daemon;
use serde_json::Value;
use tempfile::TempDir;

use crate::node::{NODE, Node};

/// Where it listens in the network of the node.
const ADDRESS: &str = "127.0.0.1:9090";

/// The shipped configuration.
const CONFIG: &str = include_str!("../../deploy/prometheus/prometheus.yaml");

/// A running Prometheus.
pub(crate) struct Discovery<'n> {
    node: &'n Node,
    _daemon: Daemon,
    _directory: TempDir,
}

impl<'n> Discovery<'n> {
    pub(crate) fn start(node: &'n Node) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("prometheus.yaml");
        fs::write(&file, config()).unwrap();
        let program =
            env::var_os("SCHED_EXPORTER_PROMETHEUS").expect("run by `cargo xtask cluster`");
        let mut command = node.command(program);
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--web.listen-address={ADDRESS}"));
        command.arg("--storage.tsdb.path=/run/node/prometheus");
        let daemon = Daemon::start(&mut command, &directory.path().join("log"));
        Self { node, _daemon: daemon, _directory: directory }
    }

    /// The labels of what a query finds, and the values.
    fn query(&self, query: &str) -> Vec<Value> {
        let mut curl: Command = self.node.command("curl");
        curl.args(["--silent", "--get", "--data-urlencode", &format!("query={query}")]);
        let answer = curl.arg(format!("http://{ADDRESS}/api/v1/query")).output().unwrap();
        let mut answer: Value = serde_json::from_slice(&answer.stdout).unwrap_or_default();
        serde_json::from_value(answer["data"]["result"].take()).unwrap_or_default()
    }

    /// Waits until it has scraped the exporter, and checks whose series it stores.
    pub(crate) fn check(&self) {
        let web = r#"sched_cgroup_cpu_seconds_total{namespace="default", pod=~"web-.+", container="main"}"#;
        Node::wait("scraped", || {
            let found = self.query(web);
            found.len() >= 2 && found.iter().all(|it| it["metric"]["instance"] == NODE)
        });
        // A label that the exporter leaves empty is not that of its own pod.
        let units = r#"sched_cgroup_cpu_seconds_total{unit=~".+", pod!=""} or sched_cgroup_cpu_seconds_total{exported_pod!=""}"#;
        let others = self.query(units);
        let others: Vec<_> = others.iter().filter(|it| it["metric"]["unit"] != "other").collect();
        assert!(others.is_empty(), "{others:?}");
    }
}

/// The shipped configuration, with the discovery that its comments show instead of the fixed target, an interval of a
/// second, and the account of the node's administrator.
fn config() -> String {
    let (before, after) =
        CONFIG.split_once("  static_configs:\n  - targets: [\"127.0.0.1:10435\"]\n").unwrap();
    let (_, discovery) = after.split_once("  # kubernetes_sd_configs:\n").unwrap();
    let mut lines = String::new();
    for line in discovery.lines().map_while(|line| line.strip_prefix("  # ")) {
        lines.extend(["  ", line, "\n"]);
    }
    let role = "- role: pod\n";
    assert!(lines.contains(role), "{lines}");
    let account = format!("{role}    kubeconfig_file: /run/node/admin.json\n");
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus");
    let before = before.replace("_interval: 15s", "_interval: 1s");
    let before = before.replace("\n- recording", &format!("\n- {}/recording", rules.display()));
    let before = before.replace("\n- alerts", &format!("\n- {}/alerts", rules.display()));
    format!("{before}  kubernetes_sd_configs:\n{}", lines.replace(role, &account))
}
