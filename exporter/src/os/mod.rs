//! Thin layers over the operating system that know nothing about the exporter. May name no other room.

pub mod blocking;
#[cfg(test)]
pub(crate) mod fake;
pub mod files;
pub mod heap;
pub(crate) mod http_client;
pub(crate) mod jitter;
pub(crate) mod kubernetes;
pub mod log;
pub mod nss;
pub mod patience;
mod progress;
pub mod signals;
pub mod systemd;
pub mod text;
pub(crate) mod unix_socket;
pub mod watch;
