//! The pod of deploy/kubernetes, run by `podman kube play` instead of kubelet. The tests swap its
//! ConfigMap and replace it in a roll-out as Kubernetes does.

use std::{env, fs, path::Path, process::Command};

use sched_exporter_tests::{
    client::Client,
    config_map::ConfigMap,
    container::{ADDRESS, Container, image, podman, podman_ok},
    exposition::Exposition,
    pins::BpfFs,
};
use serde::Deserialize as _;
use serde_yaml::{Deserializer, Mapping, Value};
use tempfile::TempDir;

const NAME: &str = "sched_cpu_seconds_total";

/// The output of `kustomize build` for an overlay.
fn objects(overlay: &str) -> Vec<Value> {
    let kustomize = env::var_os("SCHED_EXPORTER_KUSTOMIZE").expect("run by `cargo xtask test`");
    let overlays = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kubernetes/overlays");
    let overlay = Path::new(overlays).join(overlay);
    let output = Command::new(kustomize).arg("build").arg(overlay).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let objects = Deserializer::from_slice(&output.stdout);
    objects.map(|object| Value::deserialize(object).unwrap()).collect()
}

fn of_kind<'o>(objects: &'o [Value], kind: &str) -> &'o Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap()
}

fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap()
}

/// The pod of a DaemonSet, with its configuration in a directory, adapted to podman 4.3: without
/// probes, which podman would run as curl in the container, so the test probes instead; without
/// fields of the node, which podman does not know; and with the seccomp profile in an annotation. It
/// listens only on the loopback.
fn pod(daemon_set: &Value, config: &Path) -> Value {
    let mut spec = daemon_set["spec"]["template"]["spec"].clone();
    spec["hostNetwork"] = true.into();
    assert_eq!(spec["volumes"][0]["configMap"]["name"], "sched-exporter");
    spec["volumes"][0] = yaml("{name: config, hostPath: {type: Directory}}");
    spec["volumes"][0]["hostPath"]["path"] = config.to_str().unwrap().into();
    let container: &mut Mapping = spec["containers"][0].as_mapping_mut().unwrap();
    for key in ["ports", "startupProbe", "livenessProbe", "readinessProbe"] {
        container.remove(key).unwrap();
    }
    container.insert("image".into(), image().into());
    let mut args = vec![Value::from(format!("--web.listen-address={ADDRESS}"))];
    args.extend(container.get("args").and_then(Value::as_sequence).cloned().unwrap_or_default());
    container.insert("args".into(), args.into());
    // Pods know their zone since Kubernetes 1.35.
    container
        .insert("env".into(), yaml("[{name: NODE_NAME, value: node-1}, {name: ZONE, value: ''}]"));
    let mut pod = yaml(
        "apiVersion: v1
kind: Pod
metadata:
  name: sched-exporter-test
  annotations: {container.seccomp.security.alpha.kubernetes.io/sched-exporter: unconfined}",
    );
    pod["spec"] = spec;
    pod
}

/// A pod's file; podman runs the pod until this is dropped.
struct Played {
    file: String,
    _directory: TempDir,
}

impl Played {
    fn new(pod: &Value) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pod.yaml").to_str().unwrap().to_owned();
        fs::write(&file, serde_yaml::to_string(pod).unwrap()).unwrap();
        Self { file, _directory: directory }
    }

    /// Starts the pod, and waits until its container serves.
    #[track_caller]
    fn play(&self, options: &[&str]) -> Container {
        podman_ok([&["kube", "play"], options, &[&self.file]].concat());
        Container::named("sched-exporter-test-sched-exporter".to_owned())
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        podman(["kube", "down", &self.file]);
    }
}

/// Nanoseconds of all CPUs in a zone.
fn total(exposition: &Exposition, zone: &str) -> u64 {
    exposition.sum_ns(NAME, &["host=\"node-1\"", &format!("zone=\"{zone}\"")])
}

#[test]
fn the_pod_follows_its_configmap_and_is_replaced() {
    let objects = objects("capabilities");
    let config =
        ConfigMap::new(of_kind(&objects, "ConfigMap")["data"]["exporter.yaml"].as_str().unwrap());
    let played = Played::new(&pod(of_kind(&objects, "DaemonSet"), config.path()));
    let container = played.play(&[]);
    for probe in ["/-/healthy", "/-/ready"] {
        assert_eq!(Client::connect(ADDRESS).get(probe).status, 200);
    }
    let granted = "--format={{.EffectiveCaps}} {{.HostConfig.ReadonlyRootfs}}";
    assert_eq!(podman_ok(["inspect", granted, &container.name]), "[CAP_BPF CAP_PERFMON] true");
    let before = container.scrape();
    assert!(total(&before, "none") > 0);

    config.swap("labels: {host: node-1, zone: eu-1a}\n");
    let after = container.wait_until("relabelled", |scrape| total(scrape, "eu-1a") > 0);
    assert_eq!(total(&after, "none"), 0);
    assert!(total(&after, "eu-1a") > total(&before, "none"));

    podman_ok(["kill", "--signal=HUP", &container.name]);
    let reloaded = container.wait_until("reloaded by SIGHUP", |scrape| {
        scrape.sum("sched_exporter_config_reloads_total", &["outcome=\"unchanged\""]) == 1
    });
    assert!(total(&reloaded, "eu-1a") > total(&after, "eu-1a"));

    // A roll-out replaces the pod; the counts of the new one start from zero.
    let replaced = played.play(&["--replace"]);
    let counted = total(&replaced.scrape(), "eu-1a");
    assert!(0 < counted && counted < total(&reloaded, "eu-1a"), "{counted}");
}

#[test]
fn with_pins_a_roll_out_continues_the_counts() {
    let bpf = BpfFs::mount();
    let objects = objects("pins");
    let config = ConfigMap::new("labels: {host: node-1, zone: eu-1a}\n");
    let mut pod = pod(of_kind(&objects, "DaemonSet"), config.path());
    let volumes = pod["spec"]["volumes"].as_sequence_mut().unwrap();
    let pins = volumes.iter_mut().find(|volume| volume["name"] == "pins").unwrap();
    assert_eq!(pins["hostPath"]["path"], "/sys/fs/bpf/sched_exporter");
    pins["hostPath"]["path"] = bpf.pins().to_str().unwrap().into();
    let played = Played::new(&pod);
    let before = played.play(&[]).scrape();
    assert!(bpf.names().contains("sched_switch"), "{:?}", bpf.names());
    let container = played.play(&["--replace"]);
    let after = container.scrape();
    assert!(total(&after, "eu-1a") > total(&before, "eu-1a"), "{}", container.log());
    assert!(container.log().contains("adopted the program"), "{}", container.log());

    // As docs/restart.md shows for nodes. It refuses while the pod runs.
    let unpin = || {
        let node = format!("--volume={}:/host", bpf.path().display());
        let command = ["--entrypoint=/bin/sched_exporter", &image(), "unpin"];
        let pins = ["--ebpf.pin-path=/host/pins"];
        podman([&["run", "--rm", &node], &command[..], &pins].concat())
    };
    let refused = unpin();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && said.contains("is in use by another"), "{said}");
    drop(container);
    drop(played);
    assert!(bpf.names().contains("sched_switch"), "{:?}", bpf.names());
    let removed = unpin();
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    assert!(!bpf.pins().exists(), "{:?}", bpf.names());
}

#[test]
fn an_invalid_configmap_changes_nothing() {
    let objects = objects("capabilities");
    let config = ConfigMap::new("labels: {host: node-1, zone: eu-1a}\n");
    let played = Played::new(&pod(of_kind(&objects, "DaemonSet"), config.path()));
    let container = played.play(&[]);
    config.swap("label: {}\n");
    let refused = container.wait_until("refused", |scrape| {
        scrape.sum("sched_exporter_config_last_reload_successful", &[]) == 0
    });
    assert!(total(&refused, "eu-1a") > 0);
    assert!(container.log().contains("exporter.yaml:1:1: label"));
}
