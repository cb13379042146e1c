//! Shared by tests and benches: the exporter as a process and in a container, the commands in the
//! docs, an HTTP client that can misbehave, a parser of expositions, workloads whose CPU time is
//! known, the figures of perf and the kernel for them, retries of tests that need a quiet machine,
//! rendering for machines of any size, and how far quantiles from buckets are off.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests fail by panicking, and print diagnostics"
)]

pub mod archive;
pub mod bpf;
pub mod cgroups;
pub mod client;
pub mod commands;
pub mod config_map;
pub mod container;
pub mod containerd;
pub mod dashboard;
pub mod exposition;
pub mod fake_runtime;
pub mod fdinfo;
pub mod grpc;
pub mod kernel;
pub mod kubelet;
pub mod machine;
pub mod maps;
pub mod namespaces;
pub mod network;
pub mod pids;
pub mod pins;
pub mod process;
pub mod properties;
pub mod protobuf;
pub mod quantiles;
pub mod quiet;
pub mod rendering;
pub mod rules;
pub mod sample;
pub mod summary;
pub mod system;
pub mod tls;
pub mod trace;
pub mod workload;
