//! Describes the machine that figures were measured on.

use std::fs;

use sched_exporter::kernel::preflight::Facts;

use crate::workload::online;

/// A sentence with the CPUs, the hypervisor, if any, and the kernel.
pub fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = |key| {
        let line = info.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once(':')?.1.trim())
    };
    let model = named("model name").unwrap_or("unknown model");
    let hypervisor = named("flags").is_some_and(|flags| flags.contains("hypervisor"));
    let place = if hypervisor { " of a virtual machine" } else { "" };
    format!(
        "Measured on {cpus} CPUs ({model}){place}, Linux {kernel}.",
        cpus = online().len(),
        kernel = Facts::gather().kernel
    )
}
