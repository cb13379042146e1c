//! The files written by `cargo xtask dist`.

use std::{env, ffi::OsStr, fs, path::PathBuf, process::Command};

mod debian;
mod sbom;
mod signature;

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn release() -> PathBuf {
    env::var_os("SCHED_EXPORTER_RELEASE").expect("run by `cargo xtask test`").into()
}

/// This architecture as in the file names.
fn arch() -> &'static str {
    match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => panic!("there is no release for {other}"),
    }
}

/// Path of a file of the release for this architecture.
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
fn the_binary_runs_without_libraries() {
    let root = tempfile::tempdir().unwrap();
    fs::copy(file(""), root.path().join("sched_exporter")).unwrap();
    let mut chroot = Command::new("chroot");
    let version = output(chroot.arg(root.path()).args(["/sched_exporter", "--version"]));
    assert!(version.starts_with(&format!("sched_exporter {VERSION} ")), "{version}");
}

#[test]
fn names_are_looked_up_without_the_hosts_nss_modules() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    fs::copy(file(""), path("sched_exporter")).unwrap();
    fs::create_dir_all(path("etc")).unwrap();
    fs::write(path("etc/nsswitch.conf"), "hosts: trap dns\n").unwrap();
    fs::write(path("trap.c"), "__attribute__((constructor)) void f(void) { __builtin_trap(); }\n")
        .unwrap();
    // A directory that glibc searches on any architecture.
    fs::create_dir_all(path("lib64")).unwrap();
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-nostdlib", "-o"]).args([path("lib64/libnss_trap.so.2")]);
    output(compile.arg(path("trap.c")));
    fs::create_dir_all(path("usr")).unwrap();
    for directory in ["lib", "usr/lib", "usr/lib64"] {
        std::os::unix::fs::symlink("/lib64", path(directory)).unwrap();
    }
    let mut chroot = Command::new("chroot");
    chroot.arg(root.path()).args(["/sched_exporter", "healthcheck"]);
    chroot.arg("--web.listen-address=other:10435");
    let output = chroot.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{:?}: {said}", output.status);
    assert!(said.contains("failed to lookup address information"), "{said}");
}

#[test]
fn the_binary_contains_no_path_of_this_machine() {
    let binary = fs::read(file("")).unwrap();
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let root = fs::canonicalize(root).unwrap();
    for path in [root.to_str().unwrap(), "/registry/src/", "/.cargo/"] {
        let found = binary.windows(path.len()).any(|window| window == path.as_bytes());
        assert!(!found, "{path}");
    }
}

#[test]
fn the_checksums_cover_all_files() {
    let mut check = Command::new("sha256sum");
    output(check.args(["--check", "--strict", "SHA256SUMS"]).current_dir(release()));
    let sums = fs::read_to_string(release().join("SHA256SUMS")).unwrap();
    let files = fs::read_dir(release()).unwrap().map(|entry| entry.unwrap().file_name());
    let others = files.filter(|name| {
        !["SHA256SUMS", "SHA256SUMS.sig"].map(OsStr::new).contains(&name.as_os_str())
    });
    assert_eq!(sums.lines().count(), others.count(), "{sums}");
}

#[test]
fn the_archive_contains_the_files_for_manual_installation() {
    let listed = output(Command::new("tar").args(["--list", "--file"]).arg(file(".tar.gz")));
    let directory = format!("sched_exporter-{VERSION}.linux-{}/", arch());
    let files: Vec<_> = listed.lines().map(|line| line.trim_start_matches(&directory)).collect();
    assert_eq!(
        files,
        [
            "",
            "LICENSE-APACHE",
            "LICENSE-MIT",
            "exporter.yaml",
            "names.conf",
            "notify-reload.conf",
            "run-sched_exporter_bpf.mount",
            "sched_exporter",
            "sched_exporter.8.gz",
            "sched_exporter.service",
            "sched_exporter.socket",
            "sched_exporter.sysusers",
            "web-config.conf",
        ]
    );
}

#[test]
fn the_manual_page_lists_every_flag() {
    use clap::CommandFactory as _;
    let page = release().join("sched_exporter.8.gz");
    let page = output(Command::new("gzip").args(["--decompress", "--stdout"]).arg(page));
    let page = page.replace('\\', "");
    let args = sched_exporter::cli::args::Args::command();
    let (options, commands) = page.split_once(".SH COMMANDS").unwrap();
    let of_commands = args.get_subcommands().flat_map(clap::Command::get_arguments);
    for (page, argument) in args
        .get_arguments()
        .map(|argument| (options, argument))
        .chain(of_commands.map(|argument| (commands, argument)))
    {
        let Some(flag) = argument.get_long() else { continue };
        assert!(page.contains(&format!("--{flag}")), "the page lacks --{flag}");
    }
}
