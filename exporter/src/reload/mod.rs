//! Replaces the current generation when its file, its sources or the machine change. May name every
//! room that a generation is built from, and `metrics`, `kernel` and `os`, but not `web`.
//!
//! An invalid or missing file changes only the log and the reload metrics.
//!
//! ```text
//!  requests            reloader, on the reactor             a thread for each job
//!     │                          │                                 │
//!     ├─ batch ─────────────────>│ notify systemd, if explicit     │
//!     │                          ├─ BuildJob ─────────────────────>│ read file, sources, topology,
//!     │                          │                                 │ unless they are being written
//!     │                          │                                 │ expand labels, group CPUs
//!     │                          │<───────────────── BuildOutcome ─┤ BUILD_TIMEOUT at most
//!     │                          │                                 │
//!     │                          │ take a snapshot                 │
//!     │                          │ continue every series           │
//!     │                          │ swap the generation             │
//!     │                          │ log, metrics, systemd           │
//!     │<──────────────── outcome ┤ or wait for the writer          │
//!     │                          ├─ files in use ─────────────────>│ watch their directories
//!     │                          │<───────────────────── renewed? ─┤ FILE_TIMEOUT at most
//!     │<─ check again, if renewed┤                                 │
//! ```
//!
//! Requests come from signals, `/-/reload`, watches, polling and remote sources. Explicit ones are served
//! at once; changes are debounced. All wait while a writer is at work on the file. A thread that exceeds
//! its time limit keeps its slot until it ends. A thread that cannot be started is a failed reload, which
//! is tried again.
//!
//! Scrapes run on the reactor, so none can come between the snapshot and the swap: each is rendered
//! under one generation, and no series decreases.

mod build;
mod reloader;
mod report;
mod requests;
mod saved;

pub use build::LoadError;
pub use reloader::Reloader;
pub use report::{serving, warnings};
pub use requests::ReloadHandle;
pub use saved::ContinueError;
