//! The effect of each action, the message of each error, and the syntax of patterns and templates.
//! `tests/it/promtool.rs` compares with Prometheus itself.

use proptest::{collection, prelude::*, string::string_regex};

use super::*;

/// Parses labels such as `a=x b=y`.
fn labels(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split(' ').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.into(), value.into())).collect()
}

/// The rules of a list in YAML.
fn rules(yaml: &str) -> Vec<Rule> {
    let list: Option<Vec<BTreeMap<String, serde_yaml::Value>>> =
        serde_yaml::from_str(yaml).unwrap();
    let mut compiler = Compiler::default();
    let mut rules = Vec::new();
    for rule in list.iter().flatten() {
        let text = |key| rule.get(key).map(|value| value.as_str().unwrap());
        let names = rule.get("source_labels").map(|names| names.as_sequence().unwrap());
        let spec = RuleSpec {
            source_labels: names.map(|names| names.iter().map(|it| it.as_str().unwrap()).collect()),
            separator: text("separator"),
            regex: text("regex"),
            modulus: rule.get("modulus").map(|modulus| modulus.as_u64().unwrap()),
            target_label: text("target_label"),
            replacement: text("replacement"),
            action: text("action"),
        };
        rules.push(compiler.rule(&spec).unwrap());
    }
    rules
}

/// Checks that rules turn the labels into `expected`, or drop them if that is `drop`. Each rule is
/// YAML, without the braces around it.
#[track_caller]
fn check(before: &str, list: &[&str], expected: &str) {
    let yaml: Vec<_> = list.iter().map(|rule| format!("- {{{rule}}}\n")).collect();
    let yaml = yaml.concat();
    let after = apply(&rules(&yaml), labels(before)).unwrap();
    let expected = (expected != "drop").then(|| labels(expected));
    assert_eq!(after, expected, "{before}\n{yaml}");
}

/// Checks that the rule has the errors `expected`, a line such as `regex: …` for each.
#[track_caller]
fn check_errors(spec: &RuleSpec<'_>, expected: &str) {
    let errors = Compiler::default().rule(spec).expect_err("the rule has an error");
    let lines = errors.into_iter().map(|RuleError { key, item, message }| match item {
        Some(item) => format!("{key}[{item}]: {message}"),
        None => format!("{key}: {message}"),
    });
    assert_eq!(lines.collect::<Vec<_>>().join("\n"), expected, "{spec:?}");
}

fn action(action: &str) -> RuleSpec<'_> {
    RuleSpec { action: Some(action), ..RuleSpec::default() }
}

/// An action with a target.
fn to_t(action: &str) -> RuleSpec<'_> {
    RuleSpec { action: Some(action), target_label: Some("t"), ..RuleSpec::default() }
}

fn compile(pattern: &str) -> Result<Pattern, String> {
    pattern::Compiler::default().compile(pattern)
}

#[track_caller]
fn check_match(pattern: &str, matches: &[&str], others: &[&str]) {
    let compiled = compile(pattern).unwrap();
    for text in matches {
        assert!(compiled.is_match(text, &mut Scratch::default()), "{pattern} on {text:?}");
    }
    for text in others {
        assert!(!compiled.is_match(text, &mut Scratch::default()), "{pattern} on {text:?}");
    }
}

#[track_caller]
fn check_rejected(pattern: &str, expected: &str) {
    assert_eq!(compile(pattern).expect_err("the pattern is rejected"), expected, "{pattern}");
}

/// Checks a template against a match of `wholexy` in which group 1, the first of two named `n`, took
/// no part.
#[track_caller]
fn check_template(template: &str, expected: &str) {
    let pattern = compile("w(?P<n>no)?(hole)()(?P<n>x?)(?P<9>y)").unwrap();
    let found = pattern.find("wholexy", &mut Scratch::default()).unwrap();
    assert_eq!(Template::parse(template).unwrap().expand(&found).unwrap(), expected, "{template}");
}

#[test]
fn replace_sets_the_expanded_replacement() {
    check(
        "a=foo b=bar",
        &["source_labels: [a, b], regex: 'f(.*);(.*)r', target_label: c, replacement: '${2}-$1'"],
        "a=foo b=bar c=ba-oo",
    );
    // The whole text must match, in every alternative.
    check("a=foo", &["source_labels: [a], regex: o, target_label: b"], "a=foo");
    check("a=foo", &["source_labels: [a], regex: f|oo, target_label: b"], "a=foo");
    check(
        "a=foo",
        &["source_labels: [a], regex: fo+, target_label: b, replacement: x"],
        "a=foo b=x",
    );
    // The default replacement copies.
    check("a=foo", &["source_labels: [a], target_label: b"], "a=foo b=foo");
    check(
        "a=x\ny",
        &["source_labels: [a], regex: 'x.y', target_label: b, replacement: z"],
        "a=x\ny b=z",
    );
    // A missing label is joined as an empty value.
    check("a=x", &["source_labels: [z, a, z], target_label: b"], "a=x b=;x;");
    check("a=x", &["source_labels: [z, a, z], target_label: b, separator: ''"], "a=x b=x");
    // Without a source it sets a constant.
    check("a=x", &["target_label: b, replacement: y"], "a=x b=y");
    check("a=x", &["target_label: b, replacement: y, regex: z"], "a=x");
    // An empty regex is not a missing one.
    check("a=x", &["source_labels: [a], regex: '', target_label: b, replacement: y"], "a=x");
}

#[test]
fn an_empty_replacement_deletes_the_label() {
    check("a=x b=y", &["target_label: b, replacement: ''"], "a=x");
    check("a=x b=y", &["source_labels: [z], target_label: b"], "a=x");
    check("a=b b=y", &["source_labels: [a], target_label: $1, replacement: $2"], "a=b");
}

#[test]
fn replace_expands_its_target() {
    check(
        "a=k-v",
        &["source_labels: [a], regex: '(.)-(.)', target_label: 'x_${1}', replacement: $2"],
        "a=k-v x_k=v",
    );
    // An invalid name is skipped, and nothing is deleted.
    for value in ["1-v", "é-v"] {
        let labels = format!("a={value}");
        let rule = "source_labels: [a], regex: '(.)-(.)', target_label: $1, replacement: $2";
        check(&labels, &[rule], &labels);
    }
    check("a=x", &["source_labels: [a], target_label: '${nothing}'"], "a=x");
}

#[test]
fn keep_and_drop_decide_about_the_whole_set() {
    check("a=x", &["action: keep, source_labels: [a], regex: x|y"], "a=x");
    check("a=xx", &["action: keep, source_labels: [a], regex: x|y"], "drop");
    check("a=x", &["action: drop, source_labels: [a], regex: x|y"], "drop");
    check("a=xx", &["action: drop, source_labels: [a], regex: x|y"], "a=xx");
    // Without regex they match everything.
    check("a=x", &["action: keep"], "a=x");
    check("a=x", &["action: drop"], "drop");
    // Later rules cannot restore a dropped set.
    check("a=x", &["action: drop", "target_label: a, replacement: y"], "drop");
}

#[test]
fn keepequal_and_dropequal_compare_values() {
    let [keep, drop] = ["keepequal", "dropequal"]
        .map(|action| format!("action: {action}, source_labels: [a], target_label: b"));
    check("a=x b=x", &[&keep], "a=x b=x");
    check("a=x b=y", &[&keep], "drop");
    check("a=x", &[&keep], "drop");
    check("c=x", &[&keep], "c=x");
    check("a=x b=x", &[&drop], "drop");
    check("a=x b=y", &[&drop], "a=x b=y");
    check("c=x", &[&drop], "drop");
    check(
        "a=x c=y b=x;y",
        &["action: keepequal, source_labels: [a, c], target_label: b"],
        "a=x c=y b=x;y",
    );
}

#[test]
fn hashmod_uses_the_last_half_of_the_md5() {
    // MD5 of `foo` is acbd18db4cc2f85c edef654fccc4a4d8.
    let all = "action: hashmod, source_labels: [a], target_label: b, modulus: 18446744073709551615";
    check("a=foo", &[all], "a=foo b=17145033699835028696");
    check(
        "a=foo",
        &["action: hashmod, source_labels: [a], target_label: b, modulus: 1000"],
        "a=foo b=696",
    );
    check(
        "a=baz",
        &["action: hashmod, source_labels: [a], target_label: b, modulus: 1000"],
        "a=baz b=976",
    );
    check(
        "a=foo\nbar",
        &["action: hashmod, source_labels: [a], target_label: b, modulus: 1000"],
        "a=foo\nbar b=734",
    );
    check(
        "a=foo",
        &["action: hashmod, source_labels: [a], target_label: b, modulus: 1"],
        "a=foo b=0",
    );
    // An empty text has a hash, too.
    check("a=foo", &["action: hashmod, target_label: b, modulus: 1000"], "a=foo b=958");
}

#[test]
fn labelmap_copies_to_other_names() {
    check(
        "a=x b1=y b2=z",
        &["action: labelmap, regex: 'b(.)', replacement: 'c_$1'"],
        "a=x b1=y b2=z c_1=y c_2=z",
    );
    check("__meta_a=x", &["action: labelmap, regex: '__meta_(.+)'"], "__meta_a=x a=x");
    // Copies are not copied again.
    check("a=x", &["action: labelmap, regex: '(a+)', replacement: a$1"], "a=x aa=x");
    // Several labels become one: the last by name wins.
    check("b=y a=x c=z", &["action: labelmap, regex: '[abc]', replacement: d"], "a=x b=y c=z d=z");
    // Invalid names are possible.
    check("a1=x", &["action: labelmap, regex: 'a(.)'"], "a1=x 1=x");
    check("ab=x", &["action: labelmap, regex: 'a(c?)b'"], "ab=x =x");
}

#[test]
fn labeldrop_and_labelkeep_select_by_name() {
    check("a=x b1=y b2=z", &["action: labeldrop, regex: b.*"], "a=x");
    check("a=x b1=y b2=z", &["action: labelkeep, regex: b.*"], "b1=y b2=z");
    check("a=x b1=y", &["action: labeldrop, regex: b"], "a=x b1=y");
    check("a=x b1=y", &["action: labelkeep, regex: b"], "");
    check("a=x", &["action: labeldrop"], "");
}

#[test]
fn case_mapping_is_one_to_one() {
    let upper = "action: uppercase, source_labels: [a], target_label: b";
    let lower = "action: lowercase, source_labels: [a], target_label: b";
    check("a=bAr1ß", &[upper], "a=bAr1ß b=BAR1ß");
    check("a=bAr1ß", &[lower], "a=bAr1ß b=bar1ß");
    check("a=ŉǰᾀᾳῃῳᾼﬁǆ", &[upper], "a=ŉǰᾀᾳῃῳᾼﬁǆ b=ŉǰᾈᾼῌῼᾼﬁǄ");
    check("a=İΣΑΣ", &[lower], "a=İΣΑΣ b=iσασ");
    check("b=x", &[lower], "");
}

#[test]
fn actions_are_case_insensitive() {
    check("a=x", &["action: Replace, source_labels: [a], target_label: b"], "a=x b=x");
    check("a=x", &["action: LABELDROP"], "");
}

#[test]
fn labels_with_empty_values_do_not_exist() {
    check("a= b=x", &["action: labelmap, regex: a, replacement: b"], "b=x");
    check("a= b=x", &[], "b=x");
}

#[test]
fn remove_internal_removes_labels_in_double_underscores() {
    let mut set = labels("a=x _b=x __c=x __tmp=x");
    remove_internal(&mut set);
    assert_eq!(set, labels("a=x _b=x"));
}

/// The cases of Prometheus's `TestRelabel` that the tests above lack, adapted.
#[test]
fn rules_see_the_result_of_the_rules_before_them() {
    check(
        "host=web-17.fra.example.net",
        &[
            "source_labels: [host], regex: '(?:.+-)?(\\d+)\\.([a-z]+)\\..*', target_label: __n, replacement: '$1'",
            "source_labels: [__n, host], regex: '(1).*;.*\\.(fra)\\..*', target_label: zone, replacement: '$2$1$1'",
        ],
        "host=web-17.fra.example.net __n=17 zone=fra11",
    );
    check(
        "__tags=path:/m,job:j,label:k=v",
        &[
            "source_labels: [__tags], regex: '(?:.+,|^)path:(/[^,]+).*', target_label: __path",
            "source_labels: [__tags], regex: '(?:.+,|^)job:([^,]+).*', target_label: job",
            "source_labels: [__tags], regex: '(?:.+,|^)label:([^=]+)=([^,]+).*', target_label: $1, replacement: $2",
        ],
        "__tags=path:/m,job:j,label:k=v __path=/m job=j k=v",
    );
    // A deleted label can be set again.
    check(
        "port=http __a=9091",
        &[
            "action: labeldrop, regex: ^port$",
            "source_labels: [__a], regex: (.+), target_label: port, replacement: metrics",
            "action: keep, source_labels: [port], regex: ^metrics$",
        ],
        "__a=9091 port=metrics",
    );
    check(
        "a=x1\nx2",
        &[
            "source_labels: [a], regex: '(x1).*(?<second>x2)', target_label: b_$1, replacement: v_$second",
        ],
        "a=x1\nx2 b_x1=v_x2",
    );
}

/// Includes the cases of `TestRelabelValidate`.
#[test]
fn rejects_rules_without_a_key_that_the_action_needs() {
    for name in ["replace", "keepequal", "dropequal", "hashmod", "lowercase", "uppercase"] {
        let needs = format!("target_label: {name} needs a target_label; write the name of a label");
        let modulus = (name == "hashmod").then_some(1);
        check_errors(&RuleSpec { modulus, ..action(name) }, &needs);
        check_errors(&RuleSpec { modulus, target_label: Some(""), ..action(name) }, &needs);
    }
    check_errors(
        &RuleSpec::default(),
        "target_label: replace needs a target_label; write the name of a label",
    );
    for modulus in [None, Some(0)] {
        check_errors(
            &RuleSpec { modulus, ..to_t("hashmod") },
            "modulus: hashmod needs a modulus of 1 or more",
        );
    }
    for name in ["", "replacing", " keep"] {
        check_errors(
            &to_t(name),
            &format!(
                "action: \"{name}\" is not an action; write one of replace, keep, drop, keepequal, \
                 dropequal, hashmod, labelmap, labeldrop, labelkeep, lowercase, uppercase"
            ),
        );
    }
}

#[test]
fn rejects_unused_keys_for_the_same_actions_as_prometheus() {
    let all = RuleSpec {
        source_labels: Some(vec![]),
        separator: Some(""),
        regex: Some("(.*)"),
        modulus: Some(1),
        target_label: Some("t"),
        replacement: Some(""),
        action: None,
    };
    let defaults = RuleSpec {
        separator: Some(";"),
        modulus: Some(0),
        replacement: Some("$1"),
        ..RuleSpec::default()
    };
    for name in ["keepequal", "dropequal"] {
        let only = format!("{name} uses only source_labels and target_label; remove this");
        check_errors(
            &RuleSpec { action: Some(name), ..all.clone() },
            &format!("regex: {only}\nmodulus: {only}\nseparator: {only}\nreplacement: {only}"),
        );
        let spec = RuleSpec { action: Some(name), target_label: Some("t"), ..defaults.clone() };
        assert!(Compiler::default().rule(&spec).is_ok());
    }
    for name in ["labeldrop", "labelkeep"] {
        let only = format!("{name} uses only regex; remove this");
        check_errors(
            &RuleSpec { action: Some(name), ..all.clone() },
            &format!(
                "source_labels: {only}\ntarget_label: {only}\nmodulus: {only}\nseparator: {only}\n\
                 replacement: {only}"
            ),
        );
        let spec = RuleSpec { action: Some(name), target_label: Some(""), ..defaults.clone() };
        assert!(Compiler::default().rule(&spec).is_ok());
    }
    for name in ["lowercase", "uppercase"] {
        check_errors(
            &RuleSpec { replacement: Some("x"), ..to_t(name) },
            &format!("replacement: {name} uses no replacement; remove it"),
        );
        assert!(
            Compiler::default().rule(&RuleSpec { replacement: Some("$1"), ..to_t(name) }).is_ok()
        );
    }
    // As in Prometheus, other actions allow unused keys.
    for name in ["keep", "drop"] {
        let spec = RuleSpec { action: Some(name), target_label: Some("-"), ..all.clone() };
        assert!(Compiler::default().rule(&spec).is_ok());
    }
}

#[test]
fn rejects_invalid_label_names() {
    let message = "is not a label name; write letters, digits and _, no digit first";
    check_errors(
        &RuleSpec { source_labels: Some(vec!["a", "1", "", "utf-8.label"]), ..to_t("replace") },
        &format!(
            "source_labels[1]: \"1\" {message}\nsource_labels[2]: \"\" {message}\n\
             source_labels[3]: \"utf-8.label\" {message}"
        ),
    );
    for name in ["replace", "hashmod", "lowercase", "uppercase", "keepequal", "dropequal"] {
        let spec = RuleSpec {
            target_label: Some("a-b"),
            modulus: (name == "hashmod").then_some(1),
            ..action(name)
        };
        check_errors(&spec, &format!("target_label: \"a-b\" {message}"));
    }
    // Only `replace` expands its target.
    check_errors(
        &RuleSpec { target_label: Some("${3}"), ..action("lowercase") },
        &format!("target_label: \"${{3}}\" {message}"),
    );
}

/// Includes the cases of `TestTargetLabelLegacyValidity`.
#[test]
fn rejects_name_templates_that_cannot_give_a_name() {
    let good = [
        "label",
        "label${1}",
        "${1}label",
        "${1}",
        "$1",
        "asd$2asd",
        "_${1}_",
        "foo${bar}foo",
        "a1",
        "$1$2",
        "${1}2",
        "$_",
    ];
    let bad = [
        "-label",
        "${",
        "$",
        "${}",
        "foo${",
        "-foo${1}bar-",
        "bar.foo${1}bar",
        "",
        "1a",
        "0${3}",
        "-${3}",
        "a$",
        "$$1",
        "a$$",
        "${1",
        "${é}",
        "$é",
        "${a-b}",
        "a\n",
    ];
    let message =
        "cannot give a label name; write letters, digits, _ and groups like ${1}, no digit first";
    for template in good {
        assert!(template::gives_name(template), "{template}");
        let spec = RuleSpec { replacement: Some(template), ..action("labelmap") };
        assert!(Compiler::default().rule(&spec).is_ok(), "{template}");
    }
    for template in bad {
        assert!(!template::gives_name(template), "{template}");
    }
    check_errors(
        &RuleSpec { replacement: Some("${1}-"), ..action("labelmap") },
        &format!("replacement: \"${{1}}-\" {message}"),
    );
    check_errors(
        &RuleSpec { target_label: Some("${1}-"), ..action("replace") },
        &format!("target_label: \"${{1}}-\" {message}"),
    );
}

#[test]
fn reports_all_errors_of_a_rule() {
    let spec = RuleSpec { source_labels: Some(vec!["-"]), regex: Some("("), ..to_t("replace") };
    check_errors(
        &spec,
        "source_labels[0]: \"-\" is not a label name; write letters, digits and _, no digit first\n\
         regex: at character 1, the group is not closed; write ) after it",
    );
}

#[test]
fn equal_rules_are_written_alike() {
    let mut compiler = Compiler::default();
    let mut rule = |regex| compiler.rule(&RuleSpec { regex, ..to_t("replace") }).unwrap();
    assert_eq!(rule(None), rule(Some("(.*)")));
    assert_ne!(rule(None), rule(Some(".*")));
}

#[test]
fn templates_are_expanded_as_in_go() {
    for (template, expected) in [
        ("", ""),
        ("plain", "plain"),
        ("$0", "wholexy"),
        ("$2-${2}", "hole-hole"),
        ("$2x", ""),
        ("${2}x", "holex"),
        ("$2_", ""),
        ("$2-", "hole-"),
        ("$1$3", ""),
        ("$6", ""),
        ("$7", ""),
        ("$99999999999999999999", ""),
        // The first group of that name that took part.
        ("$n", "x"),
        ("${n}", "x"),
        ("$nn", ""),
        // A number is never a name.
        ("$9", ""),
        ("$5", "y"),
        ("$02", ""),
        ("$$", "$"),
        ("$$2", "$2"),
        ("$$$2", "$hole"),
        ("a$", "a$"),
        ("$-", "$-"),
        ("$ 2", "$ 2"),
        ("${", "${"),
        ("${}", "${}"),
        ("${2", "${2"),
        ("${2-}", "${2-}"),
        ("${$2}", "${hole}"),
        ("é$2", "éhole"),
    ] {
        check_template(template, expected);
    }
    for (template, expected) in [
        ("$1é", "\"é\" cannot follow $1; write ${1} before it"),
        ("$→", "\"→\" cannot follow $; write $$ for a dollar sign"),
        ("${1é}", "\"é\" cannot be in ${…}; write the name of a group"),
    ] {
        assert_eq!(Template::parse(template), Err(expected.into()), "{template}");
    }
}

#[test]
fn classes_are_ascii_as_in_go() {
    check_match("\\d+", &["0", "19"], &["", "٣", "a"]);
    check_match("\\D", &["a", "٣", "é", "\n"], &["1"]);
    check_match("\\w+", &["a_Z9"], &["é", "-"]);
    check_match("\\W", &["é", "-"], &["a", "_"]);
    check_match("\\s+", &[" \t\n\r\u{c}"], &["\u{b}", "\u{a0}"]);
    check_match("\\S", &["\u{b}", "\u{a0}"], &[" "]);
    check_match("[\\d_]+", &["1_"], &["٣"]);
    check_match("[^\\D5]+", &["12"], &["5", "a", "٣"]);
    check_match("é\\bb", &["éb"], &[]);
    check_match("e\\bb", &[], &["eb"]);
    check_match("é\\B-\\Bé", &["é-é"], &[]);
    check_match("e\\B-", &[], &["e-"]);
    check_match("(?i)k", &["k", "K", "\u{212a}"], &[]);
    check_match("(?i)\\w", &["\u{17f}", "\u{212a}"], &["é"]);
    check_match("(?i)\\W", &["é"], &["\u{17f}", "\u{212a}"]);
    check_match("(?i:É)é", &["éé", "Éé"], &["éÉ"]);
}

#[test]
fn brackets_work_as_in_go() {
    check_match("f[o[]+", &["fo[o"], &["f"]);
    check_match("[]a]+", &["]a"], &["["]);
    check_match("[^]a]", &["b"], &["]", "a"]);
    check_match("[a-z&&b]+", &["ab&z"], &["-"]);
    check_match("[a~~b+--]+", &["a~b,-"], &["."]);
    check_match("[-a]+[a-]+", &["-aa-"], &["b"]);
    check_match("[a-c-e]+", &["abc-e"], &["d"]);
    check_match("[--/]+", &["-./"], &["0"]);
    check_match("[\\x61-\\x{63}\\144]+", &["abcd"], &["e"]);
    check_match("[\\]\\-\\^\\[]+", &["]-^["], &["\\"]);
    check_match("[^^]", &["a"], &["^"]);
    check_match("[[:alpha:]_]+", &["aZ_"], &["1", ":", "é"]);
    check_match("[[:^alpha:]]+", &["1é"], &["a"]);
    check_match("[^[:space:]x]+", &["ab"], &["\u{b}", "x"]);
    check_match("[[:word:]-[:punct:]]+", &["a-!~"], &[" "]);
    check_match("[[:foo]+", &["[:fo"], &["]"]);
    check_match("[a\\d-z]+", &["a1-z"], &["b"]);
    check_match("[^\\x00-\\x{10FFFF}]?", &[""], &["a"]);
    check_match("[é-ü#]+", &["éôü#"], &["e"]);
    check_match("[ \t]+", &[" \t"], &["s"]);
}

#[test]
fn knows_every_posix_class() {
    for (name, members) in [
        ("alnum", 62),
        ("alpha", 52),
        ("ascii", 128),
        ("blank", 2),
        ("cntrl", 33),
        ("digit", 10),
        ("graph", 94),
        ("lower", 26),
        ("print", 95),
        ("punct", 32),
        ("space", 6),
        ("upper", 26),
        ("word", 63),
        ("xdigit", 22),
    ] {
        let [class, others] =
            ["", "^"].map(|sign| compile(&format!("[[:{sign}{name}:]]")).unwrap());
        let matched = |pattern: &Pattern| {
            ('\0'..='\u{ff}')
                .filter(|c| pattern.is_match(c.encode_utf8(&mut [0; 4]), &mut Scratch::default()))
                .count()
        };
        assert_eq!((matched(&class), matched(&others)), (members, 256 - members), "{name}");
    }
}

#[test]
fn escapes_work_as_in_go() {
    check_match("a\\<b\\>\\_\\-\\#\\ \\\u{7f}", &["a<b>_-# \u{7f}"], &[]);
    check_match("\\a\\f\\t\\n\\r\\v", &["\u{7}\u{c}\t\n\r\u{b}"], &[]);
    check_match("\\x41\\x{42}\\x{000043}\\x{10FFFF}", &["ABC\u{10ffff}"], &[]);
    check_match("\\141\\0\\07\\1011\\400", &["a\0\u{7}A1\u{100}"], &[]);
    check_match("\\Aa\\z", &["a"], &["aa"]);
    check_match("\\Qa.b\\E+", &["a.b", "a.bbb"], &["axb", "a.ba.b"]);
    check_match("\\Q(\\E|\\Q[*\\E", &["(", "[*"], &["["]);
    check_match("\\Q\\E", &[""], &[]);
    check_match("\\pN\\p{Lu}\\P{Lu}\\p{^Lu}\\P{^Lu}\\p{Greek}\\p{Any}", &["²ÉééÉα!"], &["2eééÉα!"]);
    check_match("[\\p{Lu}\\PL]+", &["É1"], &["é"]);
    check_match("(?i)\\p{Lu}", &["é", "É"], &["1"]);
    check_match("(?i)\\P{Lu}", &["1"], &["é", "É"]);
}

#[test]
fn braces_that_are_not_repetitions_are_literal() {
    for pattern in
        ["x{", "x{,2}", "x{1", "x{1,", "x{a}", "x{01}", "x{1,02}", "x{-1}", "x{ 1}", "{}", "a}]"]
    {
        check_match(pattern, &[pattern], &["", "x", "xx"]);
    }
    check_match("a{2}b{1,}c{0,1}d{3,3}?", &["aabddd", "aabbcddd"], &["abddd", "aabcdd"]);
    check_match("a{0}b", &["b"], &["ab"]);
    check_match("a{1000}", &[&"a".repeat(1000)], &["a"]);
    check_match("(?:(?:a{500}){0}b){3}", &["bbb"], &["b"]);
    check_match("(?:a{500}b{900}|c{1000}){1}", &[&"c".repeat(1000)], &["c"]);
    check_match("^*a\\b+$?", &["a"], &["aa"]);
    check_match("()*a(?:)+(|b)*", &["a", "abb"], &["b"]);
}

#[test]
fn groups_and_flags_work_as_in_go() {
    check_match("(?:a|b)(?)(?:)(?i)C(?-i)D", &["acD"], &["acd", "ACD"]);
    check_match("a(?i)b|c", &["aB", "C"], &["Ab"]);
    check_match("(?i:a)b", &["Ab"], &["aB"]);
    check_match("(?i-i:a)(?ii)b(?-ii)c", &["aBc"], &["ABc", "aBC"]);
    check_match("(?-s).", &["a"], &["\n"]);
    check_match("(?m)a$\n^b", &["a\nb"], &["ab"]);
    check_match("(?m:$)\n(?-m:^)?", &["\n"], &[]);
    let longest = compile("(a+?)(a*)").unwrap();
    assert_eq!(longest.find("aaa", &mut Scratch::default()).unwrap().group(1), "a");
    let swapped = compile("(?U)(a+?)(a*)").unwrap();
    assert_eq!(swapped.find("aaa", &mut Scratch::default()).unwrap().group(1), "aaa");
    let unused = compile("(a){0}(b)").unwrap();
    assert_eq!(
        (
            unused.find("b", &mut Scratch::default()).unwrap().group(1),
            unused.find("b", &mut Scratch::default()).unwrap().group(2)
        ),
        ("", "b")
    );
}

#[test]
fn rejects_invalid_patterns_with_a_remedy() {
    let escape = "write the character itself, or \\x{…} with its code";
    for pattern in
        ["\\C", "\\Z", "\\e", "\\8", "\\1", "\\é", "\\xg0", "\\x{110000}", "\\x{}", "\\y"]
    {
        check_rejected(
            &format!("a{pattern}"),
            &format!("at character 2, \"{pattern}\" is not an escape; {escape}"),
        );
    }
    check_rejected("[\\b]", &format!("at character 2, \"\\b\" is not an escape; {escape}"));
    check_rejected("[a-\\d]", &format!("at character 2, \"a-\\d\" is not an escape; {escape}"));
    check_rejected("\\x4", &format!("at character 1, \"\\x4\" is not an escape; {escape}"));
    check_rejected("\\x{4", &format!("at character 1, \"\\x{{\" is not an escape; {escape}"));
    check_rejected("é\\", "at character 2, nothing follows the \\; write \\\\ for a backslash");
    check_rejected(
        "\\x{D800}",
        "at character 1, U+D800 is not a character; write one that text can contain",
    );

    let class = "is not a class that all supported Go versions define identically; \
                 write a category like \\p{Lu} or a script like \\p{Greek}";
    for pattern in [
        "\\p{C}",
        "\\pC",
        "\\p{Cs}",
        "\\p{Cn}",
        "\\p{LC}",
        "\\p{greek}",
        "\\p{Grek}",
        "\\p{Alphabetic}",
        "\\p{}",
        "\\pé",
    ] {
        check_rejected(pattern, &format!("at character 1, \"{pattern}\" {class}"));
    }
    check_rejected("\\p{Lu", &format!("at character 1, \"\\p{{\" {class}"));
    check_rejected(
        "[[:foo:]]",
        "at character 2, \"[:foo:]\" is not a class; write one like [:alpha:], or \\[: for a bracket",
    );

    let open = "at character 2, the [ is not closed; write ] after it";
    for pattern in ["a[", "a[^", "a[]", "a[b", "a[^]", "a[b-", "a[[:alpha:]"] {
        check_rejected(pattern, &format!("{open}, or \\[ for a bracket"));
    }
    check_rejected(
        "[b-a]",
        "at character 2, the range \"b-a\" is reversed; write the lower character first",
    );

    check_rejected("a\\Qb", "at character 2, the \\Q is not closed; write \\E after the text");
    check_rejected("a)|(b", "at character 2, no group is open; write \\) for a parenthesis");
    check_rejected("a(b(c)", "at character 2, the group is not closed; write ) after it");
    check_rejected("(", "at character 1, the group is not closed; write ) after it");
    let group = "at character 1, unknown group or flag; \
                 write (?:, (?P<name>, or flags among i, m, s and U, like (?i) or (?i:";
    for pattern in [
        "(?", "(?P=n)", "(?Pn)", "(?=a)", "(?!a)", "(?x)a", "(?u:a)", "(?-)", "(?i-)", "(?i-:a)",
        "(?i--s)", "(?i", "(?'n'a)", "(?#a)",
    ] {
        check_rejected(pattern, group);
    }
    let name = "at character 1, invalid group name; \
                write (?P<name> with ASCII letters, digits and _";
    for pattern in
        ["(?P<>a)", "(?P<a-b>a)", "(?P<é>a)", "(?P<n", "(?<n", "(?P<", "(?<=a)b", "(?<!a)b"]
    {
        check_rejected(pattern, name);
    }
}

#[test]
fn rejects_invalid_repetitions_with_a_remedy() {
    let nothing =
        "there is nothing to repeat; put the repetition right after a character or a group";
    for (pattern, place) in [
        ("*", 1),
        ("+a", 1),
        ("{2}", 1),
        ("a|*", 3),
        ("(*)", 2),
        ("(|?)", 3),
        ("(?i)*", 5),
        ("(?:+)", 4),
        ("a(?i)*", 6),
        ("a\\Q\\E*", 6),
    ] {
        check_rejected(pattern, &format!("at character {place}, {nothing}"));
    }
    let twice = "a repetition is repeated; keep one, or put the inner one in (?:…)";
    for (pattern, place) in
        [("a**", 3), ("a+*", 3), ("a?+", 3), ("a*??", 4), ("a{2}{3}", 5), ("a{2}*", 5)]
    {
        check_rejected(pattern, &format!("at character {place}, {twice}"));
    }
    for pattern in ["a{1001}", "a{0,1001}", "a{1001,}", "a{99999999999999999999}"] {
        check_rejected(
            pattern,
            "at character 2, the repetition exceeds 1000; use smaller repetitions",
        );
    }
    check_rejected(
        "a{2,1}",
        "at character 2, the bounds of the repetition are reversed; swap them",
    );
    for (pattern, place) in
        [("(?:a{11}){91}", 10), ("(?:(?:a{11}b?)+){91}", 17), ("((a{10}){10,}){11}", 15)]
    {
        check_rejected(
            pattern,
            &format!(
                "at character {place}, nested repetitions multiply to more than 1000; use smaller repetitions"
            ),
        );
    }
}

#[test]
fn limits_the_labels_and_texts_that_rules_make() {
    let applied = |yaml: String, set: &str| {
        apply(&rules(&yaml), labels(set)).map(|labels| labels.unwrap().len())
    };
    let double = "- {source_labels: [a, a], separator: '', target_label: a}\n";
    assert_eq!(applied(double.repeat(14), "a=x"), Ok(1));
    assert_eq!(applied(double.repeat(40), "a=x"), Err(TooLarge));
    let map = |n: u8| {
        let letter = |n| {
            format!(
                "- {{action: labelmap, regex: (.*), replacement: '{}$1'}}\n",
                (b'a' + n) as char
            )
        };
        (0..n).map(letter).collect::<Vec<_>>().concat()
    };
    assert_eq!(applied(map(9), "x=y"), Ok(512));
    assert_eq!(applied(map(24), "x=y"), Err(TooLarge));
    let long = "$1".repeat(20_000);
    let replace = format!("- {{source_labels: [a], target_label: b, replacement: '{long}'}}\n");
    assert_eq!(applied(replace.clone(), "a="), Ok(0));
    assert_eq!(applied(replace, "a=x"), Err(TooLarge));
}

#[test]
fn rejects_patterns_that_are_too_large() {
    assert!(compile(&"a".repeat(4096)).is_ok());
    check_rejected(&"a".repeat(4097), "the pattern has 4097 bytes; keep it to 4096");
    let nested = |depth| "(".repeat(depth) + &")".repeat(depth);
    assert!(compile(&nested(99)).is_ok());
    check_rejected(
        &nested(100),
        "at character 100, groups are nested more than 100 deep; flatten them",
    );
    let repeated = format!("{}a|b{}", "(?:x|(?:".repeat(49), ")+y)*".repeat(49));
    assert!(compile(&repeated).is_ok());
    check_rejected(
        "(?:.{100}){10}.{1000}.{1000}.{1000}",
        "the pattern takes more than 1 MiB of memory; use smaller repetitions",
    );
}

#[test]
fn limits_the_memory_of_all_patterns_together() {
    let mut compiler = pattern::Compiler::default();
    let results: Vec<_> =
        (0..100).map(|_| compiler.compile(".{1000}.{1000}.{1000}.{1000}")).collect();
    let refused = results.into_iter().filter_map(Result::err).collect::<Vec<_>>();
    assert_eq!(refused.len(), 100);
    assert_eq!(refused[15], "the pattern takes more than 1 MiB of memory; use smaller repetitions");
    let message = "the patterns take more than 16 MiB of memory; write fewer or simpler ones";
    assert!(refused[16..].iter().all(|refused| refused == message));
}

/// Text that resembles a pattern or a template.
fn pattern_like() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "a",
        "é",
        "0",
        "1",
        ":",
        "-",
        "^",
        "$",
        ".",
        "|",
        "(",
        ")",
        "(?:",
        "(?i)",
        "(?i:",
        "(?P<n>",
        "[",
        "[^",
        "]",
        "[:alpha:]",
        "*",
        "+",
        "?",
        "{",
        "{2}",
        "{1,3}",
        "}",
        "\\",
        "\\d",
        "\\W",
        "\\b",
        "\\B",
        "\\pL",
        "\\p{^Lu}",
        "\\x{",
        "\\x41",
        "\\Q",
        "\\E",
        "&&",
        "${",
        "$1",
        "\n",
        "\u{212a}",
    ]);
    collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
}

proptest! {
    /// Rust's parser accepts every translation.
    #[test]
    fn every_translation_compiles(pattern in pattern_like()) {
        if pattern::translate(&pattern).is_ok() {
            prop_assert!(compile(&pattern).is_ok(), "{}", pattern);
        }
    }

    #[test]
    fn no_rule_panics(
        texts in collection::vec(prop_oneof![pattern_like(), any::<String>()], 6),
        action in prop::sample::select(ACTIONS.to_vec()),
        set in collection::btree_map("[a-z_]{1,3}", pattern_like(), 0..4),
    ) {
        let spec = RuleSpec {
            source_labels: Some(vec!["a", "b"]),
            separator: Some(&texts[0]),
            regex: Some(&texts[1]),
            modulus: Some(7),
            target_label: Some(&texts[2]),
            replacement: Some(&texts[3]),
            action: Some(action),
        };
        if let Ok(rule) = Compiler::default().rule(&spec) {
            let _ = apply(&[rule], set);
        }
    }

    /// A quoted text matches itself, and nothing shorter.
    #[test]
    fn a_quoted_text_matches_itself(text in string_regex("(?s).{1,20}").unwrap()) {
        prop_assume!(!text.contains("\\E"));
        let pattern = compile(&format!("\\Q{text}\\E")).unwrap();
        prop_assert!(pattern.is_match(&text, &mut Scratch::default()));
        let shorter: String = text.chars().skip(1).collect();
        prop_assert!(!pattern.is_match(&shorter, &mut Scratch::default()));
    }
}
