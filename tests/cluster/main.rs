//! Runs the `DaemonSet` on a real Kubernetes node, for `cargo xtask cluster`: installed by kustomize and by the chart,
//! with names from the runtime and from the Kubernetes API. Checks that every container of the node has its names,
//! that the configuration and the pods can be replaced, and what a Prometheus that discovers the pods stores.
//!
//! The node leaves nothing behind: its processes, mounts and network end with this process.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a terminal program that fails by panicking, as tests do"
)]

use std::time::Instant;

mod discovery;
mod install;
mod node;
mod pki;
mod workloads;

use discovery::Discovery;
use install::Install;
use node::Node;

fn main() {
    let started = Instant::now();
    let done = |what: &str| println!("{:6.1} s  {what}", started.elapsed().as_secs_f64());
    let node = Node::start();
    done("the node is ready");
    let prometheus = Discovery::start(&node);
    workloads::start(&node);
    done("a Deployment, a DaemonSet and a static pod run");
    for install in [
        Install::by_kustomize("names-cri"),
        Install::by_chart(r#"{"names": {"cri": {"enabled": true}}}"#),
        Install::by_kustomize("names-api"),
        Install::by_chart(r#"{"names": {"api": {"enabled": true}}}"#),
    ] {
        let installed = install.apply(&node);
        done(&format!("{}: ready", install.name));
        installed.check_names();
        done("  every container has its names");
        installed.check_init_container();
        done("  so has an init container that has ended");
        installed.check_configuration();
        done("  a change of the ConfigMap is applied by the same pod");
        installed.check_roll_out();
        done("  pods that a roll-out replaces have names, and those that replace them");
        prometheus.check();
        done("  Prometheus finds the exporter, and stores the labels of pods as they are");
        installed.check_update();
        done("  a roll-out of the exporter replaces it");
        installed.remove();
    }
    done("the end");
}
