//! The serving exporter is confined on every thread, and what other processes can do to it.
//!
//! `exporter/tests/confinement.rs` tries what a confined process must not do.

use std::{
    collections::BTreeSet,
    fs,
    io::{ErrorKind, Write as _},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    sync::{Arc, Mutex},
    thread,
    time::Instant,
};

use libc::{c_int, c_long};
use nix::{errno::Errno, sys::signal::Signal, unistd::Pid};
use sched_exporter_tests::{
    cgroups::Tree,
    fake_runtime::{Listed, Server},
    kernel::has_landlock,
    process::{CONFIG, Exporter, PATIENCE, run},
};

use super::start::{NOBODY, become_nobody};

/// The filters that `exporter/src/privileges/seccomp.rs` installs.
const FILTERS: u32 = 2;

/// A field of `/proc/PID/status`; `None` if the thread has ended.
fn field(status: &str, name: &str) -> Option<String> {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    value.map(str::to_owned)
}

/// How many filters of system calls this process has, which its children inherit.
fn own_filters() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    field(&status, "Seccomp_filters").unwrap().parse().unwrap()
}

/// Reads the status of every thread, by name. A thread may end meanwhile.
fn threads(pid: Pid) -> Vec<(String, String)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let statuses = tasks.filter_map(|task| {
        let status = fs::read_to_string(task.ok()?.path().join("status")).ok()?;
        Some((field(&status, "Name")?, status))
    });
    statuses.collect()
}

fn protections(exporter: &Exporter) -> [u64; 4] {
    let scrape = exporter.scrape();
    ["landlock", "no_new_privs", "not_dumpable", "seccomp"].map(|protection| {
        let label = format!("protection=\"{protection}\"");
        assert_eq!(scrape.select("sched_exporter_protection_enabled", &[&label]).count(), 1);
        scrape.sum("sched_exporter_protection_enabled", &[&label])
    })
}

/// Reads the status of threads, also of those that exist only while it loads its configuration, watches files, and
/// asks for the names of containers.
#[test]
fn every_thread_is_confined_whatever_the_exporter_does() {
    let runtime = Server::listing(Arc::new(Mutex::new(Vec::new())));
    let tree = Tree::new();
    let exporter = Exporter::start(&[]);
    let file = exporter.directory().join("zone");
    let configuration = format!(
        "cgroups: {{runtimes: ['{}']}}\nlabels: {{zone: \"{{{{ file('{}') }}}}\"}}\n",
        runtime.url(),
        file.display()
    );
    fs::write(&file, "a").unwrap();
    fs::write(exporter.config(), configuration).unwrap();
    let filters = (own_filters() + FILTERS).to_string();
    let mut names = BTreeSet::new();
    let deadline = Instant::now() + PATIENCE;
    // The kernel cuts the names of threads to 15 bytes.
    let expected = ["log", "notify-rs inoti", "reload", "containers"];
    for number in 0.. {
        if expected.iter().all(|name| names.contains(*name)) {
            break;
        }
        assert!(Instant::now() < deadline, "only saw {names:?}\n{}", exporter.log());
        // A container that no source knows.
        let container = Listed::numbered(number, [b"shop", b"cart", b"main"]);
        let container = tree.create_all(&container.cgroup());
        container.start(|| ()).wait();
        fs::write(&file, format!("z{number}")).unwrap();
        exporter.signal(Signal::SIGHUP);
        for _ in 0..200 {
            for (name, status) in threads(exporter.pid()) {
                let is = |of: &str, value: &str| {
                    assert_eq!(field(&status, of).as_deref(), Some(value), "{name}: {status}");
                };
                is("Seccomp", "2");
                is("Seccomp_filters", &filters);
                is("NoNewPrivs", "1");
                names.insert(name);
            }
        }
        exporter.scrape();
    }
    assert_eq!(protections(&exporter), [u64::from(has_landlock()), 1, 1, 1]);
    let is_warned = exporter.log().contains("protection is off");
    assert_eq!(is_warned, !has_landlock(), "{}", exporter.log());
}

#[test]
fn the_verbose_version_shows_what_this_machine_has() {
    let landlock = if has_landlock() { "landlock: on (version " } else { "landlock: off (" };
    for args in [["--version", "--verbose"], ["--verbose", "--version"]] {
        let output = run(&args);
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && shown.starts_with("sched_exporter 0."), "{shown}");
        for line in [landlock, "no_new_privs: on\n", "not_dumpable: on\n", "seccomp: on\n"] {
            assert!(shown.contains(&format!("\n    {line}")), "{shown}");
        }
    }
}

#[test]
fn with_privileges_kept_nothing_is_confined() {
    let exporter = Exporter::start(&["--privileges.keep"]);
    for (name, status) in threads(exporter.pid()) {
        assert_eq!(field(&status, "Seccomp_filters"), Some(own_filters().to_string()), "{name}");
        assert_eq!(field(&status, "NoNewPrivs").as_deref(), Some("0"), "{name}");
    }
    assert_eq!(protections(&exporter), [0; 4]);
}

/// The user of this thread alone: the wrapper of libc would change that of the process. It also takes all
/// capabilities.
fn become_user(user: u32) {
    // SAFETY: system calls without pointers.
    unsafe {
        let user = c_long::from(user);
        assert_eq!(libc::syscall(libc::SYS_setresgid, user, user, user), 0);
        assert_eq!(libc::syscall(libc::SYS_setresuid, user, user, user), 0);
    }
}

/// A system call with plain numbers.
fn call(number: c_long, arguments: [c_long; 6]) -> nix::Result<c_long> {
    let [first, second, third, rest @ ..] = arguments;
    // SAFETY: callers pass pointers to what lives until then, or none.
    Errno::result(unsafe { libc::syscall(number, first, second, third, rest[0], rest[1], rest[2]) })
}

/// Reads or writes the memory of a process at an address that is not mapped: an error other than `EPERM` tells
/// that it is permitted.
fn process_memory(number: c_long, pid: c_long) -> nix::Result<c_long> {
    let mut byte = 0_u8;
    let [local, remote] = [(&raw mut byte).cast(), std::ptr::null_mut()]
        .map(|iov_base| libc::iovec { iov_base, iov_len: 1 });
    call(number, [pid, &raw const local as c_long, 1, &raw const remote as c_long, 1, 0])
}

#[test]
fn a_hostile_process_of_the_same_user_can_read_and_change_nothing_in_it() {
    const BPF_MAP_GET_NEXT_ID: c_long = 12;
    const BPF_LINK_GET_FD_BY_ID: c_long = 30;
    let exporter = as_nobody();
    let pid: c_long = exporter.pid().as_raw().into();
    let before = exporter.scrape().sum_ns("sched_cpu_seconds_total", &[]);
    let attempts = move || {
        become_user(NOBODY);
        for file in ["mem", "environ", "maps", "auxv", "syscall", "stack", "io"] {
            let error = fs::read(format!("/proc/{pid}/{file}")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{file}");
        }
        for directory in ["fd", "fdinfo", "map_files"] {
            assert!(fs::read_dir(format!("/proc/{pid}/{directory}")).is_err(), "{directory}");
        }
        for link in ["exe", "root", "cwd", "ns/net"] {
            assert!(fs::read_link(format!("/proc/{pid}/{link}")).is_err(), "{link}");
        }
        for file in
            ["mem", "comm", "oom_score_adj", "coredump_filter", "clear_refs", "timerslack_ns"]
        {
            // Anyone can open some of them, but not write.
            let opened = fs::File::options().write(true).open(format!("/proc/{pid}/{file}"));
            let written = opened.and_then(|mut file| file.write_all(b"1"));
            assert_eq!(written.unwrap_err().kind(), ErrorKind::PermissionDenied, "{file}");
        }
        for request in [libc::PTRACE_ATTACH, libc::PTRACE_SEIZE] {
            let traced = call(libc::SYS_ptrace, [request.into(), pid, 0, 0, 0, 0]);
            assert_eq!(traced, Err(Errno::EPERM));
        }
        for number in [libc::SYS_process_vm_readv, libc::SYS_process_vm_writev] {
            assert_eq!(process_memory(number, pid), Err(Errno::EPERM));
        }
        let process = call(libc::SYS_pidfd_open, [pid, 0, 0, 0, 0, 0]).unwrap();
        // SAFETY: the system call returned a new descriptor.
        let process = unsafe { OwnedFd::from_raw_fd(c_int::try_from(process).unwrap()) };
        for fd in 0..32 {
            let process = process.as_raw_fd().into();
            let taken = call(libc::SYS_pidfd_getfd, [process, fd, 0, 0, 0, 0]);
            assert_eq!(taken, Err(Errno::EPERM), "descriptor {fd}");
        }
        // Nor through the kernel's objects.
        for command in [BPF_MAP_GET_NEXT_ID, BPF_LINK_GET_FD_BY_ID] {
            let none = [0_u64; 16];
            let size = c_long::try_from(size_of_val(&none)).unwrap();
            let asked = call(libc::SYS_bpf, [command, none.as_ptr() as c_long, size, 0, 0, 0]);
            assert_eq!(asked, Err(Errno::EPERM), "command {command}");
        }
    };
    thread::spawn(attempts).join().unwrap();
    assert!(exporter.scrape().sum_ns("sched_cpu_seconds_total", &[]) > before);
}

/// The kernel lets any process signal others of its user, and set their limits, whatever they do: so give the
/// exporter a user of its own.
#[test]
fn only_processes_of_the_same_user_can_stop_it() {
    let exporter = as_nobody();
    let pid: c_long = exporter.pid().as_raw().into();
    let attempts = |user: u32| {
        move || {
            become_user(user);
            let mask = 1_u64;
            let limits = [u64::from(u32::MAX); 2];
            [
                call(libc::SYS_kill, [pid, 0, 0, 0, 0, 0]),
                call(libc::SYS_sched_setaffinity, [pid, 8, &raw const mask as c_long, 0, 0, 0]),
                call(libc::SYS_setpriority, [c_long::from(libc::PRIO_PROCESS), pid, 1, 0, 0, 0]),
                call(
                    libc::SYS_prlimit64,
                    [pid, c_long::from(libc::RLIMIT_CPU), limits.as_ptr() as c_long, 0, 0, 0],
                ),
            ]
        }
    };
    let of_another = thread::spawn(attempts(NOBODY - 1)).join().unwrap();
    assert_eq!(of_another, [Err(Errno::EPERM); 4]);
    let of_the_same = thread::spawn(attempts(NOBODY)).join().unwrap();
    // Priorities are refused where the exporter has kept a capability, before Linux 5.19.
    let [signalled, .., limited] = of_the_same;
    assert!(signalled.is_ok() && limited.is_ok(), "{of_the_same:?}");
    assert!(exporter.scrape().sum_ns("sched_cpu_seconds_total", &[]) > 0);
}

/// An exporter that runs as user nobody, with the two capabilities that it needs.
fn as_nobody() -> Exporter {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let config = directory.path().join("exporter.yaml");
    fs::write(&config, CONFIG).unwrap();
    Exporter::start_prepared(directory, config, &[], |command| {
        become_nobody(command, &[caps::Capability::CAP_BPF, caps::Capability::CAP_PERFMON]);
    })
}
