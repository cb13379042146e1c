//! Tells the program what it was built from and for.

use std::{env, process::Command};

fn main() {
    let git = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let revision = git
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok());
    println!("cargo::rustc-env=REVISION={}", revision.as_deref().unwrap_or("unknown").trim());
    println!("cargo::rustc-env=TARGET={}", env::var("TARGET").unwrap_or_default());
    println!("cargo::rerun-if-changed=../.git/HEAD");
    println!("cargo::rerun-if-changed=../.git/refs/heads");
}
