//! A Prometheus that discovers the exporter's pods. Debian's is built without the discovery of Kubernetes, so this
//! writes what that would find to a file; Prometheus relabels it by the shipped rules.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use sched_exporter_tests::namespaces::Daemon;
use serde_json::{Value, json};
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
    directory: TempDir,
}

impl<'n> Discovery<'n> {
    pub(crate) fn start(node: &'n Node) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("prometheus.yaml");
        fs::write(&file, config(&targets(&directory))).unwrap();
        let program =
            env::var_os("SCHED_EXPORTER_PROMETHEUS").expect("run by `cargo xtask cluster`");
        let mut command = node.command(program);
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--web.listen-address={ADDRESS}"));
        command.arg("--storage.tsdb.path=/run/node/prometheus");
        let daemon = Daemon::start(&mut command, &directory.path().join("log"));
        Self { node, _daemon: daemon, directory }
    }

    /// Writes the ports of all pods with the labels that Prometheus gives those that it discovers.
    /// <https://prometheus.io/docs/prometheus/latest/configuration/configuration/#pod>
    fn discover(&self) {
        let pods = self.node.get(&["pods", "--all-namespaces"]);
        self.set_targets(pods.iter().flat_map(ports).collect());
    }

    fn set_targets(&self, found: Vec<Value>) {
        let (file, partial) = (targets(&self.directory), self.directory.path().join("partial"));
        fs::write(&partial, Value::from(found).to_string()).unwrap();
        fs::rename(&partial, &file).unwrap();
    }

    /// The labels of what a query finds, and the values.
    fn query(&self, query: &str) -> Vec<Value> {
        let mut curl: Command = self.node.command("curl");
        curl.args(["--silent", "--get", "--data-urlencode", &format!("query={query}")]);
        let answer = curl.arg(format!("http://{ADDRESS}/api/v1/query")).output().unwrap();
        let mut answer: Value = serde_json::from_slice(&answer.stdout).unwrap_or_default();
        serde_json::from_value(answer["data"]["result"].take()).unwrap_or_default()
    }

    /// Waits until it has scraped the exporter, and checks whose series it stores. Then it stops scraping.
    pub(crate) fn check(&self) {
        let web = r#"sched_cgroup_cpu_seconds_total{namespace="default", pod=~"web-.+", container="main"}"#;
        Node::wait("scraped", || {
            self.discover();
            let found = self.query(web);
            found.len() >= 2 && found.iter().all(|it| it["metric"]["instance"] == NODE)
        });
        // A label that the exporter leaves empty is not that of its own pod.
        let units = r#"sched_cgroup_cpu_seconds_total{unit=~".+", pod!=""} or sched_cgroup_cpu_seconds_total{exported_pod!=""}"#;
        let others = self.query(units);
        let others: Vec<_> = others.iter().filter(|it| it["metric"]["unit"] != "other").collect();
        assert!(others.is_empty(), "{others:?}");
        self.set_targets(Vec::new());
    }
}

/// The file with the targets.
fn targets(directory: &TempDir) -> PathBuf {
    directory.path().join("targets.json")
}

/// The targets of a pod, one for each port of its containers.
fn ports(pod: &Value) -> Vec<Value> {
    let Some(address) = pod["status"]["podIP"].as_str() else { return Vec::new() };
    let named = |name: &str, value: &Value| {
        Some((format!("__meta_kubernetes_{name}"), value.as_str()?.to_owned()))
    };
    let metadata = &pod["metadata"];
    let own = [
        named("namespace", &metadata["namespace"]),
        named("pod_name", &metadata["name"]),
        named("pod_node_name", &pod["spec"]["nodeName"]),
    ];
    let labels = metadata["labels"].as_object().into_iter().flatten().map(|(name, value)| {
        let name = name.replace(|it: char| !it.is_ascii_alphanumeric(), "_");
        named(&format!("pod_label_{name}"), value)
    });
    let labels: BTreeMap<_, _> = own.into_iter().chain(labels).flatten().collect();
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let ports = containers.filter_map(|it| it["ports"].as_array()).flatten();
    ports
        .map(|port| {
            json!({"targets": [format!("{address}:{}", port["containerPort"])], "labels": labels})
        })
        .collect()
}

/// The shipped configuration with the rules that its comments show for pods, the targets in a file, and an interval
/// of a second.
fn config(targets: &Path) -> String {
    let (before, after) =
        CONFIG.split_once("  static_configs:\n  - targets: [\"127.0.0.1:10435\"]\n").unwrap();
    let (_, discovery) = after.split_once("  # kubernetes_sd_configs:\n  # - role: pod\n").unwrap();
    let mut lines = String::new();
    for line in discovery.lines().map_while(|line| line.strip_prefix("  # ")) {
        lines.extend(["  ", line, "\n"]);
    }
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus");
    let before = before.replace("_interval: 15s", "_interval: 1s");
    let before = before.replace("\n- recording", &format!("\n- {}/recording", rules.display()));
    let before = before.replace("\n- alerts", &format!("\n- {}/alerts", rules.display()));
    format!("{before}  file_sd_configs:\n  - files: [{}]\n{lines}", targets.display())
}
