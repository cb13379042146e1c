//! The containers and pods that the sources know.

use std::{collections::BTreeMap, sync::Arc};

use crate::expr::cgroup::{CgroupNames, NamesFrom, PodMetadata};

/// The id of a container: 64 hexadecimal digits in paths of cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ContainerId([u8; 32]);

impl ContainerId {
    /// Parses lowercase digits; `None` if it is another kind of id.
    pub(super) fn parse(digits: &[u8]) -> Option<Self> {
        let mut id = [0; 32];
        let value = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        let (pairs, []) = digits.as_chunks::<2>() else { return None };
        if pairs.len() != id.len() {
            return None;
        }
        for (byte, [high, low]) in id.iter_mut().zip(pairs) {
            *byte = value(*high)? << 4 | value(*low)?;
        }
        Some(Self(id))
    }
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Container {
    /// Empty for the container that holds the namespaces of a pod.
    pub(super) name: Box<str>,
    pub(super) image: Arc<str>,
    pub(super) runtime: Arc<str>,
    pub(super) pod: Option<Arc<Pod>>,
}

/// A pod of Kubernetes, or of podman, which has neither namespace nor uid.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pod {
    pub(super) namespace: Box<str>,
    pub(super) name: Box<str>,
    /// As in paths of cgroups.
    pub(super) uid: Box<str>,
    /// Those of its labels and annotations that templates or rules use.
    pub(super) metadata: Option<Arc<PodMetadata>>,
}

/// The answer of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) containers: BTreeMap<ContainerId, Arc<Container>>,
    /// By uid.
    pub(super) pods: BTreeMap<Box<str>, Arc<Pod>>,
}

/// Who the containers are. If two sources know a container or a pod, the first one counts.
///
/// A user gives the cgroups below `user@1000.service` any names, also those of other people's containers. So only
/// the runtimes of a user know containers in the cgroups of that user, and they know no others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    answers: Vec<SourceAnswer>,
}

/// A source that has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SourceAnswer {
    pub(super) from: NamesFrom,
    /// The user whose runtime it is; `None` for those of the host.
    pub(super) user: Option<u32>,
    pub(super) answer: Arc<Answer>,
}

/// What a source knows of a cgroup. It is shared with the source's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    from: NamesFrom,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Container(Arc<Container>),
    /// Only the pod, by its uid.
    Pod(Arc<Pod>),
}

impl Inventory {
    pub(super) fn new(answers: impl IntoIterator<Item = SourceAnswer>) -> Self {
        Self { answers: answers.into_iter().collect() }
    }

    /// Finds the container of a cgroup, or at least its pod, by what its path says.
    pub fn find(&self, names: &CgroupNames) -> Option<Known> {
        self.container(names).or_else(|| self.pod(names))
    }

    /// Whether the path of a cgroup names a container, or only a pod, that no source knows.
    pub fn lacks(&self, names: &CgroupNames) -> bool {
        match ContainerId::parse(names.container_id.as_bytes()) {
            Some(_) => self.container(names).is_none(),
            None => !names.pod_uid.is_empty() && self.pod(names).is_none(),
        }
    }

    fn container(&self, names: &CgroupNames) -> Option<Known> {
        let id = ContainerId::parse(names.container_id.as_bytes())?;
        self.find_in(names, |answer| answer.containers.get(&id).cloned().map(What::Container))
    }

    fn pod(&self, names: &CgroupNames) -> Option<Known> {
        let uid = names.pod_uid.as_str();
        self.find_in(names, |answer| answer.pods.get(uid).cloned().map(What::Pod))
    }

    fn find_in(
        &self,
        names: &CgroupNames,
        find: impl Fn(&Answer) -> Option<What>,
    ) -> Option<Known> {
        // What root runs belongs to the host.
        let user = names.user.parse().ok().filter(|user| *user != 0);
        let answers = self.answers.iter().filter(|it| it.user == user);
        let mut found =
            answers.filter_map(|it| Some(Known { from: it.from.clone(), what: find(&it.answer)? }));
        found.next()
    }
}

impl Known {
    /// The source that knows it.
    pub const fn from(&self) -> &NamesFrom {
        &self.from
    }

    /// Whether this is a cgroup's container, and not only its pod.
    pub const fn is_container(&self) -> bool {
        matches!(self.what, What::Container(_))
    }

    /// Adds to the names that the path of a cgroup gives.
    pub fn add_to(&self, names: &mut CgroupNames) {
        let pod = match &self.what {
            What::Container(container) => {
                let Container { name, image, runtime, pod } = &**container;
                names.container_name = (**name).into();
                names.image = (**image).into();
                names.runtime = (**runtime).into();
                pod.as_ref()
            }
            What::Pod(pod) => Some(pod),
        };
        let Some(pod) = pod else { return };
        names.namespace = (*pod.namespace).into();
        names.pod_name = (*pod.name).into();
        names.pod.clone_from(&pod.metadata);
        // Keep the uid of the path: in the API, a static pod has a different one.
        if names.pod_uid.is_empty() {
            names.pod_uid = (*pod.uid).into();
        }
    }
}

/// Whether the path of a cgroup names a container or a pod that a source may know.
pub fn is_in_container(names: &CgroupNames) -> bool {
    ContainerId::parse(names.container_id.as_bytes()).is_some() || !names.pod_uid.is_empty()
}
