//! Explains why loading the program failed: facts about this host, and advice derived from them.

use std::fs;

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::{
    prctl::get_no_new_privs,
    resource::{RLIM_INFINITY, Resource, getrlimit},
    utsname::uname,
};

/// Path of the kernel's BTF.
pub const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";

/// Facts that decide whether the program can be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Release of the kernel, as in `uname -r`.
    pub kernel: String,
    /// Whether [`BTF_PATH`] exists.
    pub has_btf: bool,
    /// Effective capabilities of this thread.
    pub capabilities: CapsHashSet,
    /// Whether `no_new_privs` is set, so that the capabilities of a file had no effect.
    pub no_new_privs: bool,
    /// How much memory this process can lock, in bytes.
    pub lockable_bytes: u64,
    /// The lockdown mode; `None` if the kernel has no lockdown.
    pub lockdown: Option<String>,
}

/// The first kernel with `CAP_BPF` and `CAP_PERFMON`, and with ring buffers for the program's log.
/// <https://github.com/torvalds/linux/blob/v5.8/kernel/bpf/ringbuf.c>
const FIRST_KERNEL: (u32, u32) = (5, 8);

/// Earlier kernels count maps and programs as locked memory.
/// <https://github.com/torvalds/linux/commit/3ac1f01b43b6e2759cc34d3a715ba5eed04c5805>
const FIRST_KERNEL_WITHOUT_MEMLOCK: (u32, u32) = (5, 11);

impl Facts {
    /// Gathers the facts. Anything that cannot be read counts as absent.
    pub fn gather() -> Self {
        let kernel = uname()
            .map_or_else(|_| "unknown".to_owned(), |name| name.release().display().to_string());
        let (lockable_bytes, _) =
            getrlimit(Resource::RLIMIT_MEMLOCK).unwrap_or((RLIM_INFINITY, RLIM_INFINITY));
        let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").ok();
        Self {
            kernel,
            has_btf: fs::exists(BTF_PATH).unwrap_or(false),
            capabilities: caps::read(None, CapSet::Effective).unwrap_or_default(),
            no_new_privs: get_no_new_privs().unwrap_or(false),
            lockable_bytes,
            lockdown: lockdown.as_deref().and_then(chosen).map(str::to_owned),
        }
    }

    /// What this host lacks and how to fix it, one line each. `is_permission` says whether the kernel
    /// refused for lack of privileges.
    pub fn advice(&self, is_permission: bool) -> String {
        let advice = [
            self.old_kernel(),
            self.missing_btf(),
            is_permission.then(|| self.permission()),
            self.lockdown(),
        ];
        advice.into_iter().flatten().flat_map(|line| ["\n  ".to_owned(), line]).collect()
    }

    fn old_kernel(&self) -> Option<String> {
        self.is_before(FIRST_KERNEL)
            .then(|| format!("kernel {}: too old; Linux 5.8 or later is needed", self.kernel))
    }

    fn missing_btf(&self) -> Option<String> {
        (!self.has_btf).then(|| {
            format!(
                "{BTF_PATH}: missing; run a kernel built with CONFIG_DEBUG_INFO_BTF=y (this one is \
                 {}); in a container, make sure that /sys is mounted",
                self.kernel
            )
        })
    }

    /// Why the kernel refused for lack of privileges: the first reason that applies.
    fn permission(&self) -> String {
        self.missing_capabilities().or_else(|| self.locked_memory()).unwrap_or_else(|| {
            "capabilities: sufficient; a seccomp profile or security module may forbid bpf(2): allow it"
                .to_owned()
        })
    }

    fn missing_capabilities(&self) -> Option<String> {
        let is_missing = |capability| !self.has(capability) && !self.has(Capability::CAP_SYS_ADMIN);
        let missing = match (is_missing(Capability::CAP_BPF), is_missing(Capability::CAP_PERFMON)) {
            (true, true) => "CAP_BPF and CAP_PERFMON",
            (true, false) => "CAP_BPF",
            (false, true) => "CAP_PERFMON",
            (false, false) => return None,
        };
        let file = if self.no_new_privs {
            "; no_new_privs is set, so those of the file have no effect (Kubernetes: \
             allowPrivilegeEscalation, podman: no-new-privileges)"
        } else {
            ""
        };
        Some(format!(
            "capabilities: {missing} missing; run as root, or grant them (systemd: \
             AmbientCapabilities=, container: --cap-add){file}"
        ))
    }

    fn locked_memory(&self) -> Option<String> {
        let is_limited =
            self.lockable_bytes != RLIM_INFINITY && !self.has(Capability::CAP_SYS_RESOURCE);
        (is_limited && self.is_before(FIRST_KERNEL_WITHOUT_MEMLOCK)).then(|| {
            format!(
                "locked memory: limited to {} bytes; before Linux 5.11, BPF maps and programs count \
                 towards the limit; lift it (systemd: LimitMEMLOCK=infinity, container: --ulimit \
                 memlock=-1)",
                self.lockable_bytes
            )
        })
    }

    fn lockdown(&self) -> Option<String> {
        (self.lockdown.as_deref() == Some("confidentiality")).then(|| {
            "kernel lockdown: `confidentiality` forbids BPF programs from reading kernel memory; boot \
             with lockdown=integrity, or without lockdown"
                .to_owned()
        })
    }

    /// Whether the kernel is known to be older.
    fn is_before(&self, first: (u32, u32)) -> bool {
        version(&self.kernel).is_some_and(|version| version < first)
    }

    fn has(&self, capability: Capability) -> bool {
        self.capabilities.contains(&capability)
    }
}

/// The word in brackets: `integrity` in `none [integrity] confidentiality`.
fn chosen(modes: &str) -> Option<&str> {
    let (_, rest) = modes.split_once('[')?;
    rest.split_once(']').map(|(mode, _)| mode)
}

/// Major and minor version: 6 and 12 in `6.12.107+deb13-cloud-amd64`.
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
            capabilities: CapsHashSet::new(),
            no_new_privs: false,
            lockable_bytes: RLIM_INFINITY,
            lockdown: None,
        }
    }

    #[track_caller]
    fn check(facts: &Facts, is_permission: bool, expected: &[&str]) {
        let advice = facts.advice(is_permission);
        let lines: Vec<_> = advice.lines().skip(1).collect();
        assert_eq!(lines.len(), expected.len(), "{advice}");
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.contains(expected), "{line:?} lacks {expected:?}");
        }
    }

    #[test]
    fn names_missing_capabilities() {
        check(&facts(), true, &["CAP_BPF and CAP_PERFMON missing"]);
        let bpf = Facts { capabilities: [Capability::CAP_BPF].into(), ..facts() };
        check(&bpf, true, &["capabilities: CAP_PERFMON missing"]);
        assert!(!bpf.advice(true).contains("no_new_privs"));
        check(&Facts { no_new_privs: true, ..bpf }, true, &["no_new_privs is set"]);
    }

    #[test]
    fn suggests_seccomp_if_all_capabilities_are_present() {
        let admin = Facts { capabilities: [Capability::CAP_SYS_ADMIN].into(), ..facts() };
        check(&admin, true, &["seccomp"]);
    }

    #[test]
    fn names_the_locked_memory_limit_if_it_applies() {
        let limited = |kernel: &str, capabilities: &[Capability]| Facts {
            kernel: kernel.to_owned(),
            capabilities: capabilities.iter().copied().collect(),
            lockable_bytes: 65_536,
            ..facts()
        };
        let enough = [Capability::CAP_BPF, Capability::CAP_PERFMON];
        let unlimited = [enough[0], enough[1], Capability::CAP_SYS_RESOURCE];
        check(&limited("5.10.0-32-amd64", &enough), true, &["limited to 65536 bytes"]);
        check(&limited("5.10.0-32-amd64", &unlimited), true, &["seccomp"]);
        check(&limited("5.11.0", &enough), true, &["seccomp"]);
        check(&limited("5.10.0-32-amd64", &enough[..1]), true, &["CAP_PERFMON missing"]);
    }

    #[test]
    fn names_both_an_old_kernel_and_missing_btf() {
        let old = Facts { kernel: "4.19.0-27-amd64".to_owned(), has_btf: false, ..facts() };
        check(&old, false, &["Linux 5.8 or later", "CONFIG_DEBUG_INFO_BTF"]);
    }

    #[test]
    fn names_lockdown_only_if_it_forbids_reading() {
        let locked = |mode: &str| Facts { lockdown: Some(mode.to_owned()), ..facts() };
        check(&locked("integrity"), false, &[]);
        check(&locked("confidentiality"), false, &["lockdown=integrity"]);
    }

    #[test]
    fn chosen_lockdown_mode_is_in_brackets() {
        assert_eq!(chosen("none [integrity] confidentiality\n"), Some("integrity"));
        assert_eq!(chosen("none"), None);
    }

    #[test]
    fn parses_versions_of_distribution_kernels() {
        assert_eq!(version("6.12.107+deb13-cloud-amd64"), Some((6, 12)));
        assert_eq!(version("5.10"), Some((5, 10)));
        assert_eq!(version("unknown"), None);
    }
}
