//! The exporter in a container, by podman, with no more than it needs.

use std::{
    env,
    ffi::OsStr,
    net::SocketAddr,
    path::Path,
    process::{self, Command, Output},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{client::Client, exposition::Exposition, process::PATIENCE};

/// Where containers listen: the port is the default, which the image's health check asks.
pub const ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 10435);

/// How every container of the exporter is confined. The profile of podman 4.3 refuses bpf(2) to who has
/// the capability for it.
const CONFINED: [&str; 5] = [
    "--network=host",
    "--read-only",
    "--cap-drop=all",
    "--security-opt=seccomp=unconfined",
    "--pull=never",
];

/// The capabilities that the exporter needs.
pub const CAPABILITIES: [&str; 2] = ["--cap-add=BPF", "--cap-add=PERFMON"];

/// The image that `cargo xtask test` has built.
pub fn image() -> String {
    env::var("SCHED_EXPORTER_IMAGE").expect("run by `cargo xtask test`")
}

/// Runs podman to its end.
pub fn podman<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Output {
    Command::new("podman").args(args).output().unwrap()
}

/// As [`podman`], for what must succeed; returns what it wrote to standard output.
#[track_caller]
pub fn podman_ok<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> String {
    let output = podman(args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Runs a container of the image to its end, confined, with these options of podman and arguments of
/// the exporter.
pub fn run(options: &[&str], args: &[&str]) -> Output {
    let image = image();
    podman([&["run", "--rm"], &CONFINED[..], options, &[image.as_str()], args].concat())
}

/// A container that serves on [`ADDRESS`]; removed when dropped.
#[derive(Debug)]
pub struct Container {
    /// Podman's name of it.
    pub name: String,
}

impl Container {
    /// Starts one with the configuration in a directory, and waits until it serves.
    pub fn start(config: &Path) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("sched_exporter-test-{}-{number}", process::id());
        let volume = format!("--volume={}:/etc/sched_exporter:ro", config.display());
        let (image, address) = (image(), format!("--web.listen-address={ADDRESS}"));
        let options = ["run", "--detach", "--name", &name, &volume];
        let args = [&options, &CONFINED[..], &CAPABILITIES, &[image.as_str(), &address]].concat();
        // One that fails to start is to be removed, too.
        let container = Self { name: name.clone() };
        podman_ok(args);
        container.wait_until_it_serves();
        container
    }

    /// One that was started otherwise; waits until it serves.
    pub fn named(name: String) -> Self {
        let container = Self { name };
        container.wait_until_it_serves();
        container
    }

    fn wait_until_it_serves(&self) {
        let deadline = Instant::now() + PATIENCE;
        while Client::try_connect(ADDRESS).is_err() {
            assert!(Instant::now() < deadline, "never served\n{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it logged.
    pub fn log(&self) -> String {
        let output = podman(["logs", &self.name]);
        String::from_utf8(output.stderr).unwrap()
    }

    /// Scrapes it.
    pub fn scrape(&self) -> Exposition {
        Exposition::parse(&Client::connect(ADDRESS).get("/metrics").text())
    }

    /// Scrapes it until `done`, or fails with the log.
    #[track_caller]
    pub fn wait_until(&self, what: &str, mut done: impl FnMut(&Exposition) -> bool) -> Exposition {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let exposition = self.scrape();
            if done(&exposition) {
                return exposition;
            }
            assert!(Instant::now() < deadline, "never {what}\n{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("log of the container:\n{}", self.log());
        }
        podman(["rm", "--force", "--time=0", &self.name]);
    }
}
