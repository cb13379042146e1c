//! The Debian package, and its installation by dpkg in a root directory of its own.

use std::{
    fs,
    os::unix::{fs::symlink, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use tempfile::TempDir;

use super::{VERSION, arch, output, release};

const CONFIG: &str = "etc/sched_exporter/exporter.yaml";
const UNIT: &str = "usr/lib/systemd/system/sched_exporter.service";
const ENABLED: &str = "etc/systemd/system/multi-user.target.wants/sched_exporter.service";

fn package() -> PathBuf {
    release().join(format!("sched-exporter_{VERSION}-1_{}.deb", arch()))
}

#[test]
fn the_package_contains_its_files() {
    let contents = output(Command::new("dpkg-deb").arg("--contents").arg(package()));
    let mut files = Vec::new();
    for line in contents.lines().filter(|line| !line.starts_with('d')) {
        let fields: Vec<_> = line.split_whitespace().collect();
        assert_eq!(fields[1], "0/0", "{line}");
        files.push(format!("{} {}", fields[0], fields[5].trim_start_matches("./")));
    }
    files.sort_by(|a, b| a[11..].cmp(&b[11..]));
    let documents = "usr/share/doc/sched-exporter";
    assert_eq!(
        files,
        [
            "-rw-r--r-- etc/default/sched_exporter",
            &format!("-rw-r--r-- {CONFIG}"),
            "-rwxr-xr-x usr/bin/sched_exporter",
            "-rw-r--r-- usr/lib/systemd/system/run-sched_exporter_bpf.mount",
            &format!("-rw-r--r-- {UNIT}"),
            "-rw-r--r-- usr/lib/sysusers.d/sched_exporter.conf",
            &format!("-rw-r--r-- {documents}/CHANGELOG.md"),
            &format!("-rw-r--r-- {documents}/changelog.Debian.gz"),
            &format!("-rw-r--r-- {documents}/copyright"),
            &format!("-rw-r--r-- {documents}/examples/exporter.yaml"),
            &format!("-rw-r--r-- {documents}/examples/names.conf"),
            &format!("-rw-r--r-- {documents}/examples/notify-reload.conf"),
            &format!("-rw-r--r-- {documents}/examples/sched_exporter.socket"),
            &format!("-rw-r--r-- {documents}/examples/web-config.conf"),
            "-rw-r--r-- usr/share/man/man8/sched_exporter.8.gz",
        ]
    );
}

#[test]
fn the_package_has_its_metadata() {
    let field = |name| output(Command::new("dpkg-deb").arg("--field").arg(package()).arg(name));
    assert_eq!(field("Package"), "sched-exporter\n");
    assert_eq!(field("Version"), format!("{VERSION}-1\n"));
    assert_eq!(field("Architecture"), format!("{}\n", arch()));
    let changelog = include_str!("../../../deploy/debian/changelog");
    let first = changelog.lines().next().unwrap();
    assert!(first.starts_with(&format!("sched-exporter ({VERSION}-1) ")), "{first}");
    let conffiles =
        output(Command::new("dpkg-deb").args(["--info"]).arg(package()).arg("conffiles"));
    let mut conffiles: Vec<_> = conffiles.lines().collect();
    conffiles.sort_unstable();
    assert_eq!(conffiles, ["/etc/default/sched_exporter", &format!("/{CONFIG}")]);
}

/// A root directory that contains only dpkg's database.
struct Root(TempDir);

impl Root {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let database = root.path().join("var/lib/dpkg");
        for directory in ["info", "triggers", "updates"] {
            fs::create_dir_all(database.join(directory)).unwrap();
        }
        fs::write(database.join("status"), "").unwrap();
        Self(root)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    #[track_caller]
    fn dpkg(&self, action: &str, package: impl AsRef<Path>) {
        let mut dpkg = Command::new("dpkg");
        dpkg.arg("--root").arg(self.0.path());
        // Its scripts run outside the root, with this machine's programs; dpkg passes them the root in
        // a variable.
        dpkg.args(["--force-script-chrootless", "--force-depends", "--force-confdef"]);
        dpkg.args(["--log=/dev/null", action]).arg(package.as_ref());
        // Hide this machine's systemd.
        let hide = || {
            let none = None::<&str>;
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none)?;
            Ok(mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none)?)
        };
        // SAFETY: system calls and nothing else.
        unsafe { dpkg.pre_exec(hide) };
        output(&mut dpkg);
    }
}

#[test]
fn it_is_installed_upgraded_removed_and_purged() {
    let root = Root::new();
    root.dpkg("--install", package());
    let version = output(Command::new(root.path("usr/bin/sched_exporter")).arg("--version"));
    assert!(version.contains(VERSION), "{version}");
    let check = format!("--config.file={}", root.path(CONFIG).display());
    output(Command::new(root.path("usr/bin/sched_exporter")).args([&check, "--config.check"]));
    assert_eq!(fs::read_link(root.path(ENABLED)).unwrap(), Path::new("/").join(UNIT));
    let users = fs::read_to_string(root.path("etc/passwd")).unwrap();
    assert!(users.starts_with("sched_exporter:"), "{users}");

    let ours = "labels:\n  host: ours\n";
    fs::write(root.path(CONFIG), ours).unwrap();
    fs::remove_file(root.path(ENABLED)).unwrap();
    root.dpkg("--install", package());
    assert_eq!(fs::read_to_string(root.path(CONFIG)).unwrap(), ours, "the configuration is kept");
    assert!(!root.path(ENABLED).is_symlink(), "the service stays disabled");

    symlink(Path::new("/").join(UNIT), root.path(ENABLED)).unwrap();
    root.dpkg("--remove", "sched-exporter");
    assert!(!root.path("usr/bin/sched_exporter").exists());
    assert!(!root.path(UNIT).exists());
    assert_eq!(fs::read_to_string(root.path(CONFIG)).unwrap(), ours);

    root.dpkg("--purge", "sched-exporter");
    for gone in ["etc/sched_exporter", "etc/default/sched_exporter", ENABLED] {
        assert!(!root.path(gone).exists() && !root.path(gone).is_symlink(), "{gone}");
    }
}
