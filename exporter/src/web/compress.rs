//! Compresses response bodies with gzip.

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};

/// Below this size, compression costs more than it saves.
pub(super) const MIN_BYTES: usize = 1_024;

pub(super) fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 4), Compression::fast());
    // Writing to a vector cannot fail.
    let _ = encoder.write_all(text.as_bytes());
    encoder.finish().unwrap_or_default()
}
