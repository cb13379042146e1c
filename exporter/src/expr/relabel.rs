//! Prometheus's relabelling: rules that rewrite a set of labels, or drop it.
//!
//! The rules work as `relabel_configs` in Prometheus, with all eleven actions and its defaults:
//! <https://prometheus.io/docs/prometheus/latest/configuration/configuration/#relabel_config>.
//! Label names have Prometheus's classic character set: letters, digits and underscores. Rules that
//! cannot work exactly as in Prometheus are rejected when they are compiled, never when they are
//! applied; `pattern/translate.rs` and `template.rs` list them.
//!
//! Versions of Prometheus differ; this follows version 3: `.` also matches a newline, and an empty
//! replacement deletes the label that a target template names. If a `labelmap` gives several labels
//! the same name, the last one in order of the old names wins.

use std::collections::BTreeMap;

use md5::{Digest as _, Md5};

use super::print::quote;

mod names;
mod pattern;
mod template;

pub use names::names_after;
pub use pattern::Scratch;
use pattern::{Match, Pattern};
use template::Template;

/// Maximum number of labels of a set while rules are applied: each `labelmap` can double it.
const MAX_LABELS: usize = 1_000;

/// Maximum size of a value or name that rules make, and of a text that they match.
const MAX_TEXT_BYTES: usize = 1 << 14;

const DEFAULT_SEPARATOR: &str = ";";
const DEFAULT_PATTERN: &str = "(.*)";
const DEFAULT_REPLACEMENT: &str = "$1";

/// The names of the actions.
const ACTIONS: [&str; 11] = [
    "replace",
    "keep",
    "drop",
    "keepequal",
    "dropequal",
    "hashmod",
    "labelmap",
    "labeldrop",
    "labelkeep",
    "lowercase",
    "uppercase",
];

/// A rule as written in the file. `None` is a missing key, which differs from an empty string.
#[derive(Clone, Debug, Default)]
pub struct RuleSpec<'a> {
    /// The labels whose values the rule joins and matches.
    pub source_labels: Option<Vec<&'a str>>,
    /// The separator of their values; `;` by default.
    pub separator: Option<&'a str>,
    /// The pattern that the joined values, or names of labels, must match as a whole, in the syntax
    /// of Go's regular expressions; `(.*)` by default.
    pub regex: Option<&'a str>,
    /// The modulus of `hashmod`.
    pub modulus: Option<u64>,
    /// The label to set or compare.
    pub target_label: Option<&'a str>,
    /// The template of the new value, or of the new name; `$1` by default.
    pub replacement: Option<&'a str>,
    /// The name of the action, in any case; `replace` by default.
    pub action: Option<&'a str>,
}

/// An error in a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError {
    /// The key that is invalid or missing.
    pub key: &'static str,
    /// The index of the invalid item, if the value of the key is a list.
    pub item: Option<usize>,
    /// What is wrong, and what to write instead.
    pub message: String,
}

/// A compiled rule. Two are equal if they are written alike, with defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    source_labels: Vec<String>,
    separator: String,
    action: Action,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Replace { pattern: Pattern, target: Template, replacement: Template },
    Keep(Pattern),
    Drop(Pattern),
    KeepEqual { target: String },
    DropEqual { target: String },
    HashMod { modulus: u64, target: String },
    LabelMap { pattern: Pattern, replacement: Template },
    LabelDrop(Pattern),
    LabelKeep(Pattern),
    Lowercase { target: String },
    Uppercase { target: String },
}

/// Compiles rules. Use one compiler for a whole list: the patterns share its memory limit and its
/// tables, which cost more than a pattern.
#[derive(Debug, Default)]
pub struct Compiler {
    patterns: pattern::Compiler,
}

impl Compiler {
    /// Compiles a rule, or returns all its errors.
    pub fn rule(&mut self, spec: &RuleSpec<'_>) -> Result<Rule, Vec<RuleError>> {
        let mut errors = RuleErrors::default();
        let source_labels = source_labels(spec, &mut errors);
        let pattern = self.patterns.compile(spec.regex.unwrap_or(DEFAULT_PATTERN));
        let pattern = errors.collect("regex", pattern);
        let action = pattern.and_then(|pattern| action(spec, pattern, &mut errors));
        match action {
            Some(action) if errors.0.is_empty() => {
                let separator = spec.separator.unwrap_or(DEFAULT_SEPARATOR).into();
                Ok(Rule { source_labels, separator, action })
            }
            _ => Err(errors.0),
        }
    }
}

/// The errors of one rule.
#[derive(Default)]
struct RuleErrors(Vec<RuleError>);

impl RuleErrors {
    fn add(&mut self, key: &'static str, message: impl Into<String>) {
        self.0.push(RuleError { key, item: None, message: message.into() });
    }

    /// Returns the value, or adds the error.
    fn collect<T>(&mut self, key: &'static str, result: Result<T, String>) -> Option<T> {
        result.map_err(|message| self.add(key, message)).ok()
    }
}

/// Checks the names of `source_labels`.
fn source_labels(spec: &RuleSpec<'_>, errors: &mut RuleErrors) -> Vec<String> {
    let names = spec.source_labels.as_deref().unwrap_or_default();
    for (item, name) in names.iter().enumerate().filter(|(_, name)| !is_label_name(name)) {
        let message = not_a_name(name);
        errors.0.push(RuleError { key: "source_labels", item: Some(item), message });
    }
    names.iter().copied().map(String::from).collect()
}

/// Checks the keys that the action needs or forbids, and builds it.
fn action(spec: &RuleSpec<'_>, pattern: Pattern, errors: &mut RuleErrors) -> Option<Action> {
    let name = spec.action.unwrap_or("replace").to_lowercase();
    let replacement = spec.replacement.unwrap_or(DEFAULT_REPLACEMENT);
    Some(match &*name {
        "keep" => Action::Keep(pattern),
        "drop" => Action::Drop(pattern),
        "labeldrop" | "labelkeep" => {
            only(&["regex"], &name, spec, errors);
            if name == "labeldrop" {
                Action::LabelDrop(pattern)
            } else {
                Action::LabelKeep(pattern)
            }
        }
        "labelmap" => {
            if !template::gives_name(replacement) {
                errors.add("replacement", not_a_name_template(replacement));
            }
            let replacement = errors.collect("replacement", Template::parse(replacement))?;
            Action::LabelMap { pattern, replacement }
        }
        "replace" => {
            let target = spec.target_label.filter(|target| !target.is_empty());
            match target {
                None => errors.add("target_label", needs_target(&name)),
                Some(target) if target.contains('$') && !template::gives_name(target) => {
                    errors.add("target_label", not_a_name_template(target));
                }
                Some(target) if !target.contains('$') && !is_label_name(target) => {
                    errors.add("target_label", not_a_name(target));
                }
                Some(_) => {}
            }
            let replacement = errors.collect("replacement", Template::parse(replacement))?;
            let target = Template::parse(target?).ok()?;
            Action::Replace { pattern, target, replacement }
        }
        "hashmod" => {
            let modulus = spec.modulus.unwrap_or(0);
            if modulus == 0 {
                errors.add("modulus", "hashmod needs a modulus of 1 or more");
            }
            Action::HashMod { modulus, target: target(&name, spec, errors)? }
        }
        "keepequal" => {
            only(&["source_labels", "target_label"], &name, spec, errors);
            Action::KeepEqual { target: target(&name, spec, errors)? }
        }
        "dropequal" => {
            only(&["source_labels", "target_label"], &name, spec, errors);
            Action::DropEqual { target: target(&name, spec, errors)? }
        }
        "lowercase" => {
            default_replacement(&name, replacement, errors);
            Action::Lowercase { target: target(&name, spec, errors)? }
        }
        "uppercase" => {
            default_replacement(&name, replacement, errors);
            Action::Uppercase { target: target(&name, spec, errors)? }
        }
        _ => {
            let name = quote(&name);
            errors.add(
                "action",
                format!("{name} is not an action; write one of {}", ACTIONS.join(", ")),
            );
            return None;
        }
    })
}

/// Checks and returns the target of an action whose target is a plain name, not a template.
fn target(action: &str, spec: &RuleSpec<'_>, errors: &mut RuleErrors) -> Option<String> {
    match spec.target_label {
        None | Some("") => errors.add("target_label", needs_target(action)),
        Some(target) if !is_label_name(target) => errors.add("target_label", not_a_name(target)),
        Some(target) => return Some(target.into()),
    }
    None
}

fn needs_target(action: &str) -> String {
    format!("{action} needs a target_label; write the name of a label")
}

fn not_a_name(name: &str) -> String {
    let name = quote(name);
    format!("{name} is not a label name; write letters, digits and _, no digit first")
}

fn not_a_name_template(template: &str) -> String {
    let template = quote(template);
    format!(
        "{template} cannot give a label name; write letters, digits, _ and groups like ${{1}}, \
         no digit first"
    )
}

/// Rejects a replacement for an action that uses none. The default value is allowed.
fn default_replacement(action: &str, replacement: &str, errors: &mut RuleErrors) {
    if replacement != DEFAULT_REPLACEMENT {
        errors.add("replacement", format!("{action} uses no replacement; remove it"));
    }
}

/// Rejects the keys that an action does not use. As in Prometheus, some may have their default values.
fn only(keys: &[&str], action: &str, spec: &RuleSpec<'_>, errors: &mut RuleErrors) {
    let set = [
        ("source_labels", spec.source_labels.is_some()),
        ("target_label", spec.target_label.is_some_and(|target| !target.is_empty())),
        ("regex", spec.regex.is_some()),
        ("modulus", spec.modulus.is_some_and(|modulus| modulus != 0)),
        ("separator", spec.separator.is_some_and(|separator| separator != DEFAULT_SEPARATOR)),
        (
            "replacement",
            spec.replacement.is_some_and(|replacement| replacement != DEFAULT_REPLACEMENT),
        ),
    ];
    for (key, _) in set.into_iter().filter(|&(key, is_set)| is_set && !keys.contains(&key)) {
        errors.add(key, format!("{action} uses only {}; remove this", keys.join(" and ")));
    }
}

/// Whether this is a valid label name:
/// <https://prometheus.io/docs/concepts/data_model/#metric-names-and-labels>.
pub fn is_label_name(name: &str) -> bool {
    let valid = name.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric());
    valid && !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// The rules make too many labels, or too long ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the rules make more than {MAX_LABELS} labels, or a text of more than {MAX_TEXT_BYTES} bytes; make \
     fewer or shorter ones"
)]
pub struct TooLarge;

/// Applies rules in order. Returns `None` if one of them drops the set.
///
/// A label with an empty value does not exist. As in Prometheus, `labelmap` can make a name that
/// [`is_label_name`] rejects, such as the digits of a longer name: the caller must check names.
pub fn apply(
    rules: &[Rule],
    labels: BTreeMap<String, String>,
) -> Result<Option<BTreeMap<String, String>>, TooLarge> {
    apply_with(rules, labels, &mut Scratch::default())
}

/// Applies rules as [`apply`] does, to one set after another with the same scratch memory.
pub fn apply_with(
    rules: &[Rule],
    mut labels: BTreeMap<String, String>,
    scratch: &mut Scratch,
) -> Result<Option<BTreeMap<String, String>>, TooLarge> {
    labels.retain(|_, value| !value.is_empty());
    for rule in rules {
        if !rule.apply(&mut labels, scratch)? {
            return Ok(None);
        }
        if labels.len() > MAX_LABELS {
            return Err(TooLarge);
        }
    }
    Ok(Some(labels))
}

/// Concatenates the parts.
fn join<'a>(parts: impl IntoIterator<Item = &'a str>) -> Result<String, TooLarge> {
    let mut text = String::new();
    for part in parts {
        text.push_str(part);
        if text.len() > MAX_TEXT_BYTES {
            return Err(TooLarge);
        }
    }
    Ok(text)
}

/// Removes the labels that start with `__`, as Prometheus does after the last rule: they exist only
/// for the rules.
pub fn remove_internal(labels: &mut BTreeMap<String, String>) {
    labels.retain(|name, _| !is_internal(name));
}

/// Whether a label exists only for the rules.
pub fn is_internal(name: &str) -> bool {
    name.starts_with("__")
}

impl Rule {
    /// The label that the rule sets. `None` if it sets none, or if the name depends on the match.
    pub fn target(&self) -> Option<&str> {
        match &self.action {
            Action::Replace { target, .. } => target.literal(),
            Action::HashMod { target, .. }
            | Action::Lowercase { target }
            | Action::Uppercase { target } => Some(target),
            _ => None,
        }
    }

    /// The first group in the replacement whose name the pattern lacks, so that it is always empty.
    pub fn missing_group(&self) -> Option<&str> {
        match &self.action {
            Action::Replace { pattern, replacement, .. }
            | Action::LabelMap { pattern, replacement } => {
                replacement.names().find(|name| !pattern.has_group(name))
            }
            _ => None,
        }
    }

    /// Applies the rule. Returns whether the set is kept.
    fn apply(
        &self,
        labels: &mut BTreeMap<String, String>,
        scratch: &mut Scratch,
    ) -> Result<bool, TooLarge> {
        let get = |name: &String| labels.get(name).map_or("", String::as_str);
        let mut parts = Vec::with_capacity(2 * self.source_labels.len());
        for (index, name) in self.source_labels.iter().enumerate() {
            if index > 0 {
                parts.push(self.separator.as_str());
            }
            parts.push(get(name));
        }
        let value = join(parts)?;
        match &self.action {
            Action::Keep(pattern) => return Ok(pattern.is_match(&value, scratch)),
            Action::Drop(pattern) => return Ok(!pattern.is_match(&value, scratch)),
            Action::KeepEqual { target } => return Ok(get(target) == value),
            Action::DropEqual { target } => return Ok(get(target) != value),
            Action::Replace { pattern, target, replacement } => {
                if let Some(found) = pattern.find(&value, scratch) {
                    let target = target.expand(&found)?;
                    if is_label_name(&target) {
                        set(labels, target, replacement.expand(&found)?);
                    }
                }
            }
            Action::HashMod { modulus, target } => {
                set(labels, target.clone(), (hash(&value) % modulus).to_string());
            }
            Action::Lowercase { target } => {
                set(labels, target.clone(), value.chars().map(lowercase).collect());
            }
            Action::Uppercase { target } => {
                set(labels, target.clone(), value.chars().map(uppercase).collect());
            }
            Action::LabelMap { pattern, replacement } => {
                let mut renamed = Vec::new();
                for (name, value) in &*labels {
                    if let Some(found) = pattern.find(name, scratch) {
                        renamed.push((replacement.expand(&found)?, value.clone()));
                    }
                }
                labels.extend(renamed);
            }
            Action::LabelDrop(pattern) => labels.retain(|name, _| !pattern.is_match(name, scratch)),
            Action::LabelKeep(pattern) => labels.retain(|name, _| pattern.is_match(name, scratch)),
        }
        Ok(true)
    }
}

/// Sets a label, or deletes it if the value is empty.
fn set(labels: &mut BTreeMap<String, String>, name: String, value: String) {
    if value.is_empty() {
        labels.remove(&name);
    } else {
        labels.insert(name, value);
    }
}

/// Returns the last 8 of the 16 bytes of the MD5 digest, as a big-endian number.
fn hash(value: &str) -> u64 {
    let digest = Md5::digest(value.as_bytes());
    digest[8..].iter().fold(0, |hash, &byte| hash << 8 | u64::from(byte))
}

/// Maps one character to one, as Go does: Unicode's simple mapping. Rust has only the full mapping,
/// which can give several.
fn lowercase(c: char) -> char {
    let mut mapped = c.to_lowercase();
    match (mapped.next(), mapped.next()) {
        (Some(lower), None) => lower,
        // Only İ becomes two characters; its simple mapping is the first of them.
        (first, _) => first.unwrap_or(c),
    }
}

/// Maps one character to one, as [`lowercase`] does.
fn uppercase(c: char) -> char {
    let mut mapped = c.to_uppercase();
    match (mapped.next(), mapped.next()) {
        (Some(upper), None) => upper,
        // Greek letters with an iota subscript: their simple mapping is the title case, at a fixed
        // offset. Other letters whose uppercase is several letters have no simple mapping.
        _ => match c {
            '\u{1f80}'..='\u{1f87}' | '\u{1f90}'..='\u{1f97}' | '\u{1fa0}'..='\u{1fa7}' => {
                char::from_u32(u32::from(c) + 8).unwrap_or(c)
            }
            '\u{1fb3}' | '\u{1fc3}' | '\u{1ff3}' => char::from_u32(u32::from(c) + 9).unwrap_or(c),
            _ => c,
        },
    }
}

#[cfg(test)]
mod tests;
