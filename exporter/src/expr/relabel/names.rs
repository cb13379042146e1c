//! The names of labels that rules read and make, without their values.

use std::collections::BTreeSet;

use super::{Action, Rule, Scratch, is_label_name};

impl Rule {
    /// The labels that the rule reads, sets or deletes; `None` if these can be any.
    pub fn names(&self) -> Option<impl Iterator<Item = &str>> {
        let target = match &self.action {
            Action::Replace { target, .. } => Some(target.literal()?),
            Action::KeepEqual { target }
            | Action::DropEqual { target }
            | Action::HashMod { target, .. }
            | Action::Lowercase { target }
            | Action::Uppercase { target } => Some(target.as_str()),
            Action::Keep(_) | Action::Drop(_) => None,
            Action::LabelMap { .. } | Action::LabelDrop(_) | Action::LabelKeep(_) => return None,
        };
        Some(self.source_labels.iter().map(String::as_str).chain(target))
    }

    /// Whether the rule reads a label: matches, compares or copies its value.
    pub fn reads(&self, name: &str, scratch: &mut Scratch) -> bool {
        match &self.action {
            Action::LabelMap { pattern, .. } => pattern.is_match(name, scratch),
            _ => self.inputs().any(|label| label == name),
        }
    }

    /// Whether the rule can read a label whose name starts with `prefix`.
    pub fn may_read(&self, prefix: &str) -> bool {
        matches!(self.action, Action::LabelMap { .. })
            || self.inputs().any(|label| label.starts_with(prefix))
    }

    /// The labels that the rule reads by name.
    fn inputs(&self) -> impl Iterator<Item = &str> {
        let compared = match &self.action {
            Action::KeepEqual { target } | Action::DropEqual { target } => Some(target),
            _ => None,
        };
        self.source_labels.iter().chain(compared).map(String::as_str)
    }

    /// Turns the names of a set's labels into those after the rule, as if each value matched.
    fn rename(&self, names: &mut BTreeSet<String>, scratch: &mut Scratch) {
        match &self.action {
            Action::Replace { replacement, .. } if replacement.is_empty() => {}
            Action::LabelMap { pattern, replacement } => {
                let mut renamed = Vec::new();
                for name in &*names {
                    let found = pattern.find(name, scratch);
                    renamed.extend(found.and_then(|found| replacement.expand(&found).ok()));
                }
                names.extend(renamed.into_iter().filter(|name| is_label_name(name)));
            }
            Action::LabelDrop(pattern) => names.retain(|name| !pattern.is_match(name, scratch)),
            Action::LabelKeep(pattern) => names.retain(|name| pattern.is_match(name, scratch)),
            _ => names.extend(self.target().map(str::to_owned)),
        }
    }
}

/// Returns the names that labels can have after rules, given those before. A name that depends on a value
/// is left out.
pub fn names_after(rules: &[Rule], mut names: BTreeSet<String>) -> BTreeSet<String> {
    let mut scratch = Scratch::default();
    for rule in rules {
        rule.rename(&mut names, &mut scratch);
        // As in `apply`, which fails for this many labels.
        if names.len() > super::MAX_LABELS {
            break;
        }
    }
    names
}
