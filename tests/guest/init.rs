//! The init process of a guest of `cargo xtask vm`. It mounts filesystems, runs the tests with its
//! own arguments, prints facts about the kernel program, and powers the machine off.

#![expect(clippy::print_stdout, reason = "the host sees only the console")]

use std::{env, fs, os::unix::fs::symlink, process::Command, time::Instant};

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::ProgramInfo;
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sys::reboot::{RebootMode, reboot},
};
use sched_exporter::kernel::{
    btf::Btf,
    layout::{DisabledFeatures, Hierarchy, Layout},
    preflight::BTF_PATH,
    scheduler::Scheduler,
};
use sched_exporter_tests::{bpf, kernel::CGROUP_MEMORY, network, process};

/// The shipped binary.
const EXPORTER: &str = "/sched_exporter";
const CONFIG: &str = "/exporter.yaml";

/// Filesystems that the exporter and its tests expect on any machine.
const FILESYSTEMS: [(&str, &str); 5] = [
    ("devtmpfs", "/dev"),
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("tmpfs", "/tmp"),
    ("tracefs", "/sys/kernel/tracing"),
];

/// Where cgroups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The controllers that count CPU time, which systemd mounts together.
const CONTROLLERS: &str = "cpu,cpuacct";

fn main() {
    if let Err(error) = prepare().and_then(|()| tests()).and_then(|()| facts()) {
        println!("guest: {error:#}");
    }
    // If it returns, the end of this process makes the kernel panic, which the host sees.
    let _ = reboot(RebootMode::RB_POWER_OFF);
}

fn prepare() -> Result<()> {
    for (kind, place) in FILESYSTEMS {
        mount_at(kind, place, None)?;
    }
    cgroups(&env::var("hierarchy").unwrap_or_default())?;
    network::loopback().context("bringing up the loopback interface")
}

/// Mounts the hierarchies of cgroups, as systemd does.
/// <https://systemd.io/CGROUP_DELEGATION/#three-different-tree-setups>
fn cgroups(hierarchy: &str) -> Result<()> {
    match hierarchy {
        "v2" => return mount_at("cgroup2", CGROUPS, None),
        "hybrid" => {
            mount_at("tmpfs", CGROUPS, None)?;
            mount_at("cgroup2", &format!("{CGROUPS}/unified"), None)?;
        }
        "v1" => mount_at("tmpfs", CGROUPS, None)?,
        _ => bail!("unknown hierarchy `{hierarchy}`"),
    }
    mount_at("cgroup", &format!("{CGROUPS}/{CONTROLLERS}"), Some(CONTROLLERS))?;
    for controller in CONTROLLERS.split(',') {
        symlink(CONTROLLERS, format!("{CGROUPS}/{controller}"))?;
    }
    Ok(())
}

fn mount_at(kind: &str, place: &str, options: Option<&str>) -> Result<()> {
    fs::create_dir_all(place).with_context(|| place.to_owned())?;
    match mount(Some(kind), place, Some(kind), MsFlags::empty(), options) {
        // Already mounted.
        Ok(()) | Err(Errno::EBUSY) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("mounting {kind} at {place}")),
    }
}

/// Runs the tests, which print their own results. The kernel passes few arguments, so `--skip` has a list.
fn tests() -> Result<()> {
    let arguments =
        env::args().skip(1).flat_map(|argument| match argument.strip_prefix("--skip=") {
            Some(list) => list.split(',').map(|path| format!("--skip={path}")).collect(),
            None => vec![argument],
        });
    Command::new("/tests")
        .args(arguments)
        .env("SCHED_EXPORTER_BIN", EXPORTER)
        .env("SCHED_EXPORTER_EMULATED", "1")
        .status()
        .context("/tests")?;
    Ok(())
}

/// Prints the duration of `--once` and the number of instructions that the verifier processed.
fn facts() -> Result<()> {
    fs::write(CONFIG, process::CONFIG).context(CONFIG)?;
    let mut once = Command::new(EXPORTER);
    once.args([&format!("--config.file={CONFIG}"), "--once"]);
    let started = Instant::now();
    let status = process::output(&mut once).status;
    let once = started.elapsed();
    ensure!(status.success(), "{EXPORTER} --once: {status}");

    let bytes = fs::read(BTF_PATH).context(BTF_PATH)?;
    let layout =
        Layout::from_btf(&Btf::parse(&bytes)?, DisabledFeatures::default(), Hierarchy::default())?;
    for feature in &layout.features {
        ensure!(feature.off.is_none(), "{feature:?}");
    }
    let scheduler = Scheduler::attach(layout, CGROUP_MEMORY, false, None)?;
    scheduler.seed()?;
    let snapshot = scheduler.snapshot()?;
    let programs = bpf::programs("self")?;
    // Since Linux 5.16.
    let instructions = programs.first().and_then(ProgramInfo::verified_instruction_count);
    println!(
        "guest: once_ms={} verified_instructions={} cpus={}",
        once.as_millis(),
        instructions.map_or_else(|| "-".to_owned(), |count| count.to_string()),
        snapshot.cpus.len()
    );
    Ok(())
}
