//! The outcome of a reload.

/// How a reload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadOutcome {
    /// A new generation is served.
    Applied,
    /// The file is the one already served.
    Unchanged,
    /// The file is invalid or unreadable; the last good one is kept.
    Failed,
}

impl ReloadOutcome {
    /// All outcomes.
    pub const ALL: [Self; 3] = [Self::Applied, Self::Unchanged, Self::Failed];

    /// Value of the label `outcome`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unchanged => "unchanged",
            Self::Failed => "failed",
        }
    }
}
