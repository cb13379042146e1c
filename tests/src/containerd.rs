//! containerd from Debian's package, with the CRI, in namespaces of its own.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::{
    archive::{self, IMAGE},
    cgroups::{Cgroup, Tree},
    kubelet::{Driver, Kubelet, Pod},
    namespaces::{Daemon, Namespaces},
};

/// Where containerd listens in its namespaces, as on any host.
pub const SOCKET: &str = "/run/containerd/containerd.sock";

/// The directory in which the packages of a Debian release are unpacked.
pub fn root() -> PathBuf {
    env::var_os("SCHED_EXPORTER_RUNTIMES").expect("run by `cargo xtask test`").into()
}

/// `PATH` with the programs of the packages.
pub fn path() -> OsString {
    let ours = ["usr/bin", "usr/sbin"].map(|directory| root().join(directory));
    let path = env::var_os("PATH").unwrap_or_default();
    env::join_paths(ours.into_iter().chain(env::split_paths(&path))).unwrap()
}

/// A running containerd. It is removed with its pods and their cgroups when dropped.
#[derive(Debug)]
pub struct Containerd {
    daemon: Option<Daemon>,
    /// Where it runs.
    pub namespaces: Namespaces,
    /// The cgroups of its containers.
    pub tree: Tree,
    directory: TempDir,
    driver: Driver,
}

impl Containerd {
    /// Starts it in namespaces of its own.
    #[track_caller]
    pub fn start() -> Self {
        let tree = Tree::new();
        let driver = Driver::Cgroupfs(tree.path().to_owned());
        Self::start_in(Namespaces::new(), tree, driver, tempfile::tempdir().unwrap())
    }

    /// Starts it in namespaces that see the directory for its files, and gives it the image of tests.
    #[track_caller]
    pub fn start_in(
        namespaces: Namespaces,
        tree: Tree,
        driver: Driver,
        directory: TempDir,
    ) -> Self {
        let config = config(&version(), matches!(driver, Driver::Systemd(_)));
        fs::write(directory.path().join("config.toml"), config).unwrap();
        let mut containerd = Self { daemon: None, namespaces, tree, directory, driver };
        containerd.resume();
        containerd.load(&archive::write(containerd.directory()));
        containerd
    }

    /// Gives it the image in an archive.
    #[track_caller]
    pub fn load(&self, archive: &Path) {
        let mut import = self.command("ctr");
        import.args(["--address", SOCKET, "--namespace=k8s.io", "images", "import"]);
        let imported = import.arg(archive).output().unwrap();
        assert!(imported.status.success(), "{imported:?}");
    }

    /// A command that runs next to it, and finds the programs of Debian's packages.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.namespaces.command("env");
        command.arg(program).env("PATH", path());
        command
    }

    /// A directory of its own, with the image.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Kills it. Its pods keep running.
    pub fn kill(&mut self) {
        self.daemon = None;
    }

    /// Starts it again, and waits until it answers.
    #[track_caller]
    pub fn resume(&mut self) {
        let mut command = self.command("containerd");
        command.arg("--config").arg(self.directory().join("config.toml"));
        if matches!(self.driver, Driver::Systemd(_)) {
            // systemd moves processes only from cgroups that it sees.
            self.tree.hold(&mut command);
        }
        let daemon = Daemon::start(&mut command, &self.directory().join("containerd.log"));
        let kubelet = self.kubelet();
        self.daemon.insert(daemon).wait_until(|| kubelet.is_up());
    }

    /// Makes pods in it.
    pub fn kubelet(&self) -> Kubelet {
        Kubelet { socket: self.namespaces.path(SOCKET), driver: self.driver.clone() }
    }

    /// The cgroup of a container.
    pub fn cgroup(&self, pod: &Pod, container: &str) -> Cgroup {
        self.tree.at(&self.driver.container(&pod.parent, container))
    }
}

/// The version of the package, such as `1.7.24~ds1`.
pub fn version() -> String {
    let output = Command::new(root().join("usr/bin/containerd")).arg("--version").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split(' ').nth(2).unwrap_or_else(|| panic!("{text}")).to_owned()
}

/// Its configuration: what it needs to run offline, and in a container without `CAP_SYS_RESOURCE`. `systemd` says
/// whether systemd makes the cgroups.
fn config(version: &str, systemd: bool) -> String {
    let limits = "restrict_oom_score_adj = true\ndisable_apparmor = true";
    let (number, cri, images) = if version.starts_with("1.") {
        let cri = "plugins.'io.containerd.grpc.v1.cri'";
        (2, cri, format!("[{cri}]\nsandbox_image = '{IMAGE}'\n{limits}"))
    } else {
        let cri = "plugins.'io.containerd.cri.v1.runtime'";
        let images = "plugins.'io.containerd.cri.v1.images'.pinned_images";
        (3, cri, format!("[{images}]\nsandbox = '{IMAGE}'\n[{cri}]\n{limits}"))
    };
    format!(
        "version = {number}
root = '/run/containerd-root'
state = '/run/containerd'
disabled_plugins = ['io.containerd.internal.v1.opt', 'io.containerd.nri.v1.nri']
[grpc]
address = '{SOCKET}'
{images}
[{cri}.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
[{cri}.containerd.runtimes.runc.options]
SystemdCgroup = {systemd}
"
    )
}
