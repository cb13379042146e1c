//! Which system calls the serving exporter makes, and what happens to all others.
//!
//! A filter has one action for the calls on its list and one for the rest. So there are two, of which the second
//! begins with instructions of its own. The kernel runs both, and takes the more severe action:
//!
//! | calls | action |
//! |---|---|
//! | [`FATAL`], bpf(2) except for elements of maps, other architectures | kill the process |
//! | newer than [`NEWEST`], clone3(2) | fail with `ENOSYS` |
//! | [`PERMITTED`], and those that [`permitted`] checks | make the call |
//! | all others | fail with `EPERM` |
//!
//! A call is fatal only if no library makes it, even rarely: it means that someone else runs code here. Whatever
//! else is not needed fails, since the counts should survive a rare path that nobody foresaw. On `ENOSYS`, libc
//! falls back to an older call.
//! <https://github.com/torvalds/linux/blob/v6.12/kernel/seccomp.c>, `seccomp_run_filters`.

use std::{collections::BTreeMap, env, process};

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JGT, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, ENOSYS, EPERM, c_int, c_long,
};
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, sock_filter,
};

use super::refusal;
use crate::os::log;

/// Calls that kill the process, besides bpf(2).
#[rustfmt::skip]
const FATAL: &[c_long] = &[
    // Other programs.
    libc::SYS_execve, libc::SYS_execveat,
    // The memory of other processes.
    libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev,
    // Mounts and roots.
    libc::SYS_mount, libc::SYS_umount2, libc::SYS_pivot_root, libc::SYS_chroot,
    libc::SYS_move_mount, libc::SYS_open_tree, OPEN_TREE_ATTR, libc::SYS_mount_setattr,
    libc::SYS_fsopen, libc::SYS_fsconfig, libc::SYS_fsmount, libc::SYS_fspick,
    // Kernel modules.
    libc::SYS_init_module, libc::SYS_finit_module, libc::SYS_delete_module,
    // Keyrings.
    libc::SYS_add_key, libc::SYS_request_key, libc::SYS_keyctl,
];

/// Since Linux 6.15; not in the crate libc.
/// <https://github.com/torvalds/linux/blob/v6.15/scripts/syscall.tbl>
const OPEN_TREE_ATTR: c_long = 467;

/// The newest call that is known here. All architectures use the same numbers since Linux 5.1.
const NEWEST: u32 = 467;

/// Calls that are permitted whatever their arguments.
#[rustfmt::skip]
const PERMITTED: &[c_long] = &[
    // Files and directories.
    libc::SYS_read, libc::SYS_readv, libc::SYS_pread64, libc::SYS_preadv, libc::SYS_lseek,
    libc::SYS_write, libc::SYS_writev, libc::SYS_close, libc::SYS_fcntl, libc::SYS_dup,
    libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_statfs, libc::SYS_fstatfs,
    libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_readlinkat, libc::SYS_getdents64, libc::SYS_getcwd,
    // Changes of files.
    libc::SYS_inotify_init1, libc::SYS_inotify_add_watch, libc::SYS_inotify_rm_watch,
    // The reactor.
    libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2,
    libc::SYS_ppoll, libc::SYS_pselect6, libc::SYS_eventfd2, libc::SYS_pipe2,
    libc::SYS_timerfd_create, libc::SYS_timerfd_settime, libc::SYS_timerfd_gettime,
    // Sockets that are open.
    libc::SYS_accept4, libc::SYS_connect, libc::SYS_shutdown,
    libc::SYS_sendto, libc::SYS_sendmsg, libc::SYS_sendmmsg,
    libc::SYS_recvfrom, libc::SYS_recvmsg, libc::SYS_recvmmsg,
    libc::SYS_getsockname, libc::SYS_getpeername, libc::SYS_getsockopt, libc::SYS_setsockopt,
    // Memory.
    libc::SYS_brk, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise, libc::SYS_membarrier,
    // Threads.
    libc::SYS_futex, libc::SYS_set_robust_list, libc::SYS_rseq, libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity, libc::SYS_sched_setaffinity, libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler, libc::SYS_exit, libc::SYS_exit_group,
    // Signals that the process handles.
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack, libc::SYS_restart_syscall,
    // Time.
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_clock_nanosleep, libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    // What the process and the machine are.
    libc::SYS_getpid, libc::SYS_getppid, libc::SYS_gettid,
    libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid, libc::SYS_getgroups,
    libc::SYS_getresuid, libc::SYS_getresgid, libc::SYS_capget,
    libc::SYS_getrusage, libc::SYS_times, libc::SYS_getcpu, libc::SYS_sysinfo, libc::SYS_uname,
    libc::SYS_getrandom,
];

/// Older forms of permitted calls, which newer architectures lack.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const PERMITTED_HERE: &[c_long] = &[
    libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_readlink,
    libc::SYS_poll, libc::SYS_select, libc::SYS_epoll_wait,
    libc::SYS_time, libc::SYS_getrlimit,
];
#[cfg(not(target_arch = "x86_64"))]
const PERMITTED_HERE: &[c_long] = &[];

/// The commands of bpf(2) that are not fatal: those that read and change the elements of maps.
/// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/bpf.h>, `enum bpf_cmd`.
const BPF_MAP_COMMANDS: [u32; 9] = [
    1, // BPF_MAP_LOOKUP_ELEM
    BPF_MAP_UPDATE_ELEM,
    3,  // BPF_MAP_DELETE_ELEM
    4,  // BPF_MAP_GET_NEXT_KEY
    21, // BPF_MAP_LOOKUP_AND_DELETE_ELEM
    24, // BPF_MAP_LOOKUP_BATCH
    25, // BPF_MAP_LOOKUP_AND_DELETE_BATCH
    26, // BPF_MAP_UPDATE_BATCH
    27, // BPF_MAP_DELETE_BATCH
];

/// The only command of bpf(2) that is permitted: it gives back the slots of removed cgroups.
const BPF_MAP_UPDATE_ELEM: u32 = 2;

/// Requests of ioctl(2): whether a descriptor is a terminal, how much can be read, whether it blocks, and
/// whether an exec closes it.
const IOCTLS: [u32; 4] = [0x5401, 0x541b, 0x5421, 0x5451];

/// Sockets to scrapers, runtimes, name servers, the Kubernetes API, metadata services and the service manager.
const SOCKET_FAMILIES: [c_int; 3] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];

/// How open(2) can change a file. `O_TMPFILE` includes writing.
const OPEN_TO_WRITE: c_int = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC;

/// What clone(2) must not do besides starting a thread: enter a new namespace.
const CLONE_NEW: c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// Filters the system calls of the calling thread, and of those that it starts from now on. `can_remove`
/// permits removing files. Returns why it is off if that fails.
pub(super) fn restrict(can_remove: bool) -> Result<String, String> {
    let filters = filters(can_remove).map_err(|error| log::chain(&error))?;
    for filter in &filters {
        seccompiler::apply_filter(filter).map_err(|error| match error {
            Error::Seccomp(error) | Error::Prctl(error) => refusal(&error),
            error => log::chain(&error),
        })?;
    }
    Ok(String::new())
}

/// The filters, in the order in which they must be installed: the second forbids installing another.
fn filters(can_remove: bool) -> Result<[BpfProgram; 2], BackendError> {
    let architecture = env::consts::ARCH.try_into()?;
    let fatal = SeccompFilter::new(
        fatal()?,
        SeccompAction::Allow,
        SeccompAction::KillProcess,
        architecture,
    )?;
    let permitted = SeccompFilter::new(
        permitted(can_remove)?,
        SeccompAction::Errno(EPERM.cast_unsigned()),
        SeccompAction::Allow,
        architecture,
    )?;
    let permitted: BpfProgram = permitted.try_into()?;
    Ok([fatal.try_into()?, [unknown(), permitted].concat()])
}

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// Calls without conditions.
fn unconditional(calls: impl IntoIterator<Item = c_long>) -> Rules {
    calls.into_iter().map(|call| (call, Vec::new())).collect()
}

/// The calls that are fatal, each under any of its rules.
fn fatal() -> Result<Rules, BackendError> {
    let mut rules = unconditional(FATAL.iter().copied());
    let others = BPF_MAP_COMMANDS.map(|command| argument(0, SeccompCmpOp::Ne, command));
    rules.insert(libc::SYS_bpf, vec![all(others)?]);
    Ok(rules)
}

/// The calls that are permitted, each under any of its rules.
fn permitted(can_remove: bool) -> Result<Rules, BackendError> {
    let mut rules = unconditional(PERMITTED.iter().chain(PERMITTED_HERE).copied());
    if can_remove {
        rules.extend(unconditional([libc::SYS_unlinkat]));
        #[cfg(target_arch = "x86_64")]
        rules.extend(unconditional([libc::SYS_unlink]));
    }
    // Only for reading.
    rules.insert(libc::SYS_openat, vec![without(2, OPEN_TO_WRITE)?]);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, vec![without(1, OPEN_TO_WRITE)?]);
    // Never for writing and executing at once, as with systemd's MemoryDenyWriteExecute=.
    let [write, execute] = [libc::PROT_WRITE, libc::PROT_EXEC];
    rules.insert(libc::SYS_mmap, vec![without(2, write)?, without(2, execute)?]);
    rules.insert(libc::SYS_mprotect, vec![without(2, execute)?]);
    // Only threads. The flags of clone3(2) are in memory, where filters cannot check them.
    rules.insert(
        libc::SYS_clone,
        vec![masked(0, libc::CLONE_THREAD | CLONE_NEW, libc::CLONE_THREAD)?],
    );
    // Only signals to this process, which abort(3) sends.
    rules.insert(libc::SYS_tgkill, vec![equal(0, process::id())?]);
    // Only reading limits.
    let new_limits = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0);
    rules.insert(libc::SYS_prlimit64, vec![all([new_limits])?]);
    let name = [libc::PR_SET_NAME, libc::PR_GET_NAME].map(c_int::cast_unsigned);
    rules.insert(libc::SYS_prctl, any_of(0, &name)?);
    rules.insert(libc::SYS_ioctl, any_of(1, &IOCTLS)?);
    let families = SOCKET_FAMILIES.map(c_int::cast_unsigned);
    rules.insert(libc::SYS_socket, any_of(0, &families)?);
    rules.insert(libc::SYS_socketpair, any_of(0, &families)?);
    rules.insert(libc::SYS_bpf, vec![equal(0, BPF_MAP_UPDATE_ELEM)?]);
    Ok(rules)
}

/// The beginning of a program that answers calls as a kernel does that lacks them. The crate compares the numbers
/// of calls only for equality.
fn unknown() -> BpfProgram {
    let instruction = |code: u32, jt, jf, k| {
        let code = u16::try_from(code).expect("the parts of a code are less than 256");
        sock_filter { code, jt, jf, k }
    };
    let clone3 = u32::try_from(libc::SYS_clone3).expect("numbers of calls are small");
    vec![
        // A = number: the first field of `struct seccomp_data`.
        instruction(BPF_LD | BPF_W | BPF_ABS, 0, 0, 0),
        // if A > NEWEST, skip 1
        instruction(BPF_JMP | BPF_JGT | BPF_K, 1, 0, NEWEST),
        // if A != clone3, skip 1
        instruction(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, clone3),
        instruction(BPF_RET | BPF_K, 0, 0, SeccompAction::Errno(ENOSYS.cast_unsigned()).into()),
    ]
}

/// A condition on the lower 32 bits of an argument; the kernel ignores the others of an `int`.
fn argument(
    index: u8,
    operator: SeccompCmpOp,
    value: u32,
) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value.into())
}

/// A rule that all conditions must meet.
fn all<const N: usize>(
    conditions: [Result<SeccompCondition, BackendError>; N],
) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?)
}

/// The argument has this value.
fn equal(index: u8, value: u32) -> Result<SeccompRule, BackendError> {
    all([argument(index, SeccompCmpOp::Eq, value)])
}

/// The argument has this value in these bits.
fn masked(index: u8, mask: c_int, value: c_int) -> Result<SeccompRule, BackendError> {
    let operator = SeccompCmpOp::MaskedEq(mask.cast_unsigned().into());
    all([argument(index, operator, value.cast_unsigned())])
}

/// The argument has none of these bits.
fn without(index: u8, bits: c_int) -> Result<SeccompRule, BackendError> {
    masked(index, bits, 0)
}

/// One rule for each value that the argument may have.
fn any_of(index: u8, values: &[u32]) -> Result<Vec<SeccompRule>, BackendError> {
    values.iter().map(|value| equal(index, *value)).collect()
}

#[cfg(test)]
mod tests;
