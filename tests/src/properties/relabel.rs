//! Relabelling, from the text of rules to their effect on labels.

use std::collections::BTreeMap;

use arbitrary::{Result, Unstructured};
use sched_exporter::expr::relabel::{Compiler, Rule, RuleSpec, apply};

/// Derives rules and labels from the bytes. Each rule is either rejected with a reason for one of
/// its keys, or applied: repeatably, without leaving an empty value, and with `keep` the opposite
/// of `drop`.
pub fn relabel(bytes: &[u8]) {
    let _ = try_out(&mut Unstructured::new(bytes));
}

const ACTIONS: [&str; 12] = [
    "replace",
    "keep",
    "drop",
    "keepequal",
    "dropequal",
    "hashmod",
    "labelmap",
    "labeldrop",
    "labelkeep",
    "Lowercase",
    "uppercase",
    "other",
];

const NAMES: [&str; 8] = ["a", "b_1", "__c", "d", "${1}x", "$1", "1", ""];

const PIECES: [&str; 40] = [
    "a",
    "B",
    "b_1",
    "x",
    "é",
    "ſ",
    "İ",
    ".",
    "*",
    "+",
    "?",
    "(",
    ")",
    "|",
    "[",
    "]",
    "^",
    "$",
    "-",
    "{2}",
    "{1,}",
    "(?i)",
    "(?:",
    "(?P<n>",
    "\\d",
    "\\w",
    "\\b",
    "\\pL",
    "\\p{Greek}",
    "\\Q",
    "\\E",
    "[:alpha:]",
    "\\x{41}",
    "\\n",
    "\n",
    "$1",
    "${n}",
    "$$",
    "1",
    ";",
];

fn text(choices: &mut Unstructured<'_>) -> Result<String> {
    let mut text = String::new();
    for _ in 0..choices.int_in_range(0..=8)? {
        text.push_str(choices.choose(&PIECES)?);
    }
    if choices.ratio(1, 8)? {
        text.push(choices.arbitrary()?);
    }
    Ok(text)
}

fn maybe<T>(
    choices: &mut Unstructured<'_>,
    some: impl FnOnce(&mut Unstructured<'_>) -> Result<T>,
) -> Result<Option<T>> {
    if choices.arbitrary()? { some(choices).map(Some) } else { Ok(None) }
}

fn try_out(choices: &mut Unstructured<'_>) -> Result<()> {
    let mut labels = BTreeMap::new();
    for name in ["a", "b_1", "__c", "B"] {
        labels.insert(name.to_owned(), text(choices)?);
    }
    let mut compiler = Compiler::default();
    let mut rules = Vec::new();
    for _ in 0..choices.int_in_range(1..=4)? {
        rules.extend(rule(choices, &mut compiler, &labels)?);
    }
    let applied = apply(&rules, labels.clone());
    assert_eq!(applied, apply(&rules, labels.clone()));
    let apply_one = |labels: Option<_>, rule| match labels {
        Some(labels) => apply(std::slice::from_ref(rule), labels),
        None => Ok(None),
    };
    let one_by_one = apply(&[], labels).and_then(|first| rules.iter().try_fold(first, apply_one));
    assert_eq!(applied, one_by_one);
    if let Ok(Some(labels)) = applied {
        assert!(labels.values().all(|value| !value.is_empty()), "{labels:?}");
    }
    Ok(())
}

/// A rule; `None` if it is rejected.
fn rule(
    choices: &mut Unstructured<'_>,
    compiler: &mut Compiler,
    labels: &BTreeMap<String, String>,
) -> Result<Option<Rule>> {
    let name = |choices: &mut Unstructured<'_>| choices.choose(&NAMES).copied();
    let sources = maybe(choices, |choices| {
        (0..choices.int_in_range(0..=2)?).map(|_| name(choices)).collect::<Result<Vec<_>>>()
    })?;
    let (separator, regex) = (maybe(choices, text)?, maybe(choices, text)?);
    let target = maybe(choices, name)?;
    let replacement = maybe(choices, text)?;
    let written = RuleSpec {
        source_labels: sources,
        separator: separator.as_deref(),
        regex: regex.as_deref(),
        modulus: maybe(choices, |choices| choices.int_in_range(0..=9))?,
        target_label: target,
        replacement: replacement.as_deref(),
        action: maybe(choices, |choices| choices.choose(&ACTIONS).copied())?,
    };
    match compiler.rule(&written) {
        Ok(rule) => {
            if let Some(action @ ("keep" | "drop")) = written.action {
                let opposite = if action == "keep" { "drop" } else { "keep" };
                let opposite = RuleSpec { action: Some(opposite), ..written };
                let opposite =
                    compiler.rule(&opposite).expect("a rule with the same keys compiles");
                let keeps = |rule| apply(&[rule], labels.clone()).map(|kept| kept.is_some());
                assert_eq!(keeps(rule.clone()), keeps(opposite).map(|kept| !kept), "{rule:?}");
            }
            Ok(Some(rule))
        }
        Err(faults) => {
            assert!(!faults.is_empty());
            for fault in faults {
                let keys = [
                    "source_labels",
                    "regex",
                    "modulus",
                    "target_label",
                    "replacement",
                    "action",
                    "separator",
                ];
                assert!(keys.contains(&fault.key), "{fault:?}");
                assert!(
                    !fault.message.is_empty() && !fault.message.contains(char::is_control),
                    "{fault:?}"
                );
            }
            Ok(None)
        }
    }
}
