//! From the paths of cgroups to their names, and to labels, on a thread of its own: a thousand rules take
//! time, and so may the sources of names.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use crate::{
    cgroup,
    exposition::Labels,
    expr::cgroup::CgroupNames,
    generation::Generation,
    labels::{CgroupLabeller, Violations},
};

/// A cgroup whose path is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The number of its directory.
    pub id: u64,
    /// Below the mount; without a mount, below the root of the hierarchy.
    pub path: PathBuf,
}

impl Named {
    /// What labels can say of it. Worked out again each time, since it takes more memory than time.
    pub fn names(&self) -> CgroupNames {
        cgroup::describe(self.id, &self.path)
    }
}

/// Cgroups by serial number.
pub type NamesBySerial = BTreeMap<u64, Arc<Named>>;

/// The labels of cgroups by serial number; `None` for those that belong to `other`.
pub type CgroupLabels = BTreeMap<u64, Option<Labels>>;

/// A cgroup that needs a name: a new one, one that was renamed, or one whose names may have changed.
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
    pub(super) generation: Arc<Generation>,
    /// Those of this generation so far.
    pub(super) violations: Violations,
}

/// Cgroups with names and labels.
#[derive(Debug)]
pub(super) struct Naming {
    pub(super) names: NamesBySerial,
    pub(super) labels: CgroupLabels,
    pub(super) violations: Violations,
    /// The number of the generation that the labels and violations are of.
    pub(super) generation: u64,
}

impl NamingJob {
    /// Works out names and labels. May block.
    pub(super) fn run(self) -> Naming {
        let Self { cgroups, generation, mut violations } = self;
        let names = names_of(cgroups);
        let labels = labels_of(generation.labels.cgroups.as_ref(), &names, &mut violations);
        Naming { names, labels, violations, generation: generation.number }
    }
}

/// Finds the names of cgroups. The only place where they come from.
fn names_of(cgroups: Vec<Nameless>) -> NamesBySerial {
    let named = |it: Nameless| (it.serial, Arc::new(named(it.id, it.path)));
    cgroups.into_iter().map(named).collect()
}

/// Works out the names of a cgroup from its path.
pub(super) fn named(id: u64, path: PathBuf) -> Named {
    Named { id, path }
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
