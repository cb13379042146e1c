//! Makes a map read-only for user space, which aya does only for globals.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

/// A command of bpf(2), since Linux 5.2.
/// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/bpf.h#L912>
const BPF_MAP_FREEZE: libc::c_long = 22;

/// Forbids user space to write a map, for good: through this and every other descriptor, whatever the
/// rights of the caller. Kernel programs still write it. The flag `BPF_F_RDONLY` would do so only for the
/// descriptor that creates the map, and not for one that is opened later by the map's number.
/// <https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/syscall.c>, `map_freeze`, `map_get_sys_perms`.
pub(super) fn freeze(map: BorrowedFd<'_>) -> io::Result<()> {
    // The first field of `union bpf_attr`; the kernel takes what is missing for zeros.
    let attr = map.as_raw_fd();
    // SAFETY: the kernel reads as many bytes as the last argument says.
    let failed = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_MAP_FREEZE, &raw const attr, size_of_val(&attr)) != 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}
