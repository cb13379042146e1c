//! Tells the program what it was built from and for.

use std::{env, process::Command};

fn main() {
    // Who packages says what the tree is, and whether it is as committed.
    let revision = env::var("SCHED_EXPORTER_REVISION").ok().or_else(head);
    println!("cargo::rustc-env=REVISION={}", revision.as_deref().unwrap_or("unknown").trim());
    println!("cargo::rustc-env=TARGET={}", env::var("TARGET").unwrap_or_default());
    println!("cargo::rerun-if-env-changed=SCHED_EXPORTER_REVISION");
    println!("cargo::rerun-if-changed=../.git/HEAD");
    println!("cargo::rerun-if-changed=../.git/refs/heads");
}

fn head() -> Option<String> {
    let git = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
    git.status.success().then(|| String::from_utf8(git.stdout).ok())?
}
