//! Decides which hierarchy of cgroups to account by, and finds where it is mounted.
//!
//! * Pure v2: all controllers are in the unified hierarchy.
//! * Hybrid: the unified hierarchy next to v1 hierarchies, one of which has the `cpu` controller. systemd
//!   and runc create every cgroup in both, under the same path, so the unified one serves; quotas are
//!   read from the v1 hierarchy.
//! * v1 only: the hierarchy with the `cpu` controller. `cpuacct` may be in another one, which is not used.

use std::{
    cmp::{Ordering, Reverse},
    ffi::OsStr,
    fs, io,
    os::{linux::fs::MetadataExt as _, unix::ffi::OsStrExt as _},
    path::PathBuf,
};

use nix::sys::stat::{major, minor};

/// Lists the hierarchies that exist, with the path of this process in each. Unlike `/proc/cgroups` it
/// shows the unified hierarchy too, and does not make the kernel log a warning on hosts with v2 only.
/// <https://github.com/torvalds/linux/blob/v6.16/kernel/cgroup/cgroup-v1.c>, `proc_cgroupstats_show`.
const MEMBERSHIPS: &str = "/proc/self/cgroup";

/// The mounts that this process can see.
const MOUNTS: &str = "/proc/self/mountinfo";

/// The inode number of a hierarchy's root.
/// <https://github.com/torvalds/linux/blob/v6.12/fs/kernfs/dir.c>: numbers are allocated from 1, and
/// `kernfs_create_root` allocates the first.
pub const ROOT_INODE: u64 = 1;

/// The kind of hierarchy whose cgroups are accounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hierarchy {
    /// cgroup v2: the kernel's default hierarchy.
    Unified,
    /// cgroup v1: the hierarchy with the `cpu` controller.
    Legacy,
}

/// The hierarchy to account by.
#[derive(Debug, PartialEq, Eq)]
pub struct Selection {
    /// Its kind.
    pub hierarchy: Hierarchy,
    /// The kernel's number for it, `cgroup_root.hierarchy_id`: 0 for the unified one.
    pub id: u32,
    /// Where its cgroups can be read. Without it, cgroups are accounted but have no names.
    pub mount: Result<Mount, MountError>,
    /// Where the quotas of its cgroups can be read.
    pub quotas: Result<QuotaMount, MountError>,
}

impl Hierarchy {
    /// The version, as in `cgroup v2`.
    pub const fn version(self) -> &'static str {
        match self {
            Self::Unified => "v2",
            Self::Legacy => "v1",
        }
    }
}

impl Selection {
    /// Why some or all cgroups have no names; `None` if all have. `knows_new` says that the names of new ones
    /// are known without a mount.
    pub fn limitation(&self, knows_new: bool) -> Option<String> {
        match &self.mount {
            Ok(mount) => mount.limitation(),
            Err(reason) if knows_new => {
                Some(format!("cgroups from before the start have no names: {reason}"))
            }
            Err(reason) => Some(reason.to_string()),
        }
    }
}

/// A mount of the selected hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted. The paths of cgroups are relative to it.
    pub path: PathBuf,
    /// Whether it shows the whole hierarchy. If not, it shows a part that contains more than the exporter's
    /// own cgroup, such as the cgroups of a system container.
    pub is_whole: bool,
}

impl Mount {
    /// Why some cgroups have no name; `None` if all have.
    pub fn limitation(&self) -> Option<String> {
        let path = self.path.display();
        (!self.is_whole).then(|| {
            format!("`{path}` shows only the cgroups of a container; those outside have no names")
        })
    }
}

/// A mount with the files of quotas, under the same paths as in the selected hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaMount {
    /// Which files to read: on a hybrid host those of v1.
    pub hierarchy: Hierarchy,
    /// Where it is mounted.
    pub path: PathBuf,
}

/// The reason why no mount can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// There is no mount.
    #[error("{} is not mounted here; in a container, mount the host's /sys/fs/cgroup", kind(*.0))]
    NotMounted(Hierarchy),
    /// Mounts exist, but their directories cannot be reached.
    #[error("`{}` is hidden by another mount, or access to it is denied", .0.display())]
    Hidden(PathBuf),
    /// The mounts are of this container only.
    #[error(
        "`{}` shows only the cgroup of this container; mount the host's /sys/fs/cgroup, read-only",
        .0.display()
    )]
    OnlyOwn(PathBuf),
    /// The mount for quotas shows another part of the tree than the mount for names.
    #[error(
        "no mount of {} shows the same cgroups as `{}`; mount the host's /sys/fs/cgroup, read-only",
        kind(*.hierarchy), .path.display()
    )]
    OtherPart {
        /// The hierarchy with the quotas.
        hierarchy: Hierarchy,
        /// The mount of the selected hierarchy.
        path: PathBuf,
    },
}

fn kind(hierarchy: Hierarchy) -> &'static str {
    match hierarchy {
        Hierarchy::Unified => "cgroup v2",
        Hierarchy::Legacy => "the cgroup v1 hierarchy with the cpu controller",
    }
}

/// The error when no hierarchy can be selected.
#[derive(Debug, thiserror::Error)]
pub enum HierarchyError {
    /// A file in /proc cannot be read. Without `CONFIG_CGROUPS` it does not exist.
    #[error("reading `{path}`")]
    Read {
        /// The file.
        path: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// v2 was requested, and is mounted nowhere on this host.
    #[error("cgroup v2 was requested, but this host has not mounted it; use `v1` or `auto`")]
    NoUnified,
    /// v1 was requested, and no v1 hierarchy has the `cpu` controller.
    #[error("cgroup v1 was requested, but the cpu controller is not in v1; use `v2` or `auto`")]
    NoLegacy,
}

/// Selects the hierarchy to account by: `requested`, or else the unified one if it is in use.
pub fn select(requested: Option<Hierarchy>) -> Result<Selection, HierarchyError> {
    let read = |path| fs::read(path).map_err(|source| HierarchyError::Read { path, source });
    let memberships = memberships(&read(MEMBERSHIPS)?);
    let mounts = mounts(&read(MOUNTS)?);
    choose(requested, &memberships, &mounts, &root_inode)
}

/// The inode number of the mount's root directory, unless another mount hides it.
fn root_inode(mount: &MountEntry) -> Option<u64> {
    let metadata = fs::metadata(&mount.path).ok()?;
    let device = metadata.st_dev();
    ((major(device), minor(device)) == mount.device).then(|| metadata.st_ino())
}

/// A line of `/proc/self/cgroup`: a hierarchy, and where this process is in it.
#[derive(Debug, PartialEq, Eq)]
struct Membership {
    id: u32,
    hierarchy: Option<Hierarchy>,
    location: Location,
}

/// A mount of a hierarchy that matters.
#[derive(Debug, PartialEq, Eq)]
struct MountEntry {
    /// Major and minor number.
    device: (u64, u64),
    hierarchy: Hierarchy,
    /// The directory of the hierarchy that is mounted.
    root: Location,
    path: PathBuf,
}

/// A path in a hierarchy as the kernel prints it: relative to the root of the reader's cgroup namespace,
/// so that `/../..` is the root's second parent.
/// <https://github.com/torvalds/linux/blob/v6.12/fs/kernfs/dir.c>, `kernfs_path_from_node_locked`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Location {
    parents: usize,
    below: Vec<Vec<u8>>,
}

impl Location {
    fn parse(path: &[u8]) -> Self {
        let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        let (parents, below): (Vec<_>, Vec<_>) = names.partition(|name| *name == b"..");
        Self { parents: parents.len(), below: below.into_iter().map(<[u8]>::to_vec).collect() }
    }

    /// Whether `other` is below this, at any depth.
    fn is_above(&self, other: &Self) -> bool {
        match self.parents.cmp(&other.parents) {
            // A path through this location would have fewer parents, if it also led down again.
            Ordering::Greater => self.below.is_empty(),
            Ordering::Equal => {
                other.below.len() > self.below.len() && other.below.starts_with(&self.below)
            }
            Ordering::Less => false,
        }
    }
}

/// Parses lines of `id:controllers:path`. Lines of other hierarchies are kept without a kind.
fn memberships(text: &[u8]) -> Vec<Membership> {
    text.split(|byte| *byte == b'\n').filter_map(membership).collect()
}

fn membership(line: &[u8]) -> Option<Membership> {
    let mut fields = line.splitn(3, |byte| *byte == b':');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let controllers = fields.next()?;
    let hierarchy = match id {
        0 => Some(Hierarchy::Unified),
        _ => has_cpu(controllers).then_some(Hierarchy::Legacy),
    };
    Some(Membership { id, hierarchy, location: Location::parse(fields.next()?) })
}

fn has_cpu(controllers: &[u8]) -> bool {
    controllers.split(|byte| *byte == b',').any(|controller| controller == b"cpu")
}

/// Parses the mounts of the unified hierarchy and of the one with the `cpu` controller.
/// <https://docs.kernel.org/filesystems/proc.html#proc-pid-mountinfo-information-about-mounts>
fn mounts(text: &[u8]) -> Vec<MountEntry> {
    text.split(|byte| *byte == b'\n').filter_map(mount).collect()
}

fn mount(line: &[u8]) -> Option<MountEntry> {
    let fields: Vec<_> = line.split(|byte| *byte == b' ').collect();
    let [_, _, device, root, path, _, optional @ ..] = &fields[..] else { return None };
    let separator = optional.iter().position(|field| *field == b"-")?;
    let [filesystem, _, options] = optional[separator + 1..] else { return None };
    let hierarchy = match filesystem {
        b"cgroup2" => Hierarchy::Unified,
        b"cgroup" if has_cpu(options) => Hierarchy::Legacy,
        _ => return None,
    };
    let (major, minor) = std::str::from_utf8(device).ok()?.split_once(':')?;
    Some(MountEntry {
        device: (major.parse().ok()?, minor.parse().ok()?),
        hierarchy,
        root: Location::parse(&unescape(root)),
        path: PathBuf::from(OsStr::from_bytes(&unescape(path))),
    })
}

/// Undoes the octal escapes of blanks and backslashes, such as `\040`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = field;
    while let [byte, after @ ..] = rest {
        let escaped = (*byte == b'\\').then(|| after.get(..3).and_then(octal)).flatten();
        bytes.push(escaped.unwrap_or(*byte));
        rest = if escaped.is_some() { &after[3..] } else { after };
    }
    bytes
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

/// Selects a hierarchy and its mounts. `inode` returns the inode number of a mount's root.
fn choose(
    requested: Option<Hierarchy>,
    memberships: &[Membership],
    mounts: &[MountEntry],
    inode: &dyn Fn(&MountEntry) -> Option<u64>,
) -> Result<Selection, HierarchyError> {
    let find = |kind| memberships.iter().find(|it| it.hierarchy == Some(kind));
    let (unified, legacy) = (find(Hierarchy::Unified), find(Hierarchy::Legacy));
    let own = match requested {
        Some(Hierarchy::Unified) => Some(unified.ok_or(HierarchyError::NoUnified)?),
        Some(Hierarchy::Legacy) => Some(legacy.ok_or(HierarchyError::NoLegacy)?),
        None => unified.or(legacy),
    };
    let Some(own) = own else {
        // Nothing has been mounted since boot, so all tasks are in the root of the unified hierarchy.
        let none = MountError::NotMounted(Hierarchy::Unified);
        let (hierarchy, mount, quotas) = (Hierarchy::Unified, Err(none.clone()), Err(none));
        return Ok(Selection { hierarchy, id: 0, mount, quotas });
    };
    let hierarchy = if own.id == 0 { Hierarchy::Unified } else { Hierarchy::Legacy };
    let entry = usable(hierarchy, &own.location, mounts, inode);
    let with_quotas = if legacy.is_some() { Hierarchy::Legacy } else { hierarchy };
    let quotas = entry
        .clone()
        .and_then(|(entry, is_whole)| quotas(entry, is_whole, with_quotas, mounts, inode));
    let mount = entry.map(|(entry, is_whole)| Mount { path: entry.path.clone(), is_whole });
    Ok(Selection { hierarchy, id: own.id, mount, quotas })
}

/// The mount that shows most, and whether it shows the whole hierarchy.
fn usable<'a>(
    hierarchy: Hierarchy,
    own: &Location,
    mounts: &'a [MountEntry],
    inode: &dyn Fn(&MountEntry) -> Option<u64>,
) -> Result<(&'a MountEntry, bool), MountError> {
    let all: Vec<_> = mounts.iter().filter(|mount| mount.hierarchy == hierarchy).collect();
    let Some(first) = all.first() else { return Err(MountError::NotMounted(hierarchy)) };
    let reached: Vec<_> = all.iter().filter_map(|it| Some((*it, inode(it)?))).collect();
    let Some((shown, _)) = reached.first() else {
        return Err(MountError::Hidden(first.path.clone()));
    };
    if let Some((whole, _)) = reached.iter().find(|(_, inode)| *inode == ROOT_INODE) {
        return Ok((whole, true));
    }
    let parts = reached.iter().map(|(mount, _)| *mount).filter(|it| it.root.is_above(own));
    let highest = parts.min_by_key(|it| (Reverse(it.root.parents), it.root.below.len()));
    highest.map(|part| (part, false)).ok_or_else(|| MountError::OnlyOwn(shown.path.clone()))
}

/// The mount with the quotas of the cgroups that `entry` shows.
fn quotas(
    entry: &MountEntry,
    is_whole: bool,
    hierarchy: Hierarchy,
    mounts: &[MountEntry],
    inode: &dyn Fn(&MountEntry) -> Option<u64>,
) -> Result<QuotaMount, MountError> {
    let found = |mount: &MountEntry| QuotaMount { hierarchy, path: mount.path.clone() };
    if hierarchy == entry.hierarchy {
        return Ok(found(entry));
    }
    let shows_the_same = |mount: &&MountEntry| match inode(mount) {
        None => false,
        Some(inode) if is_whole => inode == ROOT_INODE,
        Some(_) => mount.root == entry.root,
    };
    let mut mounts = mounts.iter().filter(|mount| mount.hierarchy == hierarchy);
    let missing = || MountError::OtherPart { hierarchy, path: entry.path.clone() };
    mounts.find(shows_the_same).map(found).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PURE_V2: &str = "\
23 28 0:21 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
31 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate
";
    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup ro,nosuid shared:8 - tmpfs tmpfs ro,mode=755
32 31 0:29 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw,nsdelegate
33 31 0:30 / /sys/fs/cgroup/systemd rw shared:10 - cgroup cgroup rw,xattr,name=systemd
34 31 0:31 / /sys/fs/cgroup/cpuset rw shared:14 - cgroup cgroup rw,cpuset
35 31 0:32 / /sys/fs/cgroup/cpu,cpuacct rw shared:15 - cgroup cgroup rw,cpu,cpuacct
";
    const SPLIT_V1: &str = "\
33 31 0:30 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
";

    /// A host: the text of `/proc/self/cgroup` and of `/proc/self/mountinfo`.
    #[track_caller]
    fn on(requested: Option<Hierarchy>, own: &str, mountinfo: &str, inodes: &[u64]) -> Selection {
        try_on(requested, own, mountinfo, inodes).unwrap()
    }

    /// The inode numbers are those of the roots of the mounts that matter; 0 for a hidden one.
    fn try_on(
        requested: Option<Hierarchy>,
        own: &str,
        mountinfo: &str,
        inodes: &[u64],
    ) -> Result<Selection, HierarchyError> {
        let mounts = mounts(mountinfo.as_bytes());
        assert_eq!(mounts.len(), inodes.len(), "{mounts:?}");
        let inode = |mount: &MountEntry| {
            let at = mounts.iter().position(|it| it == mount).unwrap();
            Some(inodes[at]).filter(|inode| *inode != 0)
        };
        choose(requested, &memberships(own.as_bytes()), &mounts, &inode)
    }

    fn mount(path: &str, is_whole: bool) -> Mount {
        Mount { path: path.into(), is_whole }
    }

    fn quotas(hierarchy: Hierarchy, path: &str) -> QuotaMount {
        QuotaMount { hierarchy, path: path.into() }
    }

    #[test]
    fn selects_v2_on_a_pure_v2_host() {
        let selection = on(None, "0::/system.slice/a.service\n", PURE_V2, &[1]);
        let expected = Selection {
            hierarchy: Hierarchy::Unified,
            id: 0,
            mount: Ok(mount("/sys/fs/cgroup", true)),
            quotas: Ok(quotas(Hierarchy::Unified, "/sys/fs/cgroup")),
        };
        assert_eq!(selection, expected);
        assert_eq!(selection.mount.unwrap().limitation(), None);
    }

    #[test]
    fn selects_v2_on_a_hybrid_host_with_quotas_from_v1() {
        let own = "4:cpu,cpuacct:/a\n3:cpuset:/\n1:name=systemd:/a\n0::/a\n";
        let selection = on(None, own, HYBRID, &[1, 1]);
        assert_eq!((selection.hierarchy, selection.id), (Hierarchy::Unified, 0));
        assert_eq!(selection.mount, Ok(mount("/sys/fs/cgroup/unified", true)));
        assert_eq!(selection.quotas, Ok(quotas(Hierarchy::Legacy, "/sys/fs/cgroup/cpu,cpuacct")));
    }

    #[test]
    fn selects_the_hierarchy_of_cpu_without_v2() {
        let selection = on(None, "7:cpu:/a\n2:cpuacct:/b\n", SPLIT_V1, &[1]);
        let expected = Selection {
            hierarchy: Hierarchy::Legacy,
            id: 7,
            mount: Ok(mount("/sys/fs/cgroup/cpu", true)),
            quotas: Ok(quotas(Hierarchy::Legacy, "/sys/fs/cgroup/cpu")),
        };
        assert_eq!(selection, expected);
    }

    #[test]
    fn follows_a_request() {
        let own = "4:cpu,cpuacct:/a\n0::/a\n";
        let selection = on(Some(Hierarchy::Legacy), own, HYBRID, &[1, 1]);
        assert_eq!((selection.hierarchy, selection.id), (Hierarchy::Legacy, 4));
        assert_eq!(selection.mount, Ok(mount("/sys/fs/cgroup/cpu,cpuacct", true)));
        assert_eq!(selection.quotas, Ok(quotas(Hierarchy::Legacy, "/sys/fs/cgroup/cpu,cpuacct")));
    }

    #[test]
    fn rejects_a_request_that_the_host_cannot_meet() {
        let legacy = try_on(Some(Hierarchy::Legacy), "0::/a\n", PURE_V2, &[1]).unwrap_err();
        assert!(matches!(legacy, HierarchyError::NoLegacy), "{legacy}");
        let unified = try_on(Some(Hierarchy::Unified), "7:cpu:/\n", SPLIT_V1, &[1]).unwrap_err();
        assert!(matches!(unified, HierarchyError::NoUnified), "{unified}");
    }

    #[test]
    fn selects_v2_without_a_mount_if_nothing_is_mounted() {
        let selection = on(None, "", "", &[]);
        assert_eq!(selection.hierarchy, Hierarchy::Unified);
        let reason = selection.mount.unwrap_err().to_string();
        let expected =
            "cgroup v2 is not mounted here; in a container, mount the host's /sys/fs/cgroup";
        assert_eq!(reason, expected);
    }

    #[test]
    fn knows_the_hierarchy_even_if_this_container_has_no_mount_of_it() {
        let selection = on(None, "4:cpu,cpuacct:/\n0::/\n", "", &[]);
        assert_eq!(selection.hierarchy, Hierarchy::Unified);
        assert_eq!(selection.mount, Err(MountError::NotMounted(Hierarchy::Unified)));
        let reason = "cgroup v2 is not mounted here";
        assert!(selection.limitation(false).unwrap().starts_with(reason));
        let some = format!("cgroups from before the start have no names: {reason}");
        assert!(selection.limitation(true).unwrap().starts_with(&some));
        let selection = on(None, "4:cpu,cpuacct:/\n", "", &[]);
        assert_eq!((selection.hierarchy, selection.id), (Hierarchy::Legacy, 4));
        assert_eq!(selection.mount, Err(MountError::NotMounted(Hierarchy::Legacy)));
    }

    #[test]
    fn does_not_use_a_mount_of_the_containers_own_cgroup() {
        // A private cgroup namespace, then the host's.
        for (own, root) in [("0::/\n", "/"), ("0::/docker/abc\n", "/docker/abc")] {
            let mountinfo = format!("31 23 0:26 {root} /sys/fs/cgroup ro - cgroup2 cgroup rw\n");
            let selection = on(None, own, &mountinfo, &[4711]);
            assert_eq!(selection.mount, Err(MountError::OnlyOwn("/sys/fs/cgroup".into())));
            assert!(selection.quotas.is_err());
            let reason = selection.mount.unwrap_err().to_string();
            assert!(reason.contains("only the cgroup of this container"), "{reason}");
        }
    }

    #[test]
    fn prefers_the_hosts_mount_to_the_containers_own() {
        let mountinfo = "\
31 23 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup rw
32 23 0:26 /../../.. /host/sys/fs/cgroup ro - cgroup2 cgroup rw
";
        let selection = on(None, "0::/\n", mountinfo, &[4711, 1]);
        assert_eq!(selection.mount, Ok(mount("/host/sys/fs/cgroup", true)));
        assert_eq!(selection.quotas, Ok(quotas(Hierarchy::Unified, "/host/sys/fs/cgroup")));
    }

    #[test]
    fn uses_the_part_of_a_system_container_and_says_so() {
        // In a pod of a cluster whose nodes are containers.
        let mountinfo = "\
31 23 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup rw
32 23 0:26 /../../../.. /host/sys/fs/cgroup ro - cgroup2 cgroup rw
33 23 0:26 /../../../../other /elsewhere ro - cgroup2 cgroup rw
";
        let selection = on(None, "0::/\n", mountinfo, &[4711, 300, 301]);
        assert_eq!(selection.mount, Ok(mount("/host/sys/fs/cgroup", false)));
        let limitation = selection.mount.unwrap().limitation().unwrap();
        assert!(limitation.starts_with("`/host/sys/fs/cgroup` shows only"), "{limitation}");
        // As a service of a system container.
        let mountinfo = "31 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        let selection = on(None, "0::/system.slice/a.service\n", mountinfo, &[300]);
        assert_eq!(selection.mount, Ok(mount("/sys/fs/cgroup", false)));
    }

    #[test]
    fn does_not_use_a_mount_that_is_hidden() {
        let selection = on(None, "0::/a\n", PURE_V2, &[0]);
        assert_eq!(selection.mount, Err(MountError::Hidden("/sys/fs/cgroup".into())));
    }

    #[test]
    fn quotas_must_show_the_same_part_as_names() {
        let hybrid = |root: &str| {
            format!(
                "32 31 0:29 /docker/a /c/unified rw - cgroup2 cgroup2 rw\n\
                 35 31 0:32 {root} /c/cpu rw - cgroup cgroup rw,cpu\n"
            )
        };
        let own = "4:cpu:/docker/a/b\n0::/docker/a/b\n";
        let selection = on(None, own, &hybrid("/docker/a"), &[30, 40]);
        assert_eq!(selection.mount, Ok(mount("/c/unified", false)));
        assert_eq!(selection.quotas, Ok(quotas(Hierarchy::Legacy, "/c/cpu")));
        for (root, inode) in [("/docker/z", 40), ("/", 1)] {
            let selection = on(None, own, &hybrid(root), &[30, inode]);
            let path = "/c/unified".into();
            let expected = MountError::OtherPart { hierarchy: Hierarchy::Legacy, path };
            assert_eq!(selection.quotas, Err(expected), "{root}");
        }
    }

    #[test]
    fn parses_escaped_paths_and_paths_with_colons() {
        let line = br"31 23 0:26 /a\040b /mnt/x\134y\040z rw shared:1 master:2 - cgroup2 none rw";
        let entry = super::mount(line).unwrap();
        assert_eq!(entry.path, PathBuf::from(r"/mnt/x\y z"));
        assert_eq!(entry.root, Location::parse(b"/a b"));
        let own = membership(b"0::/system.slice:docker:abc").unwrap();
        assert_eq!(own.location, Location::parse(b"/system.slice:docker:abc"));
    }

    #[test]
    fn a_location_is_above_what_is_below_it() {
        let is_above = |a: &str, b: &str| {
            Location::parse(a.as_bytes()).is_above(&Location::parse(b.as_bytes()))
        };
        for (a, b) in [("/", "/a"), ("/a", "/a/b/c"), ("/..", "/"), ("/../..", "/../x/y")] {
            assert!(is_above(a, b), "{a} {b}");
            assert!(!is_above(b, a), "{b} {a}");
        }
        for (a, b) in [("/a", "/a"), ("/a", "/ab"), ("/../x", "/"), ("/../x", "/../y")] {
            assert!(!is_above(a, b), "{a} {b}");
        }
    }

    #[test]
    fn selects_a_hierarchy_on_this_machine() {
        let selection = select(None).unwrap();
        if let Ok(mount) = &selection.mount {
            assert!(mount.path.join("cgroup.procs").exists(), "{mount:?}");
        }
        assert_eq!(selection.id == 0, selection.hierarchy == Hierarchy::Unified);
    }
}
