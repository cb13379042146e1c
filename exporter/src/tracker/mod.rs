//! Follows the cgroups of this machine as they come and go. May name `kernel`, `cgroup`, `accounting`,
//! `labels`, `generation`, `expr`, `exposition`, `runtimes` and `os`.
//!
//! ```text
//!  kernel program           tracker, on the reactor           a thread for each job
//!     │ a cgroup got a slot,       │                                 │
//!     ├ or was removed ───────────>│ take a snapshot                 │
//!     ├ paths of new cgroups ─────>│ keep them in births             │
//!     │                            │ what removed cgroups had        │
//!     │                            │ stays in their sets             │
//!     │<──────────── their slots ──┤                                 │
//!     │                            ├─ cgroups without a path ───────>│ walk: find their paths,
//!     │                            │<──────────────────────── paths ─┤ at most every 10 s
//!     │                            │                                 │
//!     │                            ├─ unknown containers ───────────>│ ask runtimes and the
//!     │                            │<────────────────── an inventory ┤ Kubernetes API
//!     │                            │                                 │
//!     │                            ├─ cgroups without a name ───────>│ naming: find their names,
//!     │                            │<──────────────── names, labels ─┤ compute their labels
//!     │                            │ take a snapshot                 │
//!     │                            │ assign them to sets             │
//! ```
//!
//! The kernel program sends the path of a cgroup before a task can run in it. So one that is removed within
//! milliseconds has a name, and keeps its slot until what it used is in its set. A walk finds the cgroups that
//! existed before the start. If no mount shows them, they have no name.
//!
//! A cgroup of a container that no source knows waits up to 3 seconds for its names, or 8 if the Kubernetes API is
//! asked. Then it gets those that its path gives, and moves to another set if an answer names it later.
//!
//! Scrapes and reloads run on the reactor too, so none sees a change half done. While no cgroup appears or is
//! removed, the tracker wakes once a minute to rank the sets, and to ask about containers if there are any.
//! Quotas are read on another thread, as long as there are scrapes.

mod births;
mod containers;
mod failure;
mod follow;
mod naming;
mod quotas;
mod searches;
mod tracked;
mod walk;

pub use follow::{Outside, Report, Tracker};
pub use naming::{CgroupLabels, Named, NamesBySerial, labels_of, violations_of};
pub use tracked::{ContinueError, Tracked};
