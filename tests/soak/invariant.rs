//! An invariant with the number of its checks and the worst value seen.

use std::fmt;

/// An invariant and the results of its checks.
#[derive(Clone, Debug)]
pub(crate) struct Invariant {
    name: &'static str,
    checks: u64,
    /// The worst value, its bound, and their unit.
    worst: Option<(u64, u64, &'static str)>,
    /// Additional notes for the report.
    notes: Vec<String>,
    /// Evidence of the first violation.
    contradiction: Option<String>,
}

impl Invariant {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self { name, checks: 0, worst: None, notes: Vec::new(), contradiction: None }
    }

    pub(crate) const fn holds(&self) -> bool {
        self.checks > 0 && self.contradiction.is_none()
    }

    /// Records a check; `evidence` describes the violation if it fails.
    pub(crate) fn check(&mut self, holds: bool, evidence: impl FnOnce() -> String) {
        self.checks += 1;
        if !holds && self.contradiction.is_none() {
            self.contradiction = Some(evidence());
        }
    }

    /// Adds a note to the report.
    pub(crate) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// Records a check of a value that must not exceed `bound`.
    pub(crate) fn at_most(
        &mut self,
        value: u64,
        bound: u64,
        unit: &'static str,
        evidence: impl FnOnce() -> String,
    ) {
        self.check(value <= bound, || format!("{value} {unit}: {}", evidence()));
        if self.worst.is_none_or(|(worst, ..)| worst <= value) {
            self.worst = Some((value, bound, unit));
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", if self.holds() { "ok    " } else { "FAILED" }, self.name)?;
        match self.checks {
            0 => write!(f, "never checked")?,
            1 => write!(f, "1 check")?,
            checks => write!(f, "{checks} checks")?,
        }
        if let Some((worst, bound, unit)) = self.worst {
            write!(f, ", at worst {worst} {unit} of {bound}")?;
        }
        for note in &self.notes {
            write!(f, ", {note}")?;
        }
        match &self.contradiction {
            Some(contradiction) => write!(f, "; {}", contradiction.trim_end()),
            None => Ok(()),
        }
    }
}
