//! A limit on the number of threads, as a container has with `--pids-limit`.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    unistd::Pid,
};
use tempfile::TempDir;

/// A control group with one process; removed when dropped, after the process has ended.
#[derive(Debug)]
pub struct PidsLimit {
    hierarchy: TempDir,
    group: PathBuf,
}

impl PidsLimit {
    /// Puts a process into a group that has no limit yet.
    pub fn new(process: Pid) -> Self {
        let hierarchy = tempfile::tempdir().unwrap();
        mount_pids(hierarchy.path());
        let group = hierarchy.path().join(format!("sched_exporter-test-{process}"));
        fs::create_dir(&group).unwrap();
        fs::write(group.join("cgroup.procs"), process.to_string()).unwrap();
        Self { hierarchy, group }
    }

    /// Forbids threads beyond those that exist.
    pub fn allow_no_more(&self) {
        let threads = fs::read_to_string(self.group.join("pids.current")).unwrap();
        fs::write(self.group.join("pids.max"), threads).unwrap();
    }

    /// Lifts the limit.
    pub fn lift(&self) {
        fs::write(self.group.join("pids.max"), "max").unwrap();
    }
}

/// Mounts the hierarchy that has the controller `pids`: one of its own, or the unified one.
fn mount_pids(place: &Path) {
    let own = mount(Some("cgroup"), place, Some("cgroup"), MsFlags::empty(), Some("pids"));
    if own.is_err() {
        mount(Some("cgroup2"), place, Some("cgroup2"), MsFlags::empty(), None::<&str>).unwrap();
        fs::write(place.join("cgroup.subtree_control"), "+pids").unwrap();
    }
}

impl Drop for PidsLimit {
    fn drop(&mut self) {
        // The kernel may still be taking the process out.
        for _ in 0..100 {
            if fs::remove_dir(&self.group).is_ok() {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        umount2(self.hierarchy.path(), MntFlags::MNT_DETACH).unwrap();
    }
}
