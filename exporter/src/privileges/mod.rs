//! Gives up what the exporter needs only to start, and confines it to what it does from then on.
//!
//! [`capabilities`] drops the rights to load the kernel program, [`isolation`] keeps other processes of the
//! same user out, and [`confine`] adds Landlock and seccomp. Capabilities, Landlock and seccomp hold for the
//! calling thread, and for those that it starts from then on.

pub mod capabilities;
pub mod isolation;
mod landlock;
mod seccomp;

use std::path::PathBuf;

use nix::{
    errno::Errno,
    sys::prctl::{get_dumpable, get_no_new_privs, set_no_new_privs},
};

/// A protection of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protection {
    /// Its name in metrics and in the log.
    pub name: &'static str,
    /// What there is to say about it, which may be nothing, if it is on; why it is off otherwise.
    pub state: Result<String, String>,
}

/// Confines the calling thread, and those that it starts from now on, for good: they create, change and
/// execute no file, and make only the system calls that the serving exporter needs. From the directories in
/// `removable` they may remove files. Returns what is in force. A protection that this machine lacks is off.
///
/// Call [`isolation::isolate`] before.
pub fn confine(removable: &[PathBuf]) -> [Protection; 4] {
    // Landlock and seccomp need it if the thread has no capability. If it fails, so do they.
    let _ = set_no_new_privs();
    let [no_new_privs, not_dumpable] = flags();
    // The filter forbids the calls for Landlock, so it comes last.
    let landlock = landlock::restrict(removable);
    let seccomp = seccomp::restrict(!removable.is_empty());
    protections(landlock, no_new_privs, not_dumpable, seccomp)
}

/// What is in force without [`confine`].
pub fn unconfined() -> [Protection; 4] {
    let [no_new_privs, not_dumpable] = flags();
    let off = || Err("off by --privileges.keep".to_owned());
    protections(off(), no_new_privs, not_dumpable, off())
}

/// Whether new privileges are impossible, and whether other processes are kept out.
fn flags() -> [Result<String, String>; 2] {
    let is_dumpable = get_dumpable();
    [get_no_new_privs(), is_dumpable.map(|is_dumpable| !is_dumpable)].map(|flag| match flag {
        Ok(true) => Ok(String::new()),
        Ok(false) => Err("not set".to_owned()),
        Err(error) => Err(error.to_string()),
    })
}

fn protections(
    landlock: Result<String, String>,
    no_new_privs: Result<String, String>,
    not_dumpable: Result<String, String>,
    seccomp: Result<String, String>,
) -> [Protection; 4] {
    [
        Protection { name: "landlock", state: landlock },
        Protection { name: "no_new_privs", state: no_new_privs },
        Protection { name: "not_dumpable", state: not_dumpable },
        Protection { name: "seccomp", state: seccomp },
    ]
}

/// Says why the kernel refused a system call that a protection needs.
fn refusal(error: &std::io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::EINVAL) => {
            format!("this kernel lacks it ({error})")
        }
        _ => format!("not permitted here ({error})"),
    }
}
