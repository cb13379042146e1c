//! The errors of loading and reading the kernel program.

use std::{io, path::PathBuf};

use aya::{
    maps::MapError,
    pin::PinError as BpfPinError,
    programs::{ProgramError, links::LinkError},
};
use sched_exporter_ebpf::{CGROUP_FREE, Global, HANDOVER, HOOK, MAP};

use crate::{
    cpu::list::CpuListError,
    kernel::{pins::PinError, state::StateError},
};

/// The kernel program could not be loaded or attached.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// aya cannot read the kernel's BTF.
    #[error("reading the kernel's BTF")]
    Btf(#[source] aya::BtfError),
    /// The object is invalid, or the kernel refused its maps.
    #[error("loading the BPF object")]
    Object(#[source] aya::EbpfError),
    /// The kernel refused a program.
    #[error("loading program `{hook}` for hook `tp_btf/{hook}`: bpf(BPF_PROG_LOAD)")]
    Refused {
        /// The name of the program and its hook.
        hook: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The kernel's verifier rejected a program, which does not fit this kernel.
    #[error(
        "loading program `{hook}` for hook `tp_btf/{hook}`: the verifier rejects it: {verdict}; \
         --log.level=debug logs all of its output"
    )]
    Rejected {
        /// The name of the program and its hook.
        hook: &'static str,
        /// The last line of the verifier's log.
        verdict: String,
    },
    /// aya could not load a program.
    #[error("loading program `{hook}` for hook `tp_btf/{hook}`")]
    Load {
        /// The name of the program and its hook.
        hook: &'static str,
        /// aya's reason.
        source: ProgramError,
    },
    /// A program could not be attached.
    #[error("attaching program `{hook}` to hook `tp_btf/{hook}`")]
    Attach {
        /// The name of the program and its hook.
        hook: &'static str,
        /// aya's reason.
        source: ProgramError,
    },
    /// The object lacks a part: it was not built for this binary.
    #[error("the BPF object has no {0}")]
    Incomplete(&'static str),
    /// The object lacks the placeholders of these constants: it was not built for this binary.
    #[error("the BPF object has no placeholder for {0:?}")]
    Constants(Vec<Global>),
    /// A map cannot be mapped into memory.
    #[error("mmap of map `{map}`")]
    Map {
        /// Its name.
        map: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The slots for cgroups cannot be made free.
    #[error("writing map `{CGROUP_FREE}`")]
    Slots(#[source] MapError),
    /// A ring buffer cannot be opened.
    #[error("opening map `{map}`")]
    RingBuffer {
        /// Its name.
        map: &'static str,
        /// The kernel's reason.
        source: MapError,
    },
    /// A map cannot be made read-only for user space.
    #[error("freezing map `{map}`: bpf(BPF_MAP_FREEZE)")]
    Freeze {
        /// Its name.
        map: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The kernel does not describe a map.
    #[error("asking about map `{map}`: bpf(BPF_OBJ_GET_INFO_BY_FD)")]
    Info {
        /// Its name.
        map: &'static str,
        /// The kernel's reason.
        source: MapError,
    },
    /// The kernel does not describe a link.
    #[error("asking about the link to hook `{hook}`: bpf(BPF_OBJ_GET_INFO_BY_FD)")]
    LinkInfo {
        /// The name of the hook.
        hook: &'static str,
        /// The kernel's reason.
        source: LinkError,
    },
    /// A link cannot be pinned.
    #[error("pinning `{}`", path.display())]
    Pin {
        /// The path of the pin.
        path: PathBuf,
        /// The kernel's reason.
        source: BpfPinError,
    },
    /// Two versions of the program cannot be told of each other.
    #[error("writing map `{HANDOVER}`")]
    Handover(#[source] MapError),
    /// Pins cannot be used.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// What is pinned cannot be noted.
    #[error("saving what is pinned")]
    State(#[source] StateError),
    /// The ring buffer of the program's log cannot be opened.
    #[error("opening the log of program `{HOOK}`")]
    Log(#[source] io::Error),
    /// The CPUs of this machine cannot be listed.
    #[error(transparent)]
    Cpus(#[from] CpuListError),
    /// The clock cannot be read.
    #[error("clock_gettime(CLOCK_MONOTONIC)")]
    Clock(#[source] nix::Error),
}

impl LoadError {
    /// Whether the kernel refused for lack of privileges, other than those of a pin.
    pub fn is_permission(&self) -> bool {
        if matches!(self, Self::Pins(error) if !matches!(error, PinError::State(_))) {
            return false;
        }
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<io::Error>() {
                return io.kind() == io::ErrorKind::PermissionDenied;
            }
            cause = error.source();
        }
        false
    }
}

/// No snapshot could be taken.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The record of one CPU was torn at every attempt.
    #[error("record of CPU {cpu} in map `{MAP}` was torn {attempts} times in a row")]
    Torn {
        /// The CPU.
        cpu: u32,
        /// Number of attempts.
        attempts: u32,
    },
    /// The online CPUs cannot be listed.
    #[error(transparent)]
    Cpus(#[from] CpuListError),
    /// The clock cannot be read.
    #[error("clock_gettime(CLOCK_MONOTONIC)")]
    Clock(#[from] nix::Error),
    /// This process and the kernel program use different `CLOCK_MONOTONIC`s.
    #[error(
        "this process runs in a time namespace, so its CLOCK_MONOTONIC differs from the kernel's; \
         start it in the host's time namespace"
    )]
    OtherClock,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::log::chain;

    fn denied() -> io::Error {
        io::ErrorKind::PermissionDenied.into()
    }

    #[test]
    fn chains_state_each_cause_once() {
        let error = LoadError::Refused { hook: HOOK, source: denied() };
        let expected = "loading program `sched_switch` for hook `tp_btf/sched_switch`: \
                        bpf(BPF_PROG_LOAD): permission denied";
        assert_eq!(chain(&error), expected);
        assert!(error.is_permission());
        let create = |errno| MapError::CreateError {
            name: "a".to_owned(),
            io_error: io::Error::from_raw_os_error(errno),
        };
        let error = LoadError::Pins(PinError::State(create(libc::EPERM)));
        assert!(error.is_permission());
        let path = "/sys/fs/bpf/a".into();
        let error = PinError::Io { action: "open", path, source: denied() };
        assert!(!LoadError::Pins(error).is_permission());
        let error = LoadError::Clock(nix::Error::EINVAL);
        let expected = "clock_gettime(CLOCK_MONOTONIC): EINVAL: Invalid argument";
        assert_eq!(chain(&error), expected);
        let error = LoadError::Map { map: MAP, source: denied() };
        assert_eq!(chain(&error), "mmap of map `CPU`: permission denied");
        let error = ReadError::Clock(nix::Error::EINVAL);
        assert_eq!(chain(&error), expected);
    }

    #[test]
    fn a_rejected_program_is_not_a_lack_of_permission() {
        let error = LoadError::Rejected {
            hook: HOOK,
            verdict: "R1 invalid mem access 'scalar'".to_owned(),
        };
        assert!(!error.is_permission());
    }
}
