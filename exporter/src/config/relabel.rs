//! The sections `relabel_configs` and `cpu_relabel_configs`. Each error is reported at its key.

use crate::expr::{
    print::{MAX_CHARS, shorten},
    relabel::{Compiler, Rule, RuleError, RuleSpec},
    substitution,
};

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
        Ok(rule) => {
            if let Some(entry) = entries.iter().find(|entry| entry.name == "replacement") {
                warn(report, entry, &rule);
            }
            return Some(rule);
        }
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

/// Warns of a replacement that is probably meant as a variable or a template.
fn warn(report: &mut Report<'_>, entry: &Entry<'_>, rule: &Rule) {
    let text = entry.string().unwrap_or_default();
    let template = text.find("{{").filter(|start| text[*start..].contains("}}"));
    let (offset, what) = if let Some(name) = rule.missing_group() {
        let offset = text.find(name).unwrap_or_default();
        let name = shorten(name, MAX_CHARS);
        let (number, _) =
            name.split_at(name.find(|c: char| !c.is_ascii_digit()).unwrap_or(name.len()));
        if !number.is_empty() {
            let message =
                format!("no group has the name {name}; for group {number}, write ${{{number}}}");
            return report.warning_within(entry, offset, &message);
        }
        (offset, format!("no group has the name {name}, so it is always empty"))
    } else if let Some(offset) = template {
        (offset, "{{ … }} is served as written".into())
    } else if let Some(found) = substitution::find(text).filter(|it| !is_group(it.written)) {
        (found.offset, format!("{} is served as written", shorten(found.written, MAX_CHARS)))
    } else {
        return;
    };
    let message =
        format!("{what}; write {{{{ env.NAME }}}} in a label, and its name in source_labels");
    report.warning_within(entry, offset, &message);
}

/// Whether Go takes this for a group.
fn is_group(written: &str) -> bool {
    written.starts_with('$') && !written.starts_with("$(")
}
