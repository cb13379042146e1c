//! The text that Prometheus reads. Pure.

mod encoder;
mod format;

pub use encoder::{Encoder, Family, Kind, Labels, Value, canonical, le};
pub use format::Format;
