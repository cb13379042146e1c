//! Makes a set of labels valid on this machine.

use super::{OTHER, Set, ViolationKind, Violations};
use crate::{
    config::{Limits, RESERVED},
    expr::relabel::{self, is_label_name},
};

/// Whose labels must fit, for messages.
pub(super) struct Owner<'a> {
    pub(super) name: &'a str,
    /// Names that it cannot have, besides the reserved ones.
    pub(super) reserved: &'a [&'a str],
    /// The key of the rules that made a label.
    pub(super) rules: &'a dyn Fn(&str) -> &'static str,
}

/// Removes internal labels and labels whose names are invalid or too long, and replaces values that are
/// too long.
pub(super) fn fit(set: &mut Set, owner: &Owner<'_>, limits: &Limits, violations: &mut Violations) {
    relabel::remove_internal(set);
    let whose = owner.name;
    set.retain(|name, value| {
        let is_reserved = [&RESERVED, owner.reserved].iter().any(|it| it.contains(&name.as_str()));
        if !is_label_name(name) || is_reserved {
            violations.add(ViolationKind::Name, (owner.rules)(name), name, || {
                format!(
                    "the rules give {whose} the label {name:?}, which is invalid or reserved; rename \
                     it, or remove it with labeldrop"
                )
            });
            return false;
        }
        if name.len() > limits.name_bytes {
            violations.add(ViolationKind::NameBytes, "limits.name_bytes", name, || {
                let (length, max) = (name.len(), limits.name_bytes);
                format!("the name {name} has {length} bytes, {max} at most; shorten it")
            });
            return false;
        }
        if value.len() > limits.value_bytes {
            violations.add(ViolationKind::ValueBytes, "limits.value_bytes", name, || {
                let (length, max) = (value.len(), limits.value_bytes);
                format!(
                    "the value of {name} of {whose} has {length} bytes, {max} at most; shorten it, or \
                     raise the limit"
                )
            });
            OTHER.clone_into(value);
        }
        true
    });
}

/// Which labels to keep.
pub(super) struct LabelLimit<'a> {
    /// Maximum number, besides those that are exempt.
    pub(super) max: usize,
    pub(super) is_exempt: &'a dyn Fn(&str) -> bool,
    /// Whether a label is kept before those for which this returns false. Within each kind, labels are kept in
    /// the order of their names.
    pub(super) is_first: &'a dyn Fn(&str) -> bool,
}

/// Removes the labels beyond a limit.
pub(super) fn limit_labels(
    set: &mut Set,
    owner: &Owner<'_>,
    limit: &LabelLimit<'_>,
    limits: &Limits,
    violations: &mut Violations,
) {
    let mut counted: Vec<_> = set.keys().filter(|name| !(limit.is_exempt)(name)).collect();
    if counted.len() <= limit.max {
        return;
    }
    counted.sort_by_key(|name| !(limit.is_first)(name));
    let excess: Vec<_> = counted.into_iter().skip(limit.max).cloned().collect();
    violations.add(ViolationKind::Labels, "limits.labels", "", || {
        let (whose, max) = (owner.name, limits.labels);
        let count = max + excess.len();
        format!("{whose} has {count} labels, {max} at most; remove some")
    });
    for name in excess {
        set.remove(&name);
    }
}
