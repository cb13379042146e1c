//! The pods of a node other than the exporter's.

use std::fs;

use sched_exporter_tests::archive::IMAGE;
use serde_json::{Value, json};

use crate::node::Node;

/// A container that uses a share of a CPU for an hour.
fn container(name: &str, busy: u32, resources: &Value) -> Value {
    let args = ["spin", &busy.to_string(), &(100 - busy).to_string(), "3600"].map(str::to_owned);
    json!({"name": name, "image": IMAGE, "imagePullPolicy": "Never", "args": args, "resources": resources})
}

fn controller(kind: &str, name: &str, containers: &[Value]) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": containers, "terminationGracePeriodSeconds": 1},
            },
        },
    })
}

/// Starts pods of each class and kind, and waits until they run.
pub(crate) fn start(node: &Node) {
    let some = json!({"requests": {"cpu": "100m", "memory": "16Mi"}});
    let all = json!({"limits": {"cpu": "100m", "memory": "32Mi"}});
    let mut web = controller(
        "Deployment",
        "web",
        &[container("main", 10, &some), container("side", 1, &json!({}))],
    );
    web["spec"]["replicas"] = json!(2);
    let agent = controller("DaemonSet", "agent", &[container("main", 5, &all)]);
    let static_pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "static", "namespace": "default"},
        "spec": {"containers": [container("main", 5, &json!({}))]},
    });
    for object in [web, agent] {
        node.apply(object.to_string().as_bytes());
    }
    fs::write(node.path("/run/node/manifests/static.json"), static_pod.to_string()).unwrap();
    for controller in ["deployment/web", "daemonset/agent"] {
        node.kubectl_ok(&["rollout", "status", "--timeout=2m", controller]);
    }
    Node::wait("a static pod", || {
        let pods = node.get(&["pods"]);
        pods.iter().any(|pod| {
            pod["metadata"]["name"] == "static-node-1" && pod["status"]["phase"] == "Running"
        })
    });
}

/// A pod whose init container uses a CPU for a second before its container starts.
pub(crate) fn with_init_container(name: &str) -> Value {
    let mut init = container("init", 90, &json!({}));
    init["args"][3] = json!("1");
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "initContainers": [init],
            "containers": [container("main", 5, &json!({}))],
            "terminationGracePeriodSeconds": 1,
        },
    })
}
