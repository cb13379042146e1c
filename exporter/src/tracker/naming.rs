//! Finds the names of cgroups, and computes their labels.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    accounting::CgroupReading,
    cgroup::{
        self,
        paths::{self, Limits},
    },
    exposition::Labels,
    expr::cgroup::CgroupNames,
    labels::{CgroupLabeller, Violation},
    os::log,
};

/// A cgroup whose path is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The number of its directory.
    pub id: u64,
    /// Below the mount.
    pub path: PathBuf,
    /// What labels can say.
    pub names: CgroupNames,
}

/// Cgroups by serial number.
pub type NamesBySerial = BTreeMap<u64, Arc<Named>>;

/// The labels of cgroups by serial number; `None` for those that belong to `other`.
pub type CgroupLabels = BTreeMap<u64, Option<Labels>>;

/// What a search for names has found.
#[derive(Debug, Default)]
pub(super) struct Search {
    pub(super) named: NamesBySerial,
    /// Cgroups that the search did not find.
    pub(super) missing: Vec<u64>,
    /// Why it did not see the whole tree.
    pub(super) error: Option<String>,
}

/// Finds the names of `unnamed` below `mount`. Blocks as long as the filesystem hangs.
pub(super) fn search(mount: &Path, unnamed: &[CgroupReading]) -> Search {
    let ids: BTreeSet<u64> = unnamed.iter().map(|reading| reading.id).collect();
    let (mut found, error) = match paths::find(mount, &ids, Limits::default()) {
        Ok(found) => {
            let cut = || "the tree has too many directories".to_owned();
            let error = found.error.as_ref().map(|error| log::chain(error));
            (found.paths, error.or_else(|| (!found.is_complete).then(cut)))
        }
        Err(error) => (BTreeMap::new(), Some(log::chain(&error))),
    };
    let mut search = Search { error, ..Search::default() };
    for CgroupReading { serial, id, .. } in unnamed {
        match found.remove(id) {
            Some(path) => drop(search.named.insert(*serial, Arc::new(named(*id, path)))),
            None => search.missing.push(*serial),
        }
    }
    search
}

/// Works out the names of a cgroup from its path.
pub(super) fn named(id: u64, path: PathBuf) -> Named {
    let names = cgroup::describe(id, &path);
    Named { id, path, names }
}

/// Computes the labels of cgroups; without a labeller, all belong to `other`. Also returns the violations of
/// limits.
pub fn labels_of(
    labeller: Option<&CgroupLabeller>,
    names: &NamesBySerial,
) -> (CgroupLabels, Vec<Violation>) {
    let Some(labeller) = labeller else {
        return (names.keys().map(|serial| (*serial, None)).collect(), Vec::new());
    };
    let mut violations = labeller.violations();
    let mut batch = labeller.batch(&mut violations);
    let labels = names.iter().map(|(serial, named)| (*serial, batch.labels(&named.names)));
    let labels = labels.collect();
    drop(batch);
    (labels, violations.take())
}
