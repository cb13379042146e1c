//! A kubelet for tests: it makes pods through the CRI, as the real one does.
//! <https://github.com/kubernetes/cri-api/blob/v0.32.3/pkg/apis/runtime/v1/api.proto>

use std::{error::Error, fs, path::PathBuf};

use bytes::Bytes;

use crate::{
    archive::IMAGE,
    grpc,
    protobuf::{self, Message},
};

/// Quality of service of a pod, which decides where its cgroup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It has the CPUs and the memory that it asks for.
    Guaranteed,
    /// It asks for some.
    Burstable,
    /// It gets what is left.
    BestEffort,
}

/// The software that makes cgroups, below the cgroup with this path.
#[derive(Clone, Debug)]
pub enum Driver {
    /// The runtime.
    Cgroupfs(String),
    /// systemd.
    Systemd(String),
}

impl Driver {
    /// A pod's cgroup as kubelet passes it to the runtime: its path, or the name of its slice.
    fn parent(&self, class: Class, uid: &str) -> String {
        let class = match class {
            Class::Guaranteed => None,
            Class::Burstable => Some("burstable"),
            Class::BestEffort => Some("besteffort"),
        };
        match self {
            Self::Cgroupfs(above) => {
                let class = class.map_or_else(String::new, |class| format!("/{class}"));
                format!("{above}/kubepods{class}/pod{uid}")
            }
            Self::Systemd(_) => {
                let class = class.map_or_else(String::new, |class| format!("-{class}"));
                format!("kubepods{class}-pod{}.slice", uid.replace('-', "_"))
            }
        }
    }

    /// The path of the cgroup of a container of a pod.
    pub fn container(&self, parent: &str, id: &str) -> String {
        match self {
            Self::Cgroupfs(_) => format!("{parent}/{id}"),
            Self::Systemd(above) => {
                // A slice is in the slice whose name is the part before the last dash.
                let mut path = above.clone();
                for (dash, _) in parent.match_indices('-') {
                    path.extend(["/", &parent[..dash], ".slice"]);
                }
                format!("{path}/{parent}/cri-containerd-{id}.scope")
            }
        }
    }
}

/// Calls a runtime at a socket.
#[derive(Clone, Debug)]
pub struct Kubelet {
    /// The socket.
    pub socket: PathBuf,
    /// The software that makes cgroups.
    pub driver: Driver,
}

/// A pod, with its sandbox.
#[derive(Clone, Debug)]
pub struct Pod {
    /// The id of its sandbox.
    pub sandbox: String,
    /// Its namespace and its name.
    pub name: [String; 2],
    uid: String,
    /// Its cgroup, as kubelet names it.
    pub parent: String,
    config: Message,
}

impl Pod {
    /// The label pairs of one of its containers, or of the pod itself if that is empty.
    pub fn pairs(&self, container: &str) -> [String; 3] {
        pairs(&self.name[0], &self.name[1], container)
    }

    fn labels(&self) -> [(&str, &str); 3] {
        labels(&self.name[0], &self.name[1], &self.uid)
    }
}

/// The label pairs of the series of a container.
pub fn pairs(namespace: &str, pod: &str, container: &str) -> [String; 3] {
    [("namespace", namespace), ("pod", pod), ("container", container)]
        .map(|(label, value)| format!("{label}=\"{value}\""))
}

fn labels<'l>(namespace: &'l str, name: &'l str, uid: &'l str) -> [(&'l str, &'l str); 3] {
    [
        ("io.kubernetes.pod.name", name),
        ("io.kubernetes.pod.namespace", namespace),
        ("io.kubernetes.pod.uid", uid),
    ]
}

/// Namespaces of a pod: the host's network, so that none must be set up, and its own for the rest.
fn namespaces() -> Message {
    const POD: u64 = 0;
    const CONTAINER: u64 = 1;
    const NODE: u64 = 2;
    Message::new().number(1, NODE).number(2, CONTAINER).number(3, POD)
}

impl Kubelet {
    /// Calls a method of the runtime; the error is the runtime's.
    pub fn try_call(&self, method: &str, request: &Message) -> Result<Bytes, Box<dyn Error>> {
        grpc::call(&self.socket, &format!("/runtime.v1.RuntimeService/{method}"), request)
    }

    #[track_caller]
    fn call(&self, method: &str, request: &Message) -> Bytes {
        self.try_call(method, request).unwrap()
    }

    /// Makes a pod with no container except the one that holds its namespaces.
    #[track_caller]
    pub fn run_pod(&self, namespace: &str, name: &str, class: Class) -> Pod {
        let uid = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap().trim().to_owned();
        let parent = self.driver.parent(class, &uid);
        let metadata = Message::new().text(1, name).text(2, &uid).text(3, namespace);
        let linux =
            Message::new().text(1, &parent).message(2, &Message::new().message(1, &namespaces()));
        let config = Message::new()
            .message(1, &metadata)
            .map(6, &labels(namespace, name, &uid))
            .map(6, &[("app", name)])
            .map(7, &[("kubernetes.io/config.source", "api")])
            .message(8, &linux);
        let answer = self.call("RunPodSandbox", &Message::new().message(1, &config));
        let sandbox = protobuf::text(&answer, 1);
        Pod { sandbox, name: [namespace, name].map(str::to_owned), uid, parent, config }
    }

    /// Starts a container in a pod, for the `attempt`th time after the first, and returns its id.
    #[track_caller]
    pub fn start(&self, pod: &Pod, name: &str, attempt: u64, args: &[&str]) -> String {
        let linux = Message::new()
            .message(1, &Message::new().number(3, 102))
            .message(2, &Message::new().message(3, &namespaces()));
        let config = Message::new()
            .message(1, &Message::new().text(1, name).number(2, attempt))
            .message(2, &Message::new().text(1, IMAGE))
            .map(9, &pod.labels())
            .map(9, &[("io.kubernetes.container.name", name)])
            .map(10, &[("io.kubernetes.container.restartCount", &attempt.to_string())])
            .message(15, &linux);
        let config = args.iter().fold(config, |config, arg| config.text(4, arg));
        let request =
            Message::new().text(1, &pod.sandbox).message(2, &config).message(3, &pod.config);
        let id = protobuf::text(&self.call("CreateContainer", &request), 1);
        self.call("StartContainer", &Message::new().text(1, &id));
        id
    }

    /// Stops a container and removes it.
    #[track_caller]
    pub fn remove(&self, container: &str) {
        self.call("StopContainer", &Message::new().text(1, container).number(2, 1));
        self.call("RemoveContainer", &Message::new().text(1, container));
    }

    /// Stops a pod and removes it with its containers.
    #[track_caller]
    pub fn remove_pod(&self, pod: &Pod) {
        self.call("StopPodSandbox", &Message::new().text(1, &pod.sandbox));
        self.call("RemovePodSandbox", &Message::new().text(1, &pod.sandbox));
    }

    /// Whether the runtime answers.
    pub fn is_up(&self) -> bool {
        self.try_call("Version", &Message::new()).is_ok()
    }
}
