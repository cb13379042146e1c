//! The BTF parser and the layout derived from its output.

use std::collections::BTreeSet;

use sched_exporter::kernel::{
    btf::Btf,
    layout::{DisabledFeatures, Hierarchy, Layout},
};

/// Parses the bytes as a kernel's BTF. If that succeeds, each query returns the same result twice,
/// and a layout sets each global once.
pub fn btf(bytes: &[u8]) {
    let btf = match Btf::parse(bytes) {
        Ok(btf) => btf,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    for structure in ["task_struct", "cfs_rq", "rq", ""] {
        for path in ["flags", "sched_info.last_queued", "se.cfs_rq", "pid", "comm", "", ".", "a.b"]
        {
            let field = btf.field(structure, path);
            assert_eq!(field, btf.field(structure, path));
            if let Err(error) = field {
                assert!(!error.to_string().is_empty());
            }
        }
    }
    let _ = btf.tracepoint_params("sched_switch");
    for enumerator in ["cpu_cgrp_id", ""] {
        let value = btf.enumerator("cgroup_subsys_id", enumerator);
        assert_eq!(value, btf.enumerator("cgroup_subsys_id", enumerator));
    }
    for (unwanted, hierarchy) in [
        (DisabledFeatures::default(), Hierarchy::Unified),
        (DisabledFeatures::default(), Hierarchy::Legacy { id: 4 }),
        (
            DisabledFeatures { context_switches: true, runqueue_latency: true, cgroups: true },
            Hierarchy::Unified,
        ),
    ] {
        let Ok(layout) = Layout::from_btf(&btf, unwanted, hierarchy) else { continue };
        let names: BTreeSet<_> = layout.globals.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), layout.globals.len(), "{:?}", layout.globals);
        assert_eq!(layout.features.len(), 3);
    }
}
