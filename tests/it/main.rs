//! Tests of the whole exporter on a real kernel over real HTTP. Modules are named for what their
//! tests need; `cargo xtask test` lists those that the machine can't run. They run in alphabetical
//! order, so CPUs go offline last: on some virtual machines the kernel reports fewer switches
//! afterwards.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod booted;
mod container;
mod crates;
mod docs;
mod fuse;
mod kernel;
mod manifests;
mod pod;
mod prometheus;
mod promtool;
mod properties;
mod python;
mod quiet;
mod release;
mod runtimes;
mod systemd;
mod trace;
mod unplug;
