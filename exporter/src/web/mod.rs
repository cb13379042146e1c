//! HTTP.

pub mod address;
pub mod negotiate;
pub mod server;
