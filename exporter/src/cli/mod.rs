//! What the command line asks for.

pub mod args;
pub mod check;
pub mod healthcheck;
