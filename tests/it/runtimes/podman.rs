//! Containers of podman, which has no daemon: its API is a process of its own.

use std::{
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use sched_exporter_tests::{
    archive::{self, IMAGE},
    container::{podman, podman_ok},
    process::{Exporter, PATIENCE, ending_with_us},
};
use tempfile::TempDir;

use super::{find, sets};

/// podman's API, and the image of tests; both end when dropped.
struct Service {
    process: Child,
    directory: TempDir,
}

impl Service {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        podman_ok([
            "load".as_ref(),
            "--input".as_ref(),
            archive::write(directory.path()).as_os_str(),
        ]);
        let process = Self::process(&directory);
        Self { process, directory }
    }

    fn process(directory: &TempDir) -> Child {
        let socket = directory.path().join("podman.sock");
        let mut command = ending_with_us("podman".as_ref());
        command.args(["system", "service", "--time=0"]).arg(format!("unix://{}", socket.display()));
        let process = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while !socket.exists() {
            assert!(Instant::now() < deadline, "podman does not listen");
            thread::sleep(Duration::from_millis(10));
        }
        process
    }

    fn config(&self) -> String {
        let socket = self.directory.path().join("podman.sock");
        format!("cgroups: {{runtimes: [\"unix://{}\"]}}\n", socket.display())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        podman(["rmi", "--force", IMAGE]);
    }
}

/// A container that uses a fifth of a CPU; removed when dropped.
struct Container(&'static str);

impl Container {
    fn run(name: &'static str, options: &[&str]) -> Self {
        let container = Self(name);
        let named = ["run", "--detach", "--pull=never", "--name", name];
        podman_ok([&named, options, &[IMAGE, "spin", "20", "80", "300"]].concat());
        container
    }

    fn pairs(&self) -> [String; 2] {
        [format!("name=\"{}\"", self.0), format!("image=\"{IMAGE}\"")]
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        podman(["rm", "--force", "--time=0", self.0]);
    }
}

#[test]
fn containers_have_their_name_and_image() {
    let service = Service::start();
    let before = Container::run("sched_exporter-test-before", &["--network=host"]);
    let exporter = Exporter::start_with(&service.config(), &[]);
    find(&exporter, &before.pairs());
    let after = Container::run("sched_exporter-test-after", &["--network=host"]);
    let exposition = find(&exporter, &after.pairs());
    // The processes that supervise containers do not belong to them.
    for container in [&before, &after] {
        let pairs = container.pairs();
        assert_eq!(sets(&exposition, &pairs[..1]), 1);
    }
}
