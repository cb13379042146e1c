//! The BPF programs that are compared. Each is attached alone, as a process of its own would.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{BtfTracePoint, loaded_programs},
};
use sched_exporter::{
    btf::Btf as Types,
    ebpf::Scheduler,
    host::BTF_PATH,
    layout::{Layout, Unwanted},
};
use sched_exporter_ebpf::HOOK;
use sched_exporter_tests::fdinfo;

/// The reference programs, as `cargo xtask ebpf` builds them.
static REFERENCE: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../exporter-ebpf/reference.bpf.o"
));

/// A program for `sched_switch`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Program {
    /// Does nothing.
    Empty,
    /// The least that splits a CPU's time into idle and busy.
    Minimal,
    /// The exporter's, with these features left out.
    Product(Unwanted),
}

/// Everything is measured.
pub(crate) const PRODUCT: Program =
    Program::Product(Unwanted { context_switches: false, runqueue_latency: false });

/// A program at work. Dropping it detaches it.
pub(crate) enum Attached {
    /// One of [`REFERENCE`].
    Reference(#[expect(dead_code, reason = "held for its drop")] Ebpf),
    /// The exporter's, by the exporter's own loader.
    Product(#[expect(dead_code, reason = "held for its drop")] Scheduler),
}

impl Program {
    /// Loads it anew and attaches it.
    pub(crate) fn attach(self) -> Result<Attached> {
        let types = fs::read(BTF_PATH).with_context(|| format!("reading `{BTF_PATH}`"))?;
        let types = Types::parse(&types)?;
        let name = match self {
            Self::Product(unwanted) => {
                let layout = Layout::from_btf(&types, unwanted)?;
                return Ok(Attached::Product(Scheduler::attach(layout, false)?));
            }
            Self::Empty => "empty",
            Self::Minimal => "minimal",
        };
        let pid = types.field("task_struct", "pid")?;
        let pid = pid.context("this kernel's BTF has no task_struct.pid")?.offset;
        let mut ebpf = EbpfLoader::new().override_global("TASK_PID", &pid, true).load(REFERENCE)?;
        let program = ebpf.program_mut(name).context("the object lacks a reference program")?;
        let program: &mut BtfTracePoint = program.try_into()?;
        program.load(HOOK, &Btf::from_sys_fs()?)?;
        program.attach()?;
        Ok(Attached::Reference(ebpf))
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

/// Nanoseconds for each run of the program that this process has loaded, by the kernel's statistics.
pub(crate) fn ns_per_run() -> Result<f64> {
    let mut programs = fdinfo::of("self", "run_cnt")?;
    let program = programs.pop().context("no program is loaded")?;
    ensure!(programs.is_empty(), "more than one program is loaded");
    let number = |key| program.get(key).and_then(|value| value.parse::<f64>().ok());
    let (time, runs) = (number("run_time_ns"), number("run_cnt"));
    let (time, runs) = time.zip(runs).context("the kernel shows no statistics of programs")?;
    ensure!(runs > 0.0, "the program did not run");
    Ok(time / runs)
}
