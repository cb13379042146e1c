//! Defines what a label value can say: templates, relabelling rules, and the names that they use.
//!
//! It is pure and names no other room.

pub mod cgroup;
pub mod lookalike;
pub mod print;
pub mod relabel;
pub mod substitution;
pub mod suggest;
pub mod template;
pub mod values;
