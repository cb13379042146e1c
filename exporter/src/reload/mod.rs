//! Replaces the current generation when its file, its sources or the machine change. May name every
//! room that a generation is built from, and `metrics`, `kernel` and `os`, but not `web`.
//!
//! An invalid or missing file changes only the log and the reload metrics.
//!
//! ```text
//!  signal, /-/reload, watch, poll, source
//!                 │ Request
//!                 ▼
//!  requests   next_batch          explicit: at once; changes: debounced
//!                 │ batch
//!                 ▼               reactor thread          │ blocking thread
//!  reloader   run ── report.begin                         │
//!              ├─ reload ─ build ── BuildJob ─────────────┼─> build: read the file, the sources and
//!              │             ▲                            │   the topology; expand the labels
//!              │             └───── BuildOutcome ─────────┼── (gives up after BUILD_TIMEOUT)
//!              │     └──── serve:  snapshot of the kernel │
//!              │                   continue every series  │
//!              │                   swap the generation    │
//!              ├─ report.end, reply to each request       │
//!              └─ renew_watches ── Watched ───────────────┼─> watch the directories that matter now
//!                            └──── changed: check again <─┼── (gives up after FILE_TIMEOUT)
//! ```
//!
//! Scrapes run on the reactor, so none can come between the snapshot and the swap: each is rendered
//! under one generation, and no series goes back.

mod blocking;
mod build;
mod reloader;
mod report;
mod requests;

pub use build::LoadError;
pub use reloader::Reloader;
pub use report::serving;
pub use requests::ReloadHandle;
