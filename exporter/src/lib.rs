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

pub mod accounting;
pub mod cli;
pub mod config;
pub mod cpu;
pub mod exposition;
pub mod expr;
pub mod generation;
pub mod kernel;
pub mod labels;
pub mod metrics;
pub mod os;
pub mod reload;
pub mod sources;
pub mod web;
