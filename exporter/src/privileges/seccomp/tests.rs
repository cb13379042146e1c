//! Runs the filters on calls, as the kernel does, without installing them.

use std::collections::BTreeSet;

use super::*;

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Killed,
    Fails(c_int),
    Made,
}

use Outcome::{Fails, Killed, Made};

/// The architecture of a call, as the kernel passes it to a filter.
/// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/audit.h>
const NATIVE: u32 = if cfg!(target_arch = "aarch64") { 0xc000_00b7 } else { 0xc000_003e };
/// The 32-bit calls of the same machine: `AUDIT_ARCH_ARM` or `AUDIT_ARCH_I386`.
const COMPAT: u32 = if cfg!(target_arch = "aarch64") { 0x4000_0028 } else { 0x4000_0003 };

/// `struct seccomp_data`, in words.
fn data(call: c_long, architecture: u32, arguments: &[u64]) -> [u32; 16] {
    let mut data = [0; 16];
    data[0] = u32::try_from(call & 0xffff_ffff).unwrap();
    data[1] = architecture;
    for (index, argument) in arguments.iter().enumerate() {
        data[4 + 2 * index] = u32::try_from(argument & 0xffff_ffff).unwrap();
        data[5 + 2 * index] = u32::try_from(argument >> 32).unwrap();
    }
    data
}

/// Runs a filter: the part of classic BPF that filters of seccomp use.
/// <https://www.kernel.org/doc/html/v6.12/networking/filter.html#bpf-engine-and-instruction-set>
fn run(filter: &BpfProgram, data: &[u32; 16]) -> u32 {
    const LOAD: u16 = 0x20;
    const AND: u16 = 0x54;
    const RETURN: u16 = 0x06;
    const JUMP: u16 = 0x05;
    let (mut at, mut register) = (0, 0_u32);
    loop {
        let sock_filter { code, jt, jf, k } = filter[at];
        at += 1;
        let holds = match code {
            LOAD => {
                register = data[k as usize / 4];
                continue;
            }
            AND => {
                register &= k;
                continue;
            }
            JUMP => {
                at += k as usize;
                continue;
            }
            RETURN => return k,
            0x15 => register == k,
            0x25 => register > k,
            0x35 => register >= k,
            other => panic!("instruction {other:#x}"),
        };
        at += usize::from(if holds { jt } else { jf });
    }
}

/// What the filters, together, do to a call.
fn outcome_on(
    filters: &[BpfProgram],
    call: c_long,
    architecture: u32,
    arguments: &[u64],
) -> Outcome {
    const ACTION: u32 = 0xffff_0000;
    let data = data(call, architecture, arguments);
    // The kernel compares actions as signed numbers.
    let mut severest = libc::SECCOMP_RET_ALLOW;
    for filter in filters {
        let result = run(filter, &data);
        if (result & ACTION).cast_signed() < (severest & ACTION).cast_signed() {
            severest = result;
        }
    }
    match severest & ACTION {
        libc::SECCOMP_RET_ALLOW => Made,
        libc::SECCOMP_RET_ERRNO => Fails((severest & !ACTION).cast_signed()),
        libc::SECCOMP_RET_KILL_PROCESS => Killed,
        other => panic!("action {other:#x}"),
    }
}

#[track_caller]
fn check(call: c_long, arguments: &[u64], expected: Outcome) {
    for can_remove in [false, true] {
        let filters = filters(can_remove).unwrap();
        let outcome = outcome_on(&filters, call, NATIVE, arguments);
        assert_eq!(outcome, expected, "call {call} with {arguments:x?}");
    }
}

/// A flag as an argument, with bits set that the kernel ignores in an `int`.
fn int(value: c_int) -> u64 {
    0xdead_beef_0000_0000 | u64::from(value.cast_unsigned())
}

#[test]
fn what_only_an_attacker_calls_is_fatal() {
    for call in FATAL {
        check(*call, &[], Killed);
        check(*call, &[u64::MAX; 6], Killed);
    }
}

#[test]
fn no_call_is_both_fatal_and_permitted() {
    let fatal: BTreeSet<_> = FATAL.iter().collect();
    let permitted: BTreeSet<_> = PERMITTED.iter().chain(PERMITTED_HERE).collect();
    assert_eq!(fatal.intersection(&permitted).count(), 0);
    assert_eq!(permitted.len(), PERMITTED.len() + PERMITTED_HERE.len(), "a call is listed twice");
    for call in permitted {
        check(*call, &[], Made);
        check(*call, &[u64::MAX; 6], Made);
    }
}

#[test]
fn of_bpf_only_the_elements_of_maps_can_be_changed() {
    const BPF_MAP_CREATE: c_int = 0;
    const BPF_PROG_LOAD: c_int = 5;
    const BPF_MAP_FREEZE: c_int = 22;
    const BPF_LINK_CREATE: c_int = 28;
    check(libc::SYS_bpf, &[int(BPF_MAP_UPDATE_ELEM.cast_signed())], Made);
    for command in [1, 3, 4, 21, 24, 25, 26, 27] {
        check(libc::SYS_bpf, &[int(command)], Fails(EPERM));
    }
    for command in [BPF_MAP_CREATE, BPF_PROG_LOAD, BPF_MAP_FREEZE, BPF_LINK_CREATE, -1, 10_000] {
        check(libc::SYS_bpf, &[int(command)], Killed);
    }
}

#[test]
fn calls_that_are_not_listed_fail() {
    for call in [
        libc::SYS_kill,
        libc::SYS_tkill,
        libc::SYS_pidfd_open,
        libc::SYS_pidfd_getfd,
        libc::SYS_pidfd_send_signal,
        libc::SYS_bind,
        libc::SYS_listen,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_setuid,
        libc::SYS_capset,
        libc::SYS_seccomp,
        libc::SYS_perf_event_open,
        libc::SYS_io_uring_setup,
        libc::SYS_userfaultfd,
        libc::SYS_memfd_create,
        libc::SYS_openat2,
        libc::SYS_mkdirat,
        libc::SYS_renameat2,
        libc::SYS_linkat,
        libc::SYS_symlinkat,
        libc::SYS_truncate,
        libc::SYS_ftruncate,
        libc::SYS_fchmod,
        libc::SYS_fchownat,
        libc::SYS_kexec_load,
        libc::SYS_reboot,
        libc::SYS_settimeofday,
        // The newest that is known here may not be listed, and older numbers may be unused.
        i64::from(NEWEST) - 1,
        400,
    ] {
        check(call, &[], Fails(EPERM));
    }
}

#[test]
fn files_can_be_removed_only_if_the_exporter_made_one() {
    for (can_remove, expected) in [(false, Fails(EPERM)), (true, Made)] {
        let filters = filters(can_remove).unwrap();
        let outcome = |call| outcome_on(&filters, call, NATIVE, &[]);
        assert_eq!(outcome(libc::SYS_unlinkat), expected);
        #[cfg(target_arch = "x86_64")]
        assert_eq!(outcome(libc::SYS_unlink), expected);
    }
}

#[test]
fn newer_calls_do_not_exist() {
    let newest = i64::from(NEWEST);
    for call in [newest + 1, newest + 100, 0x7fff_ffff, -1, libc::SYS_clone3] {
        check(call, &[], Fails(ENOSYS));
    }
}

#[test]
fn calls_of_other_architectures_are_refused() {
    let filters = filters(true).unwrap();
    for call in [0, 1, 11, 364, 1_000] {
        assert_eq!(outcome_on(&filters, call, COMPAT, &[]), Killed, "{call}");
    }
    // Those of x32 have a bit of their own: as on a kernel without them.
    #[cfg(target_arch = "x86_64")]
    for call in [libc::SYS_read, libc::SYS_execve, 520] {
        check(0x4000_0000 + call, &[], Fails(ENOSYS));
    }
}

#[test]
fn files_are_opened_only_for_reading() {
    let check = |flags: c_int, expected| {
        super::tests::check(libc::SYS_openat, &[int(libc::AT_FDCWD), 1, int(flags)], expected);
        #[cfg(target_arch = "x86_64")]
        super::tests::check(libc::SYS_open, &[1, int(flags)], expected);
    };
    for flags in [0, libc::O_CLOEXEC | libc::O_NONBLOCK, libc::O_DIRECTORY, libc::O_PATH] {
        check(flags | libc::O_RDONLY, Made);
    }
    for flags in [
        libc::O_WRONLY,
        libc::O_RDWR | libc::O_CLOEXEC,
        libc::O_CREAT,
        libc::O_TRUNC,
        libc::O_TMPFILE | libc::O_RDWR,
    ] {
        check(flags, Fails(EPERM));
    }
}

#[test]
fn memory_is_never_writable_and_executable() {
    use libc::{PROT_EXEC, PROT_NONE, PROT_READ, PROT_WRITE};
    for (protection, mapped, changed) in [
        (PROT_NONE, Made, Made),
        (PROT_READ | PROT_WRITE, Made, Made),
        // Shared libraries.
        (PROT_READ | PROT_EXEC, Made, Fails(EPERM)),
        (PROT_READ | PROT_WRITE | PROT_EXEC, Fails(EPERM), Fails(EPERM)),
    ] {
        check(libc::SYS_mmap, &[0, 4096, int(protection)], mapped);
        check(libc::SYS_mprotect, &[0, 4096, int(protection)], changed);
    }
}

#[test]
fn threads_start_and_processes_do_not() {
    let thread = libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND | libc::CLONE_SETTLS;
    check(libc::SYS_clone, &[int(thread)], Made);
    check(libc::SYS_clone, &[int(libc::SIGCHLD)], Fails(EPERM));
    check(libc::SYS_clone, &[int(thread | libc::CLONE_NEWUSER)], Fails(EPERM));
    check(libc::SYS_clone, &[int(thread | libc::CLONE_NEWNET)], Fails(EPERM));
    #[cfg(target_arch = "x86_64")]
    for call in [libc::SYS_fork, libc::SYS_vfork] {
        check(call, &[], Fails(EPERM));
    }
}

#[test]
fn signals_reach_only_this_process() {
    check(libc::SYS_tgkill, &[process::id().into(), 1, 6], Made);
    check(libc::SYS_tgkill, &[1, 1, 6], Fails(EPERM));
}

#[test]
fn limits_can_be_read_but_not_set() {
    check(libc::SYS_prlimit64, &[0, 7, 0, 1], Made);
    check(libc::SYS_prlimit64, &[0, 7, 1 << 40, 0], Fails(EPERM));
    check(libc::SYS_prctl, &[int(libc::PR_SET_NAME)], Made);
    check(libc::SYS_prctl, &[int(libc::PR_SET_DUMPABLE), 1], Fails(EPERM));
}

#[test]
fn sockets_are_only_of_the_families_that_the_exporter_speaks() {
    for family in SOCKET_FAMILIES {
        check(libc::SYS_socket, &[int(family)], Made);
    }
    for family in [libc::AF_NETLINK, libc::AF_PACKET, libc::AF_VSOCK, libc::AF_ALG] {
        check(libc::SYS_socket, &[int(family)], Fails(EPERM));
    }
}

#[test]
fn terminals_cannot_be_driven() {
    check(libc::SYS_ioctl, &[2, libc::TCGETS], Made);
    check(libc::SYS_ioctl, &[2, libc::FIONBIO], Made);
    check(libc::SYS_ioctl, &[2, libc::TIOCSTI], Fails(EPERM));
}
