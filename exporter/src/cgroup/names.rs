//! Works out from a cgroup's path what it belongs to: the systemd unit and slice, the container, and the
//! pod.
//!
//! * The unit is the host's: the first after the leading slices, as for systemd's own tools. The units
//!   of a user's manager, such as `app.slice/editor.service` below `user@1000.service`, belong to
//!   `user@1000.service`, and so does anything in a delegated subtree: different users, or containers,
//!   may have units of the same name, which must not be added up.
//!   <https://github.com/systemd/systemd/blob/v257/src/basic/cgroup-util.c>, `cg_path_get_unit`.
//! * The slice is the innermost of the leading slices.
//! * The container is the innermost, so that a pod's container in a node that is a container itself is
//!   not taken for the node. What is below a container, and is not a container, belongs to it. A process
//!   that supervises a container (`conmon`, `lxc.monitor`) does not belong to it.
//! * The pod is the innermost too.
//!
//! Unit and slice are as systemd prints them, with escapes such as `\x2d`.

use std::borrow::Cow;

/// What a cgroup belongs to. Anything that the path does not say is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names<'a> {
    /// systemd unit: a service, scope, socket, mount or swap.
    pub unit: Option<&'a str>,
    /// systemd slice. `None` for the root slice, which has no name in paths.
    pub slice: Option<&'a str>,
    /// The 64 hexadecimal digits by which Docker, containerd, CRI-O and podman know a container, or the
    /// name of an LXC container. Machines of systemd-nspawn have none: their unit names them.
    pub container_id: Option<&'a str>,
    /// Kubernetes' uid of a pod, with dashes; of a static pod, 32 hexadecimal digits.
    pub pod_uid: Option<Cow<'a, str>>,
}

impl<'a> Names<'a> {
    /// Parses a path that begins with `/`, as [`super::paths::label`] returns it.
    pub fn of(path: &'a str) -> Self {
        let segments: Vec<_> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        let (slice, rest) = leading_slices(&segments);
        Self {
            unit: rest.first().copied().map(unescape).filter(|name| is_unit(name)),
            slice,
            container_id: container_id(&segments),
            pod_uid: segments.iter().rev().find_map(|segment| pod_uid(segment)),
        }
    }

    /// Whether the unit exists only for one login or command: a session's scope, or a unit that
    /// `systemd-run` named. Such names are used once, so as labels they would only create series.
    pub fn is_transient(&self) -> bool {
        self.unit.is_some_and(is_transient)
    }
}

/// Splits the innermost leading slice from what follows the slices.
fn leading_slices<'a, 's>(segments: &'s [&'a str]) -> (Option<&'a str>, &'s [&'a str]) {
    let is_slice = |segment: &&str| is_unit_of(unescape(segment), &["slice"]);
    let count = segments.iter().take_while(|segment| is_slice(segment)).count();
    let (slices, rest) = segments.split_at(count);
    (slices.last().map(|slice| unescape(slice)), rest)
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

fn is_transient(unit: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    let Some((stem, kind @ ("scope" | "service"))) = unit.rsplit_once('.') else { return false };
    if let Some(session) = stem.strip_prefix("session-") {
        // logind names sessions by the audit session, or `c1` without one.
        let number = session.strip_prefix('c').unwrap_or(session);
        return kind == "scope" && is_number(number);
    }
    let Some(run) = stem.strip_prefix("run-") else { return false };
    // `run-u12`, `run-u12-s1` after a soft reboot, `run-p123-i456`, `run-r` and 32 hexadecimal digits,
    // and `run-123` before version 229.
    let is_part = |part: &str| is_number(part.trim_start_matches(['u', 's', 'p', 'i']));
    run.strip_prefix('r').is_some_and(|id| is_hex(id, 32)) || run.split('-').all(is_part)
}

/// The innermost container among the segments of a path.
fn container_id<'a>(segments: &[&'a str]) -> Option<&'a str> {
    (0..segments.len()).rev().find_map(|at| {
        let parent = at.checked_sub(1).map(|parent| segments[parent]);
        runtime_id(segments[at], parent).or_else(|| lxc_name(segments[at], parent))
    })
}

/// The id in `<id>`, `<runtime>-<id>`, `<runtime>-<id>.scope` or `<slice>:<runtime>:<id>`; the last is
/// how runc names a cgroup in systemd's form if it does not use systemd.
fn runtime_id<'a>(segment: &'a str, parent: Option<&str>) -> Option<&'a str> {
    let is_id = |id: &str| is_hex(id, 64);
    if is_id(segment) {
        // podman's pods have such names too; its containers have a prefix.
        return (parent != Some("libpod_parent")).then_some(segment);
    }
    let name = segment.strip_suffix(".scope").unwrap_or(segment);
    let (runtime, id) = name.rsplit_once(['-', ':'])?;
    let is_monitor = runtime == "conmon" || runtime.ends_with("-conmon");
    (is_id(id) && !runtime.is_empty() && !is_monitor).then_some(id)
}

/// The name in `lxc.payload.<name>`, `lxc.payload/<name>` or `lxc/<name>`.
fn lxc_name<'a>(segment: &'a str, parent: Option<&str>) -> Option<&'a str> {
    if let Some(name) = segment.strip_prefix("lxc.payload.") {
        return Some(name).filter(|name| !name.is_empty());
    }
    matches!(parent, Some("lxc" | "lxc.payload")).then_some(segment)
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

/// Whether the text is this many lower-case hexadecimal digits.
fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    const ID: &str = "a61627ef0b1c2d3e4f5061728394a5b6c7d8e9f00112233445566778191ac199";
    const OUTER: &str = "c1146e7c0b1c2d3e4f5061728394a5b6c7d8e9f00112233445566778191ac1ff";
    const UID: &str = "d5d4df71-6152-41de-9fdf-c0994d70ebc9";
    const UNDERSCORED: &str = "d5d4df71_6152_41de_9fdf_c0994d70ebc9";
    const STATIC: &str = "0009af54012f5ba19c526ddb4a89e1a5";

    /// Compares the names of a path, in which `ID`, `OUTER`, `UID`, `U_D` and `STATIC` are replaced.
    #[track_caller]
    fn check(path: &str, [unit, slice, container_id, pod_uid]: [&str; 4]) {
        let fill = |text: &str| {
            let text = text.replace("OUTER", OUTER).replace("U_D", UNDERSCORED);
            text.replace("UID", UID).replace("STATIC", STATIC).replace("ID", ID)
        };
        let path = fill(path);
        let names = Names::of(&path);
        let found = [names.unit, names.slice, names.container_id, names.pod_uid.as_deref()];
        let expected = [unit, slice, container_id, pod_uid].map(fill);
        assert_eq!(
            found.map(Option::unwrap_or_default),
            expected.each_ref().map(String::as_str),
            "{path}"
        );
    }

    #[test]
    fn units_and_slices_of_systemd() {
        for (path, unit, slice) in [
            ("/", "", ""),
            ("/init.scope", "init.scope", ""),
            ("/system.slice", "", "system.slice"),
            ("/system.slice/ssh.service", "ssh.service", "system.slice"),
            ("/system.slice/dev-hugepages.mount", "dev-hugepages.mount", "system.slice"),
            ("/system.slice/docker.socket", "docker.socket", "system.slice"),
            (
                "/system.slice/system-postgresql.slice/postgresql@15-main.service",
                "postgresql@15-main.service",
                "system-postgresql.slice",
            ),
            (
                r"/system.slice/system-spin.slice/spin@web\x2d1-\xc3\xa9.service",
                r"spin@web\x2d1-\xc3\xa9.service",
                "system-spin.slice",
            ),
            ("/batch.slice/batch-night.slice/job.service", "job.service", "batch-night.slice"),
            ("/system.slice/_cpu.service", "cpu.service", "system.slice"),
            ("/system.slice/_cgroup.x.service", "cgroup.x.service", "system.slice"),
            ("/system.slice/__under.service", "_under.service", "system.slice"),
            ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope", "user-1000.slice"),
            ("/user.slice/user-1000.slice", "", "user-1000.slice"),
            ("/runtime.slice/kubelet.service", "kubelet.service", "runtime.slice"),
            ("/azure.slice/walinuxagent.service", "walinuxagent.service", "azure.slice"),
            (
                "/nomad.slice/share.slice/b30be889-ebb4-8524-cc84-bfd79acd6057.promtail.scope",
                "b30be889-ebb4-8524-cc84-bfd79acd6057.promtail.scope",
                "share.slice",
            ),
        ] {
            check(path, [unit, slice, "", ""]);
        }
    }

    #[test]
    fn units_below_a_unit_belong_to_it() {
        for (path, unit, slice) in [
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/app-marktext-52feaf77.scope",
                "user@1000.service",
                "user-1000.slice",
            ),
            (
                "/user.slice/user-0.slice/user@0.service/init.scope",
                "user@0.service",
                "user-0.slice",
            ),
            ("/system.slice/a.service/payload/b.service", "a.service", "system.slice"),
            (
                "/machine.slice/systemd-nspawn@jammy.service/payload/system.slice/cron.service",
                "systemd-nspawn@jammy.service",
                "machine.slice",
            ),
            (
                "/machine.slice/systemd-nspawn@jammy.service/supervisor",
                "systemd-nspawn@jammy.service",
                "machine.slice",
            ),
            (
                r"/machine.slice/machine-my\x2dbox.scope/payload/init.scope",
                r"machine-my\x2dbox.scope",
                "machine.slice",
            ),
            (
                "/system.slice/garden.service/garden/good/db315859-a870-4d77-50f9-02b6",
                "garden.service",
                "system.slice",
            ),
        ] {
            check(path, [unit, slice, "", ""]);
        }
    }

    #[test]
    fn paths_that_are_not_of_units_or_containers_have_no_names() {
        for path in [
            "/podruntime/kubelet",
            "/system/dashboard",
            "/init",
            "/0d233f08-00c2-43d8-5b57-2c2af4f5bfc0",
            "/kubepods/burstable",
            "/libpod_parent/conmon",
            "/libpod_parent/ID",
            "/libpod_parent/ID/conmon",
            "/libpod_parent/libpod-conmon-ID",
            "/lxc.monitor.first",
            "/lxc.monitor/first",
            "/lxc",
            "/docker/buildkit/w5y2h8x0g4d1v6k3c9m7q2b5z",
            // Neither a template nor a unit without a stem has processes.
            "/getty@.service",
            "/.service",
            "/a b.service",
            "/.slice/b.service",
            "/é.service",
            "no slash",
            "",
        ] {
            check(path, ["", "", "", ""]);
        }
        check("/a.slice/é.service/b.service", ["", "a.slice", "", ""]);
    }

    #[test]
    fn containers_outside_kubernetes() {
        for (path, unit, slice, container_id) in [
            ("/docker/ID", "", "", "ID"),
            ("/docker/ID/init.scope", "", "", "ID"),
            ("/docker/buildx/ID", "", "", "ID"),
            ("/docker/OUTER/docker/ID", "", "", "ID"),
            ("/system.slice/docker-ID.scope", "docker-ID.scope", "system.slice", "ID"),
            ("/system.slice:docker:ID", "", "", "ID"),
            (
                "/system.slice/docker-ID.scope/system.slice/containerd.service",
                "docker-ID.scope",
                "system.slice",
                "ID",
            ),
            ("/libpod_parent/libpod-ID", "", "", "ID"),
            ("/libpod_parent/OUTER/libpod-ID", "", "", "ID"),
            ("/machine.slice/libpod-ID.scope/container", "libpod-ID.scope", "machine.slice", "ID"),
            (
                "/machine.slice/machine-libpod_pod_OUTER.slice/libpod-ID.scope/container",
                "libpod-ID.scope",
                "machine-libpod_pod_OUTER.slice",
                "ID",
            ),
            (
                "/machine.slice/libpod-conmon-ID.scope",
                "libpod-conmon-ID.scope",
                "machine.slice",
                "",
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
                "user@1000.service",
                "user-1000.slice",
                "ID",
            ),
            // podman runs health checks as services that are named after the container.
            ("/system.slice/ID.service", "ID.service", "system.slice", ""),
            ("/ecs/bf1ddbfbbc8f45c9b1ac4f779368741e/ID", "", "", "ID"),
            (
                "/ecstasks.slice/ecstasks-bf1d.slice/docker-ID.scope",
                "docker-ID.scope",
                "ecstasks-bf1d.slice",
                "ID",
            ),
            ("/containers/ID", "", "", "ID"),
            ("/lxc/mysql-primary-db", "", "", "mysql-primary-db"),
            ("/lxc/101/ns/system.slice/ssh.service", "", "", "101"),
            ("/lxc.payload.first/system.slice/ssh.service", "", "", "first"),
            ("/lxc.payload.project_name", "", "", "project_name"),
            ("/lxc.payload/first", "", "", "first"),
            ("/lxc.payload.first/docker/ID", "", "", "ID"),
        ] {
            check(path, [unit, slice, container_id, ""]);
        }
    }

    #[test]
    fn pods_by_the_cgroupfs_driver() {
        for (path, container_id, pod_uid) in [
            ("/kubepods/burstable/podUID/ID", "ID", "UID"),
            ("/kubepods/podUID/ID", "ID", "UID"),
            ("/kubepods/besteffort/podUID/ID", "ID", "UID"),
            ("/kubepods/besteffort/podSTATIC/ID", "ID", "STATIC"),
            ("/kubepods/besteffort/podUID", "", "UID"),
            ("/kubepods/besteffort/podUID/ID/kube-proxy", "ID", "UID"),
            ("/kubepods/podUID/crio-ID", "ID", "UID"),
            ("/kubepods/podUID/crio-conmon-ID", "", "UID"),
            ("/kubepods/podUID/OUTER/docker/ID", "ID", "UID"),
        ] {
            check(path, ["", "", container_id, pod_uid]);
        }
    }

    #[test]
    fn pods_by_the_systemd_driver() {
        for (slice, runtime, uid) in [
            ("kubepods-podU_D.slice", "cri-containerd", "UID"),
            ("kubepods-burstable.slice/kubepods-burstable-podU_D.slice", "cri-containerd", "UID"),
            ("kubepods-besteffort.slice/kubepods-besteffort-podU_D.slice", "crio", "UID"),
            ("kubepods-besteffort.slice/kubepods-besteffort-podU_D.slice", "docker", "UID"),
            ("kubepods-burstable.slice/kubepods-burstable-podSTATIC.slice", "crio", "STATIC"),
        ] {
            let innermost = slice.rsplit('/').next().unwrap();
            let scope = format!("{runtime}-ID.scope");
            let path = format!("/kubepods.slice/{slice}/{scope}");
            check(&path, [&scope, innermost, "ID", uid]);
            check(&format!("{path}/container"), [&scope, innermost, "ID", uid]);
            check(&format!("/kubepods.slice/{slice}/{runtime}-ID"), ["", innermost, "ID", uid]);
            check(&format!("/kubepods.slice/{slice}"), ["", innermost, "", uid]);
        }
        check(
            "/kubepods.slice/kubepods-podU_D.slice/crio-conmon-ID.scope",
            ["crio-conmon-ID.scope", "kubepods-podU_D.slice", "", "UID"],
        );
    }

    #[test]
    fn pods_if_kubelet_and_runtime_use_different_drivers() {
        let segment = "kubepods-burstable-podU_D.slice:cri-containerd:ID";
        check(
            &format!("/system.slice/containerd.service/{segment}"),
            ["containerd.service", "system.slice", "ID", "UID"],
        );
        check(&format!("/{segment}"), ["", "", "ID", "UID"]);
    }

    #[test]
    fn pods_in_nodes_that_are_containers_or_services() {
        for (path, unit, slice) in [
            (
                "/system.slice/docker-OUTER.scope/kubelet/kubepods/burstable/podUID/ID",
                "docker-OUTER.scope",
                "system.slice",
            ),
            (
                "/system.slice/docker-OUTER.scope/kubepods.slice/kubepods-podU_D.slice/docker-ID.scope",
                "docker-OUTER.scope",
                "system.slice",
            ),
            (
                "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podU_D.slice/cri-containerd-ID.scope",
                "cri-containerd-ID.scope",
                "kubelet-kubepods-podU_D.slice",
            ),
            (
                "/system.slice/k3s.service/kubepods.slice/kubepods-podU_D.slice/cri-containerd-ID.scope",
                "k3s.service",
                "system.slice",
            ),
        ] {
            check(path, [unit, slice, "ID", "UID"]);
        }
        check(
            "/system.slice/docker-OUTER.scope/kubepods/podUID/crio-conmon-ID",
            ["docker-OUTER.scope", "system.slice", "OUTER", "UID"],
        );
    }

    #[test]
    fn uids_and_ids_of_other_lengths_are_none() {
        for path in [
            "/kubepods/podd5d4df71-6152-41de-9fdf-c0994d70ebc/x",
            "/kubepods/podD5D4DF71-6152-41DE-9FDF-C0994D70EBC9",
            "/kubepods/xpodUID",
            "/kubepods/podd5d4df716152-41de-9fdf-c099-4d70ebc9",
            "/docker/IDa",
            "/docker/-ID",
            "/docker/conmon-ID",
        ] {
            check(path, ["", "", "", ""]);
        }
    }

    #[test]
    fn knows_transient_units() {
        let id = "rc7bdc3130a8f4f0e9f7b6a5d4c3b2a19";
        for unit in [
            "session-3.scope",
            "session-c12.scope",
            "run-u123.service",
            "run-u123-s2.service",
            "run-p4711-i4712.scope",
            "run-4711.scope",
            &format!("run-{id}.service"),
            &format!("run-{id}.scope"),
        ] {
            let path = format!("/system.slice/{unit}");
            assert!(Names::of(&path).is_transient(), "{unit}");
        }
        for unit in [
            "ssh.service",
            "session-manager.service",
            "session-3.service",
            "run-parts.service",
            "run-.service",
            "run-user-1000.mount",
            "run-123.mount",
            "run-rc7bdc.service",
        ] {
            let path = format!("/system.slice/{unit}");
            assert!(!Names::of(&path).is_transient(), "{unit}");
        }
        assert!(!Names::of("/").is_transient());
    }

    /// Pieces of paths.
    const PIECES: [&str; 24] = [
        "/",
        "/",
        "/",
        ".slice",
        ".service",
        ".scope",
        ":",
        "-",
        "_",
        "@",
        "pod",
        "kubepods",
        "lxc",
        "lxc.payload.",
        "libpod_parent",
        "conmon",
        "run-",
        "session-",
        "docker",
        "é",
        "a",
        ID,
        UID,
        STATIC,
    ];

    proptest! {
        #[test]
        fn names_are_parts_of_the_path(pieces in vec(select(&PIECES[..]), 0..16)) {
            let path = pieces.concat();
            let names = Names::of(&path);
            let parts = [names.unit, names.slice, names.container_id];
            for part in parts.into_iter().flatten() {
                prop_assert!(path.split('/').any(|segment| segment.contains(part)), "{path} {part}");
                prop_assert!(!part.is_empty(), "{path}");
            }
            if let Some(uid) = &names.pod_uid {
                prop_assert!(path.replace('_', "-").contains(&format!("pod{uid}")), "{path} {uid}");
            }
            let _ = names.is_transient();
        }

        #[test]
        fn cgroups_below_a_container_belong_to_it(pieces in vec(select(&PIECES[..]), 0..16)) {
            let path = format!("/{}/{ID}", pieces.concat());
            let names = Names::of(&path);
            let below = format!("{path}/below/it");
            prop_assert_eq!(Names::of(&below), names, "{}", path);
        }
    }
}
