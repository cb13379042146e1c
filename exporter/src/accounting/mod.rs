//! The numbers of CPUs and of groups of CPUs. Pure.

pub mod groups;
pub mod snapshot;
