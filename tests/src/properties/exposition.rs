//! The encoder: its output is parsed and compared with its input.

use std::collections::BTreeMap;

use arbitrary::{Result, Unstructured};
use sched_exporter::exposition::{Encoder, Family, Format, Kind, Labels, Value, le};

use crate::{
    exposition::nanoseconds,
    sample::{Sample, unescape},
};

/// Derives families, labels and numbers from the bytes, encodes them in both formats, and checks
/// that parsing gives them back.
pub fn exposition(bytes: &[u8]) {
    for format in [Format::OpenMetrics, Format::Text] {
        // Any bytes are valid choices.
        if let Ok(families) = families(&mut Unstructured::new(bytes)) {
            check(format, &families);
        }
    }
}

/// A family with its samples.
#[derive(Debug)]
struct Chosen {
    name: &'static str,
    kind: Kind,
    help: String,
    points: Vec<Point>,
}

/// A series and its value; for a histogram, the sum.
#[derive(Debug)]
struct Point {
    labels: BTreeMap<String, String>,
    value: Value,
    /// Cumulative counts by the index of the bound.
    buckets: BTreeMap<i32, u64>,
    count: u64,
}

fn families(choices: &mut Unstructured<'_>) -> Result<Vec<Chosen>> {
    let mut families = Vec::new();
    for name in ["a", "b_seconds", "c_bytes", "d_e_f"] {
        let kinds = [Kind::Counter, Kind::Gauge, Kind::Histogram, Kind::Info, Kind::Summary];
        let kind = *choices.choose(&kinds)?;
        let mut family = Chosen { name, kind, help: choices.arbitrary()?, points: Vec::new() };
        for _ in 0..choices.int_in_range(0..=3)? {
            family.points.push(point(choices)?);
        }
        families.push(family);
    }
    Ok(families)
}

fn point(choices: &mut Unstructured<'_>) -> Result<Point> {
    const LETTERS: &[u8] = b"_abcxyzABCXYZ0189";
    let mut labels = BTreeMap::new();
    for _ in 0..choices.int_in_range(0..=4)? {
        let mut name = String::from("l");
        for _ in 0..choices.int_in_range(0..=8)? {
            name.push(char::from(*choices.choose(LETTERS)?));
        }
        labels.insert(name, choices.arbitrary()?);
    }
    let value = match choices.int_in_range(0..=2)? {
        0 => Value::Integer(choices.arbitrary()?),
        1 => Value::Nanoseconds(choices.arbitrary()?),
        _ => Value::Float(choices.arbitrary()?),
    };
    let mut buckets = BTreeMap::new();
    for _ in 0..choices.int_in_range(0..=5)? {
        buckets.insert(choices.int_in_range(-192..=48)?, choices.arbitrary()?);
    }
    Ok(Point { labels, value, buckets, count: choices.arbitrary()? })
}

/// Start of the counters, for `_created`.
const CREATED: f64 = 1.5;

fn check(format: Format, families: &[Chosen]) {
    let mut encoder = Encoder::new(format, 0, Some(CREATED));
    for Chosen { name, kind, help, points } in families {
        encoder.family(Family { name, kind: *kind, help });
        for Point { labels, value, buckets, count } in points {
            let labels: Labels = labels.iter().map(|(name, it)| (&**name, &**it)).collect();
            match kind {
                Kind::Histogram => {
                    let buckets: Vec<_> =
                        buckets.iter().map(|(it, count)| (le(*it), *count)).collect();
                    let buckets = buckets.iter().map(|(le, count)| (le.as_str(), *count));
                    encoder.histogram(&labels, buckets, *value, *count);
                }
                Kind::Summary => encoder.summary(&labels, *value, *count),
                _ => encoder.sample(&labels, "z=\"1\"", *value),
            }
        }
    }
    let text = encoder.finish();
    let mut lines = text.strip_suffix('\n').expect(&text).split('\n');
    let mut next = || lines.next().unwrap_or_else(|| panic!("missing lines in {text:?}"));
    let open_metrics = format == Format::OpenMetrics;
    for family in families {
        check_metadata(&mut next, family, open_metrics);
        for point in &family.points {
            check_point(&mut next, family, point, open_metrics);
        }
    }
    if open_metrics {
        assert_eq!(next(), "# EOF");
    }
    assert_eq!(lines.next(), None, "{text:?}");
}

/// The suffix of a family's samples, except for histograms and summaries.
fn suffix(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "_total",
        Kind::Info => "_info",
        Kind::Gauge | Kind::Histogram | Kind::Summary => "",
    }
}

fn check_metadata<'t>(next: &mut impl FnMut() -> &'t str, family: &Chosen, open_metrics: bool) {
    let suffix = if open_metrics { "" } else { suffix(family.kind) };
    let name = format!("{}{suffix}", family.name);
    let kind = match family.kind {
        Kind::Counter => "counter",
        Kind::Histogram => "histogram",
        Kind::Summary => "summary",
        Kind::Info if open_metrics => "info",
        Kind::Gauge | Kind::Info => "gauge",
    };
    assert_eq!(next(), format!("# TYPE {name} {kind}"));
    match family.name.rsplit_once('_') {
        Some((_, unit @ ("seconds" | "bytes"))) if open_metrics => {
            assert_eq!(next(), format!("# UNIT {name} {unit}"));
        }
        _ => {}
    }
    let help = next();
    let escaped = help.strip_prefix(&format!("# HELP {name} ")).expect(help);
    assert_eq!(unescape(escaped, open_metrics).as_ref(), Some(&family.help));
}

fn check_point<'t>(
    next: &mut impl FnMut() -> &'t str,
    family: &Chosen,
    point: &Point,
    open_metrics: bool,
) {
    let mut check = |suffix: &str, extra: Option<(&str, &str)>, value: Value| {
        let sample = Sample::read(next()).unwrap();
        assert_eq!(sample.name, format!("{}{suffix}", family.name));
        let labels = point.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let labels: Vec<_> = labels.chain(extra).collect();
        let found = sample.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        assert_eq!(found.collect::<Vec<_>>(), labels);
        assert!(is(&sample.value, value), "{value:?} was written as {}", sample.value);
    };
    let created = open_metrics.then_some(Value::Float(CREATED));
    if !matches!(family.kind, Kind::Histogram | Kind::Summary) {
        let extra = Some(("z", "1"));
        check(suffix(family.kind), extra, point.value);
        if let Some(created) = created.filter(|_| family.kind == Kind::Counter) {
            check("_created", extra, created);
        }
        return;
    }
    if family.kind == Kind::Histogram {
        for (index, count) in &point.buckets {
            check("_bucket", Some(("le", &le(*index))), Value::Integer(*count));
        }
        check("_bucket", Some(("le", "+Inf")), Value::Integer(point.count));
    }
    check("_count", None, Value::Integer(point.count));
    check("_sum", None, point.value);
    if let Some(created) = created {
        check("_created", None, created);
    }
}

/// Whether a text is exactly this value.
fn is(text: &str, value: Value) -> bool {
    match value {
        Value::Integer(integer) => text.parse() == Ok(integer),
        Value::Nanoseconds(ns) => nanoseconds(text) == ns,
        Value::Float(float) => text.parse().is_ok_and(|read: f64| {
            read.to_bits() == float.to_bits() || read.is_nan() && float.is_nan()
        }),
    }
}
