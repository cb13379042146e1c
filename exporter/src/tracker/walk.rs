//! Walks the tree of cgroups, on a thread of its own.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{NamesBySerial, searches::Wanted};
use crate::{
    cgroup::paths::{self, Limits},
    os::log,
};

/// What to look for below a mount.
#[derive(Debug)]
pub(super) struct WalkJob {
    pub(super) mount: PathBuf,
    pub(super) wanted: Wanted,
    pub(super) named: Arc<NamesBySerial>,
    /// Cgroups that show where the mount is, by their paths from the root of the hierarchy.
    pub(super) unplaced: Vec<(u64, PathBuf)>,
}

/// The result of a walk.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Paths below the mount, by id.
    pub(super) paths: BTreeMap<u64, PathBuf>,
    /// Where the mount is in the hierarchy, if one of the cgroups in [`WalkJob::unplaced`] showed it.
    pub(super) root: Option<PathBuf>,
    /// Why the walk did not see the whole tree.
    pub(super) error: Option<String>,
}

impl WalkJob {
    /// Walks the tree. Blocks as long as the filesystem hangs.
    pub(super) fn run(self) -> Walk {
        let Self { mount, wanted, named, unplaced } = self;
        let found = match wanted {
            Wanted::All => paths::all(&mount, Limits::default()),
            Wanted::Ids { mut ids, verify } => {
                if verify {
                    ids.extend(named.values().map(|named| named.id));
                }
                paths::find(&mount, &ids, Limits::default())
            }
        };
        let (paths, error) = match found {
            Ok(found) => {
                let cut =
                    || "the tree has too many directories, or their names are too long".to_owned();
                let error = found.error.as_ref().map(|error| log::chain(error));
                (found.paths, error.or_else(|| (!found.is_complete).then(cut)))
            }
            Err(error) => (BTreeMap::new(), Some(log::chain(&error))),
        };
        Walk { paths, error, root: root(&mount, &unplaced) }
    }
}

fn root(mount: &Path, unplaced: &[(u64, PathBuf)]) -> Option<PathBuf> {
    // A mount that cannot be read is reported by the walk.
    paths::mounted(mount, unplaced.iter().map(|(id, path)| (*id, path.as_path()))).ok().flatten()
}

/// The serial numbers of the named cgroups that have been removed, ascending, or why that is unknown. Blocks
/// as long as the filesystem hangs.
pub(super) fn removed(mount: &Path, named: &NamesBySerial) -> Result<Vec<u64>, String> {
    let known = named.values().map(|named| (named.id, named.path.as_path()));
    let ids = paths::removed(mount, known).map_err(|error| log::chain(&error))?;
    let is_removed = |id: u64| ids.contains(&id);
    let removed = named.iter().filter(|(_, named)| is_removed(named.id));
    Ok(removed.map(|(serial, _)| *serial).collect())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt as _};

    use super::*;
    use crate::tracker::naming::named;

    #[test]
    fn finds_what_is_wanted_and_where_the_mount_is() {
        let tree = tempfile::tempdir().unwrap();
        let create = |path: &str| {
            fs::create_dir(tree.path().join(path)).unwrap();
            fs::metadata(tree.path().join(path)).unwrap().ino()
        };
        let (a, b, c) = (create("a"), create("b"), create("c"));
        let named = Arc::new([(1, Arc::new(named(b, "/was".into())))].into());
        let walk = |wanted, unplaced: &[(u64, &str)]| {
            let mount = tree.path().to_owned();
            let unplaced = unplaced.iter().map(|(id, path)| (*id, path.into())).collect();
            WalkJob { mount, wanted, named: Arc::clone(&named), unplaced }.run()
        };
        let ids = |verify| Wanted::Ids { ids: [a].into(), verify };
        let some = walk(ids(false), &[]);
        assert_eq!((some.paths, some.root), ([(a, "/a".into())].into(), None));
        let both = walk(ids(true), &[(c, "/lxc/c")]);
        assert_eq!(both.paths, [(a, "/a".into()), (b, "/b".into())].into());
        assert_eq!((both.root, both.error), (Some("/lxc".into()), None));
        assert_eq!(walk(Wanted::All, &[]).paths.len(), 4);
        fs::remove_dir(tree.path().join("b")).unwrap();
        assert_eq!(removed(tree.path(), &named), Ok(vec![1]));
        drop(tree);
    }

    #[test]
    fn says_why_it_found_nothing() {
        let mount: PathBuf = "/no/such/mount".into();
        let (named, unplaced) = (Arc::default(), vec![(1, "/a".into())]);
        let walk = WalkJob { mount: mount.clone(), wanted: Wanted::All, named, unplaced }.run();
        assert!(walk.paths.is_empty() && walk.root.is_none());
        let error = walk.error.unwrap();
        assert!(error.starts_with("reading `/no/such/mount`: "), "{error}");
        assert_eq!(removed(&mount, &NamesBySerial::new()), Err(error));
    }
}
