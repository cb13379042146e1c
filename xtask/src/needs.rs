//! What tests need from the machine. A test that needs something is in a module named after it, so
//! that it can be skipped if that is missing.

use std::{
    fs,
    io::{IsTerminal, stdin},
    path::{Path, PathBuf},
    thread::available_parallelism,
};

use anyhow::{Context, Result, bail};

use crate::{
    arch::Arch,
    crates, dist, image, runtimes,
    shipped::build_shipped,
    tools,
    workspace::{command, is_root, probe, root_command, run},
};

/// Something that tests need.
pub(crate) struct Need {
    /// Completes "tests that need …".
    pub what: &'static str,
    /// The test modules that need it.
    pub modules: &'static [&'static str],
    /// What to do if it is missing.
    pub remedy: &'static str,
    /// The environment variable that gives tests its path.
    pub variable: Option<&'static str>,
    /// Finds or builds it; the error says why it is missing.
    pub find: fn() -> Result<PathBuf>,
}

/// The name of the need that decides whether tests run as root.
pub(crate) const ROOT: &str = "root";
/// The test modules that need root. All except the first attach to the kernel.
const AS_ROOT: &[&str] = &[
    "debian",
    "fuse",
    "kernel",
    "trace",
    "unplug",
    "python",
    "prometheus",
    "promtool",
    "container",
    "pod",
    "booted",
    "runtimes",
];
/// The modules that attach to the kernel.
const ON_KERNEL: &[&str] = AS_ROOT.split_at(1).1;

/// Everything that tests need. Needs that others depend on come first.
pub(crate) const NEEDS: [Need; 24] = [
    Need {
        what: ROOT,
        modules: AS_ROOT,
        remedy: "run `sudo -v` first, or run this as root",
        variable: None,
        find: root,
    },
    Need {
        what: "a kernel with BTF",
        modules: ON_KERNEL,
        remedy: "boot a kernel built with CONFIG_DEBUG_INFO_BTF",
        variable: None,
        find: || existing("/sys/kernel/btf/vmlinux"),
    },
    Need {
        what: "two CPUs",
        modules: ON_KERNEL,
        remedy: "add a CPU to this machine",
        variable: None,
        find: two_cpus,
    },
    Need {
        what: "tracefs",
        modules: &["trace"],
        remedy: "mount it at /sys/kernel/tracing",
        variable: None,
        find: tracefs,
    },
    Need {
        what: "perf",
        modules: &["trace"],
        remedy: "install it (Debian's package is linux-perf)",
        variable: None,
        find: perf,
    },
    Need {
        what: "FUSE",
        modules: &["fuse"],
        remedy: "load the kernel module `fuse`",
        variable: None,
        find: || existing("/dev/fuse"),
    },
    Need {
        what: "a CPU that can be taken offline",
        modules: &["unplug"],
        remedy: "run them outside containers, on a kernel built with CONFIG_HOTPLUG_CPU",
        variable: None,
        find: hotplug,
    },
    Need {
        what: "the exporter",
        modules: &[
            "kernel",
            "fuse",
            "unplug",
            "python",
            "prometheus",
            "promtool",
            "manifests",
            "runtimes",
        ],
        remedy: "make `cargo xtask dist --binaries` work",
        variable: Some("SCHED_EXPORTER_BIN"),
        find: || build_shipped(Arch::host()?),
    },
    Need {
        what: "systemd-analyze",
        modules: &["systemd"],
        remedy: "install it (Debian's package is systemd)",
        variable: None,
        find: || tools::on_path("systemd-analyze").context("`systemd-analyze` is not on PATH"),
    },
    Need {
        what: "Python's prometheus_client",
        modules: &["python"],
        remedy: "install python3 with venv (Debian's package is python3-venv)",
        variable: Some("SCHED_EXPORTER_PYTHON"),
        find: tools::python,
    },
    Need {
        what: "promtool",
        modules: &["promtool"],
        remedy: "install Prometheus, and put promtool on PATH",
        variable: Some("SCHED_EXPORTER_PROMTOOL"),
        find: tools::promtool,
    },
    Need {
        what: "kustomize",
        modules: &["manifests", "pod"],
        remedy: "put it on PATH",
        variable: Some("SCHED_EXPORTER_KUSTOMIZE"),
        find: tools::kustomize,
    },
    Need {
        what: "Python's helm-python-sdk and kubernetes-validate",
        modules: &["manifests"],
        remedy: "install python3 with venv (Debian's package is python3-venv)",
        variable: Some("SCHED_EXPORTER_MANIFESTS_PYTHON"),
        find: tools::manifests,
    },
    Need {
        what: "the types of prometheus-operator, for Node.js",
        modules: &["manifests"],
        remedy: "install Node.js with npm",
        variable: Some("SCHED_EXPORTER_OPERATOR"),
        find: tools::operator,
    },
    Need {
        what: "a release",
        modules: &["release", "booted"],
        remedy: "make `cargo xtask dist` work",
        variable: Some("SCHED_EXPORTER_RELEASE"),
        find: dist::for_this_machine,
    },
    Need {
        what: "the crates, and the exporter built from them",
        modules: &["crates"],
        remedy: "make `cargo package` work",
        variable: Some("SCHED_EXPORTER_CRATES"),
        find: crates::for_this_machine,
    },
    Need {
        what: "dpkg",
        modules: &["debian"],
        remedy: "run them on Debian or a derivative",
        variable: None,
        find: || tools::on_path("dpkg").context("`dpkg` is not on PATH"),
    },
    Need {
        what: "Python's cyclonedx-python-lib",
        modules: &["sbom"],
        remedy: "install python3 with venv (Debian's package is python3-venv)",
        variable: Some("SCHED_EXPORTER_CYCLONEDX_PYTHON"),
        find: tools::cyclonedx,
    },
    Need {
        what: "ssh-keygen",
        modules: &["signature"],
        remedy: "install OpenSSH (Debian's package is openssh-client)",
        variable: None,
        find: || tools::on_path("ssh-keygen").context("`ssh-keygen` is not on PATH"),
    },
    Need {
        what: "podman",
        modules: &["container", "pod", "booted", "podman"],
        remedy: "install it (Debian's packages are podman, runc and catatonit)",
        variable: Some("SCHED_EXPORTER_IMAGE"),
        find: image::for_this_machine,
    },
    Need {
        what: "containerd and Docker",
        modules: &["containerd", "docker", "units"],
        remedy: "run them on Debian or a derivative",
        variable: Some(runtimes::VARIABLE),
        find: || tools::runtimes(runtimes::USUAL),
    },
    Need {
        what: "curl",
        modules: &["container", "docker"],
        remedy: "install it",
        variable: None,
        find: || tools::on_path("curl").context("`curl` is not on PATH"),
    },
    Need {
        what: "a Debian that boots",
        modules: &["booted", "units"],
        remedy: "install mmdebstrap on Debian or a derivative",
        variable: Some("SCHED_EXPORTER_DEBIAN"),
        find: tools::debian,
    },
    Need {
        what: "Prometheus",
        modules: &["prometheus"],
        remedy: "install it, and put prometheus on PATH",
        variable: Some("SCHED_EXPORTER_PROMETHEUS"),
        find: tools::prometheus,
    },
];

fn root() -> Result<PathBuf> {
    let sudo = || probe(command("sudo").args(["-n", "true"])).is_some();
    let ask = || stdin().is_terminal() && run(command("sudo").arg("-v")).is_ok();
    if is_root() || sudo() || ask() {
        return Ok(PathBuf::new());
    }
    bail!("this is not root, and sudo needs a password");
}

fn existing(path: &str) -> Result<PathBuf> {
    fs::metadata(path).with_context(|| path.to_owned())?;
    Ok(path.into())
}

fn two_cpus() -> Result<PathBuf> {
    match available_parallelism()?.get() {
        1 => bail!("this machine has one CPU"),
        _ => Ok(PathBuf::new()),
    }
}

fn tracefs() -> Result<PathBuf> {
    if let Some(mounted) = mounted_tracefs()? {
        return Ok(mounted);
    }
    let place = "/sys/kernel/tracing";
    run(root_command("mount".as_ref(), &[]).args(["-t", "tracefs", "tracefs", place]))?;
    eprintln!("mounted tracefs at {place}");
    Ok(place.into())
}

fn mounted_tracefs() -> Result<Option<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts")?;
    let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    Ok(mounts.find(|fields| fields[2] == "tracefs").map(|fields| fields[1].into()))
}

fn perf() -> Result<PathBuf> {
    // Some distributions install a script that looks for the running kernel's perf.
    probe(command("perf").arg("--version")).context("`perf --version` fails")?;
    tools::on_path("perf").context("`perf` is not on PATH")
}

fn hotplug() -> Result<PathBuf> {
    let switch = Path::new("/sys/devices/system/cpu/cpu1/online");
    let writable = probe(root_command("test".as_ref(), &[]).arg("-w").arg(switch));
    writable.with_context(|| format!("{} is not writable", switch.display()))?;
    Ok(switch.into())
}
