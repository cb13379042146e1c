//! Asks a runtime by the Container Runtime Interface, version 1: containerd, CRI-O, cri-dockerd.
//! <https://github.com/kubernetes/cri-api/blob/v0.34.0/pkg/apis/runtime/v1/api.proto>
//!
//! Names and uids are taken from the metadata of sandboxes and containers, which only kubelet sets, and never
//! from labels, which users set too.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use tokio::time::{Instant, timeout_at};

use super::{
    answer::{Answered, Pairs, Room},
    error::AskError,
    grpc::Connection,
    inventory::{Answer, Container, ContainerId, Pod},
    protobuf::{Fields, Items, Malformed, Value, last},
};
use crate::expr::cgroup::{CgroupName, CgroupUses, PodMap};

/// Maximum size of an answer. kubelet takes 16 MiB:
/// <https://github.com/kubernetes/kubernetes/blob/v1.34.0/staging/src/k8s.io/cri-client/pkg/remote_runtime.go>
const MAX_BYTES: usize = 16 << 20;

/// Maximum size of a sandbox, container or image in it. Annotations of a pod have up to 256 KiB.
const MAX_ITEM_BYTES: usize = 1 << 20;

/// What the exporter remembers about a runtime between questions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cri {
    /// The name that it gives itself, like `containerd`.
    runtime: Arc<str>,
    /// The names of the images that containers refer to by id; empty if they have none.
    images: Images,
}

/// The names of images by id.
type Images = BTreeMap<Arc<str>, Arc<str>>;

/// Asks whether a runtime speaks CRI, and for its name.
pub(super) async fn version(path: &Path) -> Result<Cri, AskError> {
    let mut connection = Connection::open(path).await?;
    let mut reply = connection.call("/runtime.v1.RuntimeService/Version").await?;
    let mut message = Vec::new();
    while let Some(piece) = reply.chunk().await? {
        if piece.len() > MAX_ITEM_BYTES - message.len() {
            return Err(AskError::TooLarge(MAX_ITEM_BYTES));
        }
        message.extend_from_slice(&piece);
    }
    let name = Room::new(&Arc::default()).name(last(&message, 2, &[])?);
    let runtime = name.unwrap_or_default().into();
    Ok(Cri { runtime, images: BTreeMap::new() })
}

impl Cri {
    /// Lists containers and pods. Lists images only if their names are used and a container refers to one that is
    /// not known yet, and not beyond `deadline`: without images, the names of containers and pods still count.
    pub(super) async fn list(
        &mut self,
        path: &Path,
        uses: &Arc<CgroupUses>,
        deadline: Instant,
    ) -> Result<Answered, AskError> {
        let mut connection = Connection::open(path).await?;
        let mut found = Listed::new(uses);
        // Containers first: a container's sandbox exists before it, so the second list contains it.
        each(&mut connection, "/runtime.v1.RuntimeService/ListContainers", |item| {
            found.container(item)
        })
        .await?;
        each(&mut connection, "/runtime.v1.RuntimeService/ListPodSandbox", |item| {
            found.sandbox(item)
        })
        .await?;
        let ids = found.image_ids();
        let mut failure = None;
        if !ids.iter().all(|id| self.images.contains_key(id)) && uses.name(CgroupName::Image) {
            let mut images = ids.into_iter().map(|id| (id, Arc::default())).collect();
            let listing = each(&mut connection, "/runtime.v1.ImageService/ListImages", |item| {
                found.image(item, &mut images)
            });
            match timeout_at(deadline, listing).await.unwrap_or(Err(AskError::Late)) {
                Ok(()) => self.images = images,
                Err(error) => failure = Some(AskError::Images(Box::new(error))),
            }
        } else {
            self.images.retain(|id, _| ids.contains(id));
        }
        let (answer, shortfall) = found.answer(self);
        Ok((answer, failure.or(shortfall)))
    }
}

/// Reads lists of containers, sandboxes and images that arrive in pieces of this size.
pub(super) fn read(
    [containers, sandboxes, images]: [&[u8]; 3],
    uses: &Arc<CgroupUses>,
    size: usize,
) -> Result<Answer, AskError> {
    let mut found = Listed::new(uses);
    each_of(containers, size, |item| found.container(item))?;
    each_of(sandboxes, size, |item| found.sandbox(item))?;
    let mut names = found.image_ids().into_iter().map(|id| (id, Arc::default())).collect();
    each_of(images, size, |item| found.image(item, &mut names))?;
    let (answer, _) = found.answer(&Cri { runtime: "fake".into(), images: names });
    Ok(answer)
}

fn each_of(
    list: &[u8],
    size: usize,
    mut take: impl FnMut(&[u8]) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let mut items = Items::new(MAX_ITEM_BYTES);
    for piece in list.chunks(size) {
        items.push(piece, &mut take)?;
    }
    items.end()
}

/// Passes each item of a list to `take`, as it arrives.
async fn each(
    connection: &mut Connection,
    method: &'static str,
    mut take: impl FnMut(&[u8]) -> Result<(), Malformed>,
) -> Result<(), AskError> {
    let mut reply = connection.call(method).await?;
    let mut items = Items::new(MAX_ITEM_BYTES);
    let mut left = MAX_BYTES;
    while let Some(piece) = reply.chunk().await? {
        left = left.checked_sub(piece.len()).ok_or(AskError::TooLarge(MAX_BYTES))?;
        items.push(&piece, &mut take)?;
    }
    Ok(items.end()?)
}

/// What a runtime has listed.
#[derive(Debug)]
struct Listed {
    room: Room,
    containers: Vec<ListedContainer>,
    sandboxes: Vec<Sandbox>,
}

#[derive(Debug)]
struct ListedContainer {
    id: ContainerId,
    sandbox: ContainerId,
    name: Box<str>,
    /// Name or id.
    image: Arc<str>,
}

#[derive(Debug)]
struct Sandbox {
    is_ready: bool,
    created_at: u64,
    id: ContainerId,
    pod: Pod,
}

impl Listed {
    fn new(uses: &Arc<CgroupUses>) -> Self {
        Self { room: Room::new(uses), containers: Vec::new(), sandboxes: Vec::new() }
    }

    /// Reads a `Container`. It is left out if its id is not one that cgroups have, or if it has no name.
    fn container(&mut self, item: &[u8]) -> Result<(), Malformed> {
        let [mut id, mut sandbox, mut name, mut image, mut image_by_user] = [&[][..]; 5];
        for field in Fields::of(item) {
            match field? {
                (1, Value::Bytes(value)) => id = value,
                (2, Value::Bytes(value)) => sandbox = value,
                (3, Value::Bytes(metadata)) => name = last(metadata, 1, name)?,
                (4, Value::Bytes(spec)) => {
                    image = last(spec, 1, image)?;
                    image_by_user = last(spec, 18, image_by_user)?;
                }
                _ => {}
            }
        }
        let Some((id, sandbox)) = ContainerId::parse(id).zip(ContainerId::parse(sandbox)) else {
            return Ok(());
        };
        if let Some(name) = self.room.name(name)
            && self.room.item()
        {
            let image = if image_by_user.is_empty() { image } else { image_by_user };
            let image = self.room.image(image);
            self.containers.push(ListedContainer { id, sandbox, name, image });
        }
        Ok(())
    }

    /// Reads a `PodSandbox`. It is left out if its id is not one that cgroups have, or if it has no name.
    fn sandbox(&mut self, item: &[u8]) -> Result<(), Malformed> {
        const NOT_READY: u64 = 1;
        let [mut id, mut name, mut uid, mut namespace] = [&[][..]; 4];
        let (mut is_ready, mut created_at) = (true, 0);
        let mut pairs = Pairs::new();
        for field in Fields::of(item) {
            match field? {
                (1, Value::Bytes(value)) => id = value,
                (2, Value::Bytes(metadata)) => {
                    name = last(metadata, 1, name)?;
                    uid = last(metadata, 2, uid)?;
                    namespace = last(metadata, 3, namespace)?;
                }
                (3, Value::Varint(state)) => is_ready = state != NOT_READY,
                (4, Value::Varint(time)) => created_at = time,
                (5, Value::Bytes(entry)) => {
                    self.room.pair(&mut pairs, PodMap::Labels, pair(entry)?);
                }
                (6, Value::Bytes(entry)) => {
                    self.room.pair(&mut pairs, PodMap::Annotations, pair(entry)?);
                }
                _ => {}
            }
        }
        let Some(id) = ContainerId::parse(id) else { return Ok(()) };
        let [name, uid, namespace] = [name, uid, namespace].map(|text| self.room.name(text));
        if let (Some(name), Some(uid), Some(namespace)) = (name, uid, namespace)
            && self.room.item()
        {
            let metadata = self.room.metadata(pairs);
            let pod = Pod { namespace, name, uid, metadata };
            self.sandboxes.push(Sandbox { is_ready, created_at, id, pod });
        }
        Ok(())
    }

    /// The images that containers refer to by id, as kubelet does.
    fn image_ids(&self) -> BTreeSet<Arc<str>> {
        let images = self.containers.iter().map(|container| &container.image);
        images.filter(|image| is_image_id(image)).map(Arc::clone).collect()
    }

    /// Reads an `Image`, and notes the name of one in `images`: its smallest tag, or its smallest digest.
    fn image(&mut self, item: &[u8], images: &mut Images) -> Result<(), Malformed> {
        let id = str::from_utf8(last(item, 1, &[])?).unwrap_or_default();
        let Some(name) = images.get_mut(id) else { return Ok(()) };
        let (mut tag, mut digest) = (None, None);
        for field in Fields::of(item) {
            let (smallest, text) = match field? {
                (2, Value::Bytes(text)) => (&mut tag, text),
                (3, Value::Bytes(text)) => (&mut digest, text),
                _ => continue,
            };
            // Docker lists such names for images without a name.
            if !text.starts_with(b"<none>") && smallest.is_none_or(|it| text < it) {
                *smallest = Some(text);
            }
        }
        if let Some(found) = tag.or(digest) {
            *name = self.room.image(found);
        }
        Ok(())
    }

    /// Puts together what has been listed. A container without a sandbox is left out: it is being removed.
    fn answer(mut self, cri: &Cri) -> Answered {
        let mut answer = Answer::default();
        let mut pods = BTreeMap::new();
        // If a pod has several sandboxes, the one that is ready counts, and then the newest.
        self.sandboxes.sort_by_key(|it| (it.is_ready, it.created_at, it.id));
        for Sandbox { id, pod, .. } in self.sandboxes {
            let pod = Arc::new(pod);
            answer.pods.insert(pod.uid.clone(), Arc::clone(&pod));
            pods.insert(id, pod);
        }
        for ListedContainer { id, sandbox, name, image } in self.containers {
            let Some(pod) = pods.get(&sandbox) else { continue };
            let image = cri.images.get(&image).filter(|name| !name.is_empty()).unwrap_or(&image);
            let (image, runtime) = (Arc::clone(image), Arc::clone(&cri.runtime));
            answer.add(id, Container { name, image, runtime, pod: Some(Arc::clone(pod)) });
        }
        for (id, pod) in pods {
            let (name, image) = (Box::default(), Arc::default());
            let runtime = Arc::clone(&cri.runtime);
            answer.add(id, Container { name, image, runtime, pod: Some(pod) });
        }
        (answer, self.room.shortfall())
    }
}

fn is_image_id(image: &str) -> bool {
    image.starts_with("sha256:") || ContainerId::parse(image.as_bytes()).is_some()
}

/// Reads an entry of a map.
fn pair(entry: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    Ok((last(entry, 1, &[])?, last(entry, 2, &[])?))
}
