//! The systemd unit, checked by systemd-analyze.

use std::{fs, path::Path, process::Command};

use sched_exporter_tests::process::binary;
use tempfile::TempDir;

const UNIT: &str = include_str!("../../deploy/systemd/sched_exporter.service");
const DROP_IN: &str =
    include_str!("../../deploy/systemd/sched_exporter.service.d/notify-reload.conf");
const NAMES: &str = include_str!("../../deploy/systemd/sched_exporter.service.d/names.conf");
const WEB_CONFIG: &str =
    include_str!("../../deploy/systemd/sched_exporter.service.d/web-config.conf");
const MOUNT: &str = include_str!("../../deploy/systemd/run-sched_exporter_bpf.mount");
const SOCKET: &str = include_str!("../../deploy/systemd/sched_exporter.socket");
const PROGRAM: &str = "/usr/bin/sched_exporter";

/// Highest exposure that `systemd-analyze security` may report, in tenths; 100 is full exposure.
const MOST_EXPOSURE: &str = "20";

/// The unit and its mount in a directory of their own, with the path of the binary under test.
fn unit() -> (TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sched_exporter.service");
    assert_eq!(UNIT.matches(PROGRAM).count(), 1);
    fs::write(&path, UNIT.replace(PROGRAM, binary().to_str().unwrap())).unwrap();
    fs::write(directory.path().join("run-sched_exporter_bpf.mount"), MOUNT).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (directory, path)
}

/// Runs systemd-analyze; returns whether it succeeded, and its output.
fn analyze(args: &[&str]) -> (bool, String) {
    let output = Command::new("systemd-analyze").args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said.into_owned())
}

#[test]
fn systemd_accepts_the_unit() {
    let (_directory, unit) = unit();
    assert_eq!(analyze(&["verify", "--man=no", &unit]), (true, String::new()));
}

#[test]
fn systemd_accepts_the_mount() {
    let (directory, _unit) = unit();
    let mount = directory.path().join("run-sched_exporter_bpf.mount");
    assert_eq!(analyze(&["verify", "--man=no", mount.to_str().unwrap()]), (true, String::new()));
}

#[test]
fn systemd_accepts_the_socket() {
    let (_directory, unit) = unit();
    let socket = Path::new(&unit).with_extension("socket");
    fs::write(&socket, SOCKET).unwrap();
    assert_eq!(analyze(&["verify", "--man=no", socket.to_str().unwrap()]), (true, String::new()));
}

#[test]
fn the_units_exposure_is_low() {
    let (_directory, unit) = unit();
    let threshold = format!("--threshold={MOST_EXPOSURE}");
    let (is_below, said) = analyze(&["security", "--offline=true", &threshold, &unit]);
    assert!(is_below, "{said}");
}

/// Adds a drop-in to the unit, and checks both.
fn verify_with(drop_in: &str) -> (bool, String) {
    let (_directory, unit) = unit();
    let drop_ins = Path::new(&unit).with_extension("service.d");
    fs::create_dir(&drop_ins).unwrap();
    fs::write(drop_ins.join("drop-in.conf"), drop_in).unwrap();
    analyze(&["verify", "--man=no", &unit])
}

#[test]
fn systemd_accepts_the_drop_in_for_names() {
    assert_eq!(verify_with(NAMES), (true, String::new()));
    let mistake = NAMES.replace("SupplementaryGroups", "SupplementaryGroup");
    assert!(verify_with(&mistake).1.contains("SupplementaryGroup"));
}

#[test]
fn systemd_accepts_the_drop_in_for_the_web_configuration() {
    let here = WEB_CONFIG.replace(PROGRAM, binary().to_str().unwrap());
    assert_eq!(verify_with(&here), (true, String::new()));
    let mistake = here.replace("LoadCredential", "LoadCredentials");
    assert!(verify_with(&mistake).1.contains("LoadCredentials"));
}

#[test]
fn the_drop_in_works_since_systemd_253() {
    let (_, said) = verify_with(DROP_IN);
    let (_, version) = analyze(&["--version"]);
    let version: u32 = version.split(' ').nth(1).unwrap().parse().unwrap();
    let refused = said.contains("Failed to parse service type, ignoring: notify-reload");
    assert_eq!(refused, version < 253, "{version}: {said}");
    assert_eq!(said.lines().count(), usize::from(refused), "{said}");
}
