//! Collects violations: each once, and not too many.

use std::collections::BTreeSet;

use super::{Violation, ViolationKind};

/// Maximum number of violations reported.
const MAX_VIOLATIONS: usize = 20;

/// The violations of one generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations {
    /// Those that were not taken yet.
    new: Vec<Violation>,
    /// Those so far, by kind, key and label.
    reported: BTreeSet<(ViolationKind, String, String)>,
}

impl Violations {
    /// Adds a violation, unless the same one of this label was added before, or there are too many.
    pub(super) fn add(
        &mut self,
        kind: ViolationKind,
        key: &str,
        label: &str,
        message: impl FnOnce() -> String,
    ) {
        let id = (kind, key.to_owned(), label.to_owned());
        if self.reported.len() < MAX_VIOLATIONS && self.reported.insert(id) {
            self.new.push(Violation { kind, key: key.into(), message: message() });
        }
    }

    /// Takes the violations since the last call.
    pub fn take(&mut self) -> Vec<Violation> {
        std::mem::take(&mut self.new)
    }
}
