//! The rules of `relabel_configs`, each mistake at the key that has it.

use crate::expr::relabel::{Compiler, Rule, RuleError, RuleSpec};

use super::yaml::{Entry, Report};

const MAX_RULES: usize = 4096;

const KEYS: [&str; 7] =
    ["source_labels", "separator", "regex", "modulus", "target_label", "replacement", "action"];

/// Reads a list of rules. Those with a mistake are left out.
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
            "source_labels" => {
                source_labels = report.items(entry);
                let names = source_labels.iter().map(|label| report.string(label));
                // All of them are read, for all mistakes to be told.
                let names = names.collect::<Vec<_>>().into_iter().collect::<Option<Vec<_>>>();
                readable &= names.is_some();
                spec.source_labels = names;
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
        *slot = report.string(entry);
        readable &= slot.is_some();
    }
    // What could not be read would be missed.
    if !readable {
        return None;
    }
    let errors = match compiler.rule(&spec) {
        Ok(rule) => return Some(rule),
        Err(errors) => errors,
    };
    for RuleError { key, item: label, message } in errors {
        let label = label.and_then(|label| source_labels.get(label));
        let at = label.or_else(|| entries.iter().rfind(|entry| entry.name == key)).unwrap_or(item);
        report.error(at, |_| message);
    }
    None
}
