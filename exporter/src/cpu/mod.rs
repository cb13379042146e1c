//! The CPUs of this machine.

pub mod list;
pub mod topology;
