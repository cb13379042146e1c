//! Paths as runtimes, systemd and orchestrators make them, and the names in them.

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

const ID: &str = "a61627ef0b1c2d3e4f5061728394a5b6c7d8e9f00112233445566778191ac199";
const OUTER: &str = "c1146e7c0b1c2d3e4f5061728394a5b6c7d8e9f00112233445566778191ac1ff";
const UID: &str = "d5d4df71-6152-41de-9fdf-c0994d70ebc9";
const UNDERSCORED: &str = "d5d4df71_6152_41de_9fdf_c0994d70ebc9";
const STATIC: &str = "0009af54012f5ba19c526ddb4a89e1a5";

/// Replaces `OUTER`, `U_D`, `UID`, `STATIC` and `ID`.
fn fill(text: &str) -> String {
    let text = text.replace("OUTER", OUTER).replace("U_D", UNDERSCORED);
    text.replace("UID", UID).replace("STATIC", STATIC).replace("ID", ID)
}

/// Writes the names in a path, each as `name=value`.
fn shown(names: &Names<'_>) -> String {
    let Names { unit, slice, user, container_id, runtime, pod_uid, pod_qos } = names;
    let user = user.map(|user| user.to_string());
    let names = [
        ("slice", *slice),
        ("unit", *unit),
        ("user", user.as_deref()),
        ("runtime", *runtime),
        ("id", *container_id),
        ("qos", *pod_qos),
        ("pod", pod_uid.as_deref()),
    ];
    let known = names.iter().filter_map(|(name, value)| Some(format!("{name}={}", (*value)?)));
    known.collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn check(path: &str, expected: &str) {
    let path = fill(path);
    assert_eq!(shown(&Names::of(&path)), fill(expected), "{path}");
}

fn check_all<const N: usize>(cases: [(&str, &str); N]) {
    for (path, expected) in cases {
        check(path, expected);
    }
}

#[test]
fn units_and_slices_of_systemd() {
    check_all([
        ("/", ""),
        ("/init.scope", "unit=init.scope"),
        ("/system.slice", "slice=system.slice"),
        ("/system.slice/ssh.service", "slice=system.slice unit=ssh.service"),
        ("/system.slice/dev-hugepages.mount", "slice=system.slice unit=dev-hugepages.mount"),
        ("/system.slice/docker.socket", "slice=system.slice unit=docker.socket"),
        (
            "/system.slice/system-postgresql.slice/postgresql@15-main.service",
            "slice=system-postgresql.slice unit=postgresql@15-main.service",
        ),
        (
            r"/system.slice/system-spin.slice/spin@web\x2d1-\xc3\xa9.service",
            r"slice=system-spin.slice unit=spin@web\x2d1-\xc3\xa9.service",
        ),
        ("/batch.slice/batch-night.slice/job.service", "slice=batch-night.slice unit=job.service"),
        ("/system.slice/_cpu.service", "slice=system.slice unit=cpu.service"),
        ("/system.slice/_cgroup.x.service", "slice=system.slice unit=cgroup.x.service"),
        ("/system.slice/__under.service", "slice=system.slice unit=_under.service"),
        (
            "/system.slice/run-rc7bdc3130a8f4f0e9f7b6a5d4c3b2a19.service",
            "slice=system.slice unit=run-rc7bdc3130a8f4f0e9f7b6a5d4c3b2a19.service",
        ),
        ("/runtime.slice/kubelet.service", "slice=runtime.slice unit=kubelet.service"),
        ("/runtime.slice/containerd.service", "slice=runtime.slice unit=containerd.service"),
        ("/azure.slice/walinuxagent.service", "slice=azure.slice unit=walinuxagent.service"),
        ("/reserved.slice/kubelet.service", "slice=reserved.slice unit=kubelet.service"),
        ("/kube.slice/containerd.service", "slice=kube.slice unit=containerd.service"),
    ]);
}

#[test]
fn users() {
    check_all([
        ("/user.slice/user-1000.slice", "slice=user-1000.slice user=1000"),
        (
            "/user.slice/user-1000.slice/session-3.scope",
            "slice=user-1000.slice unit=session-3.scope user=1000",
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/app-marktext-52feaf77.scope",
            "slice=user-1000.slice unit=user@1000.service user=1000",
        ),
        (
            "/user.slice/user-0.slice/user@0.service/app.slice/mine.service",
            "slice=user-0.slice unit=user@0.service user=0",
        ),
        (
            "/user.slice/user-0.slice/user@0.service/init.scope",
            "slice=user-0.slice unit=user@0.service user=0",
        ),
        (
            "/user.slice/user-7.slice/user-7-a.slice/b.service",
            "slice=user-7-a.slice unit=b.service user=7",
        ),
        ("/system.slice/user@1000.service", "slice=system.slice unit=user@1000.service user=1000"),
        ("/user.slice/user-4294967295.slice", "slice=user-4294967295.slice user=4294967295"),
        ("/user.slice/user-4294967296.slice", "slice=user-4294967296.slice"),
        ("/user.slice/user-x.slice", "slice=user-x.slice"),
        ("/user-.slice", "slice=user-.slice"),
        ("/user-01.slice", "slice=user-01.slice"),
        ("/user@+1.service", ""),
        ("/user@01.service", "unit=user@01.service"),
        ("/system.slice/a.service/user.slice/user-1.slice", "slice=system.slice unit=a.service"),
    ]);
}

#[test]
fn units_below_a_unit_belong_to_it() {
    check_all([
        ("/system.slice/a.service/payload/b.service", "slice=system.slice unit=a.service"),
        (
            "/machine.slice/systemd-nspawn@jammy.service/payload/system.slice/cron.service",
            "slice=machine.slice unit=systemd-nspawn@jammy.service runtime=systemd-nspawn",
        ),
        (
            "/machine.slice/systemd-nspawn@jammy.service/supervisor",
            "slice=machine.slice unit=systemd-nspawn@jammy.service runtime=systemd-nspawn",
        ),
        (
            r"/machine.slice/machine-my\x2dbox.scope/payload/init.scope",
            r"slice=machine.slice unit=machine-my\x2dbox.scope",
        ),
        (
            "/system.slice/garden.service/garden/good/db315859-a870-4d77-50f9-02b6",
            "slice=system.slice unit=garden.service",
        ),
    ]);
}

#[test]
fn tasks_of_nomad_are_units() {
    check_all([
        (
            "/nomad.slice/share.slice/b30be889-ebb4-8524-cc84-bfd79acd6057.promtail.scope",
            "slice=share.slice unit=b30be889-ebb4-8524-cc84-bfd79acd6057.promtail.scope \
             runtime=nomad",
        ),
        (
            "/nomad.slice/b30be889-ebb4-8524-cc84-bfd79acd6057.web.scope",
            "slice=nomad.slice unit=b30be889-ebb4-8524-cc84-bfd79acd6057.web.scope runtime=nomad",
        ),
        ("/nomad.slice/share.slice", "slice=share.slice"),
        (
            "/nomad.slice/docker-ID.scope",
            "slice=nomad.slice unit=docker-ID.scope runtime=docker id=ID",
        ),
    ]);
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
        check(path, "");
    }
    check("/a.slice/é.service/b.service", "slice=a.slice");
}

#[test]
fn containers_outside_kubernetes() {
    check_all([
        ("/docker/ID", "runtime=docker id=ID"),
        ("/docker/ID/init.scope", "runtime=docker id=ID"),
        ("/docker/buildx/ID", "runtime=docker id=ID"),
        ("/docker/buildkit/ID", "runtime=docker id=ID"),
        ("/docker/OUTER/docker/ID", "runtime=docker id=ID"),
        (
            "/system.slice/docker-ID.scope",
            "slice=system.slice unit=docker-ID.scope runtime=docker id=ID",
        ),
        ("/system.slice:docker:ID", "runtime=docker id=ID"),
        (
            "/system.slice/docker-ID.scope/system.slice/containerd.service",
            "slice=system.slice unit=docker-ID.scope runtime=docker id=ID",
        ),
        ("/libpod_parent/libpod-ID", "runtime=podman id=ID"),
        ("/libpod_parent/OUTER/libpod-ID", "runtime=podman id=ID"),
        (
            "/machine.slice/libpod-ID.scope/container",
            "slice=machine.slice unit=libpod-ID.scope runtime=podman id=ID",
        ),
        (
            "/machine.slice/machine-libpod_pod_OUTER.slice/libpod-ID.scope/container",
            "slice=machine-libpod_pod_OUTER.slice unit=libpod-ID.scope runtime=podman id=ID",
        ),
        (
            "/machine.slice/libpod-conmon-ID.scope",
            "slice=machine.slice unit=libpod-conmon-ID.scope",
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
            "slice=user-1000.slice unit=user@1000.service user=1000 runtime=podman id=ID",
        ),
        // podman runs health checks as services that are named after the container.
        ("/system.slice/ID.service", "slice=system.slice unit=ID.service"),
        ("/ecs/bf1ddbfbbc8f45c9b1ac4f779368741e/ID", "id=ID"),
        (
            "/ecstasks.slice/ecstasks-bf1d.slice/docker-ID.scope",
            "slice=ecstasks-bf1d.slice unit=docker-ID.scope runtime=docker id=ID",
        ),
        ("/containers/ID", "id=ID"),
        (
            "/system.slice/nerdctl-ID.scope",
            "slice=system.slice unit=nerdctl-ID.scope runtime=nerdctl id=ID",
        ),
        ("/lxc/mysql-primary-db", "runtime=lxc id=mysql-primary-db"),
        ("/lxc/101/ns/system.slice/ssh.service", "runtime=lxc id=101"),
        ("/lxc.payload.first/system.slice/ssh.service", "runtime=lxc id=first"),
        ("/lxc.payload.project_name", "runtime=lxc id=project_name"),
        ("/lxc.payload/first", "runtime=lxc id=first"),
        ("/lxc.payload.first/docker/ID", "runtime=docker id=ID"),
    ]);
}

#[test]
fn pods_by_the_cgroupfs_driver() {
    check_all([
        ("/kubepods/burstable/podUID/ID", "id=ID qos=burstable pod=UID"),
        ("/kubepods/podUID/ID", "id=ID qos=guaranteed pod=UID"),
        ("/kubepods/besteffort/podUID/ID", "id=ID qos=besteffort pod=UID"),
        ("/kubepods/besteffort/podSTATIC/ID", "id=ID qos=besteffort pod=STATIC"),
        ("/kubepods/besteffort/podUID", "qos=besteffort pod=UID"),
        ("/kubepods/besteffort/podUID/ID/kube-proxy", "id=ID qos=besteffort pod=UID"),
        ("/kubepods/podUID/crio-ID", "runtime=cri-o id=ID qos=guaranteed pod=UID"),
        ("/kubepods/podUID/crio-conmon-ID", "qos=guaranteed pod=UID"),
        // A Docker daemon in a pod.
        ("/kubepods/podUID/ID/docker/OUTER", "id=ID qos=guaranteed pod=UID"),
    ]);
}

#[test]
fn pods_by_the_systemd_driver() {
    for (slice, qos, uid) in [
        ("kubepods-podU_D.slice", "guaranteed", "UID"),
        ("kubepods-burstable.slice/kubepods-burstable-podU_D.slice", "burstable", "UID"),
        ("kubepods-besteffort.slice/kubepods-besteffort-podU_D.slice", "besteffort", "UID"),
        ("kubepods-burstable.slice/kubepods-burstable-podSTATIC.slice", "burstable", "STATIC"),
    ] {
        let names = format!("slice={}", slice.rsplit('/').next().unwrap());
        let pod = format!("qos={qos} pod={uid}");
        check(&format!("/kubepods.slice/{slice}"), &format!("{names} {pod}"));
        for (prefix, runtime) in
            [("cri-containerd", "containerd"), ("crio", "cri-o"), ("docker", "docker")]
        {
            let path = format!("/kubepods.slice/{slice}/{prefix}-ID");
            let container = format!("runtime={runtime} id=ID {pod}");
            check(&path, &format!("{names} {container}"));
            let in_unit = format!("{names} unit={prefix}-ID.scope {container}");
            check(&format!("{path}.scope"), &in_unit);
            check(&format!("{path}.scope/container"), &in_unit);
        }
    }
    check(
        "/kubepods.slice/kubepods-podU_D.slice/crio-conmon-ID.scope",
        "slice=kubepods-podU_D.slice unit=crio-conmon-ID.scope qos=guaranteed pod=UID",
    );
}

#[test]
fn pods_if_kubelet_and_runtime_use_different_drivers() {
    let segment = "kubepods-burstable-podU_D.slice:cri-containerd:ID";
    let pod = "runtime=containerd id=ID qos=burstable pod=UID";
    check(
        &format!("/system.slice/containerd.service/{segment}"),
        &format!("slice=system.slice unit=containerd.service {pod}"),
    );
    check(
        &format!("/podruntime.slice/containerd.service/{segment}"),
        &format!("slice=podruntime.slice unit=containerd.service {pod}"),
    );
    check(&format!("/{segment}"), pod);
    check(
        "/kubepods-besteffort-podU_D.slice:cri-containerd:ID",
        "runtime=containerd id=ID qos=besteffort pod=UID",
    );
}

#[test]
fn pods_in_nodes_that_are_containers_or_services() {
    check_all([
        (
            "/system.slice/docker-OUTER.scope/kubelet/kubepods/burstable/podUID/ID",
            "slice=system.slice unit=docker-OUTER.scope id=ID qos=burstable pod=UID",
        ),
        (
            "/system.slice/docker-OUTER.scope/kubepods.slice/kubepods-podU_D.slice/docker-ID.scope",
            "slice=system.slice unit=docker-OUTER.scope runtime=docker id=ID qos=guaranteed \
             pod=UID",
        ),
        (
            "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/\
             kubelet-kubepods-besteffort-podU_D.slice/cri-containerd-ID.scope",
            "slice=kubelet-kubepods-besteffort-podU_D.slice unit=cri-containerd-ID.scope \
             runtime=containerd id=ID qos=besteffort pod=UID",
        ),
        (
            "/system.slice/k3s.service/kubepods.slice/kubepods-podU_D.slice/cri-containerd-ID.scope",
            "slice=system.slice unit=k3s.service runtime=containerd id=ID qos=guaranteed pod=UID",
        ),
        // What supervises a container of a pod belongs to neither, but not to the node either.
        (
            "/system.slice/docker-OUTER.scope/kubepods/podUID/crio-conmon-ID",
            "slice=system.slice unit=docker-OUTER.scope qos=guaranteed pod=UID",
        ),
        (
            "/system.slice/docker-OUTER.scope/kubelet.slice/kubelet.service",
            "slice=system.slice unit=docker-OUTER.scope runtime=docker id=OUTER",
        ),
    ]);
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
        "/docker/a:conmon-ID",
    ] {
        check(path, "");
    }
}

#[test]
fn plain_names_of_units_have_no_escapes() {
    for (unit, expected) in [
        ("ssh.service", "ssh.service"),
        (r"foo\x2dbar@web\x2d1.service", "foo-bar@web-1.service"),
        (r"spin@\xc3\xa9.service", "spin@é.service"),
        (r"a\x5cx2d.service", r"a\x2d.service"),
        // Not printable, or no escapes.
        (r"a\xff\x0a\x1b.service", r"a\xff\x0a\x1b.service"),
        (r"a\x2.service", r"a\x2.service"),
        (r"a\xzz\x", r"a\xzz\x"),
        (r"\x+1", r"\x+1"),
    ] {
        assert_eq!(unescape_unit(unit), expected, "{unit}");
    }
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
    "user-",
    "1000",
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
        prop_assert_eq!(names.pod_uid.is_some(), names.pod_qos.is_some(), "{}", path);
    }

    #[test]
    fn cgroups_below_a_container_belong_to_it(pieces in vec(select(&PIECES[..]), 0..16)) {
        let path = format!("/{}/{ID}", pieces.concat());
        let names = Names::of(&path);
        let below = format!("{path}/below/it");
        prop_assert_eq!(Names::of(&below), names, "{}", path);
    }
}
