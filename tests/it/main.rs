//! The whole exporter on a real kernel over real HTTP. A module is named for what its tests need;
//! `cargo xtask test` says which of them a machine can't run. They run in the order of their names,
//! so that CPUs go offline last: on some virtual machines the kernel reports fewer switches after.

#![expect(clippy::unwrap_used, reason = "a test that can't go on panics")]

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
mod release;
mod systemd;
mod trace;
mod unplug;
