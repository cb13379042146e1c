//! Exact per-CPU scheduler time and run-queue latency of a Linux host, as OpenMetrics.
//!
//! ```text
//! sched_exporter-ebpf ─> kernel ─> accounting ─> metrics ─> web       a scrape, left to right
//!                                                   ▲
//!            expr ─> config ─> labels ─> generation ┘                 a reload, left to right
//!                          sources ─> reload ┘
//! ```
//!
//! Each folder is a room with one purpose. A room names only what its row lists, and no room names
//! `cli`. A test, `exporter/tests/rooms.rs`, reads this table and checks the source against it.
//!
//! | room | purpose | pure | may name |
//! |---|---|---|---|
//! | [`exposition`] | writes the text formats that Prometheus reads | yes | |
//! | [`accounting`] | turns the kernel program's records into exact numbers | yes | |
//! | [`expr`] | defines what a label value can say: templates and relabelling rules | yes | |
//! | [`cpu`] | reads the list of CPUs and their topology from sysfs | | |
//! | [`cgroup`] | reads which cgroups exist, their names and their quotas from the cgroup filesystem | | `expr` |
//! | [`os`] | wraps the operating system in thin layers that know nothing about the exporter | | |
//! | [`privileges`] | gives up what only the start needs, and confines the process | | `os` |
//! | [`kernel`] | loads, attaches and reads the kernel program | | `cpu`, `accounting` |
//! | [`runtimes`] | asks container runtimes and the Kubernetes API who the containers are | | `expr`, `os` |
//! | [`config`] | parses the strict YAML | | `expr`, `cpu`, `os` in `config/file.rs` |
//! | [`sources`] | reads the values that templates name | | `expr`, `os` |
//! | [`labels`] | computes the labels of each series | yes | `expr`, `config`, `cpu`, `accounting`, `exposition` |
//! | [`generation`] | prepares the configuration for scrapes on this machine | yes | `labels`, `config`, `expr`, `cpu`, `accounting`, `exposition` |
//! | [`tracker`] | follows cgroups as they come and go | | `generation`, `labels`, `expr`, `accounting`, `exposition`, `kernel`, `cgroup`, `runtimes`, `os` |
//! | [`metrics`] | decides which metrics are shown, and renders them | | `generation`, `labels`, `accounting`, `exposition`, `kernel`, `os` and `tracker` in `metrics/scrape.rs` |
//! | [`reload`] | replaces the current generation | | `metrics`, `tracker`, `generation`, `labels`, `config`, `sources`, `kernel`, `cpu`, `expr`, `os` |
//! | [`access`] | decides who may connect and what they may ask, by the web configuration | | `metrics`, `config`, `os` |
//! | [`web`] | serves HTTP | | `access`, `metrics`, `reload`, `exposition`, `os` |
//! | [`cli`] | parses the command line and runs what it asks for | | any room |

pub mod access;
pub mod accounting;
pub mod cgroup;
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
pub mod privileges;
pub mod reload;
pub mod runtimes;
pub mod sources;
pub mod tracker;
pub mod web;
