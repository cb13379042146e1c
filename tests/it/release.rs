//! What `cargo xtask dist` leaves.

use std::{env, fs, path::PathBuf, process::Command};

mod debian;
mod sbom;

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn release() -> PathBuf {
    env::var_os("SCHED_EXPORTER_RELEASE").expect("run by `cargo xtask test`").into()
}

/// This architecture, as the names of files have it.
fn arch() -> &'static str {
    match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => panic!("there is no release for {other}"),
    }
}

/// A file of the release for this architecture.
fn file(extension: &str) -> PathBuf {
    release().join(format!("sched_exporter-{VERSION}.linux-{}{extension}", arch()))
}

#[track_caller]
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_binary_runs_where_no_library_is() {
    let root = tempfile::tempdir().unwrap();
    fs::copy(file(""), root.path().join("sched_exporter")).unwrap();
    let mut chroot = Command::new("chroot");
    let version = output(chroot.arg(root.path()).args(["/sched_exporter", "--version"]));
    assert!(version.starts_with(&format!("sched_exporter {VERSION} ")), "{version}");
}

#[test]
fn the_binary_holds_no_path_of_this_machine() {
    let binary = fs::read(file("")).unwrap();
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let root = fs::canonicalize(root).unwrap();
    for path in [root.to_str().unwrap(), "/registry/src/", "/.cargo/"] {
        let found = binary.windows(path.len()).any(|window| window == path.as_bytes());
        assert!(!found, "{path}");
    }
}

#[test]
fn the_checksums_are_of_all_files() {
    let mut check = Command::new("sha256sum");
    output(check.args(["--check", "--strict", "SHA256SUMS"]).current_dir(release()));
    let sums = fs::read_to_string(release().join("SHA256SUMS")).unwrap();
    let files = fs::read_dir(release()).unwrap().count();
    assert_eq!(sums.lines().count(), files - 1, "{sums}");
}

#[test]
fn the_archive_holds_what_is_installed_by_hand() {
    let listed = output(Command::new("tar").args(["--list", "--file"]).arg(file(".tar.gz")));
    let directory = format!("sched_exporter-{VERSION}.linux-{}/", arch());
    let files: Vec<_> = listed.lines().map(|line| line.trim_start_matches(&directory)).collect();
    assert_eq!(files, ["", "LICENSE-APACHE", "LICENSE-MIT", "exporter.yaml", "sched_exporter"]);
}

#[test]
fn the_manual_page_names_every_flag() {
    use clap::CommandFactory as _;
    let page = release().join("sched_exporter.8.gz");
    let page = output(Command::new("gzip").args(["--decompress", "--stdout"]).arg(page));
    let page = page.replace('\\', "");
    for argument in sched_exporter::args::Args::command().get_arguments() {
        let Some(flag) = argument.get_long() else { continue };
        assert!(page.contains(&format!("--{flag}")), "the page lacks --{flag}");
    }
}
