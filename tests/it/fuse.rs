//! Labels from files on a filesystem that hangs. Needs FUSE, which provides it.

use std::{
    fs::{self, File, OpenOptions},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use sched_exporter_tests::process::{Exporter, binary, ending_with_us, output};
use tempfile::TempDir;

/// A mounted filesystem that answers no request; callers hang until it is dropped.
struct Hanging {
    directory: TempDir,
    /// Receives the kernel's requests, which nobody reads.
    _unread: File,
}

impl Hanging {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let unread = OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
        // <https://docs.kernel.org/filesystems/fuse.html#mount-options>
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", unread.as_raw_fd());
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("fuse"), directory.path(), Some("fuse"), flags, Some(options.as_str())).unwrap();
        Self { directory, _unread: unread }
    }

    /// A configuration that reads a file on it.
    fn configuration(&self) -> String {
        let file = self.directory.path().join("zone");
        format!("labels: {{zone: \"{{{{ file('{}') | default('none') }}}}\"}}\n", file.display())
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        umount2(self.directory.path(), MntFlags::MNT_DETACH).unwrap();
    }
}

const SECONDS: &str = "sched_cpu_seconds_total";

#[test]
fn hanging_files_delay_neither_start_nor_reloads() {
    let hanging = Hanging::new();
    let exporter = Exporter::start_with(&hanging.configuration(), &["--web.enable-lifecycle"]);
    assert!(exporter.scrape().select(SECONDS, &["zone=\"none\""]).next().is_some());
    for _ in 0..3 {
        let asked = Instant::now();
        assert_eq!(exporter.connect().request("POST", "/-/reload", &[]).status, 200);
        assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
    }
    exporter.wait_until("logged", |_| exporter.log().contains("does not respond"));

    fs::write(exporter.config(), "labels: {zone: a}\n").unwrap();
    assert_eq!(exporter.connect().request("POST", "/-/reload", &[]).status, 200);
    assert!(exporter.scrape().select(SECONDS, &["zone=\"a\""]).next().is_some());

    // Once the filesystem is gone, files are watched again.
    drop(hanging);
    let zone = exporter.directory().join("zone");
    fs::write(&zone, "b").unwrap();
    let label = format!("labels: {{zone: \"{{{{ file('{}') }}}}\"}}\n", zone.display());
    fs::write(exporter.config(), label).unwrap();
    let shows = |zone: &str| {
        let pair = format!("zone=\"{zone}\"");
        exporter.wait_until(&pair, |it| it.select(SECONDS, &[&pair]).next().is_some());
    };
    shows("b");
    fs::write(&zone, "c").unwrap();
    shows("c");
}

#[test]
fn hanging_files_do_not_delay_the_check() {
    let hanging = Hanging::new();
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("exporter.yaml");
    fs::write(&config, hanging.configuration()).unwrap();
    let mut check = ending_with_us(&binary());
    let flag = format!("--config.file={}", config.display());
    let output = output(check.args(["--config.check", &flag]));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}");
    assert!(printed.contains("file    an earlier read of the files is still running"), "{printed}");
}
