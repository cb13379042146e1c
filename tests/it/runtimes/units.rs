//! Units of a booted systemd, whose names can have any bytes, and pods whose cgroups systemd makes.

use std::{fs, path::Path};

use sched_exporter_tests::{
    archive::payload,
    containerd::{Containerd, SOCKET, root},
    kubelet::{Class, Driver},
    process::Exporter,
    system::System,
};

use super::{check_usage, continues, cpu_ns, find};

/// A label pair, whose value is escaped in an exposition.
fn pair(label: &str, value: &str) -> String {
    format!("{label}=\"{}\"", value.replace('\\', "\\\\"))
}

#[test]
fn units_have_the_names_that_systemctl_prints() {
    let exporter = Exporter::start_with("cgroups: {runtimes: []}\n", &[]);
    let system = System::boot(&[]);
    let spin = format!("{} spin 5 95 60", payload().display());
    system.namespaces.run(&format!(
        "cat >/etc/systemd/system/spin@.service <<end
[Service]
ExecStart={spin}
end
systemctl start \"$(systemd-escape --template=spin@.service web-1/é)\"
systemd-run --slice=batch-night.slice --unit=job {spin}
for unit in cpu cgroup.x _under a.b:c_d; do systemd-run --unit=$unit {spin}; done"
    ));
    for (slice, unit) in [
        ("system-spin.slice", r"spin@web\x2d1-\xc3\xa9.service"),
        ("batch-night.slice", "job.service"),
        ("system.slice", "cpu.service"),
        ("system.slice", "cgroup.x.service"),
        ("system.slice", "_under.service"),
        ("system.slice", "a.b:c_d.service"),
        ("system.slice", "systemd-journald.service"),
    ] {
        let pairs = [pair("slice", slice), pair("unit", unit), pair("pod", ""), pair("user", "")];
        find(&exporter, &pairs);
        let known =
            system.namespaces.run(&format!("systemctl show --value --property=Slice '{unit}'"));
        assert_eq!(known.trim(), slice);
    }
}

#[test]
fn a_restarted_unit_continues_its_series() {
    let exporter = Exporter::start_with("cgroups: {runtimes: []}\n", &[]);
    let system = System::boot(&[]);
    let spin = format!("{} spin 20 80 60", payload().display());
    let pairs = [pair("slice", "system.slice"), pair("unit", "web.service")];
    let cgroup = system.tree.at(&format!("{}/system.slice/web.service", system.tree.path()));
    system.namespaces.run(&format!("systemd-run --unit=web {spin}"));
    find(&exporter, &pairs);
    check_usage(&exporter, &pairs, &cgroup);
    system.namespaces.run("systemctl stop web");
    let had = cpu_ns(&exporter.scrape(), &pairs);
    system.namespaces.run(&format!("systemd-run --unit=web {spin}"));
    continues(&exporter, &pairs, had);
    check_usage(&exporter, &pairs, &cgroup);
}

#[test]
fn sessions_and_services_of_a_user_have_the_user() {
    let exporter = Exporter::start_with("cgroups: {runtimes: []}\n", &[]);
    let system = System::boot(&[]);
    let spin = format!("{} spin 5 95 60", payload().display());
    // Without logind, which this Debian lacks.
    system.namespaces.run(&format!(
        "echo 'someone:x:1000:1000::/:/bin/sh' >>/etc/passwd
mkdir /etc/systemd/system/user@.service.d
cat >/etc/systemd/system/user@.service.d/alone.conf <<end
[Service]
PAMName=
Environment=XDG_RUNTIME_DIR=/run/user/%i
end
cat >/etc/systemd/system/user-runtime-dir@.service <<end
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=install --directory --owner=%i --mode=700 /run/user/%i
end
mkdir --parents /etc/systemd/user/default.target.wants
cat >/etc/systemd/user/default.target.wants/editor.service <<end
[Service]
ExecStart={spin}
end
systemctl daemon-reload
systemctl start user@1000.service"
    ));
    let pairs = |user: &str| [pair("user", user), pair("unit", ""), pair("slice", "")];
    find(&exporter, &pairs("1000"));
    // A login: systemd moves a process of a service to a session.
    let scope = "systemd-run --scope --slice=user-1001.slice --unit=session-3";
    system.namespaces.run(&format!("systemd-run --unit=login {scope} {spin}"));
    find(&exporter, &pairs("1001"));
}

#[test]
fn pods_whose_cgroups_systemd_makes_have_names() {
    let directory = tempfile::tempdir().unwrap();
    let System { namespaces, tree } = System::boot(&[&root(), directory.path()]);
    // The exporter does not see the system's `/run`.
    let sockets = directory.path().join("sockets");
    fs::create_dir(&sockets).unwrap();
    let place = Path::new(SOCKET).parent().unwrap().display();
    namespaces.run(&format!("mkdir {place}; mount --bind {} {place}", sockets.display()));
    let driver = Driver::Systemd(tree.path().to_owned());
    let containerd = Containerd::start_in(namespaces, tree, driver, directory);
    let kubelet = containerd.kubelet();
    let socket = sockets.join(Path::new(SOCKET).file_name().unwrap());
    let config = format!("cgroups: {{runtimes: [\"unix://{}\"]}}\n", socket.display());
    let exporter = Exporter::start_with(&config, &[]);
    for (class, name) in
        [(Class::Guaranteed, "database"), (Class::Burstable, "web"), (Class::BestEffort, "batch")]
    {
        let pod = kubelet.run_pod("shop", name, class);
        let container = kubelet.start(&pod, "main", 0, &["spin", "20", "80", "300"]);
        find(&exporter, &pod.pairs("main"));
        for (name, id) in [("main", &container), ("", &pod.sandbox)] {
            check_usage(&exporter, &pod.pairs(name), &containerd.cgroup(&pod, id));
        }
    }
}
