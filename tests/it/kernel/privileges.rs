//! What the serving exporter keeps: capabilities, on every thread, and descriptors of the kernel's objects.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
    thread,
};

use caps::{CapSet, Capability};
use nix::{errno::Errno, unistd::Pid};
use sched_exporter::kernel::preflight::Facts;
use sched_exporter_tests::{
    bpf,
    cgroups::{Hierarchy, Tree},
    process::{CONFIG, Exporter},
};

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

/// Capabilities that this kernel requires to write a map.
fn writing() -> u64 {
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
    let kept = writing();
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

/// Tries to set a value of a map to zeros.
fn overwrite(map: &OwnedFd, value_bytes: usize) -> nix::Result<libc::c_long> {
    const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
    let (key, value) = (0_u64, vec![0_u8; value_bytes]);
    let map = u64::try_from(map.as_raw_fd()).unwrap();
    bpf(BPF_MAP_UPDATE_ELEM, &[map, &raw const key as u64, value.as_ptr() as u64, 0])
}

/// Tries to map a map for writing.
fn map_for_writing(map: &OwnedFd) -> nix::Result<()> {
    // SAFETY: a new mapping, which is not used.
    let start = unsafe {
        let (protection, map) = (libc::PROT_READ | libc::PROT_WRITE, map.as_raw_fd());
        libc::mmap(std::ptr::null_mut(), 1, protection, libc::MAP_SHARED, map, 0)
    };
    if start == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(()) }
}

#[test]
fn user_space_cannot_write_counts() {
    const BPF_MAP_GET_FD_BY_ID: libc::c_long = 14;
    const BPF_MAP_TYPE_ARRAY: &str = "2";
    /// A stack and ring buffers: the slots that can be taken, and messages.
    const WRITABLE: [&str; 2] = ["23", "27"];
    let exporter = Exporter::start(&[]);
    let before = exporter.scrape().sum_ns("sched_cpu_seconds_total", &[]);
    let mut checked = 0;
    for (id, info) in bpf::maps(&exporter.pid().to_string()).unwrap() {
        let map_type = info["map_type"].as_str();
        if WRITABLE.contains(&map_type) {
            continue;
        }
        // As root, by its number.
        let opened = self::bpf(BPF_MAP_GET_FD_BY_ID, &[u64::from(id), 0]).unwrap();
        // SAFETY: the system call returned a new descriptor.
        let opened = unsafe { OwnedFd::from_raw_fd(opened.try_into().unwrap()) };
        let bytes = info["value_size"].parse().unwrap();
        assert_eq!(overwrite(&opened, bytes), Err(Errno::EPERM), "{info:?}");
        if map_type == BPF_MAP_TYPE_ARRAY {
            assert!(map_for_writing(&opened).is_err(), "{info:?}");
        }
        checked += 1;
    }
    // Records, rows, owners of slots, slots by cgroup, until when programs hand over, and constants.
    assert_eq!(checked, 6);
    assert!(exporter.scrape().sum_ns("sched_cpu_seconds_total", &[]) > before);
}

#[test]
fn it_keeps_only_links_and_what_it_writes() {
    let names = |args: &[&str]| {
        let mut names: Vec<_> = objects(Exporter::start(args).pid()).into_values().collect();
        names.sort();
        names
    };
    let [map, link] = ["bpf-map", "bpf_link"].map(str::to_owned);
    assert_eq!(names(&["--no-collector.cgroups"]), [link.as_str()]);
    // The stack of free slots, and the ring buffers of events and births.
    let mut cgroups = vec![map.as_str(); 3];
    // Switches, removed cgroups and new ones; in version 1 also renamed ones.
    let hooks = if Tree::new().hierarchy() == Hierarchy::V1 { 4 } else { 3 };
    cgroups.extend(vec![link.as_str(); hooks]);
    assert_eq!(names(&[]), cgroups);
    // The ring buffer of the log.
    assert_eq!(names(&["--log.ebpf"]), [&[map.as_str()], &cgroups[..]].concat());
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
