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

use crate::{
    client::Client,
    exposition::Exposition,
    process::{PATIENCE, scrape_until},
};

/// Where containers listen, on the default port, which the image's health check connects to.
pub const ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 10435);

/// How every container of the exporter is confined. Without a seccomp profile, because that of
/// podman 4.3 refuses bpf(2) even to processes holding `CAP_BPF`.
const CONFINED: [&str; 5] = [
    "--network=host",
    "--read-only",
    "--cap-drop=all",
    "--security-opt=seccomp=unconfined",
    "--pull=never",
];

/// The capabilities that the exporter needs.
pub const CAPABILITIES: [&str; 2] = ["--cap-add=BPF", "--cap-add=PERFMON"];

/// Name of the image built by `cargo xtask test`.
pub fn image() -> String {
    env::var("SCHED_EXPORTER_IMAGE").expect("run by `cargo xtask test`")
}

/// Runs podman and waits for it.
pub fn podman<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Output {
    Command::new("podman").args(args).output().unwrap()
}

/// As [`podman`], but panics unless it succeeds; returns its standard output.
#[track_caller]
pub fn podman_ok<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> String {
    let output = podman(args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Runs a confined container of the image with options for podman and arguments for the exporter,
/// and waits for it.
pub fn run(options: &[&str], args: &[&str]) -> Output {
    let image = image();
    podman([&["run", "--rm"], &CONFINED[..], options, &[image.as_str()], args].concat())
}

/// A container that serves on [`ADDRESS`]; removed when dropped.
#[derive(Debug)]
pub struct Container {
    /// Its name in podman.
    pub name: String,
}

impl Container {
    /// Starts a container with the configuration in a directory, and waits until it serves.
    pub fn start(config: &Path) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("sched_exporter-test-{}-{number}", process::id());
        let volume = format!("--volume={}:/etc/sched_exporter:ro", config.display());
        let (image, address) = (image(), format!("--web.listen-address={ADDRESS}"));
        let options = ["run", "--detach", "--name", &name, &volume];
        let args = [&options, &CONFINED[..], &CAPABILITIES, &[image.as_str(), &address]].concat();
        // Also removes a container that fails to start.
        let container = Self { name: name.clone() };
        podman_ok(args);
        container.wait_until_it_serves();
        container
    }

    /// Takes over a container started by other means; waits until it serves.
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

    /// Its log so far.
    pub fn log(&self) -> String {
        let output = podman(["logs", &self.name]);
        String::from_utf8(output.stderr).unwrap()
    }

    /// Scrapes it once.
    pub fn scrape(&self) -> Exposition {
        Exposition::parse(&Client::connect(ADDRESS).get("/metrics").text())
    }

    /// Scrapes it until `done`; panics with the log if that takes too long.
    #[track_caller]
    pub fn wait_until(&self, what: &str, done: impl FnMut(&Exposition) -> bool) -> Exposition {
        scrape_until(what, || self.scrape(), || self.log(), done)
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
