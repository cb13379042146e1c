//! What the process may do. Loading and attaching the kernel program takes capabilities, reading its
//! map takes none, but before Linux 5.19.

use std::{fs, io};

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};
use nix::sys::prctl::set_no_new_privs;

/// The capabilities that bring the kernel program to work: the first two, or the last for both.
const LOADING: [Capability; 3] =
    [Capability::CAP_BPF, Capability::CAP_PERFMON, Capability::CAP_SYS_ADMIN];

/// Those of which one may be needed to read maps. Up to Linux 5.18, the whole of bpf(2) is closed to
/// those without where `kernel.unprivileged_bpf_disabled` is set.
/// <https://github.com/torvalds/linux/blob/v5.18/kernel/bpf/syscall.c#L4867>
const READING: [Capability; 2] = [Capability::CAP_BPF, Capability::CAP_SYS_ADMIN];

/// Where the kernel lists the threads of this process.
const THREADS: &str = "/proc/self/task";

/// Privileges could not be given up.
#[derive(Debug, thiserror::Error)]
pub enum DropError<E> {
    /// The threads of this process can't be counted.
    #[error("dropping capabilities: reading `{THREADS}`")]
    Unknown(#[source] io::Error),
    /// Other threads would keep theirs.
    #[error("dropping capabilities: {0} threads are running; there must be only one")]
    Threads(usize),
    /// The kernel refused.
    #[error("cannot drop capabilities; start with --privileges.keep to keep them")]
    Refused(#[from] CapsError),
    /// The kernel refused.
    #[error("cannot set no_new_privs; start with --privileges.keep to do without it")]
    NoNewPrivs(#[source] nix::Error),
    /// `read` failed with and without the capability that it may need.
    #[error("cannot read the map after dropping capabilities")]
    Read(#[source] E),
}

/// Gives up every capability for good, and all ways to new ones. Only one that `read` fails without is
/// kept; it is returned. Threads that are started from now on have no more. The bounding set, which
/// takes `CAP_SETPCAP` to empty, may stay: it grants nothing under `no_new_privs`.
///
/// Capabilities are a thread's: fails where there are others already.
pub fn drop<E>(
    mut read: impl FnMut() -> Result<(), E>,
) -> Result<Option<Capability>, DropError<E>> {
    match fs::read_dir(THREADS).map_err(DropError::Unknown)?.count() {
        1 => {}
        threads => return Err(DropError::Threads(threads)),
    }
    set_no_new_privs().map_err(DropError::NoNewPrivs)?;
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        caps::clear(None, CapSet::Bounding)?;
    }
    let permitted = caps::read(None, CapSet::Permitted)?;
    let needed = READING.into_iter().find(|capability| permitted.contains(capability));
    // What is permitted, though not in effect, can still be raised.
    let kept: CapsHashSet = needed.into_iter().collect();
    caps::clear(None, CapSet::Effective)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    if read().is_ok() {
        caps::clear(None, CapSet::Permitted)?;
        return Ok(None);
    }
    caps::set(None, CapSet::Effective, &kept)?;
    read().map_err(DropError::Read)?;
    Ok(needed)
}

/// Whether the calling thread has each of the capabilities that bring the kernel program to work.
pub fn kept() -> Result<[(String, bool); LOADING.len()], CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    Ok(LOADING.map(|capability| (capability.to_string(), permitted.contains(&capability))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::log::chain;

    #[test]
    fn chains_state_each_cause_once() {
        let errors: [DropError<io::Error>; 3] = [
            DropError::Refused("EPERM".into()),
            DropError::NoNewPrivs(nix::Error::EINVAL),
            DropError::Read(io::ErrorKind::PermissionDenied.into()),
        ];
        let expected = [
            "cannot drop capabilities; start with --privileges.keep to keep them: \
             caps error: EPERM",
            "cannot set no_new_privs; start with --privileges.keep to do without it: \
             EINVAL: Invalid argument",
            "cannot read the map after dropping capabilities: permission denied",
        ];
        assert_eq!(errors.map(|error| chain(&error)), expected);
    }
}
