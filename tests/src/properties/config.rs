//! The configuration, from text to what is rendered under it.

use std::str;

use sched_exporter::{
    config::{Config, Mistakes},
    exposition::{Encoder, le},
    families,
    layout::{CONTEXT_SWITCHES, Feature, RUNQUEUE_LATENCY},
    negotiate::Format,
    reload::Generation,
    snapshot::{Cpu, Snapshot, Times},
};

use crate::sample::Sample;

/// Reads the bytes as a configuration. Each mistake has its place in the text and can be printed; a
/// good text gives valid labels and buckets, and renders to series that have just these.
pub fn config(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let parsed = Config::parse(text);
    assert_eq!(parsed, Config::parse(text));
    match parsed {
        Ok(config) => {
            check_limits(&config);
            check_rendered(config);
        }
        Err(mistakes) => check_mistakes(text, &mistakes),
    }
}

fn check_mistakes(text: &str, mistakes: &Mistakes) {
    assert!((1..=20).contains(&mistakes.shown.len()), "{mistakes:?}");
    assert!(mistakes.more == 0 || mistakes.shown.len() == 20, "{mistakes:?}");
    let place = |mistake: &sched_exporter::config::Mistake| (mistake.line, mistake.column);
    assert!(mistakes.shown.is_sorted_by_key(place), "{mistakes:?}");
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines: Vec<usize> = lines(text).iter().map(|line| line.chars().count()).collect();
    // libyaml has a line begin where a text ends, also where none does.
    lines.push(0);
    for mistake in &mistakes.shown {
        let line = mistake.line.checked_sub(1).and_then(|line| lines.get(line));
        // The end of a line is a place too.
        let is_inside = line.is_some_and(|chars| (1..=chars + 1).contains(&mistake.column));
        assert!(is_inside, "{mistake:?} is in none of {lines:?} in {text:?}");
        let message = mistake.to_string();
        assert!(message.len() < 2_000 && !message.contains(char::is_control), "{message:?}");
    }
}

/// The lines of a YAML text. <https://yaml.org/spec/1.1/#id871136>
fn lines(text: &str) -> Vec<&str> {
    const BREAKS: [char; 5] = ['\r', '\n', '\u{85}', '\u{2028}', '\u{2029}'];
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some((line, after)) = rest.split_once(BREAKS) {
        let is_pair = rest[line.len()..].starts_with("\r\n");
        lines.push(line);
        rest = if is_pair { &after[1..] } else { after };
    }
    lines.push(rest);
    lines
}

fn check_limits(config: &Config) {
    assert!(config.labels().len() <= 32);
    for (name, value) in config.labels() {
        let mut chars = name.chars();
        assert!(chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_'), "{name:?}");
        assert!(chars.all(|c| c.is_ascii_alphanumeric() || c == '_'), "{name:?}");
        assert!(!["cpu", "le", "mode", "reason"].contains(&name.as_str()), "{name:?}");
        assert!(!name.starts_with("__") && name.len() <= 128, "{name:?}");
        assert!((1..=1_024).contains(&value.len()), "{value:?}");
    }
    let exponents = config.runqueue_latency().bucket_exponents();
    assert!((1..=40).contains(&exponents.len()), "{exponents:?}");
    assert!(exponents.is_sorted_by(|a, b| a < b) && exponents.iter().all(|it| *it <= 62));
}

fn check_rendered(config: Config) {
    let exponents = config.runqueue_latency().bucket_exponents();
    let mut bounds: Vec<_> = exponents.iter().map(|exponent| le(*exponent)).collect();
    bounds.push("+Inf".to_owned());
    let labels: Vec<_> = config.labels().clone().into_iter().collect();
    let histograms = if config.runqueue_latency().per_cpu() { 2 } else { 1 };
    let generation = Generation { config, number: 1, sha256: String::new() };
    let text = render(&generation);
    assert_eq!(text, render(&generation));
    // `str::lines` would take a carriage return for a part of the line's end.
    let lines = text.split_terminator('\n').filter(|line| !line.starts_with('#'));
    let mut found = Vec::new();
    for sample in lines.map(|line| Sample::read(line).unwrap()) {
        assert!(sample.labels.starts_with(&labels), "{sample:?}");
        found.extend(sample.label("le").map(str::to_owned));
    }
    assert_eq!(found, vec![bounds; histograms].concat());
}

/// Two CPUs under a configuration.
fn render(generation: &Generation) -> String {
    let times = |ns| Times {
        mode_ns: [ns; _],
        switches: [ns; _],
        missed_switches: 0,
        wait_ns: ns,
        wait_buckets: [1; _],
    };
    let cpus = [0, 511].map(|id| Cpu { id, times: Some(times(1 << 40)), unattributed_ns: 1 });
    let snapshot = Snapshot { taken_at: 1, cpus: cpus.into() };
    let features = [CONTEXT_SWITCHES, RUNQUEUE_LATENCY].map(|name| Feature { name, off: None });
    let mut encoder = Encoder::new(Format::OpenMetrics, 0, None);
    families::write_scheduler(&mut encoder, &snapshot, generation, &features);
    encoder.finish()
}
