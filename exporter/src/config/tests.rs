//! The configuration that each text gives, and the exact message of each error.

use std::{
    fs::{self, File},
    os::unix::{fs::symlink, net::UnixListener},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::*;
use crate::{expr::relabel as relabelling, os::watch::Stamp};

/// Checks that the text has exactly the errors `expected`, a line for each.
#[track_caller]
fn check(text: &str, expected: &str) {
    check_lines(&Config::parse(text).expect_err("the text has an error"), text, expected);
}

/// Checks that the text is valid and has exactly the warnings `expected`, a line for each.
#[track_caller]
fn check_warnings(text: &str, expected: &str) {
    check_lines(parse(text).warnings(), text, expected);
}

#[track_caller]
fn check_lines(diagnostics: &Diagnostics, text: &str, expected: &str) {
    let mut lines: Vec<_> = diagnostics.shown.iter().map(ToString::to_string).collect();
    if diagnostics.more > 0 {
        lines.push(format!("and {} more", diagnostics.more));
    }
    assert_eq!(lines.join("\n"), expected, "{text}");
}

#[track_caller]
fn check_buckets(buckets: &str, expected: &[i32]) {
    let text = format!("runqueue_latency:\n  buckets: {buckets}\n");
    assert_eq!(parse(&text).runqueue_latency().bucket_indices(), expected, "{buckets}");
}

#[track_caller]
fn parse(text: &str) -> Config {
    Config::parse(text).unwrap()
}

/// Concatenates the line of each number.
fn lines<T>(numbers: impl IntoIterator<Item = T>, line: impl FnMut(T) -> String) -> String {
    numbers.into_iter().map(line).collect::<Vec<_>>().concat()
}

#[track_caller]
fn check_read(path: &Path, expected: &str) {
    let error = read(path).expect_err("the path cannot be read");
    assert_eq!(error.one_line(), expected);
}

#[test]
fn the_shipped_file_has_the_defaults() {
    let config = parse(include_str!("../../../config/exporter.yaml"));
    assert_eq!(config.runqueue_latency(), &RunqueueLatency::default());
    let labels: Vec<_> = config.labels().iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(labels, [("host", "example-host"), ("zone", "example-zone")]);
}

#[test]
fn empty_text_is_the_default_configuration() {
    let nothing = [
        "",
        "# labels:\n",
        "---\n",
        "\u{feff}",
        "{}\n",
        "labels:\n  # host: a\n",
        "labels: {}\nrunqueue_latency: {buckets: {}}\n",
        "runqueue_latency:\n  buckets:\n",
    ];
    for text in nothing {
        assert_eq!(parse(text), Config::default(), "{text}");
    }
}

#[test]
fn reads_labels_and_runqueue_latency() {
    let config = parse(
        "labels: {zone: a, Host_2: 'b c', _x: !!str 1}\n\
         runqueue_latency: {per_cpu: false, buckets: {min: 100ns, max: 100ms, factor: 1024}}\n",
    );
    let labels: Vec<_> = config.labels().iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(labels, [("Host_2", "b c"), ("_x", "1"), ("zone", "a")]);
    assert!(!config.runqueue_latency().per_cpu());
    assert_eq!(config.runqueue_latency().bucket_indices(), [-192, -112, -32, 48]);
}

#[test]
fn reads_every_key_about_labels() {
    let config = parse(
        "cpus:\n\
         - {match: '0-1,8', labels: {zone: '{{ zone }}-{{ env.RACK }}', cpu: all}}\n\
         - {match: 'numa:0-1'}\n\
         - {match: 'package: 2'}\n\
         - {match: 'cluster:3'}\n\
         - {match: isolated}\n\
         cpu_relabel_configs: [{action: labeldrop, regex: cpu}]\n\
         labels_on: both\n\
         without: [cpu, pool]\n\
         limits: {labels: 4, name_bytes: 8, value_bytes: 99, values_per_label: 4, series: 5}\n\
         relabel_configs: [{target_label: zone, replacement: z}]\n",
    );
    let matches: Vec<_> = config.cpus().iter().map(|entry| entry.matches.clone()).collect();
    let expected = [
        CpuMatch::Cpus(vec![0, 1, 8]),
        CpuMatch::NumaNodes(vec![0, 1]),
        CpuMatch::Packages(vec![2]),
        CpuMatch::Clusters(vec![3]),
        CpuMatch::Isolated,
    ];
    assert_eq!(matches, expected);
    assert_eq!(config.cpus()[0].labels["zone"].as_str(), "{{ zone }}-{{ env.RACK }}");
    assert_eq!(config.cpu_relabel_configs().len(), 1);
    assert_eq!(config.labels_on(), LabelsOn::Both);
    assert_eq!(config.without(), &["cpu".to_owned(), "pool".to_owned()].into());
    let limits = Limits {
        labels: 4,
        name_bytes: 8,
        value_bytes: 99,
        values_per_label: 4,
        series: 5,
        ..Limits::default()
    };
    assert_eq!(config.limits(), &limits);
    let uses: Vec<_> = config.uses().iter().map(|(source, keys)| (source.name(), keys)).collect();
    assert_eq!(uses, [("env", &["RACK".to_owned()].into())]);
}

#[test]
fn template_errors_have_the_position_in_the_file() {
    check(
        "labels:\n\
         \x20 a: {{ hostname }}\n\
         \x20 b: '{{ hostnam }}'\n\
         \x20 c: \"é {{ hostname | uper }}\"\n\
         \x20 d: \"\\u00e9 {{ env }}\"\n\
         \x20 e: |\n\
         \x20   x {{ arch\n\
         \x20 f: 'it''s {{ fqd }}'\n\
         cpus:\n\
         - match: isolated\n\
         \x20 labels: {a: \"{{ e }}\", b: '{{ fqd }}'}\n\
         # the end\n",
        "2:6: labels.a: a map is not a string; write one, in quotes if it starts with {\n\
         3:10: labels.b: unknown name hostnam; did you mean hostname?\n\
         4:23: labels.c: unknown filter uper; did you mean upper?\n\
         5:6: labels.d: env needs a name, as env.NAME\n\
         6:6: labels.e: syntax error: unexpected end of input, expected end of variable block\n\
         8:6: labels.f: unknown name fqd; did you mean fqdn?\n\
         11:33: cpus[0].labels.b: unknown name fqd; did you mean fqdn?",
    );
}

#[test]
fn rejects_invalid_selections_of_cpus() {
    let message = "is not a selection of CPUs; write an ascending list like \"0-15,32\", the same \
                   after numa:, package: or cluster:, or isolated";
    for bad in ["", "1-0", "2,1", "all", "numa:", "numa:x", "core:1", "isolated:1", "cpu"] {
        check(
            &format!("cpus: [{{match: '{bad}'}}]"),
            &format!("1:16: cpus[0].match: \"{bad}\" {message}"),
        );
    }
    check(
        "cpus:\n- {labels: {a: b}}\n- {match: 3, label: {}}\n- numa:1\n",
        "2:3: cpus[0]: match is missing; write one like match: \"0-15\"\n\
         3:14: cpus[1].label: unknown key; did you mean labels?\n\
         4:3: cpus[2]: \"numa:1\" is not a map; write lines of `key: value`",
    );
}

#[test]
fn rejects_invalid_labels_on_and_without() {
    check(
        "labels_on: serie",
        "1:12: labels_on: \"serie\" is not a choice; write series, target_info or both",
    );
    check("attach: series", "1:1: attach: unknown key; write labels_on");
    check(
        "without: [cpu, le, a-b, 1]",
        "1:16: without[1]: \"le\" cannot be summed over here; sum over it in PromQL\n\
         1:20: without[2]: \"a-b\" is not a label name\n\
         1:25: without[3]: 1 is not a label name",
    );
}

#[test]
fn rejects_out_of_range_limits() {
    check(
        "limits: {labels: 0, value_bytes: 1025, series: -1, name: 3}\n",
        "1:18: limits.labels: 0 is out of range; write a number from 1 to 64\n\
         1:34: limits.value_bytes: 1025 is out of range; write a number from 1 to 1024\n\
         1:48: limits.series: -1 is not a positive integer; write digits without quotes\n\
         1:52: limits.name: unknown key; write one of labels, name_bytes, value_bytes, \
         values_per_label, series, cgroups",
    );
    check(
        "limits: {labels: 1, name_bytes: 1}\nlabels: {aa: x, b: y}\n",
        "2:9: labels: there are 2 labels; keep at most 1\n\
         2:10: labels.aa: the name has 2 bytes; keep it to 1",
    );
}

#[test]
fn a_byte_order_mark_is_skipped() {
    check(
        "\u{feff}foo: 1",
        "1:1: foo: unknown key; write one of labels, relabel_configs, cpus, cpu_relabel_configs, cgroups, labels_on, without, limits, \
             runqueue_latency",
    );
}

#[test]
fn aliases_are_followed() {
    let config = parse("labels: {a: &a x, b: *a}\n");
    assert_eq!(config.labels()["b"].as_str(), "x");
}

#[test]
fn bounds_are_rounded_to_powers_of_two_of_a_second() {
    // 2^-20 s are 953.67 ns.
    check_buckets("{min: 954ns, max: 954ns}", &[-160, -144]);
    check_buckets("{min: 953ns, max: 953ns}", &[-168, -152]);
    check_buckets("{min: 1us, max: 3us, factor: 2}", &[-160, -152, -144]);
    check_buckets("{min: 250ms, max: 500ms, factor: 2}", &[-16, -8]);
    check_buckets("{min: 60ns, max: 64s, factor: 1024}", &[-192, -112, -32, 48]);
    check_buckets("{}", &(-160..=48).step_by(16).collect::<Vec<_>>());
}

#[test]
fn bounds_accept_any_unit_of_time() {
    check_buckets("{min: 1.5us, max: 2000 ns}", &[-160, -144]);
    check_buckets("{min: 1µs, max: 1us}", &[-160, -144]);
    check_buckets("{min: 0.1m, max: 1m, factor: 16}", &[16, 48]);
}

#[test]
fn the_last_bucket_reaches_max_and_is_not_above_64_s() {
    check_buckets("{min: 1s, max: 1s}", &[0]);
    check_buckets("{min: 1s, max: 8s, factor: 8}", &[0, 24]);
    check_buckets("{min: 1s, max: 9s, factor: 8}", &[0, 24, 48]);
    check_buckets("{min: 2s, max: 64s, factor: 1024}", &[8, 48]);
}

#[test]
fn per_octave_adds_bounds_between_powers_of_two() {
    check_buckets("{min: 1s, max: 4s, per_octave: 2}", &[0, 4, 8, 12, 16]);
    check_buckets("{min: 1s, max: 2s, per_octave: 4}", &[0, 2, 4, 6, 8]);
    check_buckets("{min: 60ns, per_octave: 8}", &(-192..=48).collect::<Vec<_>>());
    for (value, message) in [
        ("0", "0 is not a number of bounds for each doubling; write 2, 4 or 8"),
        ("1", "1 is not a number of bounds for each doubling; write 2, 4 or 8"),
        ("16", "16 is not a number of bounds for each doubling; write 2, 4 or 8"),
        ("1.5", "1.5 is not a positive integer; write digits without quotes"),
    ] {
        check(
            &format!("runqueue_latency: {{buckets: {{per_octave: {value}}}}}"),
            &format!("1:42: runqueue_latency.buckets.per_octave: {message}"),
        );
    }
}

#[test]
fn rejects_factor_with_per_octave() {
    check(
        "runqueue_latency: {buckets: {factor: 4, per_octave: 4}}",
        "1:53: runqueue_latency.buckets.per_octave: factor and per_octave are both given; keep one",
    );
    check(
        "runqueue_latency: {buckets: {per_octave: 4, factor: 4}}",
        "1:53: runqueue_latency.buckets.factor: factor and per_octave are both given; keep one",
    );
}

#[test]
fn rejects_unknown_keys() {
    check(
        "foo: {a: [1]}\n",
        "1:1: foo: unknown key; write one of labels, relabel_configs, cpus, cpu_relabel_configs, cgroups, labels_on, without, limits, \
             runqueue_latency",
    );
    check(
        "runqueue_latency:\n  percpu: true",
        "2:3: runqueue_latency.percpu: unknown key; did you mean per_cpu?",
    );
    check("lables: {}", "1:1: lables: unknown key; did you mean labels?");
    check(
        "runqueue_latency: {buckets: {maximum: 1s}}",
        "1:30: runqueue_latency.buckets.maximum: unknown key; write one of min, max, factor, per_octave",
    );
}

#[test]
fn rejects_merge_keys() {
    check(
        "labels: {<<: {a: b}}",
        "1:10: labels.<<: \"<<\" is not a label name; write letters, digits and _, no digit first\n\
         1:14: labels.<<: a map is not a string; write one, in quotes if it starts with {",
    );
}

#[test]
fn rejects_duplicate_keys_at_every_level() {
    check(
        "labels:\n  a: x\n  b: x\n  \"a\": y\nlabels:\n  a: 1\n",
        "4:3: labels.a: this key is given twice; keep one\n\
         5:1: labels: this key is given twice; keep one",
    );
    check(
        "runqueue_latency: {per_cpu: true, per_cpu: true}",
        "1:35: runqueue_latency.per_cpu: this key is given twice; keep one",
    );
}

#[test]
fn rejects_keys_that_are_not_strings() {
    check(
        "labels:\n  12: x\n  ~: x\n  [a]: x\n  ? {a: b}\n  : x\n",
        "2:3: labels.12: 12 is not a label name; write letters, digits and _, no digit first\n\
         3:3: labels: ~ cannot be a key; write a string\n\
         4:3: labels: a list cannot be a key; write a string\n\
         5:5: labels: a map cannot be a key; write a string",
    );
}

/// As in Prometheus, an unquoted scalar is the text that is written.
#[test]
fn unquoted_numbers_and_booleans_are_the_text_as_written() {
    let scalars = [
        "12",
        "-1",
        "0x1F",
        "0o17",
        "017",
        "1.10",
        "1e3",
        "-.5",
        ".inf",
        ".NaN",
        "12345678901234567890",
        "-12345678901234567890",
        "123456789012345678901234567890",
        "1234567890123456789012345678901234567890",
        "1_000",
        "190:20:30",
        "2001-01-01",
        "true",
        "False",
        "TRUE",
        "yes",
        "on",
    ];
    for scalar in scalars {
        let text = format!(
            "labels: {{a: &a {scalar}, b: *a, c: !!str {scalar}}}\n\
             relabel_configs:\n\
             - {{source_labels: [a, b], separator: {scalar}, regex: (.*), target_label: d}}\n\
             - {{source_labels: [a], regex: {scalar}, replacement: {scalar}, target_label: e}}\n\
             cpus: [{{match: 0, labels: {{f: {scalar}}}}}]\n"
        );
        let config = parse(&text);
        let labels: Vec<_> =
            config.labels().iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(labels, [("a", scalar), ("b", scalar), ("c", scalar)]);
        assert_eq!(config.cpus()[0].labels["f"].as_str(), scalar);
        let given = ["a", "b"].map(|name| (name.to_owned(), scalar.to_owned()));
        let labels = relabelling::apply(config.relabel_configs(), given.into()).unwrap().unwrap();
        assert_eq!(labels["d"], scalar.repeat(3));
        assert_eq!(labels.get("e").map(String::as_str), Some(scalar));
    }
    let config = parse("labels: {true: x, yes: y}\nrelabel_configs: [{target_label: false}]");
    assert_eq!(config.labels().keys().collect::<Vec<_>>(), ["true", "yes"]);
    assert_eq!(config.relabel_configs()[0].target(), Some("false"));
    check("labels: {true: x, \"true\": y}", "1:19: labels.true: this key is given twice; keep one");
}

/// As in Prometheus.
#[test]
fn empty_values_in_rules_are_empty_strings() {
    for empty in ["", "null", "~"] {
        let rule = |rule: &str| {
            let text = format!("relabel_configs: [{{{}}}]", rule.replace('@', empty));
            let config = parse(&text);
            let labels = [("a", "x"), ("b", "y")].map(|(n, v)| (n.to_owned(), v.to_owned()));
            let labels = relabelling::apply(config.relabel_configs(), labels.into()).unwrap();
            lines(labels.unwrap(), |(name, value)| format!("{name}={value} "))
        };
        assert_eq!(rule("target_label: a, replacement: @"), "b=y ");
        assert_eq!(rule("source_labels: [a, b], separator: @, target_label: c"), "a=x b=y c=xy ");
        assert_eq!(
            rule("source_labels: [c], regex: @, target_label: d, replacement: z"),
            "a=x b=y d=z "
        );
        assert_eq!(
            rule("source_labels: @, target_label: @, modulus: @, action: labeldrop, regex: a"),
            "b=y "
        );
        let text =
            format!("relabel_configs: [{{action: hashmod, target_label: a, modulus: {empty}}}]");
        let errors = Config::parse(&text).unwrap_err().shown;
        assert_eq!(errors[0].message, "hashmod needs a modulus of 1 or more", "{text}");
    }
}

#[test]
fn rejects_label_values_that_are_not_strings() {
    check(
        "labels:\n  a: [x]\n  b: {x: y}\n  c: !secret x\n  d: null\n  e:\n  f: ~\n",
        "2:6: labels.a: a list is not a string; write one in quotes\n\
         3:6: labels.b: a map is not a string; write one, in quotes if it starts with {\n\
         4:6: labels.c: a value with a tag is not a string; write one in quotes\n\
         5:6: labels.d: null is not a string; write one in quotes\n\
         6:5: labels.e: an empty value is not a string; write one in quotes\n\
         7:6: labels.f: ~ is not a string; write one in quotes",
    );
}

#[test]
fn rejects_invalid_label_names() {
    check(
        "labels: {a-b: x, 1a: x, é: x, \"\": x}",
        "1:10: labels.a-b: \"a-b\" is not a label name; \
         write letters, digits and _, no digit first\n\
         1:18: labels.1a: \"1a\" is not a label name; write letters, digits and _, no digit first\n\
         1:25: labels.é: \"é\" is not a label name; write letters, digits and _, no digit first\n\
         1:31: labels.: \"\" is not a label name; write letters, digits and _, no digit first",
    );
}

#[test]
fn rejects_reserved_label_names() {
    for name in ["behind", "le", "mode", "quantile", "reason"] {
        let text = format!("labels: {{{name}: x}}");
        let message = "this name is reserved for the exporter's own series; choose another";
        check(&text, &format!("1:10: labels.{name}: {message}"));
    }
    check(
        "labels: {cpu: x}",
        "1:10: labels.cpu: each CPU has this label already; choose another, or set it for CPUs",
    );
    check(
        "labels: {__a: x}",
        "1:10: labels.__a: labels that start with __ are only for rules, and there are none; choose another",
    );
    parse("labels: {__a: x}\nrelabel_configs: [{target_label: a}]");
}

#[test]
fn rejects_long_label_names_and_values() {
    let (name, value) = ("n".repeat(128), "v".repeat(1024));
    assert_eq!(parse(&format!("labels: {{{name}: {value}}}")).labels()[&name].as_str(), value);
    let (name_40, value_40) = ("n".repeat(40), "v".repeat(40));
    check(
        &format!("labels:\n  {name}n: {value}v\n"),
        &format!(
            "2:3: labels.{name_40}…: the name has 129 bytes; keep it to 128\n\
             2:134: labels.{name_40}…: \"{value_40}…\" has 1025 bytes; keep it to 1024"
        ),
    );
}

#[test]
fn rejects_empty_label_values() {
    check("labels:\n  a: ''\n", "2:6: labels.a: \"\" is the same as no label; remove the key");
}

#[test]
fn rejects_too_many_labels() {
    let labels = |n| lines(0..n, |i| format!("  a{i}: x\n"));
    assert_eq!(parse(&format!("labels:\n{}", labels(32))).labels().len(), 32);
    check(&format!("labels:\n{}", labels(33)), "2:3: labels: there are 33 labels; keep at most 32");
}

#[test]
fn rejects_sections_that_are_not_maps() {
    check("labels: [a]", "1:9: labels: a list is not a map; write lines of `key: value`");
    check(
        "runqueue_latency:\n  buckets: 5",
        "2:12: runqueue_latency.buckets: 5 is not a map; write lines of `key: value`",
    );
    check("just text", "1:1: \"just text\" is not a map; write lines of `key: value`");
    check("- a\n", "1:1: a list is not a map; write lines of `key: value`");
}

#[test]
fn rejects_values_of_per_cpu_that_are_not_booleans() {
    let text = |value| format!("runqueue_latency:\n  per_cpu: {value}\n");
    let message = "is not a boolean; write true or false";
    check(&text("yes"), &format!("2:12: runqueue_latency.per_cpu: \"yes\" {message}"));
    check(&text("1"), &format!("2:12: runqueue_latency.per_cpu: 1 {message}"));
    check(&text(""), &format!("2:11: runqueue_latency.per_cpu: an empty value {message}"));
}

#[test]
fn rejects_bounds_that_are_not_durations() {
    for value in ["1", "1.5", "null", "true"] {
        check_bound(
            value,
            &format!("{value} is not a duration; write a number and ns, us, ms or s, like 10us"),
        );
    }
    for value in ["us", "-1us", "+1us", "1us ago", "１us"] {
        check_bound(
            value,
            &format!(
                "\"{value}\" is not a duration; write a number and ns, us, ms or s, like 10us"
            ),
        );
    }
    for value in ["0s", "59ns", "65s", "64s1ns", "99999999999999999999s", "18446744074s"] {
        check_bound(
            value,
            &format!("\"{value}\" is out of range; write a duration from 60ns to 64s"),
        );
    }
}

#[track_caller]
fn check_bound(value: &str, message: &str) {
    check(
        &format!("runqueue_latency:\n  buckets:\n    max: {value}\n"),
        &format!("3:10: runqueue_latency.buckets.max: {message}"),
    );
}

#[test]
fn rejects_factors_that_are_not_powers_of_two() {
    let check_factor = |value: &str, message: &str| {
        check(
            &format!("runqueue_latency: {{buckets: {{factor: {value}}}}}"),
            &format!("1:38: runqueue_latency.buckets.factor: {value} {message}"),
        );
    };
    for value in ["0", "1", "3", "2048", "18446744073709551615"] {
        check_factor(value, "is not a power of two from 2 to 1024; write 2, 4, 8 and so on");
    }
    for value in ["\"4\"", "4.0", "-4", "18446744073709551616", "1e1"] {
        check_factor(value, "is not a positive integer; write digits without quotes");
    }
}

#[test]
fn rejects_min_above_max() {
    check(
        "runqueue_latency:\n  buckets: {min: 20s, max: 10s}\n",
        "2:12: runqueue_latency.buckets: min 20s is above max 10s; lower min or raise max",
    );
}

#[test]
fn rules_are_read_in_order() {
    let config = parse(
        "relabel_configs:\n\
         - {source_labels: [a, b], separator: '', regex: 'x(.)', target_label: c, replacement: $1}\n\
         - action: HashMod\n  modulus: 18446744073709551615\n  target_label: d\n\
         - action: labeldrop\n  regex: a|d\n",
    );
    let labels = BTreeMap::from([("a".into(), "x".into()), ("b".into(), "y".into())]);
    let after = relabelling::apply(config.relabel_configs(), labels).unwrap().unwrap();
    let after: Vec<_> = after.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(after, [("b", "y"), ("c", "y")]);
    for nothing in ["", " []", "\n# - action: drop"] {
        assert_eq!(parse(&format!("relabel_configs:{nothing}\n")), Config::default());
    }
}

#[test]
fn rule_errors_have_the_position_in_the_file() {
    check(
        "relabel_configs:\n\
         - action: keep\n\
         \x20 regex: a(b\n\
         - source_labels:\n\
         \x20 - a\n\
         \x20 - b-c\n\
         \x20 target_label: 1\n\
         - source_labels: [a, b-c]\n\
         \x20 target_label: '1'\n\
         - modulus: 10\n\
         \x20 action: hashmod\n\
         - target: a\n\
         \x20 action: drop\n\
         - replace\n\
         - source_labels: a\n\
         \x20 modulus: -1\n\
         - {action: keepequal, regex: a, target_label: b, action: x}\n",
        "3:10: relabel_configs[0].regex: at character 2, the group is not closed; write ) after it\n\
         6:5: relabel_configs[1].source_labels[1]: \"b-c\" is not a label name; \
         write letters, digits and _, no digit first\n\
         7:17: relabel_configs[1].target_label: \"1\" is not a label name; \
         write letters, digits and _, no digit first\n\
         8:22: relabel_configs[2].source_labels[1]: \"b-c\" is not a label name; \
         write letters, digits and _, no digit first\n\
         9:17: relabel_configs[2].target_label: \"1\" is not a label name; \
         write letters, digits and _, no digit first\n\
         10:3: relabel_configs[3]: hashmod needs a target_label; write the name of a label\n\
         12:3: relabel_configs[4].target: unknown key; write one of source_labels, separator, regex, \
         modulus, target_label, replacement, action\n\
         14:3: relabel_configs[5]: \"replace\" is not a map; write lines of `key: value`\n\
         15:18: relabel_configs[6].source_labels: \"a\" is not a list; \
         write lines of `- item`, or [item, item]\n\
         16:12: relabel_configs[6].modulus: -1 is not a positive integer; \
         write digits without quotes\n\
         17:50: relabel_configs[7].action: this key is given twice; keep one\n\
         17:58: relabel_configs[7].action: \"x\" is not an action; write one of replace, keep, drop, \
         keepequal, dropequal, hashmod, labelmap, labeldrop, labelkeep, lowercase, uppercase",
    );
    check(
        "relabel_configs: {action: drop}",
        "1:18: relabel_configs: a map is not a list; write lines of `- item`, or [item, item]",
    );
    check(
        "relabel_configs: [{source_labels: [a, 1, [b]]}, {regexp: x, target_label: a}, {regex: }]",
        "1:42: relabel_configs[0].source_labels[2]: a list is not a string; write one in quotes\n\
         1:50: relabel_configs[1].regexp: unknown key; did you mean regex?\n\
         1:79: relabel_configs[2]: replace needs a target_label; write the name of a label",
    );
}

#[test]
fn rejects_too_many_rules() {
    let rules = |n| lines(0..n, |i| format!("- regex: a{i}\n  target_label: b\n"));
    let text = format!("relabel_configs:\n{}", rules(4096));
    assert_eq!(parse(&text).relabel_configs().len(), 4096);
    check(
        &format!("relabel_configs:\n{}", rules(4097)),
        "2:1: relabel_configs: there are 4097 rules; keep at most 4096",
    );
}

#[test]
fn reports_all_errors_in_file_order() {
    check(
        "# A comment.\n\
         runqueue_latency:\n\
         \x20 buckets: {min: 2s, max: 1s}\n\
         \x20 per_cpu: maybe\n\
         colour: red\n\
         labels:\n\
         \x20 rack: 12\n\
         \x20 le: ''\n\
         \x20 a-b: x\n\
         \x20 rack: x\n",
        "3:12: runqueue_latency.buckets: min 2s is above max 1s; lower min or raise max\n\
         4:12: runqueue_latency.per_cpu: \"maybe\" is not a boolean; write true or false\n\
         5:1: colour: unknown key; write one of labels, relabel_configs, cpus, cpu_relabel_configs, cgroups, labels_on, without, limits, \
             runqueue_latency\n\
         8:3: labels.le: this name is reserved for the exporter's own series; choose another\n\
         8:7: labels.le: \"\" is the same as no label; remove the key\n\
         9:3: labels.a-b: \"a-b\" is not a label name; \
         write letters, digits and _, no digit first\n\
         10:3: labels.rack: this key is given twice; keep one",
    );
}

#[test]
fn shows_twenty_errors_and_counts_the_rest() {
    let text = lines(1..=25, |i| format!("a{i}: x\n"));
    let expected = lines(1..=20, |i| {
        format!(
            "{i}:1: a{i}: unknown key; write one of labels, relabel_configs, cpus, cpu_relabel_configs, cgroups, labels_on, without, limits, \
             runqueue_latency\n"
        )
    });
    check(&text, &format!("{expected}and 5 more"));
}

#[test]
fn errors_in_an_aliased_value_have_the_position_of_the_value() {
    check(
        "labels:\n  a: &x ''\n  b: *x\n",
        "2:6: labels.a: \"\" is the same as no label; remove the key\n\
         2:6: labels.b: \"\" is the same as no label; remove the key",
    );
}

#[test]
fn control_characters_are_escaped_in_messages() {
    check(
        "\"a\\e[31m\\n\": \"\"\nlabels: \"\\u202Ex\\\\\"\n",
        "1:1: a\\u{1b}[31m\\n: unknown key; write one of labels, relabel_configs, cpus, cpu_relabel_configs, cgroups, labels_on, without, limits, \
             runqueue_latency\n\
         2:9: labels: \"\\u{202e}x\\\" is not a map; write lines of `key: value`",
    );
}

#[test]
fn reports_a_syntax_error_and_the_errors_before_it() {
    check(
        "labels: {cpu: x}\nfoo: 1\nlabels: [\n",
        "1:10: labels.cpu: each CPU has this label already; choose another, or set it for CPUs\n\
         2:1: foo: unknown key; write one of labels, relabel_configs, cpus, cpu_relabel_configs, cgroups, labels_on, without, limits, \
             runqueue_latency\n\
         4:1: invalid YAML: did not find expected node content, \
         while parsing a flow node",
    );
    check("labels: *none\n", "1:9: invalid YAML: unknown anchor");
    check(
        &format!("labels: \"{}", "\n".repeat(1 << 20)),
        "1048577:1: invalid YAML: found unexpected end of stream, \
         while scanning a quoted scalar at line 1 column 9",
    );
    check(
        "labels: {a: !!int x}\n",
        "1:13: invalid YAML: labels.a: invalid value: string \"x\", expected an integer",
    );
}

#[test]
fn reports_a_syntax_error_after_the_document() {
    check("labels: {}\n...\n}\n", "3:1: invalid YAML: did not find expected <document start>");
    check(
        "labels: {}\n---\n]\n",
        "3:1: invalid YAML: did not find expected node content, \
         while parsing a block node",
    );
}

#[test]
fn names_a_tab_in_the_indentation() {
    for (text, position) in [
        ("labels:\n\thost: a\n", "2:1"),
        ("labels:\n  \thost: a\n", "2:3"),
        ("labels:\n  host: a\n\tzone: b\n", "3:1"),
        ("labels:\n  host: a\n  \tzone: b\n", "3:3"),
        ("labels:\r  host: a\r\t\r  zone: b\r", "3:1"),
        ("\tlabels: {}\n", "1:1"),
        ("labels:\n  host: |\n\ta\n", "3:1"),
        ("cpus:\n-\tmatch: '0'\n", "2:2"),
    ] {
        check(text, &format!("{position}: invalid YAML: a tab in the indentation; write spaces"));
    }
    let config = parse("labels:\t{\n\ta:\tx,\t# one\n\tb: \"y\n\tz\"\t}\n");
    assert_eq!(config.labels()["a"].as_str(), "x");
    assert_eq!(config.labels()["b"].as_str(), "y z");
}

#[test]
fn names_characters_that_no_value_starts_with() {
    for c in ['%', '@', '`'] {
        check(
            &format!("labels:\n  a: {c}x\n"),
            &format!("2:6: invalid YAML: a value cannot start with {c}; put it in quotes"),
        );
    }
}

#[test]
fn names_characters_that_look_like_others() {
    let space = "U+00A0, a no-break space: write a space";
    check(
        "labels:\n\u{a0}\u{a0}host: a\n",
        &format!(
            "2:1: \\u{{a0}}\\u{{a0}}host: unknown key; write one of labels, relabel_configs, cpus, \
             cpu_relabel_configs, cgroups, labels_on, without, limits, runqueue_latency; it contains \
             {space}"
        ),
    );
    check(
        "labels:\n  host:\u{a0}a\n",
        &format!(
            "2:3: labels: \"host:\\u{{a0}}a\" is not a map; write lines of `key: value`; \
             it contains {space}"
        ),
    );
    // Reading stops in the line after the mistake.
    check(
        "labels:\n  host: a\n  zone:\u{a0}b\n",
        &format!(
            "4:1: invalid YAML: could not find expected ':', while scanning a simple key at line 3 \
             column 3; line 3 contains {space}"
        ),
    );
    check(
        "labels:\n  a: x\n  b：y\n  c: z\n",
        "4:3: invalid YAML: could not find expected ':', while scanning a simple key at line 3 \
         column 3; line 3 contains U+FF1A, a full-width colon: write :",
    );
    check(
        "labels: {“a”: x, b: '{{ “x” }}'}\nlabels_on: series\u{200b}\ncpus: [{match: 0–3}]\n",
        "1:10: labels.“a”: \"“a”\" is not a label name; write letters, digits and _, no digit first; \
         it contains U+201C, a typographic quote: write \"\n\
         1:25: labels.b: syntax error: unexpected character: U+201C, a typographic quote; write \"\n\
         2:12: labels_on: \"series\\u{200b}\" is not a choice; write series, target_info or both; \
         it contains U+200B, an invisible character: remove it\n\
         3:16: cpus[0].match: \"0–3\" is not a selection of CPUs; write an ascending list like \"0-15,32\", \
         the same after numa:, package: or cluster:, or isolated; it contains U+2013, a dash: write -",
    );
}

#[test]
fn warns_of_values_that_are_probably_not_meant() {
    check_warnings(
        "labels:\n\
         \x20 a: ${HOSTNAME}\n\
         \x20 b: \"é-$(NODE_NAME)\"\n\
         \x20 c: '{{ env.A | regex_replace(\"(?<X>a)\", \"${X}\") }}%RACK%'\n\
         \x20 d: “{{ hostname }}”\n\
         \x20 e: \"x\u{a0}\"\n\
         \x20 f: x\u{200b}y\n\
         \x20 g: 100 $ + 5% (naïve) – “x” y’s\n\
         cpus:\n\
         - {match: 0, labels: {a: $RACK_NAME}}\n",
        "2:6: labels.a: ${HOSTNAME} is served as written; \
         write {{ env.HOSTNAME }} or {{ hostname }}\n\
         3:9: labels.b: $(NODE_NAME) is served as written; write {{ env.NODE_NAME }}\n\
         4:53: labels.c: %RACK% is served as written; write {{ env.RACK }}\n\
         5:6: labels.d: U+201C, a typographic quote, is part of the value; write \"\n\
         6:8: labels.e: U+00A0, a no-break space, is part of the value; write a space\n\
         7:7: labels.f: U+200B, an invisible character, is part of the value; remove it\n\
         10:26: cpus[0].labels.a: $RACK_NAME is served as written; write {{ env.RACK_NAME }}",
    );
    let text = lines(0..25, |i| format!("- {{match: {i}, labels: {{a: $RACK}}}}\n"));
    let warnings = parse(&format!("cpus:\n{text}")).warnings().clone();
    assert_eq!((warnings.shown.len(), warnings.more, warnings.count()), (20, 5, 25));
    assert_eq!(warnings.located(Path::new("f"))[20], "and 5 more");
}

#[test]
fn warns_of_replacements_that_are_probably_not_meant() {
    let rule = |rule: &str| format!("relabel_configs:\n- {{target_label: a, {rule}}}\n");
    let advice = "write {{ env.NAME }} in a label, and its name in source_labels";
    for (written, position, what) in [
        (
            "replacement: '${NODE_NAME}'",
            37,
            "no group has the name NODE_NAME, so it is always empty",
        ),
        ("replacement: $NODE", 35, "no group has the name NODE, so it is always empty"),
        ("replacement: $(NODE_NAME)", 34, "$(NODE_NAME) is served as written"),
        ("replacement: 'x-{{ env.A }}'", 37, "{{ … }} is served as written"),
        ("replacement: 'a-%{A}'", 37, "%{A} is served as written"),
    ] {
        let place = format!("2:{position}: relabel_configs[0].replacement");
        check_warnings(&rule(written), &format!("{place}: {what}; {advice}"));
    }
    check_warnings(
        &rule("replacement: $1st"),
        "2:35: relabel_configs[0].replacement: no group has the name 1st; for group 1, write ${1}",
    );
    check_warnings(
        &rule("source_labels: [b], regex: “x.*”"),
        "2:48: relabel_configs[0].regex: U+201C, a typographic quote, is part of the value; write \"",
    );
    for right in [
        "regex: '(?P<zone>.*)', replacement: '${zone}-$zone'",
        "regex: '(.)(.)', replacement: '$2${1}x$0$3'",
        "replacement: US$$, source_labels: [b]",
        "action: lowercase",
    ] {
        check_warnings(&rule(right), "");
    }
}

#[test]
fn rejects_a_second_document() {
    check(
        "labels: {}\n---\nlabels: {}\n---\nfoo: 1\n",
        "3:1: a second document begins here; keep one document in the file",
    );
    check("{}\n---\n", "3:1: a second document begins here; keep one document in the file");
}

#[test]
fn rejects_characters_that_yaml_forbids() {
    check("a: b\nc: \0", "2:4: U+0000 is not allowed in YAML; write \"\\u0000\", with the quotes");
    check("é: \u{ffff}", "1:4: U+FFFF is not allowed in YAML; write \"\\uFFFF\", with the quotes");
    check(
        "a\r\nb\rc: \0",
        "3:4: U+0000 is not allowed in YAML; write \"\\u0000\", with the quotes",
    );
    check(
        "\u{2028}\u{85}\0",
        "3:1: U+0000 is not allowed in YAML; write \"\\u0000\", with the quotes",
    );
    check("a: \u{7f}", "1:4: U+007F is not allowed in YAML; write \"\\u007F\", with the quotes");
}

#[test]
fn rejects_deep_nesting_early() {
    check(&"{a: ".repeat(200), "1:513: invalid YAML: nested more than 128 levels deep; flatten it");
    check(
        &"{a: ".repeat(250_000),
        "1:16385: more than 4096 brackets; write lists and maps as lines",
    );
    check(&"[".repeat(1 << 20), "1:4097: more than 4096 brackets; write lists and maps as lines");
}

#[test]
fn rejects_directives() {
    check("%YAML 1.2\n---\n{}\n", "1:1: directives are not supported; remove this line");
    check("# A comment.\r%YAML 1.2\r---\r", "2:1: directives are not supported; remove this line");
}

/// 30 keys, each a list or map of `aliases` of the key before.
fn bomb(open: &str, aliases: &[&str], close: &str) -> String {
    let line = |i| {
        let aliases = lines(aliases, |key| format!("{key}*a{}, ", i - 1));
        format!("a{i}: &a{i} {open}{aliases}{close}\n")
    };
    format!("a0: &a0 x\n{}", lines(1..30, line))
}

#[track_caller]
fn check_bomb(text: &str, message: &str) {
    let start = Instant::now();
    let diagnostics = Config::parse(text).expect_err("no key is known").shown;
    assert!(start.elapsed().as_secs() < 10);
    assert!(
        diagnostics.iter().any(|diagnostic| diagnostic.message.contains(message)),
        "{diagnostics:?}"
    );
}

#[test]
fn rejects_alias_bombs_early() {
    check_bomb(&bomb("{", &["a: ", "b: ", "c: "], "}"), "aliases expand too much");
    check_bomb(
        &bomb("{", &["a: ", "b: ", "c: ", "d: ", "e: ", "f: ", "g: ", "h: ", "i: "], "}"),
        "the keys and values take more than 4 MiB with aliases expanded",
    );
    let aliases = lines(0..1000, |i| format!("a{i}: *t\n"));
    check_bomb(
        &format!("t: &t \"\\x41{}\"\n{aliases}", "a".repeat(1 << 19)),
        "the keys and values take more than 4 MiB with aliases expanded",
    );
    check_bomb(&bomb("[", &[""; 3], "]"), "aliases expand too much");
    check_bomb(
        &format!("t: &t \"\\x41{}\"\na: [{}]\n", "a".repeat(1 << 19), "*t, ".repeat(1000)),
        "the keys and values take more than 4 MiB with aliases expanded",
    );
}

#[test]
fn a_file_is_read_hashed_and_parsed() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("exporter.yaml");
    fs::write(&path, "labels: {a: x}\n").unwrap();
    let file = read(&path).unwrap();
    let sha256 = "4b2a6d308d4a3b6fc497b57f03e707971ae3459c5718b32ce0c28bb01af4e708";
    assert_eq!(file.sha256(), sha256);
    assert_eq!(file.parse().unwrap().labels()["a"].as_str(), "x");

    let link = directory.path().join("link");
    symlink(&path, &link).unwrap();
    assert_eq!(read(&link).unwrap().sha256(), sha256);
}

#[test]
fn rejects_anything_but_a_regular_file() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let (fifo, socket) = (directory.join("fifo"), directory.join("socket"));
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let _listener = UnixListener::bind(&socket).unwrap();
    for path in [directory, &fifo, &socket, Path::new("/dev/zero")] {
        check_read(path, &format!("`{}` is not a regular file", path.display()));
    }
}

#[test]
fn reports_the_path_of_a_missing_file() {
    check_read(
        Path::new("/nowhere/a.yaml"),
        "reading `/nowhere/a.yaml`: No such file or directory (os error 2)",
    );
}

#[test]
fn rejects_a_file_larger_than_1_mib() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("exporter.yaml");
    fs::write(&path, format!("{}\n{{}}\n", "#".repeat((1 << 20) - 4))).unwrap();
    assert_eq!(read(&path).unwrap().parse().unwrap(), Config::default());
    File::create(&path).unwrap().set_len(1 << 40).unwrap();
    check_read(&path, &format!("`{}` is larger than 1048576 bytes", path.display()));
}

fn file(bytes: &[u8]) -> ConfigFile {
    let (path, stamp) = ("f.yaml".into(), Stamp::default());
    ConfigFile { path, bytes: bytes.into(), stamp, sha256: String::new() }
}

#[track_caller]
fn check_source(bytes: &[u8], expected: &str, expected_line: &str) {
    let error = file(bytes).parse().expect_err("the file has an error");
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.one_line(), expected_line);
}

#[test]
fn reports_the_first_byte_that_is_not_utf8() {
    let expected = "`f.yaml` is not UTF-8 at byte 3";
    check_source(b"a: \xff", expected, expected);
}

#[test]
fn rejects_a_file_without_keys_unless_it_says_so() {
    let expected = "`f.yaml` is empty; write `{}` for a configuration without labels";
    for bytes in ["", "\n \n", "# a: b\n", "\u{feff}# a\r\n\t\n", "---\n", "--- # a\n...\n#b"] {
        check_source(bytes.as_bytes(), expected, expected);
    }
    for bytes in ["{}", "---\n{}\n", "# a\nlabels:\n", "--- {}"] {
        assert_eq!(file(bytes.as_bytes()).parse().unwrap(), Config::default(), "{bytes}");
    }
}

#[test]
fn each_error_names_the_file() {
    let one = "f.yaml:1:13: labels.a: \"\" is the same as no label; remove the key";
    check_source(b"labels: {a: ''}", one, one);
    let two = "f.yaml:2:1: foo: unknown key; write one of labels, relabel_configs, cpus, cpu_relabel_configs, cgroups, labels_on, without, limits, \
             runqueue_latency";
    check_source(
        b"labels: {a: ''}\nfoo: 1",
        &format!("2 errors in `f.yaml`\n{one}\n{two}"),
        &format!("{one}; {two}"),
    );
}

#[test]
fn reads_the_section_about_cgroups() {
    let config = parse(
        "labels: {zone: z}\n\
         relabel_configs: [{target_label: rack, replacement: r}]\n\
         cgroups:\n\
         \x20 labels: {__tmp: '{{ rack }}', app: '{{ cgroup.unit }} {{ env.APP }} {{ zone }}'}\n\
         \x20 relabel_configs: [{source_labels: [__tmp], target_label: rack}]\n\
         \x20 keep: 90s\n\
         limits: {cgroups: 1000}\n",
    );
    let cgroups = config.cgroups();
    assert_eq!(cgroups.labels["app"].as_str(), "{{ cgroup.unit }} {{ env.APP }} {{ zone }}");
    assert_eq!(cgroups.relabel_configs[0].target(), Some("rack"));
    assert_eq!(cgroups.keep, Duration::from_secs(90));
    assert_eq!(config.limits().cgroups, 1_000);
    let uses: Vec<_> = config.uses().iter().map(|(source, _)| source.name()).collect();
    assert_eq!(uses, ["env"]);
    assert_eq!(config.warnings(), &Diagnostics::default());
    assert_eq!((&cgroups.runtimes, cgroups.kubernetes_pods), (&None, false));
    let asked = parse(
        "cgroups: {runtimes: [unix:///run/crio/crio.sock, unix:///run//docker.sock], kubernetes_pods: true}",
    );
    let sockets = ["/run/crio/crio.sock", "/run/docker.sock"].map(PathBuf::from).to_vec();
    assert_eq!(asked.cgroups().runtimes, Some(sockets));
    assert!(asked.cgroups().kubernetes_pods);
    assert_eq!(parse("cgroups: {runtimes: []}").cgroups().runtimes, Some(Vec::new()));
    assert_eq!(parse("cgroups: {keep: 0s}").cgroups().keep, Duration::ZERO);
    assert_eq!(parse("cgroups: {keep: 24h}").cgroups().keep, Duration::from_hours(24));
}

#[test]
fn a_missing_or_empty_key_about_cgroups_has_its_default() {
    for text in [
        "cgroups:",
        "cgroups: {}",
        "cgroups:\n  labels:\n  relabel_configs:\n  runtimes:\n  kubernetes_pods:\n",
    ] {
        assert_eq!(parse(text), Config::default(), "{text}");
    }
    let default = Cgroups::default();
    let without_labels = parse("cgroups: {labels: {}}");
    assert!(without_labels.cgroups().labels.is_empty());
    assert_eq!(without_labels.cgroups().relabel_configs, default.relabel_configs);
    let without_rules = parse("cgroups: {relabel_configs: []}");
    assert!(without_rules.cgroups().relabel_configs.is_empty());
    assert_eq!(without_rules.cgroups().labels, default.labels);
}

#[test]
fn rejects_invalid_keys_about_cgroups() {
    check(
        "cgroups:\n\
         \x20 label: {}\n\
         \x20 keep: 25h\n\
         \x20 relabel_configs: [{target_label: a-b}]\n\
         \x20 labels:\n\
         \x20   cpu: '{{ cgroup.path }}'\n\
         \x20   reason: x\n\
         \x20   a-b: x\n\
         \x20   unit: '{{ cgroup.unti }}'\n\
         \x20   pod: '{{ cgroup.pod_uid | uper }}'\n\
         limits: {cgroups: 0}\n",
        "2:3: cgroups.label: unknown key; did you mean labels?\n\
         3:9: cgroups.keep: \"25h\" is out of range; write a duration from 0s to 24h\n\
         4:36: cgroups.relabel_configs[0].target_label: \"a-b\" is not a label name; write letters, digits and _, no digit first\n\
         6:5: cgroups.labels.cpu: series of cgroups are summed over CPUs; choose another\n\
         7:5: cgroups.labels.reason: this name is reserved for the exporter's own series; choose another\n\
         8:5: cgroups.labels.a-b: \"a-b\" is not a label name; write letters, digits and _, no digit first\n\
         9:15: cgroups.labels.unit: unknown name cgroup.unti; did you mean cgroup.unit?\n\
         10:31: cgroups.labels.pod: unknown filter uper; did you mean upper?\n\
         11:19: limits.cgroups: 0 is out of range; write a number from 1 to 65536",
    );
    check(
        "cgroups:\n\
         \x20 kubernetes_pods: 'yes'\n\
         \x20 runtimes:\n\
         \x20 - unix:///run/crio/crio.sock\n\
         \x20 - /run/containerd/containerd.sock\n\
         \x20 - unix:/run/docker.sock\n\
         \x20 - containerd\n\
         \x20 - tcp://127.0.0.1:2375\n\
         \x20 - unix:///run/crio//crio.sock\n\
         \x20 - unix:///run/\n\
         \x20 - {a: b}\n",
        "2:20: cgroups.kubernetes_pods: \"yes\" is not a boolean; write true or false\n\
         5:5: cgroups.runtimes[1]: \"/run/containerd/containerd.sock\" is not the address of a socket; write unix:///run/containerd/containerd.sock\n\
         6:5: cgroups.runtimes[2]: \"unix:/run/docker.sock\" is not the address of a socket; write unix:///run/docker.sock\n\
         7:5: cgroups.runtimes[3]: \"containerd\" is not the address of a socket; write one like unix:///run/containerd/containerd.sock\n\
         8:5: cgroups.runtimes[4]: \"tcp://127.0.0.1:2375\" is not the address of a socket; write one like unix:///run/containerd/containerd.sock\n\
         9:5: cgroups.runtimes[5]: \"unix:///run/crio//crio.sock\" is here twice; remove one\n\
         10:5: cgroups.runtimes[6]: \"unix:///run/\" is not the address of a socket; write the path of the socket, like unix:///run/containerd/containerd.sock\n\
         11:5: cgroups.runtimes[7]: a map is not a string; write one, in quotes if it starts with {",
    );
    let long = format!("cgroups: {{runtimes: ['unix:///{}']}}\n", "x".repeat(200));
    check(
        &long,
        "1:22: cgroups.runtimes[0]: \"unix:///xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…\" is not the address of a socket; the path has 201 bytes, the kernel allows 107",
    );
    let many = "unix:///a, ".repeat(17);
    let Err(errors) = Config::parse(&format!("cgroups: {{runtimes: [{many}]}}\n")) else {
        panic!()
    };
    assert_eq!(
        errors.shown[0].to_string(),
        "1:21: cgroups.runtimes: there are 17 sockets; keep at most 16"
    );
    check(
        "cgroups: {keep: 300, labels: {__a: x}, relabel_configs: []}\n",
        "1:17: cgroups.keep: 300 is not a duration; write a number and s, m or h, like 5m\n\
         1:31: cgroups.labels.__a: labels that start with __ are only for rules, and there are none; choose another",
    );
    check(
        "labels: {a: '{{ cgroup.unit }}'}\ncpus: [{match: '0', labels: {b: '{{ cgroup.id }}'}}]\n",
        "1:17: labels.a: cgroup.unit has a value only in cgroups.labels\n\
         2:37: cpus[0].labels.b: cgroup.id has a value only in cgroups.labels",
    );
}

#[test]
fn warns_of_labels_of_cgroups_that_the_host_has() {
    let message = "the host has this label, too; a cgroup has this value instead of the host's";
    check_warnings(
        "labels: {zone: z}\n\
         relabel_configs: [{target_label: rack, replacement: r}]\n\
         cgroups: {labels: {zone: a, rack: b, unit: c}}\n",
        &format!("3:20: cgroups.labels.zone: {message}\n3:29: cgroups.labels.rack: {message}"),
    );
}

#[test]
fn the_shipped_file_has_the_default_labels_of_cgroups() {
    let text = include_str!("../../../config/exporter.yaml");
    assert!(text.contains("\n  labels:\n    namespace: "));
    assert_eq!(parse(text).cgroups(), &Cgroups::default());
    assert_eq!(parse(text).limits(), &Limits::default());
}
