//! The text that Prometheus reads. Pure.

mod encoder;

pub use encoder::{Encoder, Family, Kind, Labels, Value, canonical, le};
