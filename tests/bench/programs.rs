//! The BPF programs that are compared. Each is attached alone, as a process of its own would.

use std::{
    collections::BTreeSet,
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{BtfTracePoint, loaded_programs},
};
use sched_exporter::kernel::{
    btf::Btf as Types,
    layout::{DisabledFeatures, Layout},
    preflight::BTF_PATH,
    scheduler::Scheduler,
};
use sched_exporter_ebpf::HOOK;
use sched_exporter_tests::{fdinfo, process::PATIENCE};

use crate::{children::Running, peers::Peer};

/// The reference programs, as `cargo xtask ebpf` builds them.
static REFERENCE: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../exporter-ebpf/reference.bpf.o"
));

/// What can be attached to `sched_switch`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Program<'a> {
    /// Does nothing.
    Empty,
    /// The least that splits a CPU's time into idle and busy.
    Minimal,
    /// The exporter's, with some of what it does left out, and with or without `--log.ebpf`.
    Product { unwanted: DisabledFeatures, log: bool },
    /// All programs of a peer, on whichever hooks.
    Peer(&'a Peer),
}

/// The exporter's as it is by default.
pub(crate) const PRODUCT: Program<'_> = Program::Product {
    unwanted: DisabledFeatures { context_switches: false, runqueue_latency: false },
    log: false,
};

/// A program at work. Dropping it detaches it.
pub(crate) enum Attached {
    /// One of [`REFERENCE`].
    Reference(#[expect(dead_code, reason = "held for its drop")] Ebpf),
    /// The exporter's, by the exporter's own loader.
    Product(#[expect(dead_code, reason = "held for its drop")] Scheduler),
    /// A peer at work.
    Peer(Running),
}

impl Program<'_> {
    /// Loads it anew and attaches it.
    pub(crate) fn attach(self) -> Result<Attached> {
        let name = match self {
            Self::Empty => "empty",
            Self::Minimal => "minimal",
            Self::Product { unwanted, log } => {
                let layout = Layout::from_btf(&Types::parse(&kernel_btf()?)?, unwanted)?;
                let scheduler = Scheduler::attach(layout, log)?;
                scheduler.seed()?;
                return Ok(Attached::Product(scheduler));
            }
            Self::Peer(peer) => return attach_peer(peer).map(Attached::Peer),
        };
        let pid = Types::parse(&kernel_btf()?)?.field("task_struct", "pid")?;
        let pid = pid.context("this kernel's BTF has no task_struct.pid")?.offset;
        let mut ebpf = EbpfLoader::new().override_global("TASK_PID", &pid, true).load(REFERENCE)?;
        let program = ebpf.program_mut(name).context("the object lacks a reference program")?;
        let program: &mut BtfTracePoint = program.try_into()?;
        program.load(HOOK, &Btf::from_sys_fs()?)?;
        program.attach()?;
        Ok(Attached::Reference(ebpf))
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
        ensure!(ended.is_none(), "{} ended at its start", peer.name);
        // Links first: where there is one, all programs are loaded.
        let (attached, loaded) = (ids("link_id")?, ids("run_cnt")?);
        if !attached.is_empty() && attached.is_superset(&loaded) {
            return Ok(running);
        }
        ensure!(Instant::now() < deadline, "{} attached nothing in {PATIENCE:?}", peer.name);
        thread::sleep(Duration::from_millis(1));
    }
}

impl Attached {
    /// How long its programs have run, in nanoseconds, by the kernel's statistics.
    pub(crate) fn run_time_ns(&self) -> Result<f64> {
        let process = match self {
            Self::Reference(_) | Self::Product(_) => "self".to_owned(),
            Self::Peer(running) => running.pid().to_string(),
        };
        let mut total = 0.0;
        for program in fdinfo::of(&process, "run_time_ns")? {
            let time: f64 = program["run_time_ns"].parse().context("run_time_ns")?;
            total += time;
        }
        Ok(total)
    }
}

/// Whether another exporter is attached, which would be measured too.
pub(crate) fn is_attached_elsewhere() -> Result<bool> {
    for program in loaded_programs() {
        if program?.name_as_str() == Some(HOOK) {
            return Ok(true);
        }
    }
    Ok(false)
}
