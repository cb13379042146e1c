//! The formats of an exposition.

/// A format that Prometheus reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus text 0.0.4. Text 1.0.0 differs only for names that need quotes; no name here does.
    Text,
}
