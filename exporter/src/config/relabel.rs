//! The sections `relabel_configs` and `cpu_relabel_configs`. Each error is reported at its key.

use crate::expr::relabel::{Compiler, Rule, RuleError, RuleSpec};

use super::yaml::{Entry, Report};

/// Maximum number of rules in a list.
const MAX_RULES: usize = 4096;

const KEYS: [&str; 7] =
    ["source_labels", "separator", "regex", "modulus", "target_label", "replacement", "action"];

/// Parses a list of rules. Invalid rules are left out.
pub(super) fn rules(report: &mut Report<'_>, section: &Entry<'_>) -> Vec<Rule> {
    let items = report.items(section);
    if items.len() > MAX_RULES {
        report.error(section, |_| {
            format!("there are {} rules; keep at most {MAX_RULES}", items.len())
        });
        return Vec::new();
    }
    let mut compiler = Compiler::default();
    items.iter().filter_map(|item| rule(report, item, &mut compiler)).collect()
}

fn rule(report: &mut Report<'_>, item: &Entry<'_>, compiler: &mut Compiler) -> Option<Rule> {
    let mut spec = RuleSpec::default();
    let mut source_labels = Vec::new();
    let mut readable = item.is_map();
    let entries = report.entries(item);
    for entry in &entries {
        let slot = match entry.name {
            "separator" => &mut spec.separator,
            "regex" => &mut spec.regex,
            "target_label" => &mut spec.target_label,
            "replacement" => &mut spec.replacement,
            "action" => &mut spec.action,
            // As in Prometheus, a key without a value is the same as no key.
            "source_labels" | "modulus" if entry.is_null() => continue,
            "source_labels" => {
                source_labels = report.items(entry);
                let mut names = Vec::new();
                // Read all of them, so that every error is reported.
                for label in &source_labels {
                    match report.string(label) {
                        Some(name) => names.push(name),
                        None => readable = false,
                    }
                }
                spec.source_labels = Some(names);
                continue;
            }
            "modulus" => {
                spec.modulus = report.integer(entry);
                readable &= spec.modulus.is_some();
                continue;
            }
            _ => {
                report.unknown_key(entry, &KEYS);
                continue;
            }
        };
        // As in Prometheus, a string without a value is empty.
        *slot = if entry.is_null() { Some("") } else { report.string(entry) };
        readable &= slot.is_some();
    }
    // The compiler would report unreadable keys again, as missing.
    if !readable {
        return None;
    }
    let errors = match compiler.rule(&spec) {
        Ok(rule) => return Some(rule),
        Err(errors) => errors,
    };
    for RuleError { key, item: label, message } in errors {
        // Report at the label, else at the key, else at the rule: a missing key has no position.
        let at_label = label.and_then(|label| source_labels.get(label));
        let at_key = entries.iter().rfind(|entry| entry.name == key);
        report.error(at_label.or(at_key).unwrap_or(item), |_| message);
    }
    None
}
