//! Containers of Docker, which uses a containerd that the test starts.

use std::fs;

use sched_exporter_tests::{
    archive::IMAGE, containerd::Containerd, namespaces::Daemon, process::CONFIG,
};
use serde_json::{Value, json};

use super::{check_usage, continues, cpu_ns, exporter_in, find, wait_for};

/// Where Docker listens in its namespaces, as on any host.
const SOCKET: &str = "/run/docker.sock";

/// A running dockerd; its containers are removed with their cgroups when dropped.
struct Docker {
    daemon: Daemon,
    containerd: Containerd,
}

impl Docker {
    fn start() -> Self {
        let containerd = Containerd::start();
        let daemon = Self::daemon(&containerd);
        let docker = Self { daemon, containerd };
        let archive = docker.containerd.directory().join("image.tar");
        let body = format!("@{}", archive.display());
        docker.ask(
            "POST",
            "/images/load",
            &["--header", "Content-Type: application/x-tar", "--data-binary", &body],
        );
        docker
    }

    /// Starts dockerd and waits until it answers.
    fn daemon(containerd: &Containerd) -> Daemon {
        let config = containerd.directory().join("docker.json");
        fs::write(&config, "{}").unwrap();
        let mut command = containerd.command("dockerd");
        command.arg("--containerd=/run/containerd/containerd.sock");
        command.arg(format!("--config-file={}", config.display()));
        command.arg(format!("--host=unix://{SOCKET}"));
        command.args(["--data-root=/run/docker-data", "--exec-root=/run/docker"]);
        command.args(["--pidfile=/run/docker.pid", "--storage-driver=overlay2"]);
        command.args(["--bridge=none", "--iptables=false", "--ip6tables=false"]);
        command.args(["--userland-proxy=false", "--exec-opt=native.cgroupdriver=cgroupfs"]);
        command.arg(format!("--cgroup-parent={}/docker", containerd.tree.path()));
        let mut daemon = Daemon::start(&mut command, &containerd.directory().join("docker.log"));
        let ping = format!("curl --silent --fail --unix-socket {SOCKET} http://localhost/_ping");
        daemon.wait_until(|| containerd.namespaces.try_run(&ping).0);
        daemon
    }

    /// Calls the API; panics unless it succeeds.
    #[track_caller]
    fn ask(&self, method: &str, path: &str, options: &[&str]) -> Value {
        let mut curl = self.containerd.command("curl");
        curl.args(["--silent", "--show-error", "--fail-with-body", "--unix-socket", SOCKET]);
        curl.args(["--request", method]).args(options).arg(format!("http://localhost{path}"));
        let output = curl.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&said));
        serde_json::from_slice(&said).unwrap_or_default()
    }

    /// Starts a container that uses a fifth of a CPU. Returns its id.
    fn run(&self, name: &str) -> String {
        let container = json!({
            "Image": IMAGE,
            "Cmd": ["spin", "20", "80", "300"],
            "HostConfig": {"NetworkMode": "host"},
        });
        let body = container.to_string();
        let options = ["--header", "Content-Type: application/json", "--data", body.as_str()];
        let created = self.ask("POST", &format!("/containers/create?name={name}"), &options);
        let id = created["Id"].as_str().unwrap().to_owned();
        self.ask("POST", &format!("/containers/{id}/start"), &[]);
        id
    }
}

fn pairs(name: &str) -> [String; 2] {
    [format!("name=\"{name}\""), format!("image=\"{IMAGE}\"")]
}

#[test]
fn a_container_has_its_name_and_image_across_restarts() {
    let mut docker = Docker::start();
    let exporter = exporter_in(&docker.containerd.namespaces, CONFIG);
    let id = docker.run("shop-api-1");
    find(&exporter, &pairs("shop-api-1"));
    let cgroup = docker.containerd.tree.path().to_owned() + "/docker/" + &id;
    let cgroup = docker.containerd.tree.at(&cgroup);
    check_usage(&exporter, &pairs("shop-api-1"), &cgroup);

    // A container that is restarted has the same id and another cgroup.
    docker.ask("POST", &format!("/containers/{id}/stop?t=1"), &[]);
    let had = cpu_ns(&exporter.scrape(), &pairs("shop-api-1"));
    docker.ask("POST", &format!("/containers/{id}/start"), &[]);
    continues(&exporter, &pairs("shop-api-1"), had);
    check_usage(&exporter, &pairs("shop-api-1"), &cgroup);

    // A restarted Docker is found again, and so is the next container.
    drop(docker.daemon);
    docker.daemon = Docker::daemon(&docker.containerd);
    docker.run("shop-db-1");
    wait_for(&exporter, &pairs("shop-db-1"));
}
