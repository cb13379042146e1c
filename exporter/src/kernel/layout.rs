//! Decides from the kernel's BTF how to configure the kernel program: the offsets of the fields it reads,
//! and which optional features this kernel supports. Pure; `scheduler.rs` applies it.

use sched_exporter_ebpf::{Global, HOOK};

use crate::{
    accounting::{CONTEXT_SWITCHES, Feature, RUNQUEUE_LATENCY},
    kernel::btf::{Btf, BtfError},
};

/// The globals to set before loading, and the features that result.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Name and value of each global of the kernel program.
    pub globals: Vec<(Global, u32)>,
    /// Every feature, on or off.
    pub features: Vec<Feature>,
}

/// Features that the user disabled.
#[derive(Clone, Copy, Debug, Default)]
pub struct DisabledFeatures {
    /// Leave [`CONTEXT_SWITCHES`] out.
    pub context_switches: bool,
    /// Leave [`RUNQUEUE_LATENCY`] out.
    pub runqueue_latency: bool,
}

/// The kernel lacks something that every feature needs.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The kernel's BTF is damaged, or of an unsupported version.
    #[error("reading the kernel's BTF")]
    Btf(#[from] BtfError),
    /// The hook does not exist.
    #[error("this kernel has no BTF tracepoint `{HOOK}`")]
    NoHook,
    /// A field does not exist, or its size differs from what the program reads.
    #[error("{0}")]
    Field(String),
}

impl Layout {
    /// Decides the layout. If this kernel lacks a field that only a feature reads, the feature is off; if
    /// it lacks a field that accounting reads, that is an error.
    pub fn from_btf(btf: &Btf<'_>, disabled: DisabledFeatures) -> Result<Self, LayoutError> {
        let params = btf.tracepoint_params(HOOK)?.ok_or(LayoutError::NoHook)?;
        // void *, preempt, prev, next; since 5.18 also prev_state.
        // https://github.com/torvalds/linux/commit/9c2136be0878c88c53dea26943ce40bb03ad8d8d
        let hook_has_prev_state = params >= 5;

        let mut globals = vec![(Global::HookHasPrevState, u32::from(hook_has_prev_state))];
        for (name, field) in [
            (Global::TaskFlags, "flags"),
            (Global::TaskPrio, "prio"),
            (Global::TaskPolicy, "policy"),
        ] {
            globals.push((name, offset(btf, "task_struct", field, 4)?));
        }

        let switches = if disabled.context_switches {
            Support::Off("--no-collector.context-switches".to_owned())
        } else if hook_has_prev_state {
            Support::On(vec![])
        } else {
            Support::from_fields(task_state(btf))?
        };
        let waits = if disabled.runqueue_latency {
            Support::Off("--no-collector.runqueue-latency".to_owned())
        } else {
            Support::from_fields(wait_fields(btf))?
        };
        let mut features = Vec::new();
        for (name, switch, support) in [
            (CONTEXT_SWITCHES, Global::CountSwitches, switches),
            (RUNQUEUE_LATENCY, Global::MeasureWaits, waits),
        ] {
            let off = match support {
                Support::On(offsets) => {
                    globals.push((switch, 1));
                    globals.extend(offsets);
                    None
                }
                Support::Off(reason) => {
                    globals.push((switch, 0));
                    Some(reason)
                }
            };
            features.push(Feature { name, off });
        }
        Ok(Self { globals, features })
    }
}

/// Globals and their offsets.
type Offsets = Vec<(Global, u32)>;

/// Whether this kernel supports a feature.
enum Support {
    /// Supported, with these offsets.
    On(Offsets),
    /// Not supported or disabled, for this reason.
    Off(String),
}

impl Support {
    /// Off if a field is missing; damaged BTF stays an error.
    fn from_fields(fields: Result<Offsets, LayoutError>) -> Result<Self, LayoutError> {
        match fields {
            Ok(offsets) => Ok(Self::On(offsets)),
            Err(LayoutError::Field(reason)) => Ok(Self::Off(reason)),
            Err(error) => Err(error),
        }
    }
}

/// The four fields from which the program computes a wait.
fn wait_fields(btf: &Btf<'_>) -> Result<Offsets, LayoutError> {
    let mut offsets = Vec::new();
    for (name, structure, field) in [
        (Global::TaskLastQueued, "task_struct", "sched_info.last_queued"),
        (Global::TaskCfsRq, "task_struct", "se.cfs_rq"),
        (Global::CfsRqRq, "cfs_rq", "rq"),
        (Global::RqClock, "rq", "clock"),
    ] {
        offsets.push((name, offset(btf, structure, field, 8)?));
    }
    Ok(offsets)
}

/// The state of a task: `unsigned int __state` since 5.14; before, `long state`, of which the program
/// reads the low half. <https://github.com/torvalds/linux/commit/2f064a59a11f>
fn task_state(btf: &Btf<'_>) -> Result<Offsets, LayoutError> {
    let offset = match btf.field("task_struct", "state")? {
        Some(state) => state.offset,
        None => offset(btf, "task_struct", "__state", 4)?,
    };
    Ok(vec![(Global::TaskState, offset)])
}

/// The offset of a field, which must have the size that the program reads.
fn offset(btf: &Btf<'_>, structure: &str, path: &str, size: u32) -> Result<u32, LayoutError> {
    match btf.field(structure, path)? {
        Some(field) if field.size == size => Ok(field.offset),
        Some(field) => Err(LayoutError::Field(format!(
            "{structure}.{path} has {} bytes in this kernel, not {size}",
            field.size
        ))),
        None => Err(LayoutError::Field(format!("this kernel's BTF has no {structure}.{path}"))),
    }
}
