//! What the kernel program needs to know of the running kernel, decided from its BTF: where the
//! fields lie, and which features this kernel can't give. Pure; `ebpf.rs` acts on it.

use sched_exporter_ebpf::{HOOK, global};

use crate::{
    accounting::{CONTEXT_SWITCHES, Feature, RUNQUEUE_LATENCY},
    kernel::btf::{Btf, BtfError},
};

/// The globals to set before loading, and the features that follow.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Name and value of every global of the kernel program.
    pub globals: Vec<(&'static str, u32)>,
    /// Every feature, on or off.
    pub features: Vec<Feature>,
}

/// Features that the user does not want.
#[derive(Clone, Copy, Debug, Default)]
pub struct DisabledFeatures {
    /// Leave [`CONTEXT_SWITCHES`] out.
    pub context_switches: bool,
    /// Leave [`RUNQUEUE_LATENCY`] out.
    pub runqueue_latency: bool,
}

/// The kernel lacks what no feature can do without.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The kernel's BTF is damaged, or of a later version.
    #[error("reading the kernel's BTF")]
    Btf(#[from] BtfError),
    /// The hook does not exist.
    #[error("this kernel has no BTF tracepoint `{HOOK}`")]
    NoHook,
    /// A field does not exist, or is not what the program would read.
    #[error("{0}")]
    Field(String),
}

impl Layout {
    /// Decides the layout.
    pub fn from_btf(btf: &Btf<'_>, unwanted: DisabledFeatures) -> Result<Self, LayoutError> {
        let params = btf.tracepoint_params(HOOK)?.ok_or(LayoutError::NoHook)?;
        // void *, preempt, prev, next; since 5.18 also prev_state.
        // https://github.com/torvalds/linux/commit/9c2136be0878c88c53dea26943ce40bb03ad8d8d
        let hook_has_prev_state = params >= 5;

        let mut globals = vec![(global::HOOK_HAS_PREV_STATE, u32::from(hook_has_prev_state))];
        for (name, field) in [
            (global::TASK_FLAGS, "flags"),
            (global::TASK_PRIO, "prio"),
            (global::TASK_POLICY, "policy"),
        ] {
            globals
                .push((name, offset(btf, "task_struct", field, 4)?.map_err(LayoutError::Field)?));
        }

        let switches = if unwanted.context_switches {
            Err("--no-collector.context-switches".to_owned())
        } else if hook_has_prev_state {
            Ok(vec![])
        } else {
            task_state(btf)?.map(|offset| vec![(global::TASK_STATE, offset)])
        };
        let waits = if unwanted.runqueue_latency {
            Err("--no-collector.runqueue-latency".to_owned())
        } else {
            wait_fields(btf)?
        };
        let mut features = Vec::new();
        for (name, switch, found) in [
            (CONTEXT_SWITCHES, global::COUNT_SWITCHES, switches),
            (RUNQUEUE_LATENCY, global::MEASURE_WAITS, waits),
        ] {
            globals.push((switch, u32::from(found.is_ok())));
            let off = match found {
                Ok(offsets) => {
                    globals.extend(offsets);
                    None
                }
                Err(reason) => Some(reason),
            };
            features.push(Feature { name, off });
        }
        Ok(Self { globals, features })
    }
}

type Offsets = Vec<(&'static str, u32)>;

/// The four fields behind a wait, or what is missing of them.
fn wait_fields(btf: &Btf<'_>) -> Result<Result<Offsets, String>, BtfError> {
    let mut offsets = Vec::new();
    for (name, structure, field) in [
        (global::TASK_LAST_QUEUED, "task_struct", "sched_info.last_queued"),
        (global::TASK_CFS_RQ, "task_struct", "se.cfs_rq"),
        (global::CFS_RQ_RQ, "cfs_rq", "rq"),
        (global::RQ_CLOCK, "rq", "clock"),
    ] {
        match offset(btf, structure, field, 8)? {
            Ok(offset) => offsets.push((name, offset)),
            Err(reason) => return Ok(Err(reason)),
        }
    }
    Ok(Ok(offsets))
}

/// The state of a task: `unsigned int __state` since 5.14, `long state` before, of which the low
/// half is read. <https://github.com/torvalds/linux/commit/2f064a59a11f>
fn task_state(btf: &Btf<'_>) -> Result<Result<u32, String>, BtfError> {
    if let Some(state) = btf.field("task_struct", "state")? {
        return Ok(Ok(state.offset));
    }
    offset(btf, "task_struct", "__state", 4)
}

/// The offset of a field of the size that the program reads, or why there is none.
fn offset(
    btf: &Btf<'_>,
    structure: &str,
    path: &str,
    size: u32,
) -> Result<Result<u32, String>, BtfError> {
    Ok(match btf.field(structure, path)? {
        Some(field) if field.size == size => Ok(field.offset),
        Some(field) => {
            Err(format!("{structure}.{path} has {} bytes in this kernel, not {size}", field.size))
        }
        None => Err(format!("this kernel's BTF has no {structure}.{path}")),
    })
}
