//! Commands of bpf(2) that aya lacks, or whose results it does not check.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// Commands, by their numbers; freezing is there since Linux 5.2.
/// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/bpf.h#L890>
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_MAP_FREEZE: libc::c_long = 22;

/// The beginning of `union bpf_attr` for pins. The kernel takes what is missing for zeros.
/// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/bpf.h#L1485>
#[repr(C)]
struct PinAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// What a descriptor of the BPF filesystem refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Map,
    Link,
    Other,
}

/// Forbids user space to write a map, for good: through this and every other descriptor, whatever the
/// rights of the caller. Kernel programs still write it. The flag `BPF_F_RDONLY` would do so only for the
/// descriptor that creates the map, and not for one that is opened later by the map's number.
/// <https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/syscall.c>, `map_freeze`, `map_get_sys_perms`.
pub(super) fn freeze(map: BorrowedFd<'_>) -> io::Result<()> {
    // The first field of `union bpf_attr`.
    bpf(BPF_MAP_FREEZE, &map.as_raw_fd()).map(drop)
}

/// Opens a pinned object, and says what it is.
pub(super) fn open_pin(path: &Path) -> io::Result<(OwnedFd, Kind)> {
    let pathname = c_path(path)?;
    let attr = PinAttr { pathname: address(&pathname), bpf_fd: 0, file_flags: 0 };
    let object = owned(bpf(BPF_OBJ_GET, &attr)?);
    let target = fs::read_link(format!("/proc/self/fd/{}", object.as_raw_fd()))?;
    let kind = match target.as_os_str().as_bytes() {
        b"anon_inode:bpf-map" => Kind::Map,
        b"anon_inode:bpf_link" | b"anon_inode:bpf-link" => Kind::Link,
        _ => Kind::Other,
    };
    Ok((object, kind))
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

fn address(path: &CString) -> u64 {
    path.as_ptr().addr() as u64
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just opened the descriptor for this call.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Calls bpf(2). A new descriptor closes on exec.
fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<RawFd> {
    // SAFETY: the kernel reads as many bytes as the last argument says.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attr, size_of::<T>()) };
    match RawFd::try_from(result) {
        Ok(result @ 0..) => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}
