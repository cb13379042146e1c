//! Our relabelling compared with that of Prometheus, on generated rules: the target labels that
//! `promtool check service-discovery` prints, and the patterns that `promtool check config`
//! rejects.
//!
//! Debian's promtool is from Prometheus 2.42. Three things differ in Prometheus 3 and are not
//! generated: values with newlines, which `.` does not match in 2.42; a template as target with an
//! empty replacement, which deletes nothing in 2.42; and `(?<name>…)`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
    process::Stdio,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use proptest::test_runner::{RngAlgorithm, TestRng};
use sched_exporter::{config::Config, expr::relabel};
use serde_json::Value;

use self::generate::Generator;
use super::promtool;

mod generate;

/// Seed of the generated cases.
const SEED: &str = "relabelling as Prometheus has it";

/// Number of promtool processes at once; each spends most of its time waiting for targets.
const AT_ONCE: usize = 8;

type Labels = BTreeMap<String, String>;

fn generator() -> Generator {
    Generator::new(TestRng::from_seed(RngAlgorithm::ChaCha, SEED.as_bytes()))
}

/// A rule, by key.
type Rule = Vec<(&'static str, String)>;

/// Quotes a string for YAML.
fn yaml(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The list `relabel_configs` with an indent.
fn relabel_configs(rules: &[Rule], indent: &str) -> String {
    let mut text = format!("{indent}relabel_configs:\n");
    for rule in rules {
        let mut dash = "-";
        for (key, value) in rule {
            let _ = writeln!(text, "{indent}{dash} {key}: {value}");
            dash = " ";
        }
    }
    text
}

/// A Prometheus configuration with one job that has a target for each set of labels.
fn prometheus_config(rules: &[Rule], targets: &[Labels]) -> String {
    let mut text = String::from("scrape_configs:\n- job_name: j\n  static_configs:\n");
    for (number, labels) in targets.iter().enumerate() {
        let _ = writeln!(text, "  - targets: [\"t{number}:80\"]\n    labels:");
        for (name, value) in labels {
            let _ = writeln!(text, "      {name}: {}", yaml(value));
        }
        let _ = writeln!(text, "      n: \"{number}\"");
    }
    text + &relabel_configs(rules, "  ")
}

/// The labels that promtool gives a target before the rules see it.
fn discovered(number: usize, labels: &Labels) -> Labels {
    let mut labels = labels.clone();
    for (name, value) in [
        ("__address__", &*format!("t{number}:80")),
        ("__metrics_path__", "/metrics"),
        ("__scheme__", "http"),
        ("__scrape_interval__", "1m"),
        ("__scrape_timeout__", "10s"),
        ("job", "j"),
        ("n", &number.to_string()),
    ] {
        let label = labels.entry(name.into()).or_default();
        if label.is_empty() {
            value.clone_into(label);
        }
    }
    labels
}

/// Labels that promtool gives the targets, in any order; empty for dropped targets. It also prints
/// the labels before relabelling, but without those that the rules delete.
fn relabelled(directory: &Path, config: &str, targets: usize) -> BTreeSet<Labels> {
    static FILES: AtomicUsize = AtomicUsize::new(0);
    let file = directory.join(format!("sd{}.yml", FILES.fetch_add(1, Ordering::Relaxed)));
    fs::write(&file, config).unwrap();
    let mut results = Vec::new();
    // It always waits for the whole timeout, and prints identical targets only once.
    for milliseconds in [300, 2_000] {
        let output = promtool()
            .args(["check", "service-discovery", &format!("--timeout={milliseconds}ms")])
            .arg(&file)
            .arg("j")
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}\n{config}");
        results = serde_json::from_slice::<Vec<Value>>(&output.stdout).unwrap();
        if results.len() == targets {
            break;
        }
    }
    assert!(results.iter().all(|result| result["error"].is_null()), "{results:?}\n{config}");
    let labels = results.into_iter().map(|mut result| result["labels"].take());
    labels.map(|labels| serde_json::from_value(labels).unwrap()).collect()
}

/// Calls `job` with each number, on a few threads.
fn at_once(jobs: usize, job: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(number) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&n| n < jobs)
                {
                    job(number);
                }
            });
        }
    });
}

/// The labels that are missing from `others` or have other values there.
fn without<'a>(labels: &'a Labels, others: &Labels) -> Vec<(&'a String, &'a String)> {
    labels.iter().filter(|&(name, value)| others.get(name) != Some(value)).collect()
}

/// Checks that ours and Prometheus's have the same effect on all targets. Returns how many labels
/// they set.
fn compare(directory: &Path, rules: &[Rule], targets: &[Labels]) -> usize {
    // Without these, promtool fails or adds an instance.
    let needed = [
        ("__address__", "t:80"),
        ("__scheme__", "http"),
        ("__scrape_interval__", "1m"),
        ("__scrape_timeout__", "10s"),
        ("instance", "i"),
    ];
    let needed = needed
        .map(|(name, value)| vec![("target_label", name.into()), ("replacement", yaml(value))]);
    let rules = [rules, &needed].concat();
    let text = relabel_configs(&rules, "");
    let config = Config::parse(&text).unwrap();
    let theirs = relabelled(directory, &prometheus_config(&rules, targets), targets.len());
    let mut all = BTreeSet::new();
    let mut changes = 0;
    for (number, target) in targets.iter().enumerate() {
        let before = discovered(number, target);
        let ours =
            relabel::apply(config.relabel_configs(), before.clone()).unwrap().unwrap_or_default();
        if !theirs.contains(&ours) {
            let theirs = theirs.iter().find(|theirs| theirs.get("n") == ours.get("n"));
            let theirs = theirs.cloned().unwrap_or_default();
            panic!(
                "{text}seed {SEED}: from {before:?}\nours makes {:?}\nand Prometheus {:?}",
                without(&ours, &theirs),
                without(&theirs, &ours)
            );
        }
        changes += without(&ours, &before).len();
        all.insert(ours);
    }
    assert_eq!(all.len(), theirs.len(), "seed {SEED}: {all:#?}\n{theirs:#?}\n{text}");
    changes
}

/// Whether promtool accepts each of the patterns.
fn accepts(directory: &Path, patterns: &[String]) -> Vec<bool> {
    let files: Vec<_> =
        (0..patterns.len()).map(|n| directory.join(format!("pattern{n}.yml"))).collect();
    for (pattern, file) in patterns.iter().zip(&files) {
        let rule = vec![("action", "keep".into()), ("regex", yaml(pattern))];
        fs::write(file, prometheus_config(&[rule], &[])).unwrap();
    }
    let mut taken = Vec::new();
    for files in files.chunks(500) {
        let mut command = promtool();
        command.args(["check", "config", "--syntax-only"]).args(files).stderr(Stdio::null());
        let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
        taken.extend(output.split("Checking ").skip(1).map(|file| file.contains("SUCCESS")));
    }
    assert_eq!(taken.len(), patterns.len());
    taken
}

/// Why a rule with this pattern is rejected, if it is.
fn refusal(regex: &str, replacement: &str) -> Option<String> {
    let written = relabel::RuleSpec {
        regex: Some(regex),
        target_label: Some("a"),
        replacement: Some(replacement),
        ..relabel::RuleSpec::default()
    };
    let refused = relabel::Compiler::default().rule(&written).err();
    refused.map(|faults| faults[0].message.clone())
}

#[test]
fn patterns_and_templates_match_prometheus() {
    const JOBS: usize = 32;
    const RULES: usize = 100;
    const TARGETS: usize = 10;
    let directory = tempfile::tempdir().unwrap();
    let mut generator = generator();
    let mut jobs = Vec::new();
    for _ in 0..JOBS {
        let mut rules = Vec::new();
        let mut targets = vec![Labels::new(); TARGETS];
        while rules.len() < RULES {
            let number = rules.len();
            let pattern = generator.pattern();
            let templated = generator.one_in(4);
            let mut target = format!("r{number}");
            let mut replacement = generator.template();
            if templated {
                target = format!("{target}_{}", generator.variable());
                replacement.insert(0, 'x');
            }
            if refusal(&pattern.source, &replacement).is_some() {
                continue;
            }
            for target in &mut targets {
                target.insert(format!("s{number}"), generator.nearly(&pattern));
            }
            rules.push(vec![
                ("source_labels", format!("[s{number}]")),
                ("regex", yaml(&pattern.source)),
                ("target_label", yaml(&target)),
                ("replacement", yaml(&replacement)),
            ]);
        }
        jobs.push((rules, targets));
    }
    let changes = AtomicUsize::new(0);
    at_once(JOBS, |job| {
        let (rules, targets) = &jobs[job];
        changes.fetch_add(compare(directory.path(), rules, targets), Ordering::Relaxed);
    });
    let (changes, cases) = (changes.into_inner(), JOBS * RULES * TARGETS);
    assert!(changes > cases / 4, "{changes} of {cases} cases matched");
}

/// Numbers, booleans and nothing, where a string is expected and no quotes are written.
#[test]
fn unquoted_scalars_match_prometheus() {
    let scalars = [
        "",
        "null",
        "~",
        "true",
        "True",
        "FALSE",
        "yes",
        "no",
        "on",
        "y",
        "1",
        "-1",
        "0x10",
        "0X1f",
        "0o17",
        "017",
        "08",
        "0b11",
        "1_000",
        "1e3",
        "1.0",
        "1.10",
        ".5",
        "-.inf",
        ".NaN",
        "190:20:30",
        "2001-01-01",
        "12345678901234567890",
        "123456789012345678901234567890",
        "!!str 1",
        "!!int 7",
        "!!float 1",
        "=",
    ];
    let directory = tempfile::tempdir().unwrap();
    let (mut rules, mut target) = (Vec::new(), Labels::new());
    for (number, scalar) in scalars.iter().enumerate() {
        let text = scalar.rsplit(' ').next().filter(|text| !["null", "~"].contains(text));
        let source = format!("s{number}");
        target.insert(source.clone(), text.unwrap_or_default().into());
        let rule = |target: &str, key: &'static str| {
            vec![
                ("source_labels", format!("[{source}, job]")),
                ("target_label", format!("{target}{number}")),
                (key, (*scalar).to_owned()),
            ]
        };
        rules.push(rule("joined", "separator"));
        rules.push(rule("replaced", "replacement"));
        let mut matched = rule("matched", "regex");
        matched[0].1 = format!("[{source}]");
        matched.push(("replacement", "hit".into()));
        rules.push(matched);
    }
    // As the name of a label.
    for name in ["true", "No", "y"] {
        rules.push(vec![("target_label", name.into()), ("replacement", "1".into())]);
        rules.push(vec![
            ("source_labels", format!("[{name}]")),
            ("target_label", format!("of_{name}")),
        ]);
    }
    rules.push(vec![
        ("action", "labeldrop".into()),
        ("source_labels", String::new()),
        ("target_label", "~".into()),
        ("modulus", "null".into()),
        ("regex", "No".into()),
    ]);
    // Every scalar but the three empty ones gives a value with each key.
    let changes = compare(directory.path(), &rules, &[target]);
    assert!(changes >= 3 * (scalars.len() - 3), "{changes}");
}

#[test]
fn every_action_matches_prometheus() {
    const JOBS: usize = 250;
    const TARGETS: usize = 40;
    let directory = tempfile::tempdir().unwrap();
    let mut generator = generator();
    let mut jobs = Vec::new();
    while jobs.len() < JOBS {
        let rules: Vec<_> = (0..=generator.up_to(5)).map(|_| generator.rule()).collect();
        if Config::parse(&relabel_configs(&rules, "")).is_err() {
            continue;
        }
        let targets: Vec<_> = (0..TARGETS).map(|_| generator.labels()).collect();
        jobs.push((rules, targets));
    }
    let changes = AtomicUsize::new(0);
    at_once(JOBS, |job| {
        let (rules, targets) = &jobs[job];
        changes.fetch_add(compare(directory.path(), rules, targets), Ordering::Relaxed);
    });
    let (changes, cases) = (changes.into_inner(), JOBS * TARGETS);
    assert!(changes > cases, "{changes} labels were set in {cases} cases");
}

#[test]
fn all_patterns_rejected_by_go_and_few_others_are_rejected() {
    let directory = tempfile::tempdir().unwrap();
    let mut generator = generator();
    let patterns: Vec<_> = (0..4_000).map(|_| generator.edge()).collect();
    let taken = accepts(directory.path(), &patterns);
    let mut more = 0;
    for (pattern, taken) in patterns.iter().zip(&taken) {
        match (refusal(pattern, ""), taken) {
            (None, false) => panic!("seed {SEED}: {pattern:?} is accepted, but Go rejects it"),
            (Some(problem), true) => {
                more += 1;
                let listed = [
                    "is not a class that all supported Go versions define identically",
                    "is not a character",
                    "there is nothing to repeat",
                    "no group is open",
                    "the pattern takes more than 1 MiB",
                ];
                let listed = listed.iter().any(|listed| problem.contains(listed));
                assert!(
                    listed,
                    "seed {SEED}: {pattern:?} is rejected, but Go accepts it: {problem}"
                );
            }
            _ => {}
        }
    }
    let taken = taken.iter().filter(|&&taken| taken).count();
    let all = patterns.len();
    assert!(taken > all / 10 && taken < all * 9 / 10, "Go accepts {taken} of {all} patterns");
    assert!(more < taken / 5, "{more} of {taken} patterns that Go accepts are rejected");
}

/// Go 1.19 implements Unicode 13.
#[test]
fn letters_change_case_as_in_prometheus_except_new_ones() {
    let letters: Vec<_> = (' '..=char::MAX)
        .filter(|c| c.is_alphanumeric() || c.is_lowercase() || c.is_uppercase())
        .collect();
    let mut target = Labels::new();
    let mut rules = Vec::new();
    for (number, letters) in letters.chunks(1_000).enumerate() {
        target.insert(format!("s{number}"), letters.iter().collect());
        for action in ["lowercase", "uppercase"] {
            rules.push(vec![
                ("action", action.into()),
                ("source_labels", format!("[s{number}]")),
                ("target_label", format!("{action}{number}")),
            ]);
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let before = discovered(0, &target);
    let theirs = relabelled(directory.path(), &prometheus_config(&rules, &[target]), 1);
    let theirs = theirs.first().unwrap();
    let config = Config::parse(&relabel_configs(&rules, "")).unwrap();
    let ours = relabel::apply(config.relabel_configs(), before.clone()).unwrap().unwrap();
    let (mut same, mut newer) = (0, 0);
    for (name, ours) in ours.iter().filter(|(name, _)| name.contains("case")) {
        let before = before[&name.replace("lowercase", "s").replace("uppercase", "s")].chars();
        assert_eq!(ours.chars().count(), before.clone().count());
        for ((ours, theirs), before) in ours.chars().zip(theirs[name].chars()).zip(before) {
            if ours == theirs {
                same += 1;
            } else {
                assert_eq!(theirs, before, "{name} of {before:?} is {ours:?} here");
                newer += 1;
            }
        }
    }
    assert!(same > 190_000 && newer < 300, "{same} letters are the same, {newer} are too new");
}
