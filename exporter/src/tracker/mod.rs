//! Follows the cgroups of this machine as they come and go. May name `kernel`, `cgroup`, `accounting`,
//! `labels`, `generation`, `expr`, `exposition` and `os`.
//!
//! ```text
//!  kernel program           tracker, on the reactor           a thread for each job
//!     │ a cgroup got a slot,       │                                 │
//!     ├ or was removed ───────────>│ take a snapshot                 │
//!     │                            │ what removed cgroups had        │
//!     │                            │ stays in their sets             │
//!     │<──────────── their slots ──┤                                 │
//!     │                            ├─ cgroups without names ────────>│ find their paths
//!     │                            │                                 │ compute their labels
//!     │                            │<──────────────── names, labels ─┤
//!     │                            │ take a snapshot                 │
//!     │                            │ assign them to sets             │
//! ```
//!
//! Scrapes and reloads run on the reactor too, so none sees a change half done. While no cgroup appears or is
//! removed, the tracker wakes once a minute, to rank the sets. Quotas are read on another thread, as long as
//! there are scrapes.

mod follow;
mod naming;
mod quotas;
mod tracked;

pub use follow::Tracker;
pub use naming::{CgroupLabels, Named, NamesBySerial, labels_of};
pub use tracked::Tracked;
