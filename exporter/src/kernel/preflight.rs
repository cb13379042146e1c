//! What to tell a user whose kernel refuses the program: facts of this host, and the advice that
//! follows from them.

use std::{fmt::Write as _, fs};

use nix::sys::{
    resource::{RLIM_INFINITY, Resource, getrlimit},
    utsname::uname,
};

/// Where the kernel's BTF is.
pub const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";

/// Facts that decide whether the program can be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Release of the kernel, as `uname -r` says it.
    pub kernel: String,
    /// Whether [`BTF_PATH`] exists.
    pub has_btf: bool,
    /// Effective capabilities of this process, a bit each.
    pub capabilities: u64,
    /// How much memory this process may lock, in bytes.
    pub lockable_bytes: u64,
    /// The lockdown mode; none where the kernel has no lockdown.
    pub lockdown: Option<String>,
}

/// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/capability.h>
const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_RESOURCE: u32 = 24;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// The first with the two capabilities, and with the ring buffer that carries the program's log.
/// <https://github.com/torvalds/linux/blob/v5.8/kernel/bpf/ringbuf.c>
const FIRST_KERNEL: (u32, u32) = (5, 8);

/// Before, maps and programs count as locked memory.
/// <https://github.com/torvalds/linux/commit/3ac1f01b43b6e2759cc34d3a715ba5eed04c5805>
const FIRST_KERNEL_WITHOUT_MEMLOCK: (u32, u32) = (5, 11);

impl Facts {
    /// Looks them up. What can't be read counts as absent.
    pub fn gather() -> Self {
        let kernel = uname()
            .map_or_else(|_| "unknown".to_owned(), |name| name.release().display().to_string());
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let capabilities = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .unwrap_or_default();
        let (lockable_bytes, _) =
            getrlimit(Resource::RLIMIT_MEMLOCK).unwrap_or((RLIM_INFINITY, RLIM_INFINITY));
        let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").ok();
        Self {
            kernel,
            has_btf: fs::exists(BTF_PATH).unwrap_or(false),
            capabilities,
            lockable_bytes,
            lockdown: lockdown.as_deref().and_then(chosen).map(str::to_owned),
        }
    }

    /// What is missing here and what to do about it, a line each. `permission` says whether the
    /// kernel refused for want of privileges.
    pub fn advice(&self, permission: bool) -> String {
        let mut advice = String::new();
        let version = version(&self.kernel);
        if version.is_some_and(|version| version < FIRST_KERNEL) {
            let _ =
                write!(advice, "\n  kernel {}: too old; Linux 5.8 or later is needed", self.kernel);
        }
        if !self.has_btf {
            let _ = write!(
                advice,
                "\n  {BTF_PATH}: missing; run a kernel built with CONFIG_DEBUG_INFO_BTF=y (this \
                 one is {}), and in a container see that /sys is mounted",
                self.kernel
            );
        }
        if permission {
            let missing = self.missing_capabilities();
            let counts = version.is_some_and(|version| version < FIRST_KERNEL_WITHOUT_MEMLOCK);
            let limited = self.lockable_bytes != RLIM_INFINITY && !self.has(CAP_SYS_RESOURCE);
            if missing.is_empty() && counts && limited {
                let _ = write!(
                    advice,
                    "\n  locked memory: limited to {} bytes, of which BPF takes its own before Linux \
                     5.11; lift the limit (systemd: LimitMEMLOCK=infinity, container: --ulimit \
                     memlock=-1)",
                    self.lockable_bytes
                );
            } else if missing.is_empty() {
                let _ = write!(
                    advice,
                    "\n  capabilities: enough; a seccomp profile or security module may forbid \
                     bpf(2): allow it"
                );
            } else {
                let _ = write!(
                    advice,
                    "\n  capabilities: {} missing; run as root, or grant them (systemd: \
                     AmbientCapabilities=, container: --cap-add)",
                    missing.join(" and ")
                );
            }
        }
        if self.lockdown.as_deref() == Some("confidentiality") {
            advice.push_str(
                "\n  kernel lockdown: `confidentiality` forbids BPF programs to read kernel \
                 memory; boot with lockdown=integrity or none",
            );
        }
        advice
    }

    fn has(&self, capability: u32) -> bool {
        self.capabilities >> capability & 1 == 1
    }

    fn missing_capabilities(&self) -> Vec<&'static str> {
        if self.has(CAP_SYS_ADMIN) {
            return Vec::new();
        }
        let wanted = [(CAP_BPF, "CAP_BPF"), (CAP_PERFMON, "CAP_PERFMON")];
        wanted
            .iter()
            .filter(|(capability, _)| !self.has(*capability))
            .map(|(_, name)| *name)
            .collect()
    }
}

/// The word in brackets of `none [integrity] confidentiality`.
fn chosen(modes: &str) -> Option<&str> {
    let (_, rest) = modes.split_once('[')?;
    rest.split_once(']').map(|(mode, _)| mode)
}

/// Major and minor of `6.12.107+deb13-cloud-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            kernel: "6.1.0-56-cloud-amd64".to_owned(),
            has_btf: true,
            capabilities: 0,
            lockable_bytes: RLIM_INFINITY,
            lockdown: None,
        }
    }

    #[track_caller]
    fn check(facts: &Facts, permission: bool, expected: &[&str]) {
        let advice = facts.advice(permission);
        let lines: Vec<_> = advice.lines().skip(1).collect();
        assert_eq!(lines.len(), expected.len(), "{advice}");
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.contains(expected), "{line:?} lacks {expected:?}");
        }
    }

    #[test]
    fn missing_capabilities_are_named() {
        check(&facts(), true, &["CAP_BPF and CAP_PERFMON missing"]);
        let bpf = Facts { capabilities: 1 << CAP_BPF, ..facts() };
        check(&bpf, true, &["capabilities: CAP_PERFMON missing"]);
    }

    #[test]
    fn a_refusal_in_spite_of_all_capabilities_points_at_seccomp() {
        let admin = Facts { capabilities: 1 << CAP_SYS_ADMIN, ..facts() };
        check(&admin, true, &["seccomp"]);
    }

    #[test]
    fn a_limit_of_locked_memory_is_named_where_it_counts() {
        let limited = |kernel: &str, capabilities: u64| Facts {
            kernel: kernel.to_owned(),
            capabilities,
            lockable_bytes: 65_536,
            ..facts()
        };
        let enough = 1 << CAP_BPF | 1 << CAP_PERFMON;
        check(&limited("5.10.0-32-amd64", enough), true, &["limited to 65536 bytes"]);
        check(&limited("5.10.0-32-amd64", enough | 1 << CAP_SYS_RESOURCE), true, &["seccomp"]);
        check(&limited("5.11.0", enough), true, &["seccomp"]);
        check(&limited("5.10.0-32-amd64", 1 << CAP_BPF), true, &["CAP_PERFMON missing"]);
    }

    #[test]
    fn an_old_kernel_and_missing_btf_are_both_named() {
        let old = Facts { kernel: "4.19.0-27-amd64".to_owned(), has_btf: false, ..facts() };
        check(&old, false, &["Linux 5.8 or later", "CONFIG_DEBUG_INFO_BTF"]);
    }

    #[test]
    fn lockdown_is_named_only_where_it_forbids_reading() {
        let locked = |mode: &str| Facts { lockdown: Some(mode.to_owned()), ..facts() };
        check(&locked("integrity"), false, &[]);
        check(&locked("confidentiality"), false, &["lockdown=integrity"]);
    }

    #[test]
    fn the_chosen_lockdown_mode_is_in_brackets() {
        assert_eq!(chosen("none [integrity] confidentiality\n"), Some("integrity"));
        assert_eq!(chosen("none"), None);
    }

    #[test]
    fn releases_of_distributions_have_a_version() {
        assert_eq!(version("6.12.107+deb13-cloud-amd64"), Some((6, 12)));
        assert_eq!(version("5.10"), Some((5, 10)));
        assert_eq!(version("unknown"), None);
    }
}
