//! The compared BPF programs. Each is attached alone, as a process of its own would attach it.

use std::{
    collections::BTreeSet,
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{BtfTracePoint, ProgramInfo, loaded_programs},
};
use sched_exporter::kernel::{
    btf::Btf as Types,
    layout::{DisabledFeatures, Hierarchy, Layout},
    preflight::BTF_PATH,
    scheduler::Scheduler,
};
use sched_exporter_ebpf::HOOK;
use sched_exporter_tests::{bpf, fdinfo, kernel::CGROUP_MEMORY, process::PATIENCE};

use crate::{children::Running, peers::Peer};

/// The reference programs, built by `cargo xtask ebpf`.
static REFERENCE: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../exporter-ebpf/reference.bpf.o"
));

/// A program that can be attached to `sched_switch`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Program<'a> {
    /// Does nothing.
    Empty,
    /// Splits a CPU's time into idle and busy, with as little code as possible.
    Minimal,
    /// Adds each interval to the cgroup in a hash map.
    Hash,
    /// The exporter's, optionally without some features, and with or without `--log.ebpf`.
    Product { unwanted: DisabledFeatures, log: bool },
    /// All programs of a peer, on all their hooks.
    Peer(&'a Peer),
}

/// The exporter's with default options.
pub(crate) const PRODUCT: Program<'_> = Program::Product {
    unwanted: DisabledFeatures { context_switches: false, runqueue_latency: false, cgroups: false },
    log: false,
};

/// The exporter's with `--no-collector.cgroups`.
pub(crate) const WITHOUT_CGROUPS: Program<'_> = Program::Product {
    unwanted: DisabledFeatures { context_switches: false, runqueue_latency: false, cgroups: true },
    log: false,
};

/// An attached program; detached when dropped.
pub(crate) enum Attached {
    /// One of [`REFERENCE`].
    Reference(#[expect(dead_code, reason = "held for its drop")] Box<Ebpf>),
    /// The exporter's, attached by its own loader.
    Product(#[expect(dead_code, reason = "held for its drop")] Box<Scheduler>),
    /// A running peer.
    Peer(Running),
}

impl Program<'_> {
    /// Loads and attaches it.
    pub(crate) fn attach(self) -> Result<Attached> {
        let name = match self {
            Self::Empty => "empty",
            Self::Minimal => "minimal",
            Self::Hash => "hash",
            Self::Product { unwanted, log } => {
                let btf = kernel_btf()?;
                let types = Types::parse(&btf)?;
                let layout = Layout::from_btf(&types, unwanted, Hierarchy::default())?;
                let scheduler = Scheduler::attach(layout, CGROUP_MEMORY, log, None)?;
                scheduler.seed()?;
                return Ok(Attached::Product(Box::new(scheduler)));
            }
            Self::Peer(peer) => return attach_peer(peer).map(Attached::Peer),
        };
        let pid = Types::parse(&kernel_btf()?)?.field("task_struct", "pid")?;
        let pid = pid.context("this kernel's BTF has no task_struct.pid")?.offset;
        let mut ebpf = EbpfLoader::new().override_global("TASK_PID", &pid, true).load(REFERENCE)?;
        let program =
            ebpf.program_mut(name).context("a reference program is missing from the object")?;
        let program: &mut BtfTracePoint = program.try_into()?;
        program.load(HOOK, &Btf::from_sys_fs()?)?;
        program.attach()?;
        Ok(Attached::Reference(Box::new(ebpf)))
    }
}

fn kernel_btf() -> Result<Vec<u8>> {
    fs::read(BTF_PATH).with_context(|| format!("reading `{BTF_PATH}`"))
}

/// Starts a peer and waits until it has attached every program that it loaded.
fn attach_peer(peer: &Peer) -> Result<Running> {
    let mut running = Running::start(&mut peer.command())?;
    let pid = running.pid().to_string();
    let ids = |key| -> Result<BTreeSet<_>> {
        let found = fdinfo::of(&pid, key)?;
        Ok(found.into_iter().filter_map(|mut info| info.remove("prog_id")).collect())
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ended = running.child().try_wait()?;
        ensure!(ended.is_none(), "{} ended during start", peer.name);
        // Read links first: once there is one, all programs are loaded.
        let (attached, loaded) = (ids("link_id")?, ids("run_cnt")?);
        if !attached.is_empty() && attached.is_superset(&loaded) {
            return Ok(running);
        }
        ensure!(Instant::now() < deadline, "{} attached nothing within {PATIENCE:?}", peer.name);
        thread::sleep(Duration::from_millis(1));
    }
}

impl Attached {
    /// Nanoseconds that its programs have run, by the kernel's statistics.
    pub(crate) fn run_time_ns(&self) -> Result<f64> {
        let process = match self {
            Self::Reference(_) | Self::Product(_) => "self".to_owned(),
            Self::Peer(running) => running.pid().to_string(),
        };
        let time: Duration = bpf::programs(&process)?.iter().map(ProgramInfo::run_time).sum();
        Ok(time.as_secs_f64() * 1e9)
    }
}

/// Whether another exporter is attached, which would affect the figures.
pub(crate) fn is_attached_elsewhere() -> Result<bool> {
    for program in loaded_programs() {
        if program?.name_as_str() == Some(HOOK) {
            return Ok(true);
        }
    }
    Ok(false)
}
