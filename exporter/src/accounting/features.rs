//! Optional measurements, which a kernel can lack and a user can turn off.

/// Context switches by reason.
pub const CONTEXT_SWITCHES: &str = "context_switches";

/// Run-queue waits.
pub const RUNQUEUE_LATENCY: &str = "runqueue_latency";

/// What each cgroup uses.
pub const CGROUPS: &str = "cgroups";

/// An optional measurement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its name, the value of the label `feature`.
    pub name: &'static str,
    /// Why it is off; `None` while it is on.
    pub off: Option<String>,
}

/// Whether the feature with this name is on.
pub fn is_on(features: &[Feature], name: &str) -> bool {
    features.iter().any(|feature| feature.name == name && feature.off.is_none())
}
