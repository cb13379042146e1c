//! The exporter on the node, as its documents say to install it.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use sched_exporter_tests::{
    cgroups::Account, container::image, exposition::Exposition, kubelet::pairs,
};
use serde_json::{Value, json};

use crate::{
    node::{NODE, Node, PATIENCE},
    workloads,
};

const SECONDS: &str = "sched_cgroup_cpu_seconds_total";

/// The namespace and the name of everything.
const NAME: &str = "sched-exporter";

/// A way to install it.
pub(crate) struct Install {
    /// What it is.
    pub(crate) name: String,
    objects: Vec<u8>,
}

fn variable(name: &str) -> PathBuf {
    env::var_os(name).expect("run by `cargo xtask cluster`").into()
}

fn output(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("deploy")
}

impl Install {
    /// An overlay, with this machine's image and the hierarchy that a node with both versions of cgroups has.
    pub(crate) fn by_kustomize(overlay: &str) -> Self {
        let (repository, tag) = repository_and_tag();
        let directory = tempfile::tempdir_in(deploy().join("../target")).unwrap();
        let below = "../../deploy/kubernetes";
        let components = is_hybrid().then(|| format!("{below}/components/hybrid-cgroups"));
        let kustomization = json!({
            "resources": [format!("{below}/overlays/{overlay}")],
            "components": Vec::from_iter(components),
            "images": [{"name": "sched_exporter", "newName": repository, "newTag": tag}],
        });
        fs::write(directory.path().join("kustomization.yaml"), kustomization.to_string()).unwrap();
        let mut kustomize = Command::new(variable("SCHED_EXPORTER_KUSTOMIZE"));
        let objects = output(kustomize.arg("build").arg(directory.path()));
        Self { name: format!("kustomize, {overlay}"), objects }
    }

    /// The chart with these values, as Helm's library renders it.
    pub(crate) fn by_chart(values: &str) -> Self {
        const RENDER: &str = "import json, sys, yaml
sys.path.insert(0, sys.argv[1])
import check
print(yaml.safe_dump_all(check.helm(json.loads(sys.argv[2]))))";
        let (repository, tag) = repository_and_tag();
        let mut all: Value = serde_json::from_str(values).unwrap();
        all["image"] = json!({"repository": repository, "tag": tag});
        if is_hybrid() {
            all["cgroups"] = json!({"hostPath": "/sys/fs/cgroup/unified"});
        }
        let mut python = Command::new(variable("SCHED_EXPORTER_MANIFESTS_PYTHON"));
        python.args(["-B", "-c", RENDER, concat!(env!("CARGO_MANIFEST_DIR"), "/it/manifests")]);
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAME}});
        // If it began with `{`, kubectl would take all of it for JSON.
        let mut objects = format!("---\n{namespace}\n---\n").into_bytes();
        objects.extend(output(python.arg(all.to_string())));
        Self { name: format!("chart, {values}"), objects }
    }

    /// Installs it, and waits until it is ready.
    pub(crate) fn apply<'n>(&self, node: &'n Node) -> Installed<'n> {
        node.apply(&self.objects);
        let installed = Installed { node };
        installed.wait_for_roll_out();
        installed
    }
}

fn repository_and_tag() -> (String, String) {
    let image = image();
    let (repository, tag) = image.rsplit_once(':').unwrap();
    (repository.into(), tag.into())
}

fn is_hybrid() -> bool {
    Path::new("/sys/fs/cgroup/unified").exists()
}

/// The installed exporter.
pub(crate) struct Installed<'n> {
    node: &'n Node,
}

impl Installed<'_> {
    fn wait_for_roll_out(&self) {
        let daemon_set = format!("daemonset/{NAME}");
        let args = ["rollout", "status", "--timeout=2m", "--namespace", NAME, &daemon_set];
        self.node.kubectl_ok(&args);
    }

    /// The pod of the exporter, which is its only one.
    fn pod(&self) -> Value {
        let all = self.node.get(&["pods", "--namespace", NAME]);
        let mut pods = all.into_iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let pod = pods.next().unwrap();
        assert!(pods.next().is_none());
        pod
    }

    fn scrape(&self) -> Exposition {
        let pod = self.pod();
        let url = format!("http://{}:10435/metrics", pod["status"]["podIP"].as_str().unwrap());
        let scraped = output(self.node.command("curl").args(["--silent", "--fail", &url]));
        let exposition = Exposition::parse(str::from_utf8(&scraped).unwrap());
        let account = Account::of(&exposition);
        assert!(account.is_conserved(), "{account:?}");
        exposition
    }

    /// Scrapes until something is done.
    #[track_caller]
    fn wait(&self, what: &str, mut done: impl FnMut(&Exposition) -> bool) -> Exposition {
        let mut exposition = self.scrape();
        Node::wait(what, || {
            exposition = self.scrape();
            done(&exposition)
        });
        exposition
    }

    /// Checks that each container that the API knows has a series, and that no other has one. A pod can have one
    /// of its own, but its pause container may not have run since the exporter started.
    pub(crate) fn check_names(&self) {
        let pods = self.node.get(&["pods", "--all-namespaces"]);
        let possible: BTreeSet<_> = pods.iter().flat_map(names).collect();
        assert!(possible.iter().filter(|it| is_container(it)).count() > 4, "{possible:?}");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let exposition = self.scrape();
            let series = exposition.select(SECONDS, &[]);
            let found: BTreeSet<_> = series.filter_map(|(series, _)| names_in(series)).collect();
            let mut missing = possible.difference(&found).filter(|it| is_container(it)).peekable();
            let mut wrong = found.difference(&possible).peekable();
            if missing.peek().is_none() && wrong.peek().is_none() {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "without series: {:?}; only in series: {:?}",
                missing.collect::<Vec<_>>(),
                wrong.collect::<Vec<_>>()
            );
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Checks that an init container that has ended keeps its series, next to those of the pod's container.
    pub(crate) fn check_init_container(&self) {
        self.node.apply(workloads::with_init_container("prepared").to_string().as_bytes());
        let [init, main] = ["init", "main"].map(|name| pairs("default", "prepared", name));
        let time = |exposition: &Exposition, pairs: &[String; 3]| {
            exposition.sum_ns(SECONDS, &pairs.each_ref().map(String::as_str))
        };
        self.node.kubectl_ok(&["wait", "--for=condition=Ready", "--timeout=2m", "pod/prepared"]);
        // A scrape before its names are known would show its time in `other`.
        thread::sleep(Duration::from_secs(10));
        let exposition = self.wait("prepared", |it| time(it, &main) > 0);
        assert!(time(&exposition, &init) > 200_000_000, "{} ns", time(&exposition, &init));
        self.node.kubectl_ok(&["delete", "pod", "prepared"]);
    }

    /// Checks that the pod applies a change of its `ConfigMap`, and continues to count.
    pub(crate) fn check_configuration(&self) {
        let (pod, before) = (self.pod(), self.scrape());
        let host = |exposition: &Exposition, more: &str| {
            let host = format!("host=\"{NODE}\"");
            exposition.sum_ns("sched_cpu_seconds_total", &[&host, more])
        };
        let maps = self.node.get(&["configmaps", "--namespace", NAME]);
        let text = maps.iter().find_map(|map| map["data"]["exporter.yaml"].as_str()).unwrap();
        let changed = text.replacen("labels:\n", "labels:\n  rack: r1\n", 1);
        assert_ne!(changed, text);
        let patch = json!({"data": {"exporter.yaml": changed}}).to_string();
        let patch = ["patch", "configmap", NAME, "--namespace", NAME, "--patch", &patch];
        self.node.kubectl_ok(&patch);
        let after = self.wait("relabelled", |it| host(it, "rack=\"r1\"") > 0);
        assert!(host(&after, "rack=\"r1\"") > before.sum_ns("sched_cpu_seconds_total", &[]));
        assert_eq!(self.pod()["metadata"]["name"], pod["metadata"]["name"]);
        assert_eq!(self.pod()["status"]["containerStatuses"][0]["restartCount"], 0);
    }

    /// Checks that pods that are replaced keep their series, and that new ones get theirs.
    pub(crate) fn check_roll_out(&self) {
        // The pause container of an old pod may only run when it ends, and the API no longer knows the pod then.
        let pods = || {
            let pods = self.node.get(&["pods", "--selector=app=web"]);
            pods.iter().flat_map(names).filter(is_container).collect::<BTreeSet<_>>()
        };
        let before = pods();
        self.node.kubectl_ok(&["rollout", "restart", "deployment/web"]);
        self.node.kubectl_ok(&["rollout", "status", "--timeout=2m", "deployment/web"]);
        let is_shown = |exposition: &Exposition, [namespace, pod, container]: &[String; 3]| {
            let pairs = pairs(namespace, pod, container);
            exposition.select(SECONDS, &pairs.each_ref().map(String::as_str)).count() == 1
        };
        self.wait("named", |it| before.union(&pods()).all(|names| is_shown(it, names)));
        Node::wait("gone", || pods().is_disjoint(&before));
    }

    /// Checks that a new exporter replaces this one, and names what runs.
    pub(crate) fn check_update(&self) {
        let before = self.pod();
        self.node.kubectl_ok(&[
            "rollout",
            "restart",
            "--namespace",
            NAME,
            &format!("daemonset/{NAME}"),
        ]);
        self.wait_for_roll_out();
        Node::wait("replaced", || self.pod()["metadata"]["name"] != before["metadata"]["name"]);
        self.check_names();
    }

    /// Removes it.
    pub(crate) fn remove(self) {
        self.node.kubectl_ok(&["delete", "namespace", NAME, "--timeout=2m"]);
    }
}

/// Namespace, pod and container of each running container, and those of the pod itself, without a container.
fn names(pod: &Value) -> Vec<[String; 3]> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let statuses = pod["status"]["containerStatuses"].as_array();
    let running = statuses.into_iter().flatten().filter(|it| !it["state"]["running"].is_null());
    let containers = running.map(|it| text(&it["name"])).chain([String::new()]);
    let metadata = &pod["metadata"];
    containers
        .map(|container| [text(&metadata["namespace"]), text(&metadata["name"]), container])
        .collect()
}

/// Whether these are names of a container, and not of a pod itself.
fn is_container([_, _, container]: &[String; 3]) -> bool {
    !container.is_empty()
}

/// The namespace, the pod and the container of a series; `None` if it does not belong to a pod.
fn names_in(series: &str) -> Option<[String; 3]> {
    let label = |name: &str| {
        let (_, rest) = series.split_once(&format!("{name}=\""))?;
        Some(rest.split_once('"')?.0.to_owned())
    };
    let names = [label(",namespace")?, label(",pod")?, label("container")?];
    (!names[1].is_empty() && names[1] != "other").then_some(names)
}
