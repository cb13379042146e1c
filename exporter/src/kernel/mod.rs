//! The kernel program and what it takes to run it.

pub mod btf;
pub mod capabilities;
mod error;
pub mod layout;
pub mod preflight;
mod program_log;
pub mod scheduler;
pub mod seed;
mod verifier;
