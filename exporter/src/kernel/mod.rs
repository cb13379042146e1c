//! The kernel program and what it takes to run it.

pub mod btf;
pub mod capabilities;
pub mod layout;
pub mod preflight;
pub mod scheduler;
pub mod seed;
