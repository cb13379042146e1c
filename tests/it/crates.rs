//! The packages of the crates that could be published, and the exporter built from them.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The directory with the unpacked packages and the exporter.
fn crates() -> PathBuf {
    env::var_os("SCHED_EXPORTER_CRATES").expect("run by `cargo xtask test`").into()
}

fn unpacked(name: &str) -> PathBuf {
    crates().join(format!("{name}-{VERSION}"))
}

#[test]
fn packages_hold_licenses_and_readme() {
    for name in ["sched_exporter", "sched_exporter-ebpf"] {
        for file in ["LICENSE-APACHE", "LICENSE-MIT", "README.md"] {
            let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
            let (packaged, ours) = (unpacked(name).join(file), root.join(file));
            assert_eq!(fs::read(packaged).unwrap(), fs::read(ours).unwrap(), "{name}: {file}");
        }
    }
}

#[test]
fn the_exporter_built_from_packages_holds_the_object() {
    let object = include_bytes!("../../exporter-ebpf/sched.bpf.o");
    assert_eq!(fs::read(unpacked("sched_exporter").join("sched.bpf.o")).unwrap(), object);
    let exporter = crates().join("sched_exporter");
    let binary = fs::read(&exporter).unwrap();
    assert!(binary.windows(object.len()).any(|window| window == object));
    let version = Command::new(exporter).arg("--version").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    assert!(version.starts_with(&format!("sched_exporter {VERSION} ")), "{version}");
}
