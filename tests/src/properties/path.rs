//! What paths of cgroups say.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, path::Path};

use sched_exporter::{
    cgroup::{describe, paths::label},
    expr::cgroup::{CgroupName, CgroupNames},
};

use crate::workload::thread_cpu_ns;

/// Size of a path that takes a second or more to parse if the time grows with the square of the size.
const LARGE: usize = 1 << 16;

const MAX_LARGE_NS: u64 = 100_000_000;

/// Takes each line of the bytes as the path of a cgroup. Whatever it is, each name is a part of it that has
/// the form of such a name; what is below a container belongs to it; and a large path takes little time.
pub fn path(bytes: &[u8]) {
    for line in bytes.split(|byte| *byte == b'\n') {
        let names = names(line);
        check_texts(line, &names);
        check_units(&names);
        check_user(&names);
        check_container(&names);
        check_pod(&names);
        check_below(line, &names);
    }
    if !bytes.is_empty() {
        check_time(&bytes.repeat(LARGE.div_ceil(bytes.len())));
    }
}

fn names(path: &[u8]) -> CgroupNames {
    describe(7, Path::new(OsStr::from_bytes(path)))
}

/// The segments of a path.
fn segments(names: &CgroupNames) -> impl Iterator<Item = &str> + Clone {
    names.path.split('/').filter(|segment| !segment.is_empty())
}

fn check_texts(path: &[u8], names: &CgroupNames) {
    assert_eq!(names.path, label(Path::new(OsStr::from_bytes(path))), "{names:?}");
    assert_eq!((names.id.as_str(), &names.pod), ("7", &None), "{names:?}");
    for name in CgroupName::ALL {
        let text = names.get(name);
        assert!(!text.contains(char::is_control), "{names:?}");
        let is_of_runtime = name.is_from_runtime() && name != CgroupName::Runtime;
        assert!(text.is_empty() || !is_of_runtime, "{names:?}");
    }
}

fn check_units(names: &CgroupNames) {
    let is = |segment: &str, unit: &str| segment.strip_prefix('_').unwrap_or(segment) == unit;
    let is_slice =
        |segment: &str| segment.rsplit_once('.').is_some_and(|(_, kind)| kind == "slice");
    let slices = segments(names).take_while(|segment| is_slice(segment));
    let (slice, unit) = (&names.slice, &names.unit);
    if !slice.is_empty() {
        assert!(is_slice(slice) && slices.clone().any(|segment| is(segment, slice)), "{names:?}");
    }
    if !unit.is_empty() {
        let types = [".service", ".scope", ".socket", ".mount", ".swap"];
        assert!(
            types.iter().any(|kind| unit.ends_with(kind) && unit.len() > kind.len()),
            "{names:?}"
        );
        let first = segments(names).nth(slices.count());
        assert!(first.is_some_and(|segment| is(segment, unit)), "{names:?}");
    }
    let plain = &names.unit_unescaped;
    assert!(plain == unit || unit.contains("\\x"), "{names:?}");
    assert!(plain.len() <= unit.len() && plain.is_empty() == unit.is_empty(), "{names:?}");
}

fn check_user(names: &CgroupNames) {
    let user = &names.user;
    if user.is_empty() {
        return;
    }
    assert!(user.parse::<u32>().is_ok_and(|number| number.to_string() == *user), "{names:?}");
    let found = [format!("user-{user}.slice"), format!("user@{user}.service")];
    let is =
        |segment: &str| found.iter().any(|it| segment.strip_prefix('_').unwrap_or(segment) == it);
    assert!(segments(names).any(is), "{names:?}");
}

fn check_container(names: &CgroupNames) {
    let (id, runtime) = (&names.container_id, &names.runtime);
    if id.is_empty() {
        assert!(["", "nomad", "systemd-nspawn"].contains(&runtime.as_str()), "{names:?}");
        return;
    }
    let mut parent = "";
    let mut is_found = false;
    for segment in segments(names) {
        if is_hex(id, 64) {
            let name = segment.strip_suffix(".scope").unwrap_or(segment);
            let start = name.strip_suffix(id.as_str());
            is_found |= start.is_some_and(|it| it.is_empty() || it.ends_with(['-', ':']));
        }
        if runtime == "lxc" {
            is_found |= ["lxc", "lxc.payload"].contains(&parent) && segment == id;
            is_found |= segment.strip_prefix("lxc.payload.") == Some(id);
        }
        parent = segment;
    }
    assert!(is_found, "{names:?}");
    let is_monitor = runtime == "conmon" || runtime.ends_with("-conmon");
    assert!(!is_monitor && !runtime.contains(['/', ':']), "{names:?}");
}

fn check_pod(names: &CgroupNames) {
    let (uid, qos) = (&names.pod_uid, &names.pod_qos);
    assert_eq!(uid.is_empty(), qos.is_empty(), "{names:?}");
    if uid.is_empty() {
        return;
    }
    let dashes = uid.match_indices('-').map(|(at, _)| at);
    let is_uuid = dashes.eq([8, 13, 18, 23]) && is_hex(&uid.replace('-', ""), 32);
    assert!(is_uuid || is_hex(uid, 32), "{names:?}");
    let path = names.path.replace('_', "-");
    assert!(path.contains(&format!("pod{uid}")), "{names:?}");
    match qos.as_str() {
        "guaranteed" => {}
        "burstable" | "besteffort" => assert!(path.contains(qos.as_str()), "{names:?}"),
        _ => panic!("{names:?}"),
    }
}

/// Checks that what is below a container belongs to it. The names of LXC containers are any names.
fn check_below(path: &[u8], names: &CgroupNames) {
    let ends_at_lxc = ["lxc", "lxc.payload"].contains(&segments(names).last().unwrap_or_default());
    if names.container_id.is_empty() || ends_at_lxc {
        return;
    }
    let below = self::names(&[path, b"/below"].concat());
    let expected = CgroupNames { path: format!("{}/below", names.path), ..names.clone() };
    assert_eq!(below, expected);
}

fn check_time(path: &[u8]) {
    let start = thread_cpu_ns();
    let parsed = names(path);
    let took = thread_cpu_ns() - start;
    assert!(took < MAX_LARGE_NS, "{took} ns for {} bytes: {:.100}", path.len(), parsed.path);
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'))
}
