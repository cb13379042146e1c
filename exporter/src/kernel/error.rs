//! The errors of loading and reading the kernel program.

use std::io;

use aya::{maps::MapError, programs::ProgramError};
use sched_exporter_ebpf::{HOOK, MAP};

use crate::cpu::list::CpuListError;

/// The kernel program could not be brought to work.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// aya can't read the kernel's BTF.
    #[error("reading the kernel's BTF")]
    Btf(#[source] aya::BtfError),
    /// The object or its maps were refused.
    #[error("loading the BPF object")]
    Object(#[source] aya::EbpfError),
    /// The kernel did not take the program.
    #[error("loading program `{HOOK}` for hook `tp_btf/{HOOK}`: bpf(BPF_PROG_LOAD)")]
    Refused(#[source] io::Error),
    /// The kernel's verifier found the program unsafe: it does not fit this kernel.
    #[error(
        "loading program `{HOOK}` for hook `tp_btf/{HOOK}`: the verifier rejects it: {0}; \
         --log.level=debug shows all that it says"
    )]
    Rejected(String),
    /// aya could not load the program.
    #[error("loading program `{HOOK}` for hook `tp_btf/{HOOK}`")]
    Load(#[source] ProgramError),
    /// The program could not be attached.
    #[error("attaching program `{HOOK}` to hook `tp_btf/{HOOK}`")]
    Attach(#[source] ProgramError),
    /// The object lacks a part: it isn't the one that this binary was written for.
    #[error("the BPF object has no {0}")]
    Incomplete(&'static str),
    /// The map can't be used.
    #[error("opening map `{MAP}`")]
    Map(#[source] MapError),
    /// The CPUs of this machine can't be listed.
    #[error(transparent)]
    Cpus(#[from] CpuListError),
    /// The clock can't be read.
    #[error("clock_gettime(CLOCK_MONOTONIC)")]
    Clock(#[source] nix::Error),
}

impl LoadError {
    /// Whether the kernel refused for want of privileges.
    pub fn is_permission(&self) -> bool {
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

/// The map could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The kernel refused the read.
    #[error("reading map `{MAP}`")]
    Map(#[from] MapError),
    /// The record of one CPU was torn at every attempt.
    #[error("record of CPU {cpu} in map `{MAP}` was torn {attempts} times in a row")]
    Torn {
        /// The CPU.
        cpu: u32,
        /// How often it was read.
        attempts: u32,
    },
    /// The online CPUs can't be listed.
    #[error(transparent)]
    Cpus(#[from] CpuListError),
    /// The clock can't be read.
    #[error("clock_gettime(CLOCK_MONOTONIC)")]
    Clock(#[from] nix::Error),
    /// The kernel's `CLOCK_MONOTONIC` is not that of this process.
    #[error(
        "the kernel's CLOCK_MONOTONIC is not that of this process, which is in a time namespace; start \
         it outside"
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
        let error = LoadError::Refused(denied());
        let expected = "loading program `sched_switch` for hook `tp_btf/sched_switch`: \
                        bpf(BPF_PROG_LOAD): permission denied";
        assert_eq!(chain(&error), expected);
        assert!(error.is_permission());
        let error = LoadError::Clock(nix::Error::EINVAL);
        let expected = "clock_gettime(CLOCK_MONOTONIC): EINVAL: Invalid argument";
        assert_eq!(chain(&error), expected);
        let error = ReadError::Map(MapError::IoError(denied()));
        assert_eq!(chain(&error), "reading map `CPU`: permission denied");
        let error = ReadError::Clock(nix::Error::EINVAL);
        assert_eq!(chain(&error), expected);
    }

    #[test]
    fn a_rejected_program_is_not_a_lack_of_permission() {
        let error = LoadError::Rejected("R1 invalid mem access 'scalar'".to_owned());
        assert!(!error.is_permission());
    }
}
