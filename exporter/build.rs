//! Embeds the source revision and the target in the program.

use std::{env, process::Command};

fn main() {
    println!("cargo::rerun-if-env-changed=SCHED_EXPORTER_REVISION");
    // Packagers set this: only they know the revision, and whether the tree is clean.
    let revision = env::var("SCHED_EXPORTER_REVISION").ok().or_else(head);
    println!("cargo::rustc-env=REVISION={}", revision.as_deref().unwrap_or("unknown").trim());
    println!("cargo::rustc-env=TARGET={}", env::var("TARGET").unwrap_or_default());
}

/// The commit of the repository, if the source is in one.
fn head() -> Option<String> {
    // In a worktree, `.git` is not a directory.
    for path in ["HEAD", "refs/heads"] {
        println!("cargo::rerun-if-changed={}", git(&["rev-parse", "--git-path", path])?.trim());
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

/// The output of git; `None` if it fails.
fn git(arguments: &[&str]) -> Option<String> {
    let git = Command::new("git").args(arguments).output().ok()?;
    git.status.success().then(|| String::from_utf8(git.stdout).ok())?
}
