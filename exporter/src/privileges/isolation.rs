//! Keeps other processes of the same user out of this one.

use nix::sys::prctl::set_dumpable;

/// Forbids other processes without `CAP_SYS_PTRACE` to trace this one, to read or write its memory, and to
/// take its descriptors. The kernel also writes no core dump, and gives this process's entries in `/proc` to
/// root; a process may always read its own. The state lasts until an exec.
/// <https://man7.org/linux/man-pages/man2/PR_SET_DUMPABLE.2const.html>
pub fn isolate() -> nix::Result<()> {
    set_dumpable(false)
}
