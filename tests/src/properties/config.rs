//! The configuration, from text to the exposition rendered under it.

use std::{collections::BTreeSet, str, sync::Arc};

use sched_exporter::{
    accounting::{
        CONTEXT_SWITCHES, Counters as _, Cpu, Feature, RUNQUEUE_LATENCY, Snapshot, Totals,
    },
    config::{Cgroups, Config, Diagnostics, LabelsOn},
    cpu::topology::{CpuLocation, Topology},
    exposition::{Encoder, Family, Format, Kind, Value, le},
    expr::{
        cgroup::{CgroupNames, PodMetadata},
        values::{Keys, Reading, Source, Uses, Values},
    },
    generation::Generation,
    labels::{CgroupLabeller, expand, group},
    metrics::{
        catalog::{SERIES, State},
        process::ProcessStats,
        render::render as render_exposition,
        selection::Selection,
    },
};

use crate::{exposition::nanoseconds, sample::Sample};

/// Parses the bytes as a configuration. Each error has a position in the text and can be printed; a
/// valid text gives a machine valid labels and buckets, and renders to series with exactly these.
pub fn config(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let parsed = Config::parse(text);
    assert_eq!(parsed, Config::parse(text));
    match parsed {
        Ok(config) => {
            check_diagnostics(text, config.warnings());
            check_limits(&config);
            check_rendered(&config);
        }
        Err(errors) => {
            assert!(errors.count() > 0);
            check_diagnostics(text, &errors);
        }
    }
}

fn check_diagnostics(text: &str, errors: &Diagnostics) {
    assert!(errors.shown.len() <= 20, "{errors:?}");
    assert!(errors.more == 0 || errors.shown.len() == 20, "{errors:?}");
    let place = |error: &sched_exporter::config::Diagnostic| (error.line, error.column);
    assert!(errors.shown.is_sorted_by_key(place), "{errors:?}");
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines: Vec<usize> = lines(text).iter().map(|line| line.chars().count()).collect();
    // libyaml can report a position on a line after the end of the text.
    lines.push(0);
    for error in &errors.shown {
        let line = error.line.checked_sub(1).and_then(|line| lines.get(line));
        // The end of a line is a valid position.
        let is_inside = line.is_some_and(|chars| (1..=chars + 1).contains(&error.column));
        assert!(is_inside, "{error:?} is outside of the lines {lines:?} of {text:?}");
        let message = error.to_string();
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
    let limits = config.limits();
    assert!(config.labels().len() <= limits.labels);
    for (name, value) in config.labels() {
        check_name(name);
        assert!(
            !["behind", "cpu", "le", "mode", "quantile", "reason"].contains(&name.as_str()),
            "{name:?}"
        );
        assert!(name.len() <= limits.name_bytes, "{name:?}");
        assert!(!value.is_literal() || value.as_str().len() <= limits.value_bytes, "{value:?}");
    }
    let cgroups = &config.cgroups().labels;
    assert!(cgroups.len() <= limits.labels.max(Cgroups::default().labels.len()));
    for name in cgroups.keys() {
        check_name(name);
        assert!(
            !["behind", "cpu", "le", "mode", "quantile", "reason"].contains(&name.as_str()),
            "{name:?}"
        );
    }
    let indices = config.runqueue_latency().bucket_indices();
    assert!(!indices.is_empty());
    assert!(indices.is_sorted_by(|a, b| a < b), "{indices:?}");
    assert!(indices.iter().all(|it| (-192..=48).contains(it)), "{indices:?}");
}

fn check_name(name: &str) {
    let mut chars = name.chars();
    assert!(chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_'), "{name:?}");
    assert!(chars.all(|c| c.is_ascii_alphanumeric() || c == '_'), "{name:?}");
}

/// CPUs of the machine that configurations are tried on.
const CPUS: u32 = 5;

/// Nanoseconds of each CPU in each mode.
const MODE_NS: u64 = 1 << 40;

/// Checks that the labels of a machine fit the limits under any configuration, and that the sums
/// contain all its time.
fn check_rendered(config: &Config) {
    let (values, topology) = (values(config.uses()), topology());
    let expansion = expand(config, &values, &topology, false);
    let traced = expand(config, &values, &topology, true);
    for (host, traced) in expansion.host.iter().zip(&traced.host) {
        assert_eq!(host.set, traced.set);
        assert!(traced.set.keys().eq(traced.origins.keys()), "{traced:?}");
    }
    let shown = expansion.cpus.len();
    assert_eq!(shown, traced.cpus.len());
    for ((cpu, labels), (_, traced)) in expansion.cpus.iter().zip(&traced.cpus) {
        assert_eq!(labels.set, traced.set, "{cpu}");
        assert!(traced.set.keys().eq(traced.origins.keys()), "{traced:?}");
    }
    check_cgroups(config, expansion.cgroups.as_ref());
    let (sets, unfit) = group(config, expansion, SERIES);
    let (mut generation, also_unfit) = Generation::new(config, "", &values, &topology, SERIES);
    assert_eq!((&sets, &unfit), (&generation.labels, &also_unfit));

    let text = render(&generation);
    let samples = check_samples(config, &text);
    let modes = samples.iter().filter(|sample| sample.label("mode").is_some());
    let total: u64 = modes.map(|sample| nanoseconds(&sample.value)).sum();
    assert_eq!(total, shown as u64 * 8 * MODE_NS, "{text}");
    // A generation that follows itself renders the same text.
    let before = generation.clone();
    generation.continue_from(&before, &snapshot());
    assert_eq!(render(&generation), text);

    let indices = config.runqueue_latency().bucket_indices();
    let mut bounds: Vec<_> = indices.iter().map(|index| le(*index)).collect();
    bounds.push("+Inf".to_owned());
    let found: Vec<_> =
        samples.iter().filter_map(|sample| sample.label("le").map(str::to_owned)).collect();
    assert!(found.chunks(bounds.len()).all(|chunk| chunk == bounds), "{text}");
}

/// Checks that the labels of cgroups fit the limits, that none are those of `other`, and that each has every
/// label that `other` has, unless `target_info` has the same one.
fn check_cgroups(config: &Config, labeller: Option<&CgroupLabeller>) {
    let Some(labeller) = labeller else { return };
    assert!((1..=65_536).contains(&labeller.max_sets()));
    let mut violations = labeller.violations();
    let mut batch = labeller.batch(&mut violations);
    let mut sets: Vec<_> = cgroups().iter().filter_map(|cgroup| batch.labels(cgroup)).collect();
    assert!(!sets.contains(labeller.other()), "{sets:?}");
    // Labelled again, nothing changes.
    let again: Vec<_> = cgroups().iter().filter_map(|cgroup| batch.labels(cgroup)).collect();
    assert_eq!(again, sets);
    assert!(violations.take().len() <= 20);
    sets.push(labeller.other().clone());
    let mut encoder = Encoder::new(Format::OpenMetrics, 0, None);
    encoder.family(Family { name: "cgroup", kind: Kind::Gauge, help: "" });
    for set in &sets {
        encoder.sample(set, "", Value::Integer(1));
    }
    let samples = check_lines(config, &encoder.finish());
    assert_eq!(samples.len(), sets.len());
    assert!(samples.iter().all(|sample| sample.label("cpu").is_none()), "{samples:?}");
    let (other, sets) = samples.split_last().unwrap();
    let lacks = |(name, _): &&(String, String)| sets.iter().any(|set| set.label(name).is_none());
    let missing = other.labels.iter().find(lacks);
    assert!(missing.is_none() || config.labels_on() == LabelsOn::TargetInfo, "{samples:?}");
}

/// Cgroups with and without names, some of them hostile.
fn cgroups() -> Vec<CgroupNames> {
    let names = |path: &str, unit: &str, slice: &str, container_id: &str| CgroupNames {
        path: path.into(),
        id: "7".into(),
        unit: unit.into(),
        slice: slice.into(),
        container_id: container_id.into(),
        container_name: container_id.into(),
        image: unit.into(),
        namespace: slice.into(),
        pod_uid: container_id.into(),
        pod: (!container_id.is_empty()).then(|| Arc::new(metadata(container_id, slice))),
        ..CgroupNames::default()
    };
    let long = "x".repeat(5_000);
    vec![
        CgroupNames::default(),
        names("/", "", "", ""),
        names("/a.slice/b.service", "b.service", "a.slice", ""),
        names("/a.slice/session-1.scope", "session-1.scope", "a.slice", ""),
        names("/c", "", "", "c"),
        names("/other", "other", "other", "other"),
        names("/\"\n\\,}{", "\"\n\\,}{.service", "é", "__a"),
        names(&long, &long, &long, &long),
    ]
}

fn metadata(key: &str, value: &str) -> PodMetadata {
    let map = |key: &str| [(key.to_owned(), value.to_owned())].into();
    PodMetadata { labels: map(key), annotations: map("a") }
}

/// Checks that each series appears once, with valid labels.
fn check_samples(config: &Config, text: &str) -> Vec<Sample> {
    let samples = check_lines(config, text);
    let mut series = BTreeSet::new();
    for sample in &samples {
        assert!(series.insert((&sample.name, &sample.labels)), "{sample:?}");
    }
    samples
}

/// Checks that each sample has valid labels.
fn check_lines(config: &Config, text: &str) -> Vec<Sample> {
    let limits = config.limits();
    // `str::lines` would strip carriage returns.
    let lines = text.split_terminator('\n').filter(|line| !line.starts_with('#'));
    let samples: Vec<_> = lines.map(|line| Sample::read(line).unwrap()).collect();
    for sample in &samples {
        let mut names = BTreeSet::new();
        let own = |name: &str| ["le", "mode", "reason"].contains(&name);
        for (name, value) in &sample.labels {
            check_name(name);
            assert!(names.insert(name), "{sample:?}");
            assert!(own(name) || name.len() <= limits.name_bytes, "{sample:?}");
            // The replacement of values that are too long may be too long itself.
            let fits = value.len() <= limits.value_bytes.max("other".len());
            let is_empty = value.is_empty() && sample.name != "cgroup";
            assert!(own(name) || fits && !is_empty, "{sample:?}");
            assert!(!name.starts_with("__"), "{sample:?}");
            let is_summed_over = sample.name != "target_info" && config.without().contains(name);
            assert!(!is_summed_over, "{sample:?}");
        }
        let counted = names.iter().filter(|name| !own(name) && **name != "cpu").count();
        assert!(counted <= limits.labels, "{sample:?}");
    }
    samples
}

/// Values for some of the names in templates; they contain the name of their key.
fn values(uses: &Uses) -> Values {
    let reading = |(source, keys): (Source, &BTreeSet<String>)| {
        let had = keys.iter().filter(|key| key.len() % 3 > 0 || source.keys() == Keys::One);
        let value = |key: &String| (key.clone(), format!("{}-{key}", source.name()));
        (source, Reading::of(had.map(value).collect()))
    };
    uses.iter().map(reading).collect()
}

fn topology() -> Topology {
    let place = |cpu: u32| CpuLocation {
        numa_node: Some(cpu / 2),
        package: Some(0),
        core: Some(cpu),
        cluster: (cpu > 1).then_some(1),
        smt_sibling: Some(0),
        isolated: cpu == 3,
    };
    (0..CPUS).map(|cpu| (cpu, place(cpu))).collect()
}

fn snapshot() -> Snapshot {
    let mut totals = Totals::ZERO;
    totals.mode_ns = [MODE_NS; _];
    totals.switches = [7; _];
    totals.wait_ns = MODE_NS;
    totals.wait_slots = [1; _];
    let cpu = |id| Cpu { id, totals: Some(totals), unattributed_ns: 1 };
    Snapshot { taken_at: 1, cpus: (0..CPUS).map(cpu).collect(), offline: Vec::new(), cgroups: None }
}

/// The scheduler's samples, without those of the exporter itself.
fn render(generation: &Generation) -> String {
    let features = [CONTEXT_SWITCHES, RUNQUEUE_LATENCY].map(|name| Feature { name, off: None });
    let log_messages = [("error", 0), ("warn", 0)];
    let process = ProcessStats::default();
    let state = State {
        generation,
        features: &features,
        torn_reads: 0,
        log_messages,
        log_messages_dropped: 0,
        process: &process,
        process_began: None,
        cgroups: None,
    };
    let encoder = Encoder::new(Format::OpenMetrics, 0, None);
    let text = render_exposition(encoder, &Selection::ALL, &snapshot(), state, &[]);
    text.split_inclusive('\n').filter(|line| !line.starts_with("sched_exporter_")).collect()
}
