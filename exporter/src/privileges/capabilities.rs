//! The capabilities of this process: raised to load the kernel program, set aside to read files, and then
//! dropped. Loading and attaching the kernel program needs capabilities; reading it needs none. Giving back
//! slots of cgroups needs none since Linux 5.19.

use std::{fs, io, thread, time::Duration};

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};
use nix::sys::prctl::set_no_new_privs;

/// The capabilities for loading and attaching the kernel program: the first two together, or the last.
const LOADING: [Capability; 3] =
    [Capability::CAP_BPF, Capability::CAP_PERFMON, Capability::CAP_SYS_ADMIN];

/// Writing maps may need one of these. Up to Linux 5.18, if `kernel.unprivileged_bpf_disabled` is set,
/// all of bpf(2) is forbidden without one.
/// <https://github.com/torvalds/linux/blob/v5.18/kernel/bpf/syscall.c#L4867>
const WRITING: [Capability; 2] = [Capability::CAP_BPF, Capability::CAP_SYS_ADMIN];

/// The directory with one entry per thread of this process.
const THREADS: &str = "/proc/self/task";

/// How often, each a millisecond later, to look again for threads that have been joined: the kernel lists
/// a thread for a moment after its end is known.
const THREAD_CHECKS: u32 = 1_000;

/// The error when capabilities cannot be dropped.
#[derive(Debug, thiserror::Error)]
pub enum DropError<E> {
    /// The threads of this process cannot be counted.
    #[error("dropping capabilities: reading `{THREADS}`")]
    CountThreads(#[source] io::Error),
    /// Other threads are running, which would keep their capabilities.
    #[error("dropping capabilities: {0} threads are running; there must be only one")]
    Threads(usize),
    /// The kernel refused to drop capabilities.
    #[error("cannot drop capabilities; start with --privileges.keep to keep them")]
    Refused(#[from] CapsError),
    /// The kernel refused to set `no_new_privs`.
    #[error("cannot set no_new_privs; start with --privileges.keep to do without it")]
    NoNewPrivs(#[source] nix::Error),
    /// `probe` failed with and without the capability that it may need.
    #[error("cannot access a BPF map after dropping capabilities")]
    Probe(#[source] E),
}

/// Makes the capabilities for loading the kernel program effective, if this thread is permitted to. They are
/// permitted but not effective if they come from the executable file, as in the container image.
pub fn raise() -> Result<(), CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    for capability in LOADING {
        if permitted.contains(&capability) {
            caps::raise(None, CapSet::Effective, capability)?;
        }
    }
    Ok(())
}

/// Calls `f` without effective capabilities, so that it reads only what it could read after [`drop`].
pub fn without<T>(f: impl FnOnce() -> T) -> Result<T, CapsError> {
    let effective = caps::read(None, CapSet::Effective)?;
    caps::clear(None, CapSet::Effective)?;
    let result = f();
    caps::set(None, CapSet::Effective, &effective)?;
    Ok(result)
}

/// Drops every capability for good, and every way to regain one. If `probe` fails without a capability,
/// keeps that one and returns it. Threads started later inherit the result. The bounding set stays if
/// `CAP_SETPCAP`, which emptying it needs, is missing: it grants nothing under `no_new_privs`.
///
/// Capabilities are per thread: fails if other threads are running.
pub fn drop<E>(
    mut probe: impl FnMut() -> Result<(), E>,
) -> Result<Option<Capability>, DropError<E>> {
    alone()?;
    set_no_new_privs().map_err(DropError::NoNewPrivs)?;
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        caps::clear(None, CapSet::Bounding)?;
    }
    let permitted = caps::read(None, CapSet::Permitted)?;
    let needed = WRITING.into_iter().find(|capability| permitted.contains(capability));
    // Permitted but not effective: `probe` runs without it, and it can still be raised.
    let kept: CapsHashSet = needed.into_iter().collect();
    caps::clear(None, CapSet::Effective)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    if probe().is_ok() {
        caps::clear(None, CapSet::Permitted)?;
        return Ok(None);
    }
    caps::set(None, CapSet::Effective, &kept)?;
    probe().map_err(DropError::Probe)?;
    Ok(needed)
}

/// Waits until this is the only thread.
fn alone<E>() -> Result<(), DropError<E>> {
    let count = || fs::read_dir(THREADS).map(Iterator::count).map_err(DropError::CountThreads);
    let mut threads = count()?;
    for _ in 0..THREAD_CHECKS {
        if threads == 1 {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(1));
        threads = count()?;
    }
    Err(DropError::Threads(threads))
}

/// The capabilities for loading the kernel program, and whether the calling thread has each of them.
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
            DropError::Probe(io::ErrorKind::PermissionDenied.into()),
        ];
        let expected = [
            "cannot drop capabilities; start with --privileges.keep to keep them: \
             caps error: EPERM",
            "cannot set no_new_privs; start with --privileges.keep to do without it: \
             EINVAL: Invalid argument",
            "cannot access a BPF map after dropping capabilities: permission denied",
        ];
        assert_eq!(errors.map(|error| chain(&error)), expected);
    }
}
