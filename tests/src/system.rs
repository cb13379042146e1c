//! A booted systemd whose cgroups look like the host's: its root is a slice at the top of the hierarchy, and not in
//! the cgroup of a container.

use std::{
    env,
    ffi::OsStr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::{archive::payload, cgroups::Tree, namespaces::Namespaces, process::PATIENCE};

/// Mounts what systemd expects, and becomes it. `$0` is the root directory of a Debian, and the other arguments are
/// directories that it sees, too.
const BOOT: &str = r#"
mount -t tmpfs tmpfs /run
mkdir /run/upper /run/work /run/root
mount -t overlay -o "lowerdir=$0,upperdir=/run/upper,workdir=/run/work" overlay /run/root
cd /run/root
touch etc/hosts
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs dev
for node in full null random tty urandom zero; do
    touch "dev/$node"
    mount --bind "/dev/$node" "dev/$node"
done
while read -r _ place kind options _; do
    case $kind in
        cgroup) options=${options#rw,} options=${options#*atime,} ;;
        cgroup2) options=rw ;;
        tmpfs) [ "$place" = /sys/fs/cgroup ] && options=mode=755 || continue ;;
        *) continue ;;
    esac
    mkdir -p ".$place"
    mount -t "$kind" -o "$options" "$kind" ".$place"
done <<mounts
$(cat /proc/self/mounts)
mounts
for directory do
    mkdir -p ".$directory"
    mount --bind "$directory" ".$directory"
done
mkdir run/old
pivot_root . run/old
umount -l run/old
echo ready
exec env -i container=test /lib/systemd/systemd --unit=basic.target </dev/null >/dev/null 2>&1
"#;

/// The booted system. Dropping it removes its processes, mounts and cgroups.
#[derive(Debug)]
pub struct System {
    /// Where it runs.
    pub namespaces: Namespaces,
    /// Its cgroups. Its root is a slice.
    pub tree: Tree,
}

impl System {
    /// Boots it with these directories of the machine, and waits until it has started.
    #[track_caller]
    pub fn boot(directories: &[&Path]) -> Self {
        let debian = env::var_os("SCHED_EXPORTER_DEBIAN").expect("run by `cargo xtask test`");
        let tree = Tree::named(".slice");
        let payload = payload();
        let mut args: Vec<&OsStr> = vec![&debian, payload.parent().unwrap().as_os_str()];
        args.extend(directories.iter().map(|directory| directory.as_os_str()));
        let options = ["--cgroup", "--uts", "--ipc", "--net"];
        let namespaces = Namespaces::with(&options, &args, BOOT, |command| tree.hold(command));
        let system = Self { namespaces, tree };
        system.wait("booted", |it| {
            let (_, state) = it.namespaces.try_run("systemctl is-system-running");
            ["running\n", "degraded\n"].contains(&state.as_str())
        });
        system
    }

    /// Waits until something is done; panics with the journal if that takes too long.
    #[track_caller]
    pub fn wait(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            let (_, journal) = self.namespaces.try_run("journalctl --no-pager --output=cat");
            assert!(Instant::now() < deadline, "never {what}\n{journal}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The command of a unit that uses a share of a CPU for a minute.
    pub fn spin() -> String {
        format!("{} spin 5 95 60", payload().display())
    }
}
