//! Asks the Kubernetes API for the pods of this node.
//! <https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/>
//!
//! Containers are found by their ids, which the API has a while after they start. The API does not list the
//! containers that hold the namespaces of pods: these are found by the pod's uid in their paths.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    answer::{Answered, Pairs, Room},
    error::AskError,
    inventory::{Answer, Container, ContainerId, Pod},
    json::{self, Objects},
};
use crate::{
    expr::cgroup::{CgroupUses, PodMap},
    os::kubernetes::{Access, ApiServer},
};

/// Maximum size of an answer. A pod takes about 8 KiB.
const MAX_BYTES: usize = 64 << 20;

/// Maximum size of a pod in it: <https://etcd.io/docs/v3.6/dev-guide/limit/>, as JSON.
const MAX_ITEM_BYTES: usize = 3 << 20;

/// The annotation with the uid that a static pod has in paths; in the API, it has a different one. It is 32
/// hexadecimal digits, so it cannot be the uid of a pod that is not static.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Lists the pods of the node.
pub(super) async fn list(
    api: &ApiServer,
    access: &Access,
    uses: &Arc<CgroupUses>,
) -> Result<Answered, AskError> {
    // With `resourceVersion=0`, the API server answers from memory.
    // <https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions>
    let path =
        format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}&resourceVersion=0", api.node());
    let mut answer = api.get(access, &path, "application/json").await?;
    match answer.head().status {
        StatusCode::OK => {}
        status @ StatusCode::FORBIDDEN => return Err(AskError::Forbidden(status)),
        status => return Err(AskError::Status(status)),
    }
    let mut found = Listed::new(uses);
    let objects = Objects::of_list(MAX_ITEM_BYTES);
    objects.receive(&mut answer, MAX_BYTES, |object| found.pod(object)).await?;
    Ok(found.answer())
}

/// Reads a list that arrives in pieces of this size.
pub(super) fn read(list: &[u8], uses: &Arc<CgroupUses>, size: usize) -> Result<Answer, AskError> {
    let mut found = Listed::new(uses);
    let mut objects = Objects::of_list(MAX_ITEM_BYTES);
    for piece in list.chunks(size) {
        objects.push(piece, &mut |object| found.pod(object))?;
    }
    objects.end()?;
    let (answer, _) = found.answer();
    Ok(answer)
}

#[derive(Debug)]
struct Listed {
    room: Room,
    answer: Answer,
    /// Static pods by the uid that they claim to have in paths; `None` if several do.
    mirrors: BTreeMap<Box<str>, Option<Arc<Pod>>>,
    runtimes: BTreeMap<Box<str>, Arc<str>>,
}

#[derive(Deserialize)]
struct ListedPod<'j> {
    #[serde(borrow)]
    metadata: Metadata<'j>,
    #[serde(borrow, default)]
    status: Status<'j>,
}

#[derive(Deserialize)]
struct Metadata<'j> {
    #[serde(borrow)]
    name: Cow<'j, str>,
    #[serde(borrow)]
    namespace: Cow<'j, str>,
    #[serde(borrow)]
    uid: Cow<'j, str>,
    #[serde(borrow, default)]
    labels: Option<&'j RawValue>,
    #[serde(borrow, default)]
    annotations: Option<&'j RawValue>,
}

#[derive(Default, Deserialize)]
struct Status<'j> {
    #[serde(rename = "initContainerStatuses", borrow, default)]
    init: Option<&'j RawValue>,
    #[serde(rename = "containerStatuses", borrow, default)]
    usual: Option<&'j RawValue>,
    #[serde(rename = "ephemeralContainerStatuses", borrow, default)]
    ephemeral: Option<&'j RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStatus {
    name: String,
    #[serde(default)]
    image: String,
    /// Like `containerd://5f0c…`.
    #[serde(rename = "containerID", default)]
    container_id: Option<String>,
    #[serde(default)]
    last_state: Option<LastState>,
}

#[derive(Deserialize)]
struct LastState {
    #[serde(default)]
    terminated: Option<Terminated>,
}

#[derive(Deserialize)]
struct Terminated {
    #[serde(rename = "containerID", default)]
    container_id: Option<String>,
}

impl Listed {
    fn new(uses: &Arc<CgroupUses>) -> Self {
        let (answer, mirrors, runtimes) = Default::default();
        Self { room: Room::new(uses), answer, mirrors, runtimes }
    }

    /// Reads a pod. It is left out if a name is too long.
    fn pod(&mut self, object: &[u8]) -> Result<(), AskError> {
        let ListedPod { metadata, status } = serde_json::from_slice(object)?;
        let names = [metadata.namespace, metadata.name, metadata.uid];
        let [Some(namespace), Some(name), Some(uid)] =
            names.map(|text| self.room.name(text.as_bytes()))
        else {
            return Ok(());
        };
        let mut pairs = Pairs::new();
        let mut mirror = None;
        let room = &mut self.room;
        if room.uses_pods() {
            json::pairs(metadata.labels, |key, value| {
                room.pair(&mut pairs, PodMap::Labels, (key.as_bytes(), value.as_bytes()));
            })?;
        }
        json::pairs(metadata.annotations, |key, value| {
            if key == MIRROR && is_static_uid(value) {
                mirror = Some(value.into());
            }
            let pair = (key.as_bytes(), value.as_bytes());
            room.pair(&mut pairs, PodMap::Annotations, pair);
        })?;
        if !self.room.item() {
            return Ok(());
        }
        let metadata = self.room.metadata(pairs);
        let pod = Arc::new(Pod { namespace, name, uid, metadata });
        self.answer.pods.insert(pod.uid.clone(), Arc::clone(&pod));
        if let Some(uid) = mirror {
            let claims = self.mirrors.entry(uid);
            claims.and_modify(|pod| *pod = None).or_insert_with(|| Some(Arc::clone(&pod)));
        }
        for containers in [status.init, status.usual, status.ephemeral] {
            json::elements(containers, |status| self.container(&pod, &status))?;
        }
        Ok(())
    }

    /// Adds a container, also by the id that it had before it was restarted.
    fn container(&mut self, pod: &Arc<Pod>, status: &ContainerStatus) {
        let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        let last = last.and_then(|terminated| terminated.container_id.as_ref());
        for id in [status.container_id.as_ref(), last].into_iter().flatten() {
            let Some((runtime, id)) = id.split_once("://") else { continue };
            let Some(id) = ContainerId::parse(id.as_bytes()) else { continue };
            if let Some(name) = self.room.name(status.name.as_bytes())
                && let Some(runtime) = self.runtime(runtime)
                && self.room.item()
            {
                let image = self.room.image(status.image.as_bytes());
                let pod = Some(Arc::clone(pod));
                self.answer.add(id, Container { name, image, runtime, pod });
            }
        }
    }

    /// The name of a runtime, which containers share.
    fn runtime(&mut self, name: &str) -> Option<Arc<str>> {
        if let Some(known) = self.runtimes.get(name) {
            return Some(Arc::clone(known));
        }
        let runtime: Arc<str> = self.room.name(name.as_bytes())?.into();
        self.runtimes.insert(name.into(), Arc::clone(&runtime));
        Some(runtime)
    }

    /// Returns the answer. Static pods are found by the uid in paths too, unless a pod has that uid in the API.
    fn answer(mut self) -> Answered {
        for (uid, pod) in self.mirrors {
            if let Some(pod) = pod {
                self.answer.pods.entry(uid).or_insert(pod);
            }
        }
        (self.answer, self.room.shortfall())
    }
}

fn is_static_uid(uid: &str) -> bool {
    uid.len() == 32 && uid.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
