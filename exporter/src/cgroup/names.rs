//! Derives from a cgroup's path what it belongs to: the systemd unit and slice, the user, the container,
//! and the pod.
//!
//! * The unit is the host's: the first after the leading slices, as for systemd's own tools. The units
//!   of a user's manager, such as `app.slice/editor.service` below `user@1000.service`, belong to
//!   `user@1000.service`, and so does anything in a delegated subtree: different users, or containers,
//!   may have units of the same name, which must not be added up.
//!   <https://github.com/systemd/systemd/blob/v257/src/basic/cgroup-util.c>, `cg_path_get_unit`.
//! * The slice is the innermost of the leading slices, and the user is that of one of them, or of the
//!   unit.
//! * The pod is the innermost: a node can itself be a container in a pod, and its pods must not be taken for
//!   that one.
//! * The container is the pod's. Everything below it belongs to it, such as containers of a Docker daemon
//!   in a pod, which Kubernetes does not know. Outside of pods, it is the innermost. A process that
//!   supervises a container (`conmon`, `lxc.monitor`) does not belong to it.
//!
//! Unit and slice are as systemd prints them, with escapes such as `\x2d`.

use std::{borrow::Cow, ffi::OsStr, os::unix::ffi::OsStrExt as _, path::Path};

use super::paths;

/// What a cgroup belongs to. Anything that the path does not contain is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names<'a> {
    /// systemd unit: a service, scope, socket, mount or swap.
    pub unit: Option<&'a str>,
    /// systemd slice. `None` for the root slice, which has no name in paths.
    pub slice: Option<&'a str>,
    /// The number of the user whose sessions and services these are.
    pub user: Option<u32>,
    /// The 64 hexadecimal digits by which Docker, containerd, CRI-O and podman know a container, or the
    /// name of an LXC container. Machines of systemd-nspawn have no id: their unit names them.
    pub container_id: Option<&'a str>,
    /// The runtime of the container, or of the task of Nomad or the machine of systemd-nspawn.
    pub runtime: Option<&'a str>,
    /// Kubernetes' uid of a pod, with dashes; of a static pod, 32 hexadecimal digits.
    pub pod_uid: Option<Cow<'a, str>>,
    /// Quality of service of the pod.
    pub pod_qos: Option<&'static str>,
}

impl<'a> Names<'a> {
    /// Parses a path that begins with `/`, as [`super::paths::label`] returns it.
    pub fn of(path: &'a str) -> Self {
        let segments: Vec<_> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        let is_slice = |segment: &&&str| is_unit_of(unescape(segment), &["slice"]);
        let (slices, rest) = segments.split_at(segments.iter().take_while(is_slice).count());
        let unit = rest.first().copied().map(unescape).filter(|name| is_unit(name));
        let pod = (0..segments.len()).rev().find_map(|at| Some((at, pod_uid(segments[at])?)));
        let container = match &pod {
            Some((at, _)) => (*at..segments.len()).find_map(|at| container(&segments[..=at])),
            None => (0..segments.len()).rev().find_map(|at| container(&segments[..=at])),
        };
        Self {
            unit,
            slice: slices.last().copied().map(unescape),
            user: slices.iter().copied().chain(unit).find_map(user),
            container_id: container.map(|container| container.id),
            runtime: match container {
                Some(container) => container.runtime,
                None => runtime_of_host(slices, unit),
            },
            pod_qos: pod.as_ref().map(|(at, _)| pod_qos(&segments[..=*at])),
            pod_uid: pod.map(|(_, uid)| uid),
        }
    }
}

/// Replaces systemd's escapes with their characters, unless these are not printable: `a\x2db.service` becomes
/// `a-b.service`.
/// <https://github.com/systemd/systemd/blob/v257/src/basic/unit-name.c>, `unit_name_unescape`.
pub fn unescape_unit(unit: &str) -> Cow<'_, str> {
    if !unit.contains("\\x") {
        return unit.into();
    }
    let mut bytes = Vec::with_capacity(unit.len());
    let mut rest = unit.as_bytes();
    while let [first, after @ ..] = rest {
        let (byte, after) = escaped_byte(rest).unwrap_or((*first, after));
        bytes.push(byte);
        rest = after;
    }
    paths::label(Path::new(OsStr::from_bytes(&bytes))).into_owned().into()
}

/// The byte of the escape that a text begins with, and the rest of the text.
fn escaped_byte(text: &[u8]) -> Option<(u8, &[u8])> {
    let [b'\\', b'x', high, low, rest @ ..] = text else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = digit(*high)? << 4 | digit(*low)?;
    Some((u8::try_from(byte).ok()?, rest))
}

/// Removes the `_` that systemd prepends to names that the kernel could take for files of its own, such
/// as `cpu.service`.
/// <https://github.com/systemd/systemd/blob/v257/src/basic/cgroup-util.c>, `cg_unescape`.
fn unescape(segment: &str) -> &str {
    segment.strip_prefix('_').unwrap_or(segment)
}

fn is_unit(name: &str) -> bool {
    is_unit_of(name, &["service", "scope", "socket", "mount", "swap"])
}

/// Whether the name is that of a unit of one of these types, and not a template.
/// <https://github.com/systemd/systemd/blob/v257/src/basic/unit-name.c>, `unit_name_is_valid`.
fn is_unit_of(name: &str, types: &[&str]) -> bool {
    const MAX_BYTES: usize = 255;
    let Some((stem, kind)) = name.rsplit_once('.') else { return false };
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    let is_instance = match stem.split_once('@') {
        Some((prefix, instance)) => !prefix.is_empty() && !instance.is_empty(),
        None => !stem.is_empty(),
    };
    name.len() <= MAX_BYTES && types.contains(&kind) && is_instance && stem.bytes().all(is_valid)
}

/// The user in `user-<uid>.slice`, with sessions and all that the user runs, or `user@<uid>.service`.
fn user(name: &str) -> Option<u32> {
    let slice = || name.strip_prefix("user-")?.strip_suffix(".slice");
    let manager = || name.strip_prefix("user@")?.strip_suffix(".service");
    let uid = slice().or_else(manager)?;
    // `parse` would accept a plus sign and zeros.
    uid.parse().ok().filter(|number: &u32| number.to_string() == uid)
}

/// The runtime of tasks that are not in a container with an id.
fn runtime_of_host(slices: &[&str], unit: Option<&str>) -> Option<&'static str> {
    if slices.first() == Some(&"nomad.slice") {
        return unit.and(Some("nomad"));
    }
    unit?.starts_with("systemd-nspawn@").then_some("systemd-nspawn")
}

/// A container in a path.
#[derive(Clone, Copy)]
struct Container<'a> {
    id: &'a str,
    runtime: Option<&'a str>,
}

/// The container that the last of these segments names.
fn container<'a>(segments: &[&'a str]) -> Option<Container<'a>> {
    let (segment, parents) = segments.split_last()?;
    with_id(segment, parents).or_else(|| with_name(segment, parents))
}

/// The container in `<id>`, `<runtime>-<id>`, `<runtime>-<id>.scope` or `<slice>:<runtime>:<id>`. runc makes the
/// last form if it gets a cgroup in systemd's form but does not use systemd.
fn with_id<'a>(segment: &'a str, parents: &[&str]) -> Option<Container<'a>> {
    let is_id = |id: &str| is_hex(id, 64);
    if is_id(segment) {
        let runtime = match parents {
            // podman's pods have such names; its containers have a prefix.
            [.., "libpod_parent"] => return None,
            [.., "docker"] | [.., "docker", "buildx" | "buildkit"] => Some("docker"),
            _ => None,
        };
        return Some(Container { id: segment, runtime });
    }
    let name = segment.strip_suffix(".scope").unwrap_or(segment);
    let (prefix, id) = name.rsplit_once(['-', ':'])?;
    let prefix = prefix.rsplit(':').next().unwrap_or(prefix);
    let is_monitor = prefix == "conmon" || prefix.ends_with("-conmon");
    let runtime = match prefix {
        "cri-containerd" => "containerd",
        "crio" => "cri-o",
        "libpod" => "podman",
        other => other,
    };
    let is_container = is_id(id) && !prefix.is_empty() && !is_monitor;
    is_container.then_some(Container { id, runtime: Some(runtime) })
}

/// The container in `lxc.payload.<name>`, `lxc.payload/<name>` or `lxc/<name>`.
fn with_name<'a>(segment: &'a str, parents: &[&str]) -> Option<Container<'a>> {
    let name = segment.strip_prefix("lxc.payload.").filter(|name| !name.is_empty());
    let is_named = matches!(parents, [.., "lxc" | "lxc.payload"]);
    let id = name.or(is_named.then_some(segment))?;
    Some(Container { id, runtime: Some("lxc") })
}

/// The uid in `pod<uid>`, `…-pod<uid>.slice` or `…-pod<uid>.slice:<runtime>:<id>`.
fn pod_uid(segment: &str) -> Option<Cow<'_, str>> {
    let name = segment.split_once(".slice").map_or(segment, |(name, _)| name);
    let at = name.rfind("pod").filter(|at| *at == 0 || name.as_bytes()[at - 1] == b'-')?;
    let uid = &name[at + "pod".len()..];
    if is_hex(uid, 32) {
        return Some(uid.into());
    }
    // systemd gives dashes a meaning in the names of slices, so kubelet replaces them.
    let parts: Vec<_> = uid.split(['-', '_']).collect();
    let is_uuid =
        parts.len() == 5 && [8, 4, 4, 4, 12].iter().zip(&parts).all(|(n, it)| is_hex(it, *n));
    let dashed = || if uid.contains('_') { uid.replace('_', "-").into() } else { uid.into() };
    is_uuid.then(dashed)
}

/// The quality of service of the pod that the last of these segments names: with systemd in the segment itself,
/// otherwise in the one before it.
fn pod_qos(segments: &[&str]) -> &'static str {
    let is = |class: &str| match segments {
        [.., parent, _] if *parent == class => true,
        [.., pod] => pod.contains(&format!("-{class}-pod")),
        [] => false,
    };
    let class = ["burstable", "besteffort"].into_iter().find(|class| is(class));
    class.unwrap_or("guaranteed")
}

/// Whether the text is this many lower-case hexadecimal digits.
fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests;
