//! Our encoder, tested by the strict OpenMetrics parser of `prometheus_client` from `PyPI`.

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    io::Write as _,
    process::{Command, Stdio},
};

use proptest::{
    collection::{btree_map, vec},
    prelude::*,
    strategy::ValueTree as _,
    test_runner::TestRunner,
};
use sched_exporter::exposition::{Encoder, Family, Format, Kind, Labels, Value};
use sched_exporter_tests::{client::OPEN_METRICS, process::Exporter};

/// Passes cases to the parser, one line of JSON each.
#[track_caller]
fn judge(cases: &str) {
    let python = env::var_os("SCHED_EXPORTER_PYTHON").expect("run by `cargo xtask test`");
    let mut child = Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/it/openmetrics.py"))
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The parser closes the pipe at the first error.
    let _ = child.stdin.take().unwrap().write_all(cases.as_bytes());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn json(text: &str) -> String {
    let mut json = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => json.extend(['\\', character]),
            ' '..='~' => json.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    let _ = write!(json, "\\u{unit:04x}");
                }
            }
        }
    }
    json + "\""
}

/// Labels as a JSON object, with an optional additional pair.
fn object(labels: &BTreeMap<String, String>, extra: Option<(&str, &str)>) -> String {
    let labels = labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let pairs = labels.chain(extra).map(|(name, value)| json(name) + ":" + &json(value));
    format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
}

/// Any text, with a high share of characters that are hard to encode.
fn any_text() -> impl Strategy<Value = String> {
    let hard = prop::sample::select(vec![
        "\\",
        "\"",
        "\n",
        "\0",
        "\\n",
        "{",
        "}",
        ",",
        "# EOF",
        "é",
        "\u{10ffff}",
        "\u{2028}",
        "\r",
    ]);
    let part = prop_oneof![
        hard.prop_map(str::to_owned),
        "\\PC{0,8}",
        any::<char>().prop_map(String::from)
    ];
    vec(part, 1..6).prop_map(|parts| parts.concat())
}

#[test]
fn generated_expositions_parse_into_their_input() {
    let mut runner = TestRunner::deterministic();
    let labels = btree_map("[a-zA-Z][a-zA-Z0-9_]{0,12}", any_text(), 0..6);
    let cases = (labels, any_text(), any::<u64>(), vec(0_u64..1_000_000, 1..5));
    let mut lines = String::new();
    for _ in 0..2_000 {
        let (labels, help, ns, counts) = cases.new_tree(&mut runner).unwrap().current();
        let set: Labels =
            labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let help = format!("h{help}");

        let mut encoder = Encoder::new(Format::OpenMetrics, 0, Some(1.5));
        encoder.family(Family { name: "a_seconds", kind: Kind::Counter, help: &help });
        encoder.sample(&set, "zzz=\"1\"", Value::Nanoseconds(ns));
        encoder.family(Family { name: "b", kind: Kind::Info, help: &help });
        encoder.sample(&set, "", Value::Integer(1));
        encoder.family(Family { name: "c_bytes", kind: Kind::Histogram, help: &help });
        let mut cumulative = 0;
        let bounds: Vec<_> = (0..counts.len()).map(|bound| format!("{bound}.5")).collect();
        let buckets: Vec<_> = bounds
            .iter()
            .zip(&counts)
            .map(|(bound, count)| {
                cumulative += count;
                (bound.as_str(), cumulative)
            })
            .collect();
        encoder.histogram(&set, buckets.clone(), Value::Float(0.25), cumulative);
        let text = encoder.finish();

        let with = |extra| object(&labels, extra);
        let seconds = format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000);
        let one = Some(("zzz", "1"));
        let mut samples = vec![
            format!("[\"a_seconds_total\",{},{seconds}]", with(one)),
            format!("[\"a_seconds_created\",{},1.5]", with(one)),
            format!("[\"b_info\",{},1]", with(None)),
        ];
        for (bound, count) in buckets.into_iter().chain([("+Inf", cumulative)]) {
            samples.push(format!("[\"c_bytes_bucket\",{},{count}]", with(Some(("le", bound)))));
        }
        samples.push(format!("[\"c_bytes_count\",{},{cumulative}]", with(None)));
        samples.push(format!("[\"c_bytes_sum\",{},0.25]", with(None)));
        samples.push(format!("[\"c_bytes_created\",{},1.5]", with(None)));
        let _ = writeln!(lines, "{{\"text\":{},\"samples\":[{}]}}", json(&text), samples.join(","));
    }
    judge(&lines);
}

#[test]
fn the_exporter_serves_strict_openmetrics() {
    let config = "labels:\n  host: \"a\\\"b\\\\c\\nd\\0é\"\n  zone: z\n";
    for flags in [&[][..], &["--web.created-samples"]] {
        let exporter = Exporter::start_with(config, flags);
        let mut client = exporter.connect();
        client.get("/nothing");
        let mut judge_scrape = |path: &str| {
            let text = client.request("GET", path, &[OPEN_METRICS]).text();
            judge(&format!("{{\"text\":{}}}\n", json(&text)));
        };
        judge_scrape("/metrics");
        // Again, now that the exporter's own metrics have values.
        judge_scrape("/metrics");
        judge_scrape("/metrics?name[]=sched_cpu_seconds&name[]=process_open_fds");
    }
}
