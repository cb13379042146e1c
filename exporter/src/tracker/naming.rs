//! Derives names and labels from the paths of cgroups, on a thread of its own: a thousand rules take time.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use crate::{
    cgroup,
    exposition::Labels,
    expr::cgroup::CgroupNames,
    generation::Generation,
    labels::{CgroupLabeller, Violations},
    runtimes::{Inventory, Known, is_in_container},
};

/// A cgroup whose path is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The number of its directory.
    pub id: u64,
    /// Below the mount; without a mount, below the root of the hierarchy.
    pub path: PathBuf,
    /// What a container runtime or the Kubernetes API knows of it. It is kept when they forget the container.
    pub known: Option<Known>,
}

impl Named {
    /// The names that labels can use. Computed each time, since keeping them would take much memory.
    pub fn names(&self) -> CgroupNames {
        let mut names = cgroup::describe(self.id, &self.path);
        if let Some(known) = &self.known {
            known.add_to(&mut names);
        }
        names
    }
}

/// Cgroups by serial number.
pub type NamesBySerial = BTreeMap<u64, Arc<Named>>;

/// The labels of cgroups by serial number; `None` for those that belong to `other`.
pub type CgroupLabels = BTreeMap<u64, Option<Labels>>;

/// A cgroup that needs a name: a new one, or one that was renamed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Nameless {
    pub(super) serial: u64,
    /// The number of its directory.
    pub(super) id: u64,
    pub(super) path: PathBuf,
}

/// Cgroups to name.
#[derive(Debug)]
pub(super) struct NamingJob {
    pub(super) cgroups: Vec<Nameless>,
    pub(super) inventory: Inventory,
    /// The cgroups that have names, if these may have changed, and how.
    pub(super) recheck: Option<(Arc<NamesBySerial>, Recheck)>,
    pub(super) generation: Arc<Generation>,
    /// The violations of this generation so far.
    pub(super) violations: Violations,
}

/// How names may have changed. The last one includes the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Recheck {
    /// The inventory may know more. Names that it has forgotten are kept.
    Update,
    /// The inventory is of other sources. Names that these do not know are dropped.
    Replace,
}

/// Cgroups with names and labels.
#[derive(Debug)]
pub(super) struct Naming {
    pub(super) names: NamesBySerial,
    pub(super) labels: CgroupLabels,
    pub(super) violations: Violations,
    /// The number of the generation that the labels and violations are of.
    pub(super) generation: u64,
    /// The cgroups of [`NamingJob::cgroups`] whose container no source knows.
    pub(super) unknown: BTreeSet<u64>,
    /// The other cgroups in `names` for which nobody need be asked. Of some, a source knows the pod, but not yet
    /// the container.
    pub(super) settled: BTreeSet<u64>,
    /// Whether any cgroup belongs to a container.
    pub(super) has_containers: bool,
}

impl NamingJob {
    /// Works out names and labels.
    pub(super) fn run(self) -> Naming {
        let Self { cgroups, inventory, recheck, generation, mut violations } = self;
        let (mut unknown, mut settled) = (BTreeSet::new(), BTreeSet::new());
        let mut has_containers = false;
        let mut names = NamesBySerial::new();
        for Nameless { serial, id, path } in cgroups {
            let by_path = cgroup::describe(id, &path);
            has_containers |= is_in_container(&by_path);
            let is_unknown = inventory.lacks(&by_path);
            if is_unknown {
                unknown.insert(serial)
            } else {
                settled.insert(serial)
            };
            let known = inventory.find(&by_path);
            names.insert(serial, Arc::new(Named { id, path, known }));
        }
        if let Some((known, how)) = recheck {
            let changed = known.iter().filter(|(serial, _)| !names.contains_key(serial));
            let changed =
                changed.filter_map(|(serial, it)| Some((*serial, renamed(it, &inventory, how)?)));
            let changed: Vec<_> = changed.collect();
            let is_settled =
                |named: &Named| !inventory.lacks(&cgroup::describe(named.id, &named.path));
            let known = changed.iter().filter(|(_, named)| is_settled(named));
            settled.extend(known.map(|(serial, _)| *serial));
            names.extend(changed);
        }
        let labels = labels_of(generation.labels.cgroups.as_ref(), &names, &mut violations);
        let generation = generation.number;
        Naming { names, labels, violations, generation, unknown, settled, has_containers }
    }
}

/// Returns a cgroup with what is known of it now, if that has changed.
fn renamed(named: &Named, inventory: &Inventory, how: Recheck) -> Option<Arc<Named>> {
    let found = inventory.find(&cgroup::describe(named.id, &named.path));
    let is_container = |known: &Option<Known>| known.as_ref().is_some_and(Known::is_container);
    // A container that is no longer listed may still be found by its pod.
    let is_less = found.is_none() || is_container(&named.known) && !is_container(&found);
    if found == named.known || how == Recheck::Update && is_less {
        return None;
    }
    Some(Arc::new(Named { known: found, ..named.clone() }))
}

/// A cgroup that only its path names.
#[cfg(test)]
pub(super) fn named(id: u64, path: PathBuf) -> Named {
    Named { id, path, known: None }
}

/// Computes the labels of cgroups; without a labeller, all belong to `other`. Adds to the violations of limits,
/// which must be of the same labeller.
pub fn labels_of(
    labeller: Option<&CgroupLabeller>,
    names: &NamesBySerial,
    violations: &mut Violations,
) -> CgroupLabels {
    let Some(labeller) = labeller else {
        return names.keys().map(|serial| (*serial, None)).collect();
    };
    let mut batch = labeller.batch(violations);
    names.iter().map(|(serial, named)| (*serial, batch.labels(&named.names()))).collect()
}

/// The violations of a labeller before the first cgroup is labelled.
pub fn violations_of(labeller: Option<&CgroupLabeller>) -> Violations {
    labeller.map(CgroupLabeller::violations).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtimes::Received;

    const ID: &str = "a61627ef0b1c2d3e4f5061728394a5b6c7d8e9f00112233445566778191ac199";

    /// Docker's list with one container of this name.
    fn inventory(name: &str) -> Inventory {
        let list = format!(r#"[{{"Id": "{ID}", "Names": ["/{name}"], "Image": "image"}}]"#);
        Received::Docker(list.as_bytes()).read(&Arc::default(), 100).unwrap()
    }

    fn container() -> PathBuf {
        format!("/docker/{ID}").into()
    }

    fn run(
        cgroups: Vec<Nameless>,
        inventory: Inventory,
        recheck: Option<(Arc<NamesBySerial>, Recheck)>,
    ) -> Naming {
        let (generation, violations) = (Arc::default(), Violations::default());
        NamingJob { cgroups, inventory, recheck, generation, violations }.run()
    }

    fn name(named: &Named) -> String {
        named.names().container_name
    }

    #[test]
    fn cgroups_of_containers_have_the_names_of_these() {
        let cgroups = || {
            vec![
                Nameless { serial: 3, id: 103, path: "/a.service".into() },
                Nameless { serial: 4, id: 104, path: container() },
            ]
        };
        let naming = run(cgroups(), Inventory::default(), None);
        assert_eq!((naming.unknown, naming.has_containers), ([4].into(), true));
        assert_eq!(naming.settled, [3].into());
        assert_eq!(name(&naming.names[&4]), "");
        let naming = run(cgroups(), inventory("web"), None);
        assert_eq!((naming.unknown, naming.has_containers), ([].into(), true));
        assert_eq!([3, 4].map(|serial| name(&naming.names[&serial])), ["", "web"]);
        assert_eq!(naming.labels, [(3, None), (4, None)].into());
        let naming = run(cgroups()[..1].to_vec(), inventory("web"), None);
        assert!(!naming.has_containers);
    }

    #[test]
    fn a_container_is_unknown_as_long_as_only_its_pod_is_known() {
        const UID: &str = "d5d4df71-6152-41de-9fdf-c0994d70ebc9";
        let path: PathBuf = format!("/kubepods/pod{UID}/{ID}").into();
        let pods = |containers: &str| {
            let pod = format!(
                r#"{{"items": [{{"metadata": {{"name": "cart-0", "namespace": "shop", "uid": "{UID}"}},
                "status": {{"containerStatuses": [{containers}]}}}}]}}"#
            );
            Received::Kubernetes(pod.as_bytes()).read(&Arc::default(), 100).unwrap()
        };
        let recheck = |inventory| {
            let names = [(4, Arc::new(named(104, path.clone())))];
            let naming =
                run(Vec::new(), inventory, Some((Arc::new(names.into()), Recheck::Update)));
            assert_eq!(
                (naming.names[&4].names().pod_name.as_str(), naming.unknown),
                ("cart-0", [].into())
            );
            naming.settled
        };
        assert_eq!(recheck(pods("")), [].into());
        let container =
            format!(r#"{{"name": "cart", "image": "i", "containerID": "containerd://{ID}"}}"#);
        assert_eq!(recheck(pods(&container)), [4].into());
        let new = vec![Nameless { serial: 4, id: 104, path: path.clone() }];
        let naming = run(new, pods(""), None);
        assert_eq!((naming.unknown, naming.settled), ([4].into(), [].into()));
    }

    #[test]
    fn names_follow_the_inventory_and_stay_when_it_forgets_a_container() {
        let recheck = |before: Option<&str>, after: Inventory, how| {
            let known = before.and_then(|it| inventory(it).find(&named(104, container()).names()));
            let names = [
                (3, Arc::new(named(103, "/a.service".into()))),
                (4, Arc::new(Named { known, ..named(104, container()) })),
            ];
            let naming = run(Vec::new(), after, Some((Arc::new(names.into()), how)));
            assert!(!naming.names.contains_key(&3));
            naming.names.get(&4).map(|it| name(it))
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(recheck(None, inventory("web"), Recheck::Update), some("web"));
        assert_eq!(recheck(Some("web"), inventory("web"), Recheck::Update), None);
        assert_eq!(recheck(Some("web"), inventory("renamed"), Recheck::Update), some("renamed"));
        assert_eq!(recheck(Some("web"), Inventory::default(), Recheck::Update), None);
        assert_eq!(recheck(Some("web"), Inventory::default(), Recheck::Replace), some(""));
        assert_eq!(recheck(None, Inventory::default(), Recheck::Replace), None);
    }
}
