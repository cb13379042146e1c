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

/// Derives the names of a cgroup from its path below the mount, for templates and rules.
pub fn describe(id: u64, path: &Path) -> CgroupNames {
    let path = paths::label(path);
    let Names { unit, slice, user, container_id, runtime, pod_uid, pod_qos } = Names::of(&path);
    let unit = unit.unwrap_or_default();
    CgroupNames {
        id: id.to_string(),
        unit: unit.into(),
        unit_unescaped: names::unescape_unit(unit).into(),
        slice: slice.unwrap_or_default().into(),
        user: user.map_or_else(String::new, |user| user.to_string()),
        container_id: container_id.unwrap_or_default().into(),
        runtime: runtime.unwrap_or_default().into(),
        pod_uid: pod_uid.unwrap_or_default().into_owned(),
        pod_qos: pod_qos.unwrap_or_default().into(),
        path: path.into_owned(),
        ..CgroupNames::default()
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
            unit_unescaped: format!("docker-{id}.scope"),
            slice: "system.slice".into(),
            container_id: id.into(),
            runtime: "docker".into(),
            ..CgroupNames::default()
        };
        assert_eq!(describe(42, Path::new(&path)), expected);
        let expected = CgroupNames {
            path: r"/user.slice/user-7.slice/a\x2db.service".into(),
            id: "43".into(),
            unit: r"a\x2db.service".into(),
            unit_unescaped: "a-b.service".into(),
            slice: "user-7.slice".into(),
            user: "7".into(),
            ..CgroupNames::default()
        };
        assert_eq!(describe(43, Path::new(&expected.path)), expected);
        let pod = "0009af54012f5ba19c526ddb4a89e1a5";
        let expected = CgroupNames {
            path: format!("/kubepods/burstable/pod{pod}"),
            id: "44".into(),
            pod_uid: pod.into(),
            pod_qos: "burstable".into(),
            ..CgroupNames::default()
        };
        assert_eq!(describe(44, Path::new(&expected.path)), expected);
        let root = CgroupNames { path: "/".into(), id: "1".into(), ..CgroupNames::default() };
        assert_eq!(describe(1, Path::new("/")), root);
    }
}
