//! The signature of a release, made and verified by the commands in docs/releases.md.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use sched_exporter_tests::commands::release_commands;
use tempfile::TempDir;

use super::{file, release};

/// A release that is signed, in `target/dist` of a directory with the keys.
struct Signed {
    directory: TempDir,
}

impl Signed {
    /// Makes a key, and signs the release for this machine.
    fn new() -> Self {
        let signed = Self { directory: tempfile::tempdir().unwrap() };
        let dist = signed.dist();
        fs::create_dir_all(&dist).unwrap();
        for from in [file(""), file(".tar.gz"), release().join("SHA256SUMS")] {
            fs::copy(&from, dist.join(from.file_name().unwrap())).unwrap();
        }
        // Answers ssh-keygen's questions for the passphrase.
        let answer = signed.path("answer");
        fs::write(&answer, "#!/bin/sh\necho a passphrase\n").unwrap();
        fs::set_permissions(&answer, fs::Permissions::from_mode(0o755)).unwrap();
        for command in release_commands("Sign") {
            signed.run_here(command);
        }
        fs::copy(signed.path("allowed_signers"), dist.join("allowed_signers")).unwrap();
        signed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn dist(&self) -> PathBuf {
        self.path("target/dist")
    }

    #[track_caller]
    fn run_here(&self, command: &str) {
        let output = self.run(command, self.directory.path());
        assert!(output.status.success(), "{command}: {output:?}");
    }

    fn run(&self, command: &str, directory: &Path) -> Output {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).current_dir(directory);
        shell.env("SSH_ASKPASS", self.path("answer")).env("SSH_ASKPASS_REQUIRE", "force");
        shell.output().unwrap()
    }

    /// Whether the release is accepted, and what was printed.
    fn verify(&self) -> (bool, String) {
        let commands = release_commands("Verify");
        let [command] = commands[..] else { panic!("{commands:?}") };
        let output = self.run(command, &self.dist());
        let printed = String::from_utf8(output.stdout).unwrap();
        (output.status.success(), printed + &String::from_utf8(output.stderr).unwrap())
    }
}

#[test]
fn a_signed_release_is_accepted() {
    let (accepted, printed) = Signed::new().verify();
    assert!(accepted, "{printed}");
    assert!(printed.starts_with("Good \"file\" signature for releases@"), "{printed}");
    for file in [file(""), file(".tar.gz")] {
        let line = format!("\n{}: OK\n", file.file_name().unwrap().display());
        assert!(printed.contains(&line), "{printed}");
    }
}

#[test]
fn a_changed_file_is_refused() {
    let signed = Signed::new();
    let archive = signed.dist().join(file(".tar.gz").file_name().unwrap());
    let mut bytes = fs::read(&archive).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&archive, bytes).unwrap();
    let (accepted, printed) = signed.verify();
    assert!(!accepted, "{printed}");
    assert!(printed.contains(".tar.gz: FAILED\n"), "{printed}");

    // Checksums that fit the changed file.
    signed.run_here("cd target/dist && sha256sum sched_exporter-* > SHA256SUMS");
    let (accepted, printed) = signed.verify();
    assert!(!accepted, "{printed}");
    assert!(!printed.contains("OK"), "{printed}");
}

#[test]
fn the_signature_of_another_key_is_refused() {
    let signed = Signed::new();
    signed.run_here("ssh-keygen -q -t ed25519 -N '' -f other");
    fs::remove_file(signed.dist().join("SHA256SUMS.sig")).unwrap();
    signed.run_here("ssh-keygen -Y sign -f other -n file target/dist/SHA256SUMS");
    let (accepted, printed) = signed.verify();
    assert!(!accepted, "{printed}");
    assert!(!printed.contains("OK"), "{printed}");
}

#[test]
fn a_release_without_a_listed_file_is_refused() {
    let signed = Signed::new();
    for file in [file(""), file(".tar.gz")] {
        fs::remove_file(signed.dist().join(file.file_name().unwrap())).unwrap();
    }
    let (accepted, printed) = signed.verify();
    assert!(!accepted, "{printed}");
}
