//! Which metrics are shown, and how a scrape renders them.

pub mod render;
pub mod scrape;
pub mod telemetry;
