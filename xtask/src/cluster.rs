//! `cargo xtask cluster`: runs the `DaemonSet` on a Kubernetes node of this machine.

use std::process::ExitCode;

use anyhow::Result;

use crate::{
    arch::Arch,
    image, kubernetes, runtimes,
    shipped::{build_shipped, build_tests},
    tools,
    workspace::{named, root_command, run},
};

/// Builds Kubernetes, unless it is built already, and the program `cluster` of package `sched_exporter-tests`; runs
/// the program as root.
pub(crate) fn cluster() -> Result<ExitCode> {
    let arch = Arch::host()?;
    let mut variables = vec![
        ("SCHED_EXPORTER_KUBERNETES", kubernetes::find()?),
        ("SCHED_EXPORTER_BIN", build_shipped(arch)?),
        ("SCHED_EXPORTER_IMAGE", image::for_this_machine()?),
        (runtimes::VARIABLE, tools::runtimes(runtimes::USUAL)?),
        ("SCHED_EXPORTER_KUSTOMIZE", tools::kustomize()?),
        ("SCHED_EXPORTER_MANIFESTS_PYTHON", tools::manifests()?),
        ("SCHED_EXPORTER_PROMETHEUS", tools::prometheus()?),
    ];
    variables.extend(image::containers_conf().map(|path| (image::CONTAINERS_CONF, path)));
    let cluster = named(&build_tests(arch)?, "cluster")?;
    run(&mut root_command(&cluster, &variables))?;
    Ok(ExitCode::SUCCESS)
}
