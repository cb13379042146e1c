//! Builds the answer of one source within limits: tenants choose names, and can start many containers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    error::AskError,
    inventory::{Answer, Container, ContainerId},
};
use crate::expr::{
    cgroup::{CgroupUses, PodMap, PodMetadata},
    print,
};

/// Maximum number of containers and pods.
const MAX_ITEMS: usize = 16_384;

/// Maximum number of bytes of all names.
const MAX_BYTES: usize = 4 << 20;

/// Maximum number of bytes of all labels and annotations. They are counted apart from names, because tenants choose
/// how many a pod has.
const MAX_PAIR_BYTES: usize = 4 << 20;

/// The same for one pod.
const MAX_POD_BYTES: usize = 16 << 10;

/// What a label or an annotation counts besides its key and value, since it takes memory even if these are short.
const PAIR_BYTES: usize = 64;

/// Maximum length of the names of containers, pods and namespaces: <https://kubernetes.io/docs/concepts/overview/working-with-objects/names/>.
const MAX_NAME_BYTES: usize = 253;

/// Maximum length of an image's name: a name of 255, a tag of 128 and a digest.
/// <https://github.com/distribution/reference/blob/v0.6.0/reference.go>
const MAX_IMAGE_BYTES: usize = 512;

/// Maximum length of the key of a label or an annotation: a prefix of 253, a slash and a name of 63.
const MAX_KEY_BYTES: usize = 317;

/// Maximum length of a label or an annotation that is kept.
const MAX_VALUE_BYTES: usize = 4096;

/// Maximum number of different keys of labels, and of annotations, of which it is remembered whether they are used.
/// Pods have a few dozen.
const MAX_KEYS: usize = 4096;

/// What a source has answered, and why that is incomplete, if it is.
pub(super) type Answered = (Answer, Option<AskError>);

/// The room left in an answer. A name that is too long is left out: shortened, it could be that of another.
#[derive(Debug)]
pub(super) struct Room {
    items: usize,
    bytes: usize,
    pair_bytes: usize,
    images: BTreeSet<Arc<str>>,
    uses: Arc<CgroupUses>,
    /// Whether labels or annotations of pods may be used.
    uses_pods: bool,
    /// Whether rules may use them.
    rules_use_pods: bool,
    /// Whether a key is used: those in templates, and those seen so far that only rules may use. Looking it up here
    /// is faster than finding out again.
    keys: [BTreeMap<Box<str>, bool>; PodMap::ALL.len()],
    /// Whether something was left out.
    is_exceeded: bool,
}

/// Labels and annotations of one pod.
#[derive(Debug)]
pub(super) struct Pairs {
    metadata: PodMetadata,
    /// The number of bytes left.
    left: usize,
}

impl Pairs {
    pub(super) fn new() -> Self {
        Self { metadata: PodMetadata::default(), left: MAX_POD_BYTES }
    }
}

impl Room {
    /// An empty answer. Only labels and annotations in `uses` are kept.
    pub(super) fn new(uses: &Arc<CgroupUses>) -> Self {
        let mut keys: [BTreeMap<_, _>; _] = Default::default();
        for (map, key) in uses.of_pods_in_templates() {
            keys[map as usize].insert(key.into(), true);
        }
        Self {
            items: MAX_ITEMS,
            bytes: MAX_BYTES,
            pair_bytes: MAX_PAIR_BYTES,
            images: BTreeSet::new(),
            uses: Arc::clone(uses),
            uses_pods: uses.needs_pods(),
            rules_use_pods: uses.pods_in_rules(),
            keys,
            is_exceeded: false,
        }
    }

    /// Whether there is room for one more item.
    pub(super) fn item(&mut self) -> bool {
        let left = self.items.checked_sub(1);
        self.items = left.unwrap_or_default();
        self.is_exceeded |= left.is_none();
        left.is_some()
    }

    /// The name of a container, pod or namespace; `None` if it is empty or too long.
    pub(super) fn name(&mut self, name: &[u8]) -> Option<Box<str>> {
        self.text(name, MAX_NAME_BYTES).filter(|name| !name.is_empty())
    }

    /// The name of an image, which containers share; empty if it is too long.
    pub(super) fn image(&mut self, name: &[u8]) -> Arc<str> {
        let known = str::from_utf8(name).ok().and_then(|name| self.images.get(name));
        if let Some(known) = known {
            return Arc::clone(known);
        }
        let image: Arc<str> = self.text(name, MAX_IMAGE_BYTES).unwrap_or_default().into();
        self.images.insert(Arc::clone(&image));
        image
    }

    /// Whether any label or annotation may be used.
    pub(super) const fn uses_pods(&self) -> bool {
        self.uses_pods
    }

    /// Adds a label or an annotation to those of a pod if it is used. The last of several values counts.
    pub(super) fn pair(&mut self, pairs: &mut Pairs, map: PodMap, (key, value): (&[u8], &[u8])) {
        let Some(key) = str::from_utf8(key).ok().filter(|key| self.is_used(map, key)) else {
            return;
        };
        let of_map = match map {
            PodMap::Labels => &mut pairs.metadata.labels,
            PodMap::Annotations => &mut pairs.metadata.annotations,
        };
        of_map.remove(key);
        if value.len() > MAX_VALUE_BYTES {
            return;
        }
        let value = print::visible(value);
        let bytes = PAIR_BYTES + key.len() + value.len();
        let left = pairs.left.checked_sub(bytes).zip(self.pair_bytes.checked_sub(bytes));
        let Some(left) = left else {
            self.is_exceeded = true;
            return;
        };
        (pairs.left, self.pair_bytes) = left;
        of_map.insert(key.into(), value.into());
    }

    /// Returns what is kept of a pod's labels and annotations; `None` if none may be used.
    pub(super) fn metadata(&self, pairs: Pairs) -> Option<Arc<PodMetadata>> {
        self.uses_pods.then(|| Arc::new(pairs.metadata))
    }

    fn is_used(&mut self, map: PodMap, key: &str) -> bool {
        let keys = &mut self.keys[map as usize];
        if let Some(is_used) = keys.get(key) {
            return *is_used;
        }
        if !self.rules_use_pods || key.len() > MAX_KEY_BYTES {
            return false;
        }
        if keys.len() >= MAX_KEYS {
            self.is_exceeded = true;
            return false;
        }
        let is_used = self.uses.of_pod(map, key);
        keys.insert(key.into(), is_used);
        is_used
    }

    /// Why the answer is incomplete, if it is.
    pub(super) fn shortfall(&self) -> Option<AskError> {
        self.is_exceeded.then_some(AskError::Exceeded)
    }

    /// Escapes control characters of a text; `None` if it is too long, or the room is used up.
    fn text(&mut self, text: &[u8], max_bytes: usize) -> Option<Box<str>> {
        if text.len() > max_bytes {
            return None;
        }
        let text = print::visible(text);
        let left = self.bytes.checked_sub(text.len());
        self.bytes = left.unwrap_or(self.bytes);
        self.is_exceeded |= left.is_none();
        left.map(|_| text.into())
    }
}

impl Answer {
    /// Adds a container. Of several with the same id, keeps the smallest, so that their order does not matter.
    pub(super) fn add(&mut self, id: ContainerId, container: Container) {
        match self.containers.get_mut(&id) {
            Some(known) if **known <= container => {}
            Some(known) => *known = Arc::new(container),
            None => drop(self.containers.insert(id, Arc::new(container))),
        }
    }
}
