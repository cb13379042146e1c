#![cfg(test)]
//! Tries what a confined thread must not do, each in a process of its own, since some of it is fatal.

use std::{
    fs, io,
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    ptr::{null, null_mut},
    thread,
};

use libc::{c_int, c_long};
use nix::{
    errno::Errno,
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, fork},
};
use sched_exporter::privileges::{self, isolation};

/// The exit status of a process that is not confined as it should be.
const UNCONFINED: c_int = 255;

/// The exit status of an attempt that failed other than by a system call.
const OTHER: c_int = 254;

/// The exit status of an attempt that panicked.
const PANICKED: c_int = 253;

/// What became of an attempt.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// The kernel killed the process.
    Killed,
    /// The call failed.
    Failed(Errno),
    Succeeded,
}

use Outcome::{Failed, Killed, Succeeded};

/// Confines a child process, which may remove files in `removable`, and makes an attempt in it: a system call,
/// or a function of std that makes some.
fn attempt(removable: &[PathBuf], attempt: impl FnOnce() -> io::Result<()>) -> Outcome {
    // SAFETY: glibc allows the child of a process with several threads to allocate. The child neither takes
    // locks that another thread can hold, nor returns.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
            WaitStatus::Exited(_, 0) => Succeeded,
            WaitStatus::Exited(_, UNCONFINED) => panic!("a protection is off"),
            WaitStatus::Exited(_, OTHER) => panic!("an error without a number"),
            WaitStatus::Exited(_, PANICKED) => panic!("the attempt panicked"),
            WaitStatus::Exited(_, errno) => Failed(Errno::from_raw(errno)),
            WaitStatus::Signaled(_, nix::sys::signal::Signal::SIGSYS, _) => Killed,
            other => panic!("{other:?}"),
        },
        ForkResult::Child => {
            let tried = || {
                let expected = |name| name != "landlock" || has_landlock();
                let is_isolated = isolation::isolate().is_ok();
                let states = privileges::confine(removable);
                let is_off = states.iter().any(|it| it.state.is_err() && expected(it.name));
                if !is_isolated || is_off {
                    return UNCONFINED;
                }
                attempt().map_or_else(|error| error.raw_os_error().unwrap_or(OTHER), |()| 0)
            };
            // A panic must not reach the parent's harness.
            let status = panic::catch_unwind(AssertUnwindSafe(tried)).unwrap_or(PANICKED);
            // SAFETY: ends this process.
            unsafe { libc::_exit(status) }
        }
    }
}

/// Whether this kernel has Landlock, by its own word.
fn has_landlock() -> bool {
    let flag: libc::c_uint = 1; // LANDLOCK_CREATE_RULESET_VERSION
    // SAFETY: it only asks for the version.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, flag) > 0 }
}

/// A system call. Arguments that are not given are zero.
fn call<const N: usize>(number: c_long, arguments: [c_long; N]) -> io::Result<()> {
    let mut all = [0; 5];
    all[..N].copy_from_slice(&arguments);
    // SAFETY: the callers pass pointers to what lives until then, or none.
    let result = unsafe { libc::syscall(number, all[0], all[1], all[2], all[3], all[4]) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn pointer<T>(to: *const T) -> c_long {
    to as c_long
}

#[track_caller]
fn check(call: impl FnOnce() -> io::Result<()>, expected: &Outcome) {
    assert_eq!(attempt(&[], call), *expected);
}

#[test]
fn what_only_an_attacker_does_is_fatal() {
    const BPF_PROG_LOAD: c_long = 5;
    const KEYCTL_GET_KEYRING_ID: c_long = 0;
    let program = c"/bin/true";
    let arguments = [program.as_ptr(), null()];
    let parent: c_long = std::process::id().into();
    let execute =
        || call(libc::SYS_execve, [pointer(program.as_ptr()), pointer(arguments.as_ptr()), 0]);
    check(execute, &Killed);
    check(|| std::process::Command::new("/bin/true").status().map(drop), &Failed(Errno::EPERM));
    check(|| call(libc::SYS_execveat, [-1, pointer(program.as_ptr())]), &Killed);
    check(|| call(libc::SYS_ptrace, [c_long::from(libc::PTRACE_ATTACH), parent]), &Killed);
    check(|| call(libc::SYS_process_vm_readv, [parent]), &Killed);
    check(|| call(libc::SYS_process_vm_writev, [parent]), &Killed);
    check(|| call(libc::SYS_mount, [0, pointer(c"/".as_ptr()), 0, 0]), &Killed);
    check(|| call(libc::SYS_umount2, [pointer(c"/".as_ptr())]), &Killed);
    check(|| call(libc::SYS_fsopen, [pointer(c"tmpfs".as_ptr())]), &Killed);
    check(|| call(libc::SYS_move_mount, [-1]), &Killed);
    check(|| call(libc::SYS_pivot_root, []), &Killed);
    check(|| call(libc::SYS_finit_module, [-1]), &Killed);
    check(|| call(libc::SYS_delete_module, []), &Killed);
    check(|| call(libc::SYS_keyctl, [KEYCTL_GET_KEYRING_ID, -3]), &Killed);
    check(|| call(libc::SYS_add_key, []), &Killed);
    let none = [0_u64; 16];
    let load = || call(libc::SYS_bpf, [BPF_PROG_LOAD, pointer(none.as_ptr()), 128]);
    check(load, &Killed);
}

#[test]
fn other_calls_fail_and_the_process_goes_on() {
    const BPF_MAP_LOOKUP_ELEM: c_long = 1;
    const BPF_MAP_UPDATE_ELEM: c_long = 2;
    let denied = &Failed(Errno::EPERM);
    let parent: c_long = std::process::id().into();
    check(|| call(libc::SYS_kill, [parent, 0]), denied);
    check(|| call(libc::SYS_pidfd_open, [parent]), denied);
    check(|| call(libc::SYS_unshare, [c_long::from(libc::CLONE_NEWUSER)]), denied);
    check(|| call(libc::SYS_io_uring_setup, [1]), denied);
    check(|| call(libc::SYS_seccomp, [0]), denied);
    check(|| call(libc::SYS_memfd_create, [pointer(c"".as_ptr())]), denied);
    let none = [0_u64; 16];
    check(|| call(libc::SYS_bpf, [BPF_MAP_LOOKUP_ELEM, pointer(none.as_ptr()), 128]), denied);
    // The command that the exporter needs reaches the kernel, which knows no map with this descriptor.
    let map = [u64::from(u32::MAX), 0, 0, 0];
    let update = || call(libc::SYS_bpf, [BPF_MAP_UPDATE_ELEM, pointer(map.as_ptr()), 32]);
    check(update, &Failed(Errno::EBADF));
    check(|| call(libc::SYS_clone3, []), &Failed(Errno::ENOSYS));
    check(|| call(10_000, []), &Failed(Errno::ENOSYS));
}

#[test]
fn nothing_is_written_created_or_removed_and_everything_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let (old, new) = (directory.join("old"), directory.join("new"));
    fs::write(&old, "text").unwrap();
    let read = || {
        let is_whole = fs::read_to_string(&old)? == "text" && fs::read_dir(directory)?.count() == 1;
        if is_whole { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    };
    check(read, &Succeeded);
    let attempts: [&dyn Fn() -> io::Result<()>; 8] = [
        &|| fs::write(&old, "other"),
        &|| fs::File::options().append(true).open(&old).map(drop),
        &|| fs::write(&new, ""),
        &|| fs::remove_file(&old),
        &|| fs::rename(&old, &new),
        &|| fs::create_dir(&new),
        &|| fs::hard_link(&old, &new),
        &|| std::os::unix::net::UnixListener::bind(&new).map(drop),
    ];
    for denied in attempts {
        check(denied, &Failed(Errno::EPERM));
    }
    assert_eq!(fs::read_to_string(&old).unwrap(), "text");
    assert!(!new.exists());
}

#[test]
fn the_file_of_a_socket_can_be_removed_and_none_elsewhere() {
    let [here, elsewhere] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let removable = [here.path().to_owned()];
    let files = [&here, &elsewhere].map(|directory| directory.path().join("socket"));
    for file in &files {
        fs::write(file, "").unwrap();
    }
    assert_eq!(attempt(&removable, || fs::remove_file(&files[0])), Succeeded);
    // The filter permits it, and only Landlock does not.
    let is_kept = has_landlock();
    let expected = if is_kept { Failed(Errno::EACCES) } else { Succeeded };
    assert_eq!(attempt(&removable, || fs::remove_file(&files[1])), expected);
    assert_eq!(files.map(|file| file.exists()), [false, is_kept]);
}

#[test]
fn threads_work_and_are_confined_too() {
    let thread = || {
        let worker = thread::Builder::new().name("worker".to_owned());
        let worker = worker.spawn(|| call(libc::SYS_kill, [1, 0]))?;
        worker.join().unwrap()
    };
    check(thread, &Failed(Errno::EPERM));
}

#[test]
fn the_exporter_can_do_what_it_does_while_it_serves() {
    use std::net::{TcpListener, TcpStream, ToSocketAddrs as _};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let sockets = || {
        let client = TcpStream::connect(address)?;
        let (server, _) = listener.accept()?;
        server.set_nonblocking(true)?;
        client.set_nodelay(true)?;
        drop((client, server));
        Ok(())
    };
    check(sockets, &Succeeded);
    check(|| ("localhost", 1).to_socket_addrs().map(drop), &Succeeded);
    let reactor = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build()?;
        runtime.block_on(async {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            tokio::net::TcpStream::connect(address).await.map(drop)
        })
    };
    check(reactor, &Succeeded);
    check(|| fs::canonicalize("/proc/self").map(drop), &Succeeded);
    // SAFETY: an anonymous mapping of its own.
    let memory = || match unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        libc::mmap(null_mut(), 4096, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    } {
        libc::MAP_FAILED => Err(io::Error::last_os_error()),
        _ => Ok(()),
    };
    check(memory, &Succeeded);
}

#[test]
fn abort_still_ends_the_process() {
    // SAFETY: as above; the child aborts.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => {
            let ended = waitpid(child, None).unwrap();
            let is_abort =
                matches!(ended, WaitStatus::Signaled(_, nix::sys::signal::Signal::SIGABRT, _));
            assert!(is_abort, "{ended:?}");
        }
        ForkResult::Child => {
            privileges::confine(&[]);
            std::process::abort();
        }
    }
}
