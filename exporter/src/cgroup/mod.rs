//! Reads from the cgroup filesystem which cgroups exist, how they are named, and their CPU quotas. May
//! name `expr`.
//!
//! A cgroup is known by its id: the inode number of its directory, which the kernel never reuses within a
//! hierarchy. <https://github.com/torvalds/linux/blob/v6.12/fs/kernfs/dir.c>, `__kernfs_new_node`.

pub mod hierarchy;
pub mod names;
pub mod paths;
pub mod quota;

use std::path::Path;

use crate::expr::cgroup::CgroupNames;
use names::Names;

/// The names of a cgroup for templates and rules, from its id and its path below the mount.
pub fn describe(id: u64, path: &Path) -> CgroupNames {
    let path = paths::label(path);
    let Names { unit, slice, container_id, pod_uid } = Names::of(&path);
    CgroupNames {
        id: id.to_string(),
        unit: unit.unwrap_or_default().into(),
        slice: slice.unwrap_or_default().into(),
        container_id: container_id.unwrap_or_default().into(),
        pod_uid: pod_uid.unwrap_or_default().into_owned(),
        path: path.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn describes_what_the_path_says() {
        let id = "5f0c91b7a1e5d6b9b1b0a3d1c6f0e4d2a7b8c9d0e1f2a3b4c5d6e7f8a9b0c1d2";
        let path = format!("/system.slice/docker-{id}.scope/a\tb");
        let expected = CgroupNames {
            path: format!("/system.slice/docker-{id}.scope/a\\x09b"),
            id: "42".into(),
            unit: format!("docker-{id}.scope"),
            slice: "system.slice".into(),
            container_id: id.into(),
            pod_uid: String::new(),
        };
        assert_eq!(describe(42, Path::new(&path)), expected);
        let root = CgroupNames { path: "/".into(), id: "1".into(), ..CgroupNames::default() };
        assert_eq!(describe(1, Path::new("/")), root);
    }
}
