//! The paths of cgroups that have no name yet: as they were created, or as a walk has found them. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    path::{Path, PathBuf},
};

use super::NamesBySerial;
use crate::{cgroup::hierarchy::ROOT_INODE, kernel::births::Birth};

/// Maximum number of cgroups, which is more than there are slots.
const MAX_CGROUPS: usize = 4096;

/// Maximum length of all their paths together.
const MAX_BYTES: usize = 1 << 20;

/// Paths of cgroups by id, until they are named. Most are never named, because no task ever runs in them: slices,
/// and the directories of pods. So new ones displace the oldest.
#[derive(Debug)]
pub(super) struct Births {
    root: Root,
    /// Below the mount; without a mount, below the root of the hierarchy.
    paths: Paths,
    /// Below the root of the hierarchy, while the place of the mount is unknown.
    unplaced: Paths,
}

/// The directory below which cgroups have names: the root of the mount.
#[derive(Debug, PartialEq, Eq)]
enum Root {
    /// The root of the hierarchy.
    Whole,
    /// Not found yet.
    Unknown,
    /// This directory, by its path from the root of the hierarchy.
    At(PathBuf),
}

impl Births {
    /// Starts with no cgroup except the root. `is_whole` says that paths begin at the root of the hierarchy.
    pub(super) fn new(is_whole: bool) -> Self {
        let mut paths = Paths::default();
        let root = if is_whole {
            paths.insert(ROOT_INODE, "/".into());
            Root::Whole
        } else {
            Root::Unknown
        };
        Self { root, paths, unplaced: Paths::default() }
    }

    /// The path of a cgroup that has no name yet.
    pub(super) fn path(&self, id: u64) -> Option<&Path> {
        self.paths.get(id)
    }

    /// Forgets a cgroup that has a name, or is removed.
    pub(super) fn forget(&mut self, id: u64) {
        self.paths.remove(id);
        self.unplaced.remove(id);
    }

    /// Takes a cgroup that was created or renamed; if it was renamed, the cgroups in `named` at and below its
    /// path need new names. Returns whether only a walk can find out which paths have changed.
    pub(super) fn take(&mut self, birth: Birth, named: &NamesBySerial) -> bool {
        let Birth { id, is_renamed, path } = birth;
        match path {
            Some(path) if is_renamed => !self.rename(id, &path, named),
            Some(path) => {
                self.add(id, path);
                false
            }
            None => is_renamed,
        }
    }

    fn add(&mut self, id: u64, path: PathBuf) {
        match &self.root {
            Root::Whole => self.paths.insert(id, path),
            Root::Unknown => self.unplaced.insert(id, path),
            Root::At(root) => {
                if let Some(path) = below(&path, root) {
                    self.paths.insert(id, path);
                }
            }
        }
    }

    /// Renames a cgroup and those below it. Returns whether it was known.
    fn rename(&mut self, id: u64, to: &Path, named: &NamesBySerial) -> bool {
        let Some(name) = to.file_name() else { return false };
        self.unplaced.rename(id, name);
        let of_named = || named.values().find(|it| it.id == id).map(|it| it.path.as_path());
        let Some(from) = self.paths.get(id).or_else(of_named).map(Path::to_owned) else {
            if self.root != Root::Whole {
                // It may be above the mount.
                self.root = Root::Unknown;
            }
            return false;
        };
        if from == Path::new("/") {
            // The paths below do not change, but that of the mount does.
            self.root = Root::At(to.to_owned());
            return true;
        }
        let to = from.with_file_name(name);
        self.paths.move_below(&from, &to);
        for named in named.values() {
            if let Ok(rest) = named.path.strip_prefix(&from) {
                self.paths.insert(named.id, joined(&to, rest));
            }
        }
        true
    }

    /// Takes the paths that a walk has found, except of cgroups that have a path or a name with the same path.
    /// `runs` says whether tasks have run in a cgroup: those are kept rather than others.
    pub(super) fn find(
        &mut self,
        found: BTreeMap<u64, PathBuf>,
        named: &NamesBySerial,
        runs: impl Fn(u64) -> bool,
    ) {
        let named: HashMap<u64, &Path> =
            named.values().map(|named| (named.id, named.path.as_path())).collect();
        let is_known = |id: u64, path: &Path| {
            self.paths.get(id).is_some() || named.get(&id).is_some_and(|known| *known == path)
        };
        let new: Vec<_> = found.into_iter().filter(|(id, path)| !is_known(*id, path)).collect();
        let (running, idle): (Vec<_>, Vec<_>) = new.into_iter().partition(|(id, _)| runs(*id));
        for (id, path) in idle.into_iter().chain(running) {
            self.paths.insert(id, path);
        }
    }

    /// Cgroups that show where the mount is once one of them is found below it, with their paths from the
    /// root of the hierarchy.
    pub(super) fn unplaced(&self) -> Vec<(u64, PathBuf)> {
        self.unplaced.iter().map(|(id, path)| (id, path.to_owned())).collect()
    }

    /// Learns where the mount is.
    pub(super) fn place(&mut self, root: PathBuf) {
        self.root = Root::At(root);
        for (id, path) in std::mem::take(&mut self.unplaced).into_oldest_first() {
            self.add(id, path);
        }
    }
}

/// The path below `root`, from there; `None` if it is elsewhere.
fn below(path: &Path, root: &Path) -> Option<PathBuf> {
    path.strip_prefix(root).ok().map(|rest| joined(Path::new("/"), rest))
}

/// A path below another, without a slash at the end.
fn joined(path: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { path.to_owned() } else { path.join(rest) }
}

/// Paths by id, at most as many as the bounds allow.
#[derive(Debug, Default)]
struct Paths {
    /// With the number of the insertion.
    by_id: HashMap<u64, (u64, PathBuf)>,
    /// Ids by the number of the insertion.
    order: BTreeMap<u64, u64>,
    next: u64,
    bytes: usize,
}

impl Paths {
    fn get(&self, id: u64) -> Option<&Path> {
        self.by_id.get(&id).map(|(_, path)| path.as_path())
    }

    fn iter(&self) -> impl Iterator<Item = (u64, &Path)> {
        self.by_id.iter().map(|(id, (_, path))| (*id, path.as_path()))
    }

    fn into_oldest_first(mut self) -> impl Iterator<Item = (u64, PathBuf)> {
        let by_id = &mut self.by_id;
        let paths = self.order.into_values().filter_map(|id| Some((id, by_id.remove(&id)?.1)));
        paths.collect::<Vec<_>>().into_iter()
    }

    fn insert(&mut self, id: u64, path: PathBuf) {
        self.remove(id);
        self.bytes += path.as_os_str().len();
        self.by_id.insert(id, (self.next, path));
        self.order.insert(self.next, id);
        self.next += 1;
        while self.by_id.len() > MAX_CGROUPS || self.bytes > MAX_BYTES {
            let Some((_, oldest)) = self.order.first_key_value() else { return };
            self.remove(*oldest);
        }
    }

    fn remove(&mut self, id: u64) {
        if let Some((number, path)) = self.by_id.remove(&id) {
            self.order.remove(&number);
            self.bytes -= path.as_os_str().len();
        }
    }

    /// Changes the last name of a cgroup that is known.
    fn rename(&mut self, id: u64, name: &OsStr) {
        if let Some(from) = self.get(id).map(Path::to_owned) {
            self.move_below(&from, &from.with_file_name(name));
        }
    }

    /// Changes the paths at and below one of them.
    fn move_below(&mut self, from: &Path, to: &Path) {
        for (_, path) in self.by_id.values_mut() {
            if let Ok(rest) = path.strip_prefix(from) {
                let moved = joined(to, rest);
                self.bytes = self.bytes - path.as_os_str().len() + moved.as_os_str().len();
                *path = moved;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::tracker::naming::named;

    /// Without any cgroup.
    fn births() -> Births {
        let mut births = Births::new(true);
        assert_eq!(births.path(ROOT_INODE), Some(Path::new("/")));
        births.forget(ROOT_INODE);
        births
    }

    fn born(id: u64, path: &str) -> Birth {
        Birth { id, is_renamed: false, path: Some(path.into()) }
    }

    fn renamed(id: u64, path: &str) -> Birth {
        Birth { is_renamed: true, ..born(id, path) }
    }

    /// Named cgroups, by id and path.
    fn names(cgroups: &[(u64, &str)]) -> NamesBySerial {
        let named = |(id, path): &(u64, &str)| (id + 100, Arc::new(named(*id, path.into())));
        cgroups.iter().map(named).collect()
    }

    fn found(cgroups: &[(u64, &str)]) -> BTreeMap<u64, PathBuf> {
        cgroups.iter().map(|(id, path)| (*id, path.into())).collect()
    }

    fn paths(births: &Births) -> BTreeMap<u64, &str> {
        births.paths.iter().map(|(id, path)| (id, path.to_str().unwrap())).collect()
    }

    #[test]
    fn a_new_cgroup_has_its_path_until_it_is_named() {
        let mut births = births();
        assert!(!births.take(born(7, "/a.slice/b.service"), &names(&[])));
        assert_eq!(births.path(7), Some(Path::new("/a.slice/b.service")));
        births.forget(7);
        assert_eq!(births.path(7), None);
        // A walk must find one whose path is too long.
        assert!(!births.take(Birth { path: None, ..born(8, "") }, &names(&[])));
        assert_eq!(births.path(8), None);
    }

    #[test]
    fn a_rename_changes_the_paths_below() {
        let mut births = births();
        let named = names(&[(3, "/a"), (4, "/a/named"), (5, "/ab"), (6, "/a/b/c")]);
        for (id, path) in [(7, "/a/new"), (8, "/a/new/below"), (9, "/b")] {
            births.take(born(id, path), &named);
        }
        assert!(!births.take(renamed(3, "/z"), &named));
        let moved = [(3, "/z"), (4, "/z/named"), (6, "/z/b/c")];
        let all = moved.into_iter().chain([(7, "/z/new"), (8, "/z/new/below"), (9, "/b")]);
        assert_eq!(paths(&births), all.collect());
        // One without a name, and again one whose new name has not been used yet.
        assert!(!births.take(renamed(7, "/z/newer"), &named));
        assert!(!births.take(renamed(4, "/z/last"), &named));
        assert_eq!(births.path(8), Some(Path::new("/z/newer/below")));
        assert_eq!(births.path(4), Some(Path::new("/z/last")));
    }

    #[test]
    fn a_rename_of_an_unknown_cgroup_needs_a_walk() {
        let mut births = births();
        let named = names(&[(4, "/a/named"), (5, "/b")]);
        assert!(births.take(renamed(3, "/z"), &named));
        assert!(births.take(Birth { path: None, ..renamed(4, "") }, &named));
        assert_eq!(paths(&births), [].into());
        births.find(found(&[(4, "/z/named"), (5, "/b"), (6, "/z/idle")]), &named, |_| true);
        assert_eq!(paths(&births), [(4, "/z/named"), (6, "/z/idle")].into());
        // The path of an event is never older than that of a walk.
        births.find(found(&[(6, "/old/idle")]), &named, |_| true);
        assert_eq!(births.path(6), Some(Path::new("/z/idle")));
    }

    #[test]
    fn paths_begin_at_the_root_of_the_mount() {
        let mut births = Births::new(false);
        let none = names(&[]);
        let all = [(7, "/lxc/one/a"), (8, "/lxc/two/b"), (9, "/lxc/one/a/c")];
        for (id, path) in all {
            births.take(born(id, path), &none);
        }
        assert_eq!(paths(&births), [].into());
        let unplaced: BTreeMap<_, _> = births.unplaced().into_iter().collect();
        assert_eq!(unplaced, found(&all));
        births.place("/lxc/one".into());
        assert_eq!(paths(&births), [(7, "/a"), (9, "/a/c")].into());
        births.take(born(10, "/lxc/one/d"), &none);
        births.take(born(11, "/lxc/oned"), &none);
        births.take(renamed(7, "/lxc/one/z"), &none);
        assert_eq!(paths(&births), [(7, "/z"), (9, "/z/c"), (10, "/d")].into());
        // The directory that is mounted is renamed.
        assert!(!births.take(renamed(6, "/lxc/new"), &names(&[(6, "/")])));
        births.take(born(12, "/lxc/new/e"), &none);
        assert_eq!(births.path(12), Some(Path::new("/e")));
        // One above it.
        assert!(births.take(renamed(2, "/lxd"), &none));
        births.take(born(13, "/lxd/new/f"), &none);
        assert_eq!((births.path(12), births.path(13)), (Some(Path::new("/e")), None));
        births.place("/lxd/new".into());
        assert_eq!(births.path(13), Some(Path::new("/f")));
    }

    #[test]
    fn new_cgroups_displace_the_oldest() {
        let mut births = births();
        let count = MAX_CGROUPS as u64;
        for id in 0..count + 3 {
            births.take(born(id, "/a"), &names(&[]));
        }
        assert_eq!(births.path(2), None);
        assert_eq!(births.path(3), Some(Path::new("/a")));
        // Those that run displace those that a walk finds idle.
        let found = (count + 3..3 * count).map(|id| (id, "/b".into())).collect();
        births.find(found, &names(&[]), |id| id < count + 5);
        assert_eq!(births.path(count + 4), Some(Path::new("/b")));
        assert_eq!(births.path(count + 5), None);
        assert_eq!(births.paths.by_id.len(), MAX_CGROUPS);
        assert_eq!(births.paths.order.len(), MAX_CGROUPS);
    }

    #[test]
    fn long_paths_count_by_their_length() {
        let mut births = births();
        let long = format!("/{}", "x".repeat(399));
        let fitting = MAX_BYTES as u64 / 400;
        for id in 0..=fitting {
            births.take(born(id, &long), &names(&[]));
        }
        assert_eq!(births.path(0), None);
        assert!(births.path(1).is_some() && births.paths.bytes <= MAX_BYTES);
        for id in 0..=fitting {
            births.forget(id);
        }
        assert_eq!(births.paths.bytes, 0);
    }
}
