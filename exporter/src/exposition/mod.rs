//! Writes the text formats that Prometheus reads. Pure. May name std and itoa, and no other room.

mod encoder;
mod format;

pub use encoder::{Encoder, Family, Kind, Labels, Value, canonical, le};
pub use format::Format;
