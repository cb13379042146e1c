//! Parses the command line and runs what it asks for. May name every room; no room names it.

pub mod args;
mod cgroups;
pub mod check;
pub mod healthcheck;
pub mod modes;
mod start;
mod version;
