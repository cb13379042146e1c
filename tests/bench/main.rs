//! Measures what docs/performance.md says.

fn main() {}
