//! Asks container runtimes and the Kubernetes API who the containers are. May name `expr` and `os`.
//!
//! ```text
//!   Runtimes ── ask ──> source, source, …   at the same time, each within its limits
//!      │                   │
//!      │   containers ─────┘ by id, and pods by uid
//!      ▼
//!   Inventory ── find ──> Known ── add_to ──> CgroupNames
//! ```
//!
//! | file | contents |
//! |---|---|
//! | `ask.rs` | when each source is asked, and what is kept of its answers |
//! | `source.rs` | a socket or the API: what speaks there |
//! | `cri.rs`, `grpc.rs`, `protobuf.rs` | containerd, CRI-O and cri-dockerd |
//! | `docker.rs` | Docker and podman |
//! | `kubernetes.rs` | the Kubernetes API |
//! | `json.rs` | JSON in pieces |
//! | `answer.rs` | the limits of an answer |
//! | `inventory.rs` | who the containers are |
//! | `received.rs` | reads answers that were received already, for tests |
//!
//! Tenants choose what answers contain. They are read in pieces, so that memory does not depend on their size, and
//! only a bounded part of them is kept.

mod answer;
mod ask;
mod cri;
mod docker;
mod endpoint;
mod error;
mod grpc;
mod inventory;
mod json;
mod kubernetes;
mod protobuf;
mod received;
mod source;

pub use ask::{Origins, Runtimes, Settings, SourceState};
pub use inventory::{Inventory, Known, is_in_container};
pub use received::Received;

#[cfg(test)]
mod tests;
