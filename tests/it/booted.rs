//! The Debian package in a container that boots systemd: installed, reloaded, upgraded and purged
//! by the commands in docs/deploy.md.

use std::{
    env, thread,
    time::{Duration, Instant},
};

use sched_exporter_tests::{
    commands::block,
    container::{podman, podman_ok},
    exposition::Exposition,
    kernel::has_landlock,
    process::PATIENCE,
};

const NAME: &str = "sched_cpu_seconds_total";
/// Where the release is mounted.
const RELEASE: &str = "/release";

/// A running Debian; its changes are lost with it.
struct Debian(String);

impl Debian {
    /// Boots it and waits until it is running.
    fn boot() -> Self {
        let variable = |name| env::var(name).expect("run by `cargo xtask test`");
        let release = format!("--volume={}:{RELEASE}:ro", variable("SCHED_EXPORTER_RELEASE"));
        // An overlay, so that the tree stays unchanged.
        let rootfs = format!("{}:O", variable("SCHED_EXPORTER_DEBIAN"));
        // Without a network it has only a loopback of its own.
        let options = ["--detach", "--rm", "--systemd=always", "--privileged", "--network=none"];
        let system = ["--rootfs", &rootfs, "/lib/systemd/systemd"];
        let debian = Self(podman_ok([&["run"], &options[..], &[&release], &system].concat()));
        debian.wait("booted", |it| it.try_run("systemctl is-system-running").1 == "running\n");
        debian
    }

    /// Runs a shell script; returns whether it succeeded, and its output.
    fn try_run(&self, script: &str) -> (bool, String) {
        let output = podman(["exec", "--workdir", RELEASE, &self.0, "sh", "-ec", script]);
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }

    #[track_caller]
    fn run(&self, script: &str) -> String {
        let (succeeded, said) = self.try_run(script);
        assert!(succeeded, "{script}: {said}\n{}", self.journal());
        said
    }

    fn journal(&self) -> String {
        self.try_run("journalctl --no-pager --output=cat").1
    }

    fn property(&self, name: &str) -> String {
        let show = format!("systemctl show --value --property={name} sched_exporter");
        self.run(&show).trim_end().to_owned()
    }

    fn scrape(&self) -> Exposition {
        Exposition::parse(&self.run("curl --silent http://127.0.0.1:10435/metrics"))
    }

    #[track_caller]
    fn wait(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < deadline, "never {what}\n{}", self.journal());
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        podman(["rm", "--force", "--time=0", &self.0]);
    }
}

/// Nanoseconds of all CPUs with these labels.
fn total(exposition: &Exposition, labels: &[&str]) -> u64 {
    exposition.sum_ns(NAME, labels)
}

#[test]
fn the_package_is_installed_reloaded_upgraded_and_purged() {
    let debian = Debian::boot();
    let printed = debian.run(&block("Debian and systemd", "sh", 0));
    assert!(printed.contains("Active: active (running)"), "{printed}");
    assert!(printed.contains("\nsched_cpu_seconds_total{host="), "{printed}");
    assert_eq!(debian.run("systemctl is-enabled sched_exporter"), "enabled\n");
    let before = debian.scrape();

    // It runs as a user of its own, without capabilities on any thread.
    let status = debian.run(&format!("cat /proc/{}/task/*/status", debian.property("MainPID")));
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        let without = status.matches(&format!("{set}:\t0000000000000000\n")).count();
        assert_eq!(without, status.matches("Threads:").count(), "{set} of {status}");
    }
    assert!(status.contains("NoNewPrivs:\t1") && !status.contains("Uid:\t0\t"), "{status}");

    // The unit permits the exporter to confine itself further.
    let protections = if has_landlock() { 4 } else { 3 };
    assert_eq!(before.sum("sched_exporter_protection_enabled", &[]), protections);

    let printed = debian.run(&block("Debian and systemd", "sh", 1));
    assert!(printed.contains("eu-1a"), "{printed}");
    let zone = ["zone=\"eu-1a\""];
    debian.wait("reloaded", |it| total(&it.scrape(), &zone) > 0);
    debian.wait("reloaded by SIGHUP", |it| it.journal().contains("cause=SIGHUP"));
    let after = debian.scrape();
    assert!(total(&after, &zone) > total(&before, &[]));

    // A new host name appears on the series.
    debian.run("echo other > /proc/sys/kernel/hostname; systemctl reload sched_exporter");
    debian.wait("renamed", |it| total(&it.scrape(), &["host=\"other\""]) > total(&after, &zone));

    debian.run(
        "echo 'label: {}' >> /etc/sched_exporter/exporter.yaml; systemctl reload sched_exporter",
    );
    debian.wait("rejected", |it| it.property("StatusText").contains("new version rejected"));
    assert_eq!(debian.property("SubState"), "running");
    assert!(total(&debian.scrape(), &zone) > total(&after, &zone));
    debian.run("sed -i '$d' /etc/sched_exporter/exporter.yaml");

    // The configuration survives an upgrade and a rollback, each of which starts the other version.
    let upgrade =
        "dpkg-deb --raw-extract sched-exporter_*_$(dpkg --print-architecture).deb /tmp/next
        sed --in-place 's/^Version: .*/&.1/' /tmp/next/DEBIAN/control
        dpkg-deb --build /tmp/next /tmp/next.deb
        dpkg --install /tmp/next.deb";
    let rollback = block("Upgrade and rollback", "sh", 0);
    for (change, version) in [(upgrade, "-1.1"), (&rollback, "-1")] {
        let process = debian.property("MainPID");
        let counted = debian.scrape();
        debian.run(change);
        let installed = debian.run("dpkg-query --show --showformat='${Version}' sched-exporter");
        assert!(installed.ends_with(version), "{installed}");
        assert_ne!(debian.property("MainPID"), process);
        debian.wait("continued", |it| total(&it.scrape(), &[]) > total(&counted, &[]));
    }
    assert!(debian.run("ls /run/sched_exporter_bpf/pins").contains("sched_switch"));
    debian.run(&block("Upgrade and rollback", "sh", 1));
    assert!(!debian.try_run("curl --silent http://127.0.0.1:10435/metrics").0);
    let left = "ls -d /etc/sched_exporter /etc/default/sched_exporter /usr/bin/sched_exporter \
                /run/sched_exporter_bpf";
    let left = debian.try_run(left).1;
    assert!(!left.lines().any(|line| line.starts_with('/')), "{left}");
}

#[test]
fn counts_outlive_each_end_of_the_exporter() {
    let debian = Debian::boot();
    debian.run("dpkg --install sched-exporter_*_$(dpkg --print-architecture).deb");
    debian.wait("counting", |it| total(&it.scrape(), &[]) > 0);
    let owner = debian.run("stat --format='%U %a' /run/sched_exporter_bpf/pins");
    assert_eq!(owner, "sched_exporter 700\n");
    for end in [
        "systemctl restart sched_exporter",
        "systemctl kill --signal=KILL sched_exporter
        sleep 0.2; systemctl reset-failed sched_exporter; systemctl restart sched_exporter",
        "systemctl stop sched_exporter; sleep 1; systemctl start sched_exporter",
    ] {
        let process = debian.property("MainPID");
        let counted = total(&debian.scrape(), &[]);
        debian.run(end);
        assert_ne!(debian.property("MainPID"), process);
        debian.wait("serving", |it| it.try_run("sched_exporter healthcheck").0);
        assert!(total(&debian.scrape(), &[]) > counted, "{end}: {}", debian.journal());
    }
    assert!(debian.journal().contains("adopted the program"), "{}", debian.journal());

    // Without pins, the program ends with the exporter, and what was pinned is removed by hand.
    let counted = total(&debian.scrape(), &[]);
    debian.run(
        "echo 'PINS=' >> /etc/default/sched_exporter
        systemctl restart sched_exporter
        sched_exporter unpin --ebpf.pin-path=/run/sched_exporter_bpf/pins",
    );
    debian.wait("serving", |it| it.try_run("sched_exporter healthcheck").0);
    assert!(total(&debian.scrape(), &[]) < counted);
    assert!(!debian.try_run("ls /run/sched_exporter_bpf/pins").0);
}

#[test]
fn a_hung_exporter_is_restarted() {
    let debian = Debian::boot();
    debian.run(
        "mkdir /etc/systemd/system/sched_exporter.service.d
        printf '[Service]\\nWatchdogSec=1s\\nRestartSec=0\\n' \
            > /etc/systemd/system/sched_exporter.service.d/watchdog.conf
        dpkg --install sched-exporter_*_$(dpkg --print-architecture).deb
        systemctl kill --signal=STOP sched_exporter",
    );
    debian.wait("restarted", |it| it.property("NRestarts") == "1");
    debian.wait("serving", |it| it.try_run("sched_exporter healthcheck").0);
}

/// Makes sockets like those of containerd, Docker and Podman, with their owners and modes, on which
/// systemd accepts connections and counts them. A drop-in connects to each before the exporter starts,
/// as its user and in its sandbox.
const RUNTIMES: &str = "groupadd --system docker
    install --directory --mode=0711 /run/containerd
    install --directory --mode=0700 /run/podman
    mkdir /etc/systemd/system/sched_exporter.service.d
    cd /etc/systemd/system
    echo '[Service]' > sched_exporter.service.d/connect.conf
    runtime() {
        printf '[Service]\\nExecStart=/bin/true\\nStandardInput=socket\\n' > $1@.service
        printf '[Socket]\\nListenStream=%s\\nSocketGroup=%s\\nSocketMode=0660\\nAccept=yes\\n' \
            $2 $3 > $1.socket
        echo \"ExecStartPre=-curl --silent --unix-socket $4 http://localhost/\" \
            >> sched_exporter.service.d/connect.conf
    }
    runtime containerd /run/containerd/containerd.sock root /run/containerd/containerd.sock
    runtime docker /run/docker.sock docker /run/docker.sock
    runtime podman /run/podman/podman.sock root /run/sched_exporter/podman.sock
    systemctl daemon-reload
    systemctl start containerd.socket docker.socket podman.socket";

#[test]
fn the_drop_in_lets_the_unit_connect_to_runtimes() {
    let debian = Debian::boot();
    debian.run(RUNTIMES);
    let connected = || {
        ["containerd", "docker", "podman"].map(|runtime| {
            let show = format!("systemctl show --value --property=NAccepted {runtime}.socket");
            debian.run(&show).trim_end() != "0"
        })
    };
    debian.run("dpkg --install sched-exporter_*_$(dpkg --print-architecture).deb");
    assert_eq!(connected(), [false; 3]);

    debian.run(&block("Names of pods and containers", "sh", 0));
    assert_eq!(connected(), [true, false, false]);

    // With the lines of all runtimes.
    debian.run(
        "sed -i 's/^#\\([^ ]\\)/\\1/' /etc/systemd/system/sched_exporter.service.d/names.conf
        systemctl daemon-reload
        systemctl restart sched_exporter",
    );
    assert_eq!(connected(), [true; 3]);
    assert!(total(&debian.scrape(), &[]) > 0);
}

#[test]
fn systemd_opens_the_socket_and_keeps_it_across_restarts() {
    let debian = Debian::boot();
    debian.run(
        "dpkg --install sched-exporter_*_$(dpkg --print-architecture).deb
        cp /usr/share/doc/sched-exporter/examples/sched_exporter.socket /etc/systemd/system
        sed -i '/^SocketMode=/aSocketGroup=www-data' /etc/systemd/system/sched_exporter.socket
        echo 'ARGS=\"--web.systemd-socket\"' > /etc/default/sched_exporter
        systemctl daemon-reload
        sh -c \"$(sed -n 's/^#   //p' /etc/systemd/system/sched_exporter.socket)\"",
    );
    let scrape =
        "curl --silent --fail --unix-socket /run/sched_exporter.sock http://localhost/metrics";
    let scraped = debian.run(scrape);
    assert!(scraped.contains("\nsched_cpu_seconds_total{"), "{scraped}");
    let socket = debian.run("stat --format='%U %G %a' /run/sched_exporter.sock");
    assert_eq!(socket, "root www-data 660\n");
    assert!(!debian.try_run("curl --silent http://127.0.0.1:10435/metrics").0);
    // Connections wait in the socket while the exporter is down.
    debian.run("systemctl stop sched_exporter");
    let waiting =
        debian.run(&format!("{scrape} > /tmp/scraped & systemctl start sched_exporter; wait"));
    assert_eq!(waiting, "");
    debian.run("grep --quiet sched_cpu_seconds_total /tmp/scraped");
}
