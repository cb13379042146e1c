//! What the tests and benches share: the exporter as a process, an HTTP client that can misbehave,
//! expositions as numbers, and workloads whose time is known.

pub mod client;
pub mod exposition;
pub mod process;
pub mod workload;
