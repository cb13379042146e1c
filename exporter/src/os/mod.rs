//! Thin layers over the operating system, which know nothing of the exporter.

pub mod files;
pub(crate) mod http_client;
pub mod log;
pub mod nss;
pub mod signals;
pub mod systemd;
pub mod watch;
