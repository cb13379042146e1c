//! Decides which metrics are shown, and renders them.
//!
//! May name `accounting`, `exposition`, `generation` and `labels`; only `scrape` may also name `kernel`
//! and `os`.

pub mod catalog;
pub mod process;
pub mod render;
pub mod scrape;
pub mod selection;
pub mod telemetry;
