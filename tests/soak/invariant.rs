//! Something that must hold, with how often it was looked at and the worst that was seen.

use std::fmt;

/// An invariant, and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct Invariant {
    name: &'static str,
    checks: u64,
    /// The worst value, with the bound and what both count.
    worst: Option<(u64, u64, &'static str)>,
    /// What is said of it besides.
    notes: Vec<String>,
    /// What contradicts it; the first that was found.
    contradiction: Option<String>,
}

impl Invariant {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self { name, checks: 0, worst: None, notes: Vec::new(), contradiction: None }
    }

    pub(crate) const fn holds(&self) -> bool {
        self.checks > 0 && self.contradiction.is_none()
    }

    /// Notes a check. `evidence` says what contradicts the invariant where it does not hold.
    pub(crate) fn check(&mut self, holds: bool, evidence: impl FnOnce() -> String) {
        self.checks += 1;
        if !holds && self.contradiction.is_none() {
            self.contradiction = Some(evidence());
        }
    }

    /// Says something besides.
    pub(crate) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// Notes a check of a value that must not be above `bound`. `unit` is what both count.
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
