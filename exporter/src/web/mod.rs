//! HTTP.

pub mod negotiate;
pub mod server;
