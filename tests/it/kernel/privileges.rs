//! What the serving exporter keeps: capabilities, on every thread, and descriptors of the kernel's objects.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    fs, io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
    str::FromStr,
    thread,
};

use caps::{CapSet, Capability};
use nix::{errno::Errno, unistd::Pid};
use sched_exporter::{cpu::list, kernel::preflight::Facts};
use sched_exporter_tests::process::{CONFIG, Exporter};

/// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/capability.h>
const CAP_BPF: u64 = 39;

/// Privileges of every thread, from `/proc/PID/task/TID/status`.
fn threads(exporter: &Exporter) -> Vec<BTreeMap<String, u64>> {
    let tasks = fs::read_dir(format!("/proc/{}/task", exporter.pid())).unwrap();
    let status = |task: &Path| fs::read_to_string(task.join("status")).unwrap();
    let threads = tasks.map(|task| {
        let status = status(&task.unwrap().path());
        let fields = status.lines().filter_map(|line| line.split_once(":\t"));
        fields
            .filter(|(name, _)| name.starts_with("Cap") || *name == "NoNewPrivs")
            .map(|(name, value)| (name.to_owned(), u64::from_str_radix(value, 16).unwrap()))
            .collect()
    });
    threads.collect()
}

/// Capabilities that this kernel requires to read a map.
fn reading() -> u64 {
    let kernel = Facts::gather().kernel;
    let mut numbers = kernel.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
    let sysctl = fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled").unwrap();
    if version < (5, 19) && sysctl.trim() != "0" { 1 << CAP_BPF } else { 0 }
}

/// Starts an exporter and makes it start more threads: a reload runs on threads of its own, and a
/// label from a file needs one to watch the file.
fn busy(args: &[&str]) -> Exporter {
    let exporter = Exporter::start_with(CONFIG, args);
    let zone = exporter.directory().join("zone");
    fs::write(&zone, "z1").unwrap();
    let label = format!("labels: {{zone: \"{{{{ file('{}') }}}}\"}}\n", zone.display());
    fs::write(exporter.config(), label).unwrap();
    exporter.wait_until("reloaded", |scrape| {
        scrape.select("sched_cpu_seconds_total", &["zone=\"z1\""]).next().is_some()
    });
    exporter
}

#[test]
fn no_thread_keeps_more_capabilities_than_the_kernel_requires() {
    let exporter = busy(&[]);
    let threads = threads(&exporter);
    assert!(threads.len() > 1, "{threads:?}");
    let kept = reading();
    for thread in &threads {
        for set in ["CapInh", "CapBnd", "CapAmb"] {
            assert_eq!(thread[set], 0, "{set} of {threads:x?}");
        }
        for set in ["CapPrm", "CapEff"] {
            assert_eq!(thread[set], kept, "{set} of {threads:x?}");
        }
        assert_eq!(thread["NoNewPrivs"], 1);
    }
    let scrape = exporter.scrape();
    for (capability, is_kept) in [("CAP_BPF", kept != 0), ("CAP_PERFMON", false)] {
        let label = format!("capability=\"{capability}\"");
        assert_eq!(scrape.sum("sched_exporter_capability_kept", &[&label]), u64::from(is_kept));
    }
    assert_eq!(exporter.log().contains("before Linux 5.19"), kept != 0);
}

#[test]
fn privileges_are_kept_on_request() {
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    let own = u64::from_str_radix(own, 16).unwrap();
    let exporter = busy(&["--privileges.keep"]);
    for thread in threads(&exporter) {
        assert_eq!((thread["CapEff"], thread["NoNewPrivs"]), (own, 0));
    }
    let label = "capability=\"CAP_BPF\"";
    assert_eq!(exporter.scrape().sum("sched_exporter_capability_kept", &[label]), 1);
}

/// The descriptors of BPF objects and BTF, and what `/proc/PID/fd` calls them.
fn objects(pid: Pid) -> BTreeMap<i32, String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let named = entries.filter_map(|entry| {
        let path = entry.unwrap().path();
        let name = fs::read_link(&path).ok()?.to_str()?.strip_prefix("anon_inode:")?.to_owned();
        let number = path.file_name()?.to_str()?.parse().ok()?;
        (name.starts_with("bpf") || name.starts_with("btf")).then_some((number, name))
    });
    named.collect()
}

/// A value of `fdinfo`.
fn info<T: FromStr<Err: Debug>>(pid: Pid, fd: i32, key: &str) -> T {
    let text = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t"));
    line.unwrap().parse().unwrap()
}

/// Takes a descriptor from another process, as this thread's rights allow.
fn take(pid: Pid, fd: i32) -> nix::Result<OwnedFd> {
    let none: libc::c_uint = 0;
    // SAFETY: system calls that return new descriptors.
    unsafe {
        let process = libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), none);
        let process = OwnedFd::from_raw_fd(Errno::result(process)?.try_into().unwrap());
        let taken = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, none);
        Ok(OwnedFd::from_raw_fd(Errno::result(taken)?.try_into().unwrap()))
    }
}

/// A command of bpf(2); `attr` is the start of `union bpf_attr`.
fn bpf(command: libc::c_long, attr: &[u64]) -> nix::Result<libc::c_long> {
    // SAFETY: the kernel reads what the size says, and what the pointers in it point to.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(attr))
    })
}

/// Tries to set the first value of a map to zeros.
fn overwrite(map: &OwnedFd, value_bytes: usize) -> nix::Result<libc::c_long> {
    const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
    // Values of per-CPU maps are multiples of 8 bytes, one for each possible CPU.
    let cpus = list::possible().unwrap().len();
    let (key, value) = (0_u32, vec![0_u8; cpus * value_bytes.next_multiple_of(8)]);
    let map = u64::try_from(map.as_raw_fd()).unwrap();
    bpf(BPF_MAP_UPDATE_ELEM, &[map, &raw const key as u64, value.as_ptr() as u64, 0])
}

#[test]
fn user_space_cannot_write_its_maps() {
    const BPF_MAP_GET_FD_BY_ID: libc::c_long = 14;
    let exporter = Exporter::start(&[]);
    let pid = exporter.pid();
    let before = exporter.scrape().sum_ns("sched_cpu_seconds_total", &[]);
    let mut maps = 0;
    for fd in objects(pid).into_iter().filter(|(_, name)| name.contains("bpf-map")).map(|it| it.0) {
        maps += 1;
        let bytes = info(pid, fd, "value_size");
        let taken = take(pid, fd).unwrap();
        assert_eq!(overwrite(&taken, bytes), Err(Errno::EPERM), "descriptor {fd}");
        // Root opens it again by its number.
        let opened = bpf(BPF_MAP_GET_FD_BY_ID, &[info(pid, fd, "map_id"), 0]).unwrap();
        // SAFETY: the system call returned a new descriptor.
        let opened = unsafe { OwnedFd::from_raw_fd(opened.try_into().unwrap()) };
        assert_eq!(overwrite(&opened, bytes), Err(Errno::EPERM), "descriptor {fd}, reopened");
    }
    assert_eq!(maps, 1);
    assert!(exporter.scrape().sum_ns("sched_cpu_seconds_total", &[]) > before);
}

#[test]
fn it_keeps_only_the_link_and_the_records() {
    let names = |args: &[&str]| {
        let mut names: Vec<_> = objects(Exporter::start(args).pid()).into_values().collect();
        names.sort();
        names
    };
    let [map, link] = ["bpf-map", "bpf_link"].map(str::to_owned);
    assert_eq!(names(&[]), [map.clone(), link.clone()]);
    // The ring buffer of the log.
    assert_eq!(names(&["--log.ebpf"]), [map.clone(), map, link]);
}

#[test]
fn processes_of_the_same_user_cannot_take_its_descriptors() {
    let exporter = Exporter::start(&[]);
    let pid = exporter.pid();
    let fds: Vec<_> = objects(pid).into_keys().collect();
    let memory = format!("/proc/{pid}/mem");
    thread::scope(|scope| {
        let attempts = scope.spawn(|| {
            // Without it, this thread has the rights of any process of its user.
            caps::drop(None, CapSet::Effective, Capability::CAP_SYS_PTRACE).unwrap();
            for fd in &fds {
                assert_eq!(take(pid, *fd).err(), Some(Errno::EPERM), "descriptor {fd}");
            }
            // The right to pass the file's mode does not help.
            let opened = fs::File::options().write(true).open(&memory);
            assert_eq!(opened.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        });
        attempts.join().unwrap();
    });
    assert!(!fds.is_empty());
}
