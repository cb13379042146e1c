//! Decides from the kernel's BTF how to configure the kernel program: the offsets of the fields it reads,
//! and which optional features this kernel supports. Pure; `scheduler.rs` applies it.

use sched_exporter_ebpf::{BIRTH_HOOK, Global, HOOK, REMOVAL_HOOK, RENAME_HOOK};

use crate::{
    accounting::{CGROUPS, CONTEXT_SWITCHES, Feature, RUNQUEUE_LATENCY, Stores},
    kernel::btf::{Btf, BtfError},
};

/// Whether this machine's CPUs let others see stores in the order in which they make them.
/// <https://docs.kernel.org/core-api/wrappers/memory-barriers.html>
pub const STORES: Stores =
    if cfg!(target_arch = "x86_64") { Stores::InOrder } else { Stores::Reordered };

/// The globals to set before loading, and the features that result.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Name and value of each global of the kernel program.
    pub globals: Vec<(Global, u32)>,
    /// Every feature, on or off.
    pub features: Vec<Feature>,
    /// The hooks at which changes of cgroups are seen, as far as this kernel has them.
    pub cgroup_hooks: Vec<&'static str>,
    /// Why removed cgroups cannot be seen in the kernel, so that they must be found in another way; `None`
    /// if they can.
    pub no_removal_hook: Option<String>,
    /// The same for new cgroups and their paths.
    pub no_birth_hook: Option<String>,
}

/// The hierarchy of cgroups to account for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hierarchy {
    /// Version 2, also if version 1 is mounted as well.
    #[default]
    Unified,
    /// That of version 1 with the controller `cpu`.
    Legacy {
        /// Its number, `cgroup_root.hierarchy_id`.
        id: u32,
    },
}

impl Hierarchy {
    /// Its number, `cgroup_root.hierarchy_id`.
    pub const fn id(self) -> u32 {
        match self {
            Self::Unified => 0,
            Self::Legacy { id } => id,
        }
    }
}

/// Features that the user disabled.
#[derive(Clone, Copy, Debug, Default)]
pub struct DisabledFeatures {
    /// Leave [`CONTEXT_SWITCHES`] out.
    pub context_switches: bool,
    /// Leave [`RUNQUEUE_LATENCY`] out.
    pub runqueue_latency: bool,
    /// Leave [`CGROUPS`] out.
    pub cgroups: bool,
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
    /// Decides the layout; `hierarchy` is that of the cgroups. If this kernel lacks a field that only a
    /// feature reads, the feature is off; if it lacks a field that accounting reads, that is an error.
    pub fn from_btf(
        btf: &Btf<'_>,
        disabled: DisabledFeatures,
        hierarchy: Hierarchy,
    ) -> Result<Self, LayoutError> {
        let params = btf.tracepoint_params(HOOK)?.ok_or(LayoutError::NoHook)?;
        // void *, preempt, prev, next; since 5.18 also prev_state.
        // https://github.com/torvalds/linux/commit/9c2136be0878c88c53dea26943ce40bb03ad8d8d
        let hook_has_prev_state = params >= 5;

        let mut globals = vec![
            (Global::HookHasPrevState, u32::from(hook_has_prev_state)),
            (Global::KeepChecks, u32::from(STORES == Stores::Reordered)),
        ];
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
        let cgroups = if disabled.cgroups {
            Support::Off("--no-collector.cgroups".to_owned())
        } else {
            Support::from_fields(cgroup_fields(btf, hierarchy))?
        };
        let mut cgroup_hooks = Vec::new();
        let no_removal_hook = missing(btf, &[REMOVAL_HOOK], &mut cgroup_hooks)?;
        globals.push((Global::HasRemovalHook, u32::from(no_removal_hook.is_none())));
        let birth_hooks: &[_] = match hierarchy {
            Hierarchy::Unified => &[BIRTH_HOOK],
            Hierarchy::Legacy { .. } => &[BIRTH_HOOK, RENAME_HOOK],
        };
        let no_birth_hook = missing(btf, birth_hooks, &mut cgroup_hooks)?;
        let mut features = Vec::new();
        for (name, switch, support) in [
            (CONTEXT_SWITCHES, Global::CountSwitches, switches),
            (RUNQUEUE_LATENCY, Global::MeasureWaits, waits),
            (CGROUPS, Global::CountCgroups, cgroups),
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
        Ok(Self { globals, features, cgroup_hooks, no_removal_hook, no_birth_hook })
    }

    /// Turns a feature off after all.
    pub fn turn_off(&mut self, name: &str, switch: Global, reason: &str) {
        for feature in self.features.iter_mut().filter(|feature| feature.name == name) {
            feature.off = Some(reason.to_owned());
        }
        for (_, value) in self.globals.iter_mut().filter(|(global, _)| *global == switch) {
            *value = 0;
        }
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

/// Adds `hooks`, or says why this kernel lacks one of them. All have the parameters `struct cgroup *` and
/// `const char *`.
fn missing(
    btf: &Btf<'_>,
    hooks: &[&'static str],
    found: &mut Vec<&'static str>,
) -> Result<Option<String>, BtfError> {
    for hook in hooks {
        if btf.tracepoint_params(hook)?.is_none() {
            return Ok(Some(format!("this kernel has no BTF tracepoint `{hook}`")));
        }
    }
    found.extend(hooks);
    Ok(None)
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

/// The fields from which the program finds a task's cgroup, and what the cgroup is called.
fn cgroup_fields(btf: &Btf<'_>, hierarchy: Hierarchy) -> Result<Offsets, LayoutError> {
    const CSS: &str = "cgroup_subsys_state";
    let mut offsets = Vec::new();
    for (name, structure, field, size) in [
        (Global::TaskCgroups, "task_struct", "cgroups", 8),
        (Global::CgroupFlags, "cgroup", "self.flags", 4),
        (Global::CgroupNode, "cgroup", "kn", 8),
        (Global::CgroupRoot, "cgroup", "root", 8),
        (Global::CgroupRootHierarchy, "cgroup_root", "hierarchy_id", 4),
        (Global::KernfsNodeId, "kernfs_node", "id", 8),
    ] {
        offsets.push((name, offset(btf, structure, field, size)?));
    }
    let (css, serial, cgroup) = match hierarchy {
        // A cgroup contains the state that it has for no controller in particular.
        Hierarchy::Unified => (
            offset(btf, "css_set", "dfl_cgrp", 8)?,
            offset(btf, "cgroup", "self.serial_nr", 8)?,
            offset(btf, "cgroup", "self.cgroup", 8)?,
        ),
        Hierarchy::Legacy { .. } => (
            state_of_cpu_controller(btf)?,
            offset(btf, CSS, "serial_nr", 8)?,
            offset(btf, CSS, "cgroup", 8)?,
        ),
    };
    offsets.extend([
        (Global::HierarchyId, hierarchy.id()),
        (Global::CssSetCss, css),
        (Global::CssSerial, serial),
        (Global::CssCgroup, cgroup),
    ]);
    Ok(offsets)
}

/// The offset of `css_set.subsys[cpu_cgrp_id]`.
fn state_of_cpu_controller(btf: &Btf<'_>) -> Result<u32, LayoutError> {
    const POINTER: u32 = 8;
    let missing = |what: &str| LayoutError::Field(format!("this kernel's BTF has no {what}"));
    let states = btf.field("css_set", "subsys")?.ok_or_else(|| missing("css_set.subsys"))?;
    let index = btf.enumerator("cgroup_subsys_id", "cpu_cgrp_id")?;
    let index = index.ok_or_else(|| missing("cgroup_subsys_id.cpu_cgrp_id"))?;
    match index.checked_mul(POINTER) {
        Some(offset) if offset < states.size => Ok(states.offset + offset),
        _ => Err(LayoutError::Field(format!(
            "css_set.subsys has {} bytes in this kernel, and cpu_cgrp_id is {index}",
            states.size
        ))),
    }
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
