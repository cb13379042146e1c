//! Exact per-CPU scheduler time and run-queue latency of a Linux host, as OpenMetrics.
//!
//! ```text
//! sched_switch ─> CPU: PerCpuArray<CpuRecord> ─> Snapshot ─> families ─> text ─> HTTP
//!    kernel          sched_exporter-ebpf        snapshot.rs  families.rs  │   server.rs
//!                                                   ▲            ▲   exposition.rs
//!                                              clock first   one Generation
//!                                                                ▲   generation.rs
//!                              Config, Values, Topology ─> labels ─> groups
//! ```
//!
//! Only `ebpf` names aya. `btf`, `check`, `config` but for `read`, `exposition`, `families`,
//! `generation`, `groups`, `labels`, `layout`, `negotiate`, `relabel`, `snapshot` and `template` are
//! pure.

pub mod args;
pub mod btf;
pub mod check;
mod client;
pub mod config;
pub mod cpus;
pub mod ebpf;
pub mod exporter;
pub mod exposition;
pub mod families;
pub mod files;
pub mod generation;
pub mod groups;
pub mod healthcheck;
pub mod host;
pub mod labels;
pub mod layout;
pub mod log;
pub mod names;
pub mod negotiate;
pub mod privileges;
pub mod relabel;
pub mod reload;
pub mod seed;
pub mod server;
pub mod signals;
pub mod snapshot;
pub mod sources;
pub mod systemd;
pub mod telemetry;
pub mod template;
pub mod topology;
pub mod watch;
