//! Finds the paths of cgroups by their ids, by walking the tree of directories.
//!
//! A directory's entries carry the ids of its children, so one directory costs four system calls, however
//! many children it has. Needs no capabilities: `open_by_handle_at`, which would find a path directly,
//! needs `CAP_DAC_READ_SEARCH`.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    ffi::{CString, OsStr},
    os::{fd::AsFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
};

use nix::{
    dir::{Dir, Type},
    errno::Errno,
    fcntl::{AtFlags, OFlag},
    sys::stat::{FileStat, Mode, fstat, fstatat},
};

use crate::expr::print;

/// The error when a directory cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("reading `{}`", path.display())]
pub struct WalkError {
    /// The directory.
    pub path: PathBuf,
    /// The kernel's reason.
    pub source: Errno,
}

/// Bounds of a walk.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum number of directory entries to read, files included.
    pub entries: usize,
    /// Maximum depth below the mount. A walk keeps one directory of each level open.
    pub depth: usize,
    /// Maximum bytes of the paths that are found, and of the names that are kept during the walk.
    pub bytes: usize,
}

impl Default for Limits {
    /// Enough for 65,536 cgroups, each with 64 files and a path of 400 bytes.
    fn default() -> Self {
        Self { entries: 1 << 22, depth: 64, bytes: 32 << 20 }
    }
}

/// The result of a walk.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The paths that were found, by id. They begin with `/`, the mount.
    pub paths: BTreeMap<u64, PathBuf>,
    /// Whether all were found, or the whole tree was read. If so, an id that was not found is that of a
    /// cgroup that has been removed, is outside the mount, or was created during the walk.
    pub is_complete: bool,
    /// The first directory that could not be read. Directories that are removed meanwhile are not errors.
    pub error: Option<WalkError>,
}

/// Finds the paths of `ids` below `mount`. Stops as soon as it has found all of them. Follows no symbolic
/// links, and does not enter directories on which something else is mounted.
pub fn find(mount: &Path, ids: &BTreeSet<u64>, limits: Limits) -> Result<Found, WalkError> {
    walk(mount, Some(ids), limits)
}

/// Finds the paths of all cgroups below `mount`, as [`find`] does.
pub fn all(mount: &Path, limits: Limits) -> Result<Found, WalkError> {
    walk(mount, None, limits)
}

fn walk(mount: &Path, ids: Option<&BTreeSet<u64>>, limits: Limits) -> Result<Found, WalkError> {
    let failed = |source| WalkError { path: mount.into(), source };
    let root = Dir::open(mount, DIRECTORY, Mode::empty()).map_err(failed)?;
    let stat = fstat(&root).map_err(failed)?;
    let mut walk = Walk {
        mount,
        ids,
        limits,
        device: stat.st_dev,
        path: Vec::new(),
        entries: 0,
        bytes: 0,
        found: Found { is_complete: true, ..Found::default() },
    };
    walk.look_at(stat.st_ino, b"");
    walk.enter(root, 0);
    let has_all = walk.has_all();
    let mut found = walk.found;
    found.is_complete |= has_all;
    Ok(found)
}

/// Finds where the mount is in its hierarchy: the path of the directory that is mounted, from the root of the
/// hierarchy. `known` are ids and paths, which begin at that root too. One of them must be below the mount.
pub fn mounted<'a>(
    mount: &Path,
    known: impl IntoIterator<Item = (u64, &'a Path)>,
) -> Result<Option<PathBuf>, WalkError> {
    let failed = |source| WalkError { path: mount.into(), source };
    let root = Dir::open(mount, DIRECTORY, Mode::empty()).map_err(failed)?;
    let device = fstat(&root).map_err(failed)?.st_dev;
    let is_below = |id, rest| {
        let stat = stat_below(&root, rest);
        stat.is_ok_and(|stat| stat.st_dev == device && stat.st_ino == id)
    };
    Ok(known.into_iter().find_map(|(id, path)| {
        let mut above = path.ancestors().skip(1);
        let above = above.find(|it| path.strip_prefix(it).is_ok_and(|rest| is_below(id, rest)))?;
        Some(above.to_owned())
    }))
}

/// Finds out which of the known cgroups have been removed, for kernels that do not report it. A cgroup
/// counts as removed too if its path now belongs to another one: in v1 it may have been renamed.
pub fn removed<'a>(
    mount: &Path,
    known: impl IntoIterator<Item = (u64, &'a Path)>,
) -> Result<Vec<u64>, WalkError> {
    let failed = |source| WalkError { path: mount.into(), source };
    let root = Dir::open(mount, DIRECTORY, Mode::empty()).map_err(failed)?;
    let device = fstat(&root).map_err(failed)?.st_dev;
    let is_removed = |(id, path): &(u64, &Path)| match stat_below(&root, path) {
        // Something is mounted on it if the device differs.
        Ok(stat) => stat.st_dev == device && stat.st_ino != *id,
        Err(error) => is_gone(error),
    };
    Ok(known.into_iter().filter(is_removed).map(|(id, _)| id).collect())
}

/// A path as the value of a label, with escapes for control characters.
pub fn label(path: &Path) -> Cow<'_, str> {
    print::visible(path.as_os_str().as_bytes())
}

/// How directories are opened.
const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// The status of a cgroup's directory, by its path in the hierarchy.
fn stat_below(mount: impl AsFd, path: &Path) -> Result<FileStat, Errno> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
    fstatat(mount, relative, AtFlags::AT_SYMLINK_NOFOLLOW)
}

/// Whether the error means that a cgroup has been removed.
fn is_gone(error: Errno) -> bool {
    // Directories that are still open return ENODEV.
    matches!(error, Errno::ENOENT | Errno::ENODEV | Errno::ENOTDIR | Errno::ELOOP)
}

/// A directory in another.
struct Child {
    name: CString,
    id: u64,
}

impl Child {
    fn bytes(&self) -> usize {
        self.name.count_bytes()
    }
}

struct Walk<'a> {
    mount: &'a Path,
    /// The ids to find; `None` for all.
    ids: Option<&'a BTreeSet<u64>>,
    limits: Limits,
    /// The mount's device.
    device: u64,
    /// The path of the current directory, empty for the mount.
    path: Vec<u8>,
    entries: usize,
    /// Bytes of the paths that were found, and of the names in the directories that are open.
    bytes: usize,
    found: Found,
}

impl Walk<'_> {
    fn has_all(&self) -> bool {
        self.ids.is_some_and(|ids| self.found.paths.len() == ids.len())
    }

    fn is_over(&self) -> bool {
        self.has_all() || self.is_too_large()
    }

    const fn is_too_large(&self) -> bool {
        self.entries > self.limits.entries || self.bytes > self.limits.bytes
    }

    /// Walks the tree below a directory at `depth`.
    fn enter(&mut self, mut directory: Dir, depth: usize) {
        let children = self.children(&mut directory);
        let names: usize = children.iter().map(Child::bytes).sum();
        if depth >= self.limits.depth && !children.is_empty() {
            self.found.is_complete = false;
            self.bytes -= names;
            return;
        }
        for child in children {
            if self.is_over() {
                return;
            }
            let length = self.path.len();
            self.path.push(b'/');
            self.path.extend_from_slice(child.name.as_bytes());
            match self.open(&directory, &child) {
                Ok(Some(child)) => self.enter(child, depth + 1),
                Ok(None) => {}
                Err(error) => self.fail(error),
            }
            self.path.truncate(length);
        }
        self.bytes -= names;
    }

    /// Reads the directories in a directory, and looks at the id of each.
    fn children(&mut self, directory: &mut Dir) -> Vec<Child> {
        let mut children = Vec::new();
        for entry in directory.iter() {
            if self.is_over() {
                break;
            }
            self.entries += 1;
            if self.is_too_large() {
                break;
            }
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    self.fail(error);
                    break;
                }
            };
            let name = entry.file_name();
            // Without a type, assume a directory: a file's number is no id, and opening it fails.
            let is_directory = entry.file_type().is_none_or(|kind| kind == Type::Directory);
            if is_directory && name != c"." && name != c".." {
                self.look_at(entry.ino(), name.to_bytes());
                let child = Child { name: name.into(), id: entry.ino() };
                self.bytes += child.bytes();
                children.push(child);
            }
        }
        self.found.is_complete &= !self.is_too_large();
        children
    }

    /// Keeps the path of the entry `name` of the current directory if its id is wanted.
    fn look_at(&mut self, id: u64, name: &[u8]) {
        if self.ids.is_none_or(|ids| ids.contains(&id)) {
            let path = [&self.path[..], b"/", name].concat();
            self.bytes += path.len();
            self.found.paths.insert(id, PathBuf::from(OsStr::from_bytes(&path)));
        }
    }

    /// Opens a child, unless it has been removed or something is mounted on it.
    fn open(&self, parent: &Dir, child: &Child) -> Result<Option<Dir>, Errno> {
        let directory = match Dir::openat(parent, &*child.name, DIRECTORY, Mode::empty()) {
            Err(error) if is_gone(error) => return Ok(None),
            opened => opened?,
        };
        let stat = fstat(&directory)?;
        let is_same = stat.st_dev == self.device && stat.st_ino == child.id;
        Ok(is_same.then_some(directory))
    }

    fn fail(&mut self, source: Errno) {
        if is_gone(source) {
            return;
        }
        self.found.is_complete = false;
        let below = Path::new(OsStr::from_bytes(&self.path));
        let path = self.mount.join(below.strip_prefix("/").unwrap_or(below));
        self.found.error.get_or_insert(WalkError { path, source });
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    };

    use tempfile::TempDir;

    use super::*;

    /// A tree of directories, which are known by their inode numbers as cgroups are.
    struct Tree(TempDir);

    impl Tree {
        fn new(directories: &[&str]) -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            for directory in directories {
                fs::create_dir_all(tree.0.path().join(directory)).unwrap();
                fs::write(tree.0.path().join(directory).join("cgroup.procs"), "").unwrap();
            }
            tree
        }

        fn path(&self) -> &Path {
            self.0.path()
        }

        fn id(&self, directory: &str) -> u64 {
            fs::metadata(self.path().join(directory)).unwrap().ino()
        }

        fn ids(&self, directories: &[&str]) -> BTreeSet<u64> {
            directories.iter().map(|directory| self.id(directory)).collect()
        }

        fn find(&self, ids: &BTreeSet<u64>) -> Found {
            find(self.path(), ids, Limits::default()).unwrap()
        }
    }

    fn paths(found: &Found) -> BTreeSet<&str> {
        found.paths.values().map(|path| path.to_str().unwrap()).collect()
    }

    #[test]
    fn finds_all() {
        let tree = Tree::new(&["a/b", "c"]);
        let found = all(tree.path(), Limits::default()).unwrap();
        assert_eq!(paths(&found), ["/", "/a", "/a/b", "/c"].into());
        assert!(found.is_complete);
        let found = all(tree.path(), Limits { depth: 1, ..Limits::default() }).unwrap();
        assert_eq!(paths(&found), ["/", "/a", "/a/b", "/c"].into());
        let found = all(tree.path(), Limits { entries: 1, ..Limits::default() }).unwrap();
        assert!(!found.is_complete);
    }

    #[test]
    fn finds_the_root_and_cgroups_at_any_depth() {
        let tree = Tree::new(&["a/b/c", "a/d", "e"]);
        let found = tree.find(&tree.ids(&["", "a", "a/b/c", "e"]));
        assert_eq!(paths(&found), ["/", "/a", "/a/b/c", "/e"].into());
        assert_eq!(found.paths[&tree.id("a/b/c")], Path::new("/a/b/c"));
        assert!(found.is_complete);
        assert_eq!(found.error, None);
    }

    #[test]
    fn says_that_an_id_does_not_exist() {
        let tree = Tree::new(&["a/b"]);
        let found = tree.find(&[tree.id("a/b"), u64::MAX].into());
        assert_eq!(paths(&found), ["/a/b"].into());
        assert!(found.is_complete);
    }

    #[test]
    fn stops_when_all_are_found() {
        let tree = Tree::new(&["a/b/c/d/e/f"]);
        let few = Limits { entries: 8, ..Limits::default() };
        let found = find(tree.path(), &tree.ids(&["a"]), few).unwrap();
        assert_eq!((paths(&found), found.is_complete), (["/a"].into(), true));
        let none = Limits { entries: 0, depth: 0, bytes: 0 };
        let found = find(tree.path(), &BTreeSet::new(), none).unwrap();
        assert_eq!(found, Found { is_complete: true, ..Found::default() });
    }

    #[test]
    fn is_incomplete_beyond_its_limits() {
        let tree = Tree::new(&["a/b/c"]);
        let wanted = tree.ids(&["a", "a/b/c"]);
        let find = |entries, depth| {
            find(tree.path(), &wanted, Limits { entries, depth, ..Limits::default() }).unwrap()
        };
        let shallow = find(100, 1);
        assert_eq!((paths(&shallow), shallow.is_complete), (["/a"].into(), false));
        let short = find(4, 64);
        assert_eq!((paths(&short), short.is_complete), (["/a"].into(), false));
        assert!(find(100, 2).is_complete);
    }

    #[test]
    fn is_incomplete_if_names_and_paths_take_too_many_bytes() {
        let tree = Tree::new(&["long/a", "long/b", "long/c"]);
        let limits = |bytes| Limits { bytes, ..Limits::default() };
        // The four paths, the root's, and the names on the way to one of them.
        let bytes = "/".len() + "/long".len() + 3 * "/long/a".len() + "long".len() + "abc".len();
        let found = all(tree.path(), limits(bytes)).unwrap();
        assert_eq!((found.paths.len(), found.is_complete), (5, true));
        let found = all(tree.path(), limits(bytes - 1)).unwrap();
        assert!(!found.is_complete);
        let found = all(tree.path(), limits("/".len() + "/long".len() + "long".len())).unwrap();
        assert_eq!((found.paths.len(), found.is_complete), (3, false));
        // Names count only as long as they are kept.
        let tree = Tree::new(&["a/long", "b/long", "c/long", "d"]);
        let wanted = tree.ids(&["d"]).into_iter().chain([u64::MAX]).collect();
        let bytes = "/d".len() + "abcd".len() + "long".len();
        assert!(find(tree.path(), &wanted, limits(bytes)).unwrap().is_complete);
        assert!(!find(tree.path(), &wanted, limits(bytes - 1)).unwrap().is_complete);
    }

    #[test]
    fn follows_no_symbolic_links() {
        let tree = Tree::new(&["a"]);
        let other = Tree::new(&["b"]);
        symlink(other.path(), tree.path().join("a/link")).unwrap();
        let found = tree.find(&other.ids(&["b", ""]));
        assert_eq!(found, Found { is_complete: true, ..Found::default() });
    }

    #[test]
    fn reports_directories_that_cannot_be_read_and_reads_the_others() {
        let tree = Tree::new(&["a/hidden", "b/c"]);
        let mode = |mode| fs::Permissions::from_mode(mode);
        fs::set_permissions(tree.path().join("a"), mode(0o000)).unwrap();
        if fs::read_dir(tree.path().join("a")).is_ok() {
            // Root may read it.
            return;
        }
        let found = tree.find(&[tree.id("b/c"), u64::MAX].into());
        fs::set_permissions(tree.path().join("a"), mode(0o700)).unwrap();
        assert_eq!((paths(&found), found.is_complete), (["/b/c"].into(), false));
        let error = WalkError { path: tree.path().join("a"), source: Errno::EACCES };
        assert_eq!(found.error, Some(error));
    }

    #[test]
    fn names_the_mount_that_cannot_be_read() {
        let error = find(Path::new("/no/such/mount"), &[1].into(), Limits::default()).unwrap_err();
        assert_eq!(error.to_string(), "reading `/no/such/mount`");
    }

    #[test]
    fn knows_which_cgroups_are_removed() {
        let tree = Tree::new(&["a/b", "c", "d"]);
        let known = ["", "a/b", "c", "d"].map(|path| (tree.id(path), Path::new("/").join(path)));
        fs::remove_file(tree.path().join("a/b/cgroup.procs")).unwrap();
        fs::remove_dir(tree.path().join("a/b")).unwrap();
        // Another one under the same path.
        fs::rename(tree.path().join("d"), tree.path().join("elsewhere")).unwrap();
        fs::create_dir(tree.path().join("d")).unwrap();
        let removed = removed(tree.path(), known.iter().map(|(id, path)| (*id, path.as_path())));
        assert_eq!(removed.unwrap(), [known[1].0, known[3].0]);
    }

    #[test]
    fn finds_where_the_mount_is() {
        let tree = Tree::new(&["a/b", "b"]);
        let mounted = |known: &[(u64, &str)]| {
            let known = known.iter().map(|(id, path)| (*id, Path::new(*path)));
            super::mounted(tree.path(), known).unwrap()
        };
        let (outer, inner) = (tree.id("b"), tree.id("a/b"));
        let known = [(u64::MAX, "/lxc/one/b"), (outer, "/lxc/two/c"), (inner, "/lxc/one/a/b")];
        assert_eq!(mounted(&known), Some("/lxc/one".into()));
        // The same names further up are those of another cgroup.
        assert_eq!(mounted(&[(outer, "/a/b")]), Some("/a".into()));
        assert_eq!(mounted(&[(inner, "/a/b")]), Some("/".into()));
        assert_eq!(mounted(&known[..2]), None);
        assert_eq!(mounted(&[]), None);
        assert!(super::mounted(Path::new("/no/such/mount"), []).is_err());
    }

    #[test]
    fn labels_escape_what_is_not_printable_utf8() {
        let label = |bytes: &[u8]| super::label(Path::new(OsStr::from_bytes(bytes))).into_owned();
        assert_eq!(label("/system.slice/é".as_bytes()), "/system.slice/é");
        assert_eq!(label(br"/a\x2db.service"), r"/a\x2db.service");
        assert_eq!(label(b"/a\xff\xc3/b\x1b["), r"/a\xff\xc3/b\x1b[");
        assert_eq!(label("/a\u{85}".as_bytes()), r"/a\xc2\x85");
    }
}
