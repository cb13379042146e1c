//! What the tests and benches share: the exporter as a process and in a container, the commands that
//! docs tell readers to type, an HTTP client that can misbehave, expositions as numbers, workloads whose
//! time is known, what perf and the kernel say of it, and the rendering of machines of any size.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that can't go on panics, and shows what it has"
)]

pub mod client;
pub mod commands;
pub mod config_map;
pub mod container;
pub mod dashboard;
pub mod exposition;
pub mod fdinfo;
pub mod kernel;
pub mod machine;
pub mod network;
pub mod process;
pub mod properties;
pub mod rendering;
pub mod rules;
pub mod sample;
pub mod summary;
pub mod trace;
pub mod workload;
