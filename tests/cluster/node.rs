//! A Kubernetes node with its control plane, in namespaces of its own.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use sched_exporter_tests::{
    archive::payload,
    cgroups::Tree,
    container::{image, podman_ok},
    containerd::{Containerd, SOCKET},
    kubelet::Driver,
    namespaces::{Daemon, Namespaces},
};
use serde_json::{Value, json};

use crate::pki::Authority;

/// The name of the node.
pub(crate) const NODE: &str = "node-1";

/// Its address, which pods reach.
const ADDRESS: &str = "10.88.0.1";

/// The address of the service of the API, which pods reach without kube-proxy.
const SERVICE: &str = "10.96.0.1";

/// Its zone.
pub(crate) const ZONE: &str = "eu-1a";

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// Where its files are, in its own `/run`.
const FILES: &str = "/run/node";

/// `$1` is the directory of CNI's plugins. Without `/etc/resolv.conf`, pods have no DNS. This machine's own
/// networks of containers are hidden, since containerd would take the first by name.
const PREPARE: &str = "
mount --make-rshared /
for directory in /opt /run /var/lib /var/log; do mount -t tmpfs tmpfs $directory; done
mkdir -p /run/etc /run/work /run/node/manifests /opt/cni/bin /var/log/pods /var/log/containers
mount -t overlay -o lowerdir=/etc,upperdir=/run/etc,workdir=/run/work overlay /etc
mount --bind \"$1\" /opt/cni/bin
mkdir -p /etc/cni/net.d
mount -t tmpfs tmpfs /etc/cni/net.d
ip link set lo up
ip link add pods type bridge
ip address add 10.88.0.1/24 dev pods
ip link set pods up
ip address add 10.96.0.1/32 dev lo
ip route add default via 10.88.0.1
exec \"$0\" pause";

/// What kubelet sets in the kernel.
const SYSCTLS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// The settings of the kernel as they were; restored when dropped.
struct Sysctls(Vec<(PathBuf, String)>);

impl Sysctls {
    fn note() -> Self {
        let paths = SYSCTLS.iter().map(|name| Path::new("/proc/sys").join(name));
        Self(
            paths.filter_map(|path| Some((path.clone(), fs::read_to_string(path).ok()?))).collect(),
        )
    }
}

impl Drop for Sysctls {
    fn drop(&mut self) {
        for (path, text) in &self.0 {
            let _ = fs::write(path, text);
        }
    }
}

/// The node. Its parts are dropped in this order.
pub(crate) struct Node {
    daemons: Vec<Daemon>,
    containerd: Containerd,
    _sysctls: Sysctls,
}

fn root() -> PathBuf {
    env::var_os("SCHED_EXPORTER_KUBERNETES").expect("run by `cargo xtask cluster`").into()
}

impl Node {
    /// Starts it, and waits until it is ready.
    pub(crate) fn start() -> Self {
        let sysctls = Sysctls::note();
        let (payload, plugins) = (payload(), root().join("usr/lib/cni"));
        let args = [payload.as_os_str(), plugins.as_os_str()];
        let namespaces = Namespaces::with(&["--net"], &args, PREPARE, |_| ());
        let tree = Tree::new();
        tree.spread();
        let driver = Driver::Cgroupfs(tree.path().to_owned());
        configure(&namespaces, &tree);
        let directory = tempfile::tempdir().unwrap();
        let containerd = Containerd::start_in(namespaces, tree, driver, directory);
        let mut node = Self { daemons: Vec::new(), containerd, _sysctls: sysctls };
        node.load_image();
        node.start_daemons();
        Self::wait("ready", || {
            node.kubectl(&["wait", "--for=condition=Ready", "--timeout=1s", "node", NODE])
                .status
                .success()
        });
        node
    }

    /// Gives containerd the image of the exporter.
    fn load_image(&self) {
        let archive = self.containerd.directory().join("exporter.tar");
        let archive = archive.to_str().unwrap();
        podman_ok(["save", "--quiet", "--format=docker-archive", "--output", archive, &image()]);
        self.containerd.load(Path::new(archive));
    }

    fn start_daemons(&mut self) {
        self.daemon(
            "etcd",
            &[
                "--data-dir=/run/node/etcd",
                "--listen-client-urls=http://127.0.0.1:2379",
                "--advertise-client-urls=http://127.0.0.1:2379",
                "--listen-peer-urls=http://127.0.0.1:2380",
            ],
        );
        self.daemon(
            "kube-apiserver",
            &[
                "--etcd-servers=http://127.0.0.1:2379",
                "--secure-port=443",
                "--allow-privileged=true",
                "--authorization-mode=Node,RBAC",
                "--service-cluster-ip-range=10.96.0.0/24",
                &format!("--advertise-address={ADDRESS}"),
                "--client-ca-file=/run/node/ca.crt",
                "--tls-cert-file=/run/node/apiserver.crt",
                "--tls-private-key-file=/run/node/apiserver.key",
                "--kubelet-client-certificate=/run/node/admin.crt",
                "--kubelet-client-key=/run/node/admin.key",
                "--kubelet-preferred-address-types=InternalIP",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--service-account-key-file=/run/node/tokens.pub",
                "--service-account-signing-key-file=/run/node/tokens.key",
            ],
        );
        Self::wait("served by the API", || {
            self.kubectl(&["get", "--raw=/readyz"]).status.success()
        });
        let account = "--kubeconfig=/run/node/admin.json";
        let loopback = ["--leader-elect=false", "--bind-address=127.0.0.1", "--port=0"];
        let controller = [
            "--root-ca-file=/run/node/ca.crt",
            "--service-account-private-key-file=/run/node/tokens.key",
            "--use-service-account-credentials=true",
        ];
        self.daemon("kube-controller-manager", &[&[account], &loopback[..], &controller].concat());
        self.daemon("kube-scheduler", &[&[account], &loopback[..]].concat());
        self.daemon(
            "kubelet",
            &[
                "--config=/run/node/kubelet.json",
                "--kubeconfig=/run/node/node.json",
                "--container-runtime=remote",
                &format!("--container-runtime-endpoint=unix://{SOCKET}"),
                &format!("--hostname-override={NODE}"),
                &format!("--node-ip={ADDRESS}"),
                &format!("--node-labels=topology.kubernetes.io/zone={ZONE}"),
            ],
        );
    }

    /// Starts a program of Kubernetes.
    fn daemon(&mut self, program: &str, args: &[&str]) {
        let mut command = self.containerd.command(root().join("usr/bin").join(program));
        let log = self.containerd.directory().join(format!("{program}.log"));
        self.daemons.push(Daemon::start(command.args(args), &log));
    }

    /// A command that runs in the namespaces of the node.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.containerd.command(program)
    }

    /// The path at which this process finds a file of the node.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.containerd.namespaces.path(inside)
    }

    fn kubectl_command(&self, args: &[&str]) -> Command {
        let mut command = self.containerd.command(root().join("usr/bin/kubectl"));
        command.arg("--kubeconfig=/run/node/admin.json").args(args);
        command
    }

    /// Runs kubectl.
    pub(crate) fn kubectl(&self, args: &[&str]) -> Output {
        self.kubectl_command(args).output().unwrap()
    }

    /// As [`Node::kubectl`], but panics unless it succeeds. Returns its standard output.
    #[track_caller]
    pub(crate) fn kubectl_ok(&self, args: &[&str]) -> String {
        let output = self.kubectl(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {}: {stderr}", args.join(" "));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The objects that `kubectl get` returns with these arguments.
    #[track_caller]
    pub(crate) fn get(&self, args: &[&str]) -> Vec<Value> {
        let json = self.kubectl_ok(&[&["get", "--output=json"], args].concat());
        let mut list: Value = serde_json::from_str(&json).unwrap();
        serde_json::from_value(list["items"].take()).unwrap()
    }

    /// Applies objects, as YAML or JSON.
    #[track_caller]
    pub(crate) fn apply(&self, objects: &[u8]) {
        let mut command = self.kubectl_command(&["apply", "--filename=-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut kubectl = command.spawn().unwrap();
        kubectl.stdin.take().unwrap().write_all(objects).unwrap();
        assert!(kubectl.wait().unwrap().success());
    }

    /// Waits until something is done.
    #[track_caller]
    pub(crate) fn wait(what: &str, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done() {
            assert!(Instant::now() < deadline, "never {what}");
            thread::sleep(Duration::from_millis(200));
        }
    }
}

/// Writes the files of Kubernetes' programs.
fn configure(namespaces: &Namespaces, tree: &Tree) {
    let files = namespaces.path(FILES);
    let authority = Authority::new(&files);
    let names = ["kubernetes.default.svc", "127.0.0.1", ADDRESS, SERVICE];
    authority.certify("apiserver", "kube-apiserver", "", &names);
    authority.certify("admin", "admin", "system:masters", &[]);
    authority.certify("node", &format!("system:node:{NODE}"), "system:nodes", &[NODE, ADDRESS]);
    authority.sign_tokens();
    for user in ["admin", "node"] {
        let account = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "node",
            "contexts": [{"name": "node", "context": {"cluster": "node", "user": "node"}}],
            "clusters": [{"name": "node", "cluster": {
                "server": "https://127.0.0.1:443",
                "certificate-authority": format!("{FILES}/ca.crt"),
            }}],
            "users": [{"name": "node", "user": {
                "client-certificate": format!("{FILES}/{user}.crt"),
                "client-key": format!("{FILES}/{user}.key"),
            }}],
        });
        fs::write(files.join(format!("{user}.json")), account.to_string()).unwrap();
    }
    let kubelet = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": tree.path(),
        "failSwapOn": false,
        "makeIPTablesUtilChains": false,
        "staticPodPath": format!("{FILES}/manifests"),
        "resolvConf": "",
        "address": ADDRESS,
        "healthzBindAddress": "127.0.0.1",
        "authentication": {
            "anonymous": {"enabled": false},
            "x509": {"clientCAFile": format!("{FILES}/ca.crt")},
        },
        "tlsCertFile": format!("{FILES}/node.crt"),
        "tlsPrivateKeyFile": format!("{FILES}/node.key"),
        "evictionHard": {"memory.available": "100Mi"},
        "imageGCHighThresholdPercent": 100,
        // So that changes of ConfigMaps arrive within seconds.
        "syncFrequency": "5s",
        "configMapAndSecretChangeDetectionStrategy": "Watch",
    });
    fs::write(files.join("kubelet.json"), kubelet.to_string()).unwrap();
    let network = json!({
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [{
            "type": "bridge",
            "bridge": "pods",
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.88.0.0/24", "rangeStart": "10.88.0.10", "gateway": ADDRESS}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    });
    fs::write(namespaces.path("/etc/cni/net.d/pods.conflist"), network.to_string()).unwrap();
}
