//! `cargo xtask tools`: downloads in advance what the other commands download when they need it.

use std::process::ExitCode;

use anyhow::Result;

use crate::{
    runtimes::USUAL,
    tools::{
        PinnedRust, cargo_deny, cyclonedx, debian, kustomize, manifests, operator,
        path_with_bpf_linker, path_with_cargo_deb, prometheus, python, runtimes,
    },
    vm,
};

/// A name, and a function that downloads the thing if it is missing.
type Download = (&'static str, fn() -> Result<()>);

/// Everything that is downloaded when a command first needs it.
const DOWNLOADS: [Download; 12] = [
    ("bpf-linker", || path_with_bpf_linker(&PinnedRust::find()?).map(drop)),
    ("cargo-deb", || path_with_cargo_deb().map(drop)),
    ("cargo-deny", || cargo_deny().map(drop)),
    ("prometheus_client", || python().map(drop)),
    ("the checks of manifests", || manifests().map(drop)),
    ("the checks of bills of materials", || cyclonedx().map(drop)),
    ("the types of prometheus-operator", || operator().map(drop)),
    ("kustomize", || kustomize().map(drop)),
    ("Prometheus", || prometheus().map(drop)),
    ("a Debian that boots", || debian().map(drop)),
    ("container runtimes", || runtimes(USUAL).map(drop)),
    ("the kernels of `cargo xtask vm --quick`", vm::download_quick),
];

/// Downloads everything that the other commands would download, and builds it if necessary.
pub(crate) fn download() -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for (name, download) in DOWNLOADS {
        if let Err(error) = download() {
            eprintln!("{name}: {error:#}");
            code = ExitCode::FAILURE;
        }
    }
    code
}
