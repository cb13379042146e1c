//! Decides which metrics are shown, and renders them.
//!
//! It names accounting, exposition, generation and labels; `scrape` alone also names the kernel and the
//! log.

pub mod catalog;
pub mod render;
pub mod scrape;
pub mod telemetry;
