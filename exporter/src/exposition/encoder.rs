//! Encodes OpenMetrics 1.0 and Prometheus text 0.0.4 straight into one buffer. The caller decides which
//! families and samples to write.
//!
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/>,
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use serde::{Deserialize, Serialize};

use super::Format;

/// Name, kind and help of a metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family<'a> {
    /// The name without `_total`, `_info` or `_bucket`; it ends in the unit.
    pub name: &'a str,
    /// The kind, which decides the suffix of its samples.
    pub kind: Kind,
    /// What the family measures, in one sentence or more.
    pub help: &'a str,
}

/// Kind of a metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Never decreases; its samples end in `_total`.
    Counter,
    /// Increases and decreases.
    Gauge,
    /// Cumulative buckets with sum and count.
    Histogram,
    /// Text in labels; its samples end in `_info`.
    Info,
    /// Sum and count, without quantiles.
    Summary,
}

/// The units that a family name can end in.
const UNITS: [&str; 2] = ["seconds", "bytes"];

impl Family<'_> {
    /// The unit: `seconds` for `sched_cpu_seconds`; `None` if the name ends in no unit.
    pub fn unit(&self) -> Option<&'static str> {
        let (_, last) = self.name.rsplit_once('_')?;
        UNITS.into_iter().find(|unit| *unit == last)
    }

    /// Suffix of the family's samples; empty for histograms and summaries, whose samples have several.
    fn suffix(&self) -> &'static str {
        match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram | Kind::Summary => "",
        }
    }

    /// The name to use in a query: `sched_cpu_seconds_total` for the counter `sched_cpu_seconds`.
    pub fn sample_name(&self) -> String {
        format!("{}{}", self.name, self.suffix())
    }
}

/// Label pairs as written between the braces: escaped, and joined by commas.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(String);

impl Labels {
    /// Creates an empty set with room for `bytes` bytes of text.
    pub fn with_capacity(bytes: usize) -> Self {
        Self(String::with_capacity(bytes))
    }

    /// Adds a pair. The name must be valid and not in the set yet.
    pub fn push(&mut self, name: &str, value: &str) {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0.push_str(name);
        self.0.push_str("=\"");
        escape(&mut self.0, value, true);
        self.0.push('"');
    }

    /// Length of the text in bytes, for [`Labels::truncate`].
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the set has no pairs.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Removes the pairs added since the text had this length.
    pub fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Labels {
    fn from_iter<T: IntoIterator<Item = (&'a str, &'a str)>>(pairs: T) -> Self {
        let mut labels = Self::default();
        for (name, value) in pairs {
            labels.push(name, value);
        }
        labels
    }
}

/// The value of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A whole number.
    Integer(u64),
    /// A time in nanoseconds, written as seconds without loss.
    Nanoseconds(u64),
    /// Any other number.
    Float(f64),
}

/// Writes one exposition.
#[derive(Debug)]
pub struct Encoder<'a> {
    text: String,
    format: Format,
    /// The family being written.
    family: Option<Family<'a>>,
    /// When all counters started, in seconds since the epoch; `None` to leave `_created` out.
    created: Option<f64>,
    /// When those of the next samples started, if later.
    started: Option<f64>,
}

impl<'a> Encoder<'a> {
    /// Starts an exposition. `capacity` is the expected size of the text in bytes. `created` is when
    /// its counters started, in seconds since the epoch, for `_created` samples.
    pub fn new(format: Format, capacity: usize, created: Option<f64>) -> Self {
        let created = created.filter(|_| format == Format::OpenMetrics);
        Self { text: String::with_capacity(capacity), format, family: None, created, started: None }
    }

    /// Says when the counters of the next samples of this family started, in seconds since the epoch; `None`
    /// for the time given to [`Encoder::new`].
    pub fn started(&mut self, started: Option<f64>) {
        self.started = started;
    }

    /// Starts a family. Start each family only once.
    pub fn family(&mut self, family: Family<'a>) {
        self.started = None;
        let open_metrics = self.format == Format::OpenMetrics;
        let suffix = if open_metrics { "" } else { family.suffix() };
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Summary => "summary",
            Kind::Info => {
                if open_metrics {
                    "info"
                } else {
                    "gauge"
                }
            }
        };
        let unit = family.unit().filter(|_| open_metrics);
        for (keyword, value) in [("TYPE", Some(kind)), ("UNIT", unit)] {
            let Some(value) = value else { continue };
            self.extend(&["# ", keyword, " ", family.name, suffix, " ", value, "\n"]);
        }
        self.extend(&["# HELP ", family.name, suffix, " "]);
        escape(&mut self.text, family.help, open_metrics);
        self.text.push('\n');
        self.family = Some(family);
    }

    /// Writes a sample of the current family, which must be a counter, gauge or info. `extra` holds
    /// further label pairs, escaped as in [`Labels`]; it can be empty.
    pub fn sample(&mut self, labels: &Labels, extra: &str, value: Value) {
        let Some(family) = self.family else { return };
        self.line(family.name, family.suffix(), &labels.0, extra, value);
        if family.kind == Kind::Counter {
            self.created(family.name, &labels.0, extra);
        }
    }

    /// Writes a histogram of the current family. `buckets` pairs each `le`, ascending, with the number
    /// of observations up to it; the bucket `+Inf` is added from `count`.
    pub fn histogram<'b>(
        &mut self,
        labels: &Labels,
        buckets: impl IntoIterator<Item = (&'b str, u64)>,
        sum: Value,
        count: u64,
    ) {
        let Some(family) = self.family else { return };
        for (le, cumulative) in buckets.into_iter().chain([("+Inf", count)]) {
            self.extend(&[family.name, "_bucket{", &labels.0]);
            self.text.push_str(if labels.0.is_empty() { "le=\"" } else { ",le=\"" });
            self.extend(&[le, "\"} "]);
            self.value(Value::Integer(cumulative));
        }
        self.line(family.name, "_count", &labels.0, "", Value::Integer(count));
        self.line(family.name, "_sum", &labels.0, "", sum);
        self.created(family.name, &labels.0, "");
    }

    /// Writes a summary of the current family, without quantiles.
    pub fn summary(&mut self, labels: &Labels, sum: Value, count: u64) {
        let Some(family) = self.family else { return };
        self.line(family.name, "_count", &labels.0, "", Value::Integer(count));
        self.line(family.name, "_sum", &labels.0, "", sum);
        self.created(family.name, &labels.0, "");
    }

    /// Ends the exposition.
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    fn created(&mut self, name: &str, labels: &str, extra: &str) {
        if let Some(created) = self.created.map(|created| self.started.unwrap_or(created)) {
            self.line(name, "_created", labels, extra, Value::Float(created));
        }
    }

    fn line(&mut self, name: &str, suffix: &str, labels: &str, extra: &str, value: Value) {
        self.extend(&[name, suffix]);
        match (labels.is_empty(), extra.is_empty()) {
            (true, true) => self.text.push(' '),
            (false, false) => self.extend(&["{", labels, ",", extra, "} "]),
            _ => self.extend(&["{", labels, extra, "} "]),
        }
        self.value(value);
    }

    fn value(&mut self, value: Value) {
        match value {
            Value::Integer(integer) => {
                self.text.push_str(itoa::Buffer::new().format(integer));
            }
            Value::Nanoseconds(ns) => write_seconds(&mut self.text, ns),
            Value::Float(float) => write_float(&mut self.text, float),
        }
        self.text.push('\n');
    }

    fn extend(&mut self, parts: &[&str]) {
        for part in parts {
            self.text.push_str(part);
        }
    }
}

/// Appends `value`, a label value or a help text, escaped. `quotes` escapes `"` too: always in label
/// values, but in help texts only for OpenMetrics.
fn escape(text: &mut String, value: &str, quotes: bool) {
    let mut rest = value;
    while let Some(at) = rest.find(['\\', '\n', '"']) {
        text.push_str(&rest[..at]);
        text.push_str(match rest.as_bytes()[at] {
            b'\\' => "\\\\",
            b'\n' => "\\n",
            _ if quotes => "\\\"",
            _ => "\"",
        });
        rest = &rest[at + 1..];
    }
    text.push_str(rest);
}

/// Writes nanoseconds as seconds, exactly: `1_500_000_000` as `1.5`. An `f64` of seconds would lose
/// nanoseconds after 104 days.
fn write_seconds(text: &mut String, ns: u64) {
    const NS_PER_SECOND: u64 = 1_000_000_000;
    text.push_str(itoa::Buffer::new().format(ns / NS_PER_SECOND));
    let fraction = ns % NS_PER_SECOND;
    if fraction == 0 {
        return;
    }
    // Adding 1 second keeps the zeros after the point: a fraction of 7 ns is formatted as
    // `1000000007`, of which `000000007` is written.
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(NS_PER_SECOND + fraction);
    text.push('.');
    text.push_str(digits[1..].trim_end_matches('0'));
}

fn write_float(text: &mut String, float: f64) {
    use std::fmt::Write as _;
    if float.is_infinite() {
        text.push_str(if float > 0.0 { "+Inf" } else { "-Inf" });
    } else {
        // Writing to a string cannot fail. Both formats and Rust spell NaN the same.
        let _ = write!(text, "{float}");
    }
}

/// The `le` of `2^(index/8)` seconds: `9.5367431640625e-07` for -160, which is 2^-20 s. It is the number
/// that Prometheus has for the end of bucket `index` of a native histogram of schema 3; whole powers of
/// two are exact. `index` must be from -192 to 48.
/// <https://prometheus.io/docs/specs/om/open_metrics_spec/#considerations-canonical-numbers>
pub fn le(index: i32) -> String {
    /// 2^(i/8 - 1). Some differ from the nearest `f64` in the last bit, as they do in Prometheus.
    /// <https://github.com/prometheus/prometheus/blob/v3.5.0/model/histogram/generic.go>,
    /// `exponentialBounds`.
    const FRACTIONS: [f64; 8] = [
        0.5,
        0.545_253_866_332_628_8,
        0.594_603_557_501_360_5,
        0.648_419_777_325_504_8,
        0.707_106_781_186_547_5,
        0.771_105_412_703_970_4,
        0.840_896_415_253_714_4,
        0.917_004_043_204_671_1,
    ];
    let fraction = FRACTIONS[(index & 7).cast_unsigned() as usize];
    canonical(fraction * 2_f64.powi((index >> 3) + 1))
}

/// Formats the bound of a histogram as OpenMetrics requires: like Go's `%g`, with `.0` after integers.
/// Exponents below -4 and from 6 on use the scientific form: `0.001`, `1.0`, `100000.0`, but `1e+06`
/// and `1.024e-06`.
pub fn canonical(bound: f64) -> String {
    if bound.is_infinite() {
        return (if bound > 0.0 { "+Inf" } else { "-Inf" }).to_owned();
    }
    let scientific = format!("{bound:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    if bound.fract() == 0.0 { format!("{bound:.1}") } else { format!("{bound}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTER: Family<'_> = Family {
        name: "sched_cpu_seconds",
        kind: Kind::Counter,
        help: "A \"quoted\" \\ help\nof two lines.",
    };

    #[track_caller]
    fn check(format: Format, write: impl FnOnce(&mut Encoder<'_>), expected: &str) {
        let mut encoder = Encoder::new(format, 0, None);
        write(&mut encoder);
        assert_eq!(encoder.finish(), expected);
    }

    fn counter(encoder: &mut Encoder<'_>) {
        encoder.family(COUNTER);
        let labels = Labels::from_iter([("host", "a\\b\"c\nd")]);
        encoder.sample(&labels, "cpu=\"0\"", Value::Nanoseconds(1_500_000_001));
        encoder.sample(&labels, "", Value::Integer(7));
        encoder.sample(&Labels::default(), "cpu=\"1\"", Value::Nanoseconds(0));
        encoder.sample(&Labels::default(), "", Value::Float(f64::INFINITY));
    }

    #[test]
    fn encodes_a_counter_in_openmetrics() {
        check(
            Format::OpenMetrics,
            counter,
            r#"# TYPE sched_cpu_seconds counter
# UNIT sched_cpu_seconds seconds
# HELP sched_cpu_seconds A \"quoted\" \\ help\nof two lines.
sched_cpu_seconds_total{host="a\\b\"c\nd",cpu="0"} 1.500000001
sched_cpu_seconds_total{host="a\\b\"c\nd"} 7
sched_cpu_seconds_total{cpu="1"} 0
sched_cpu_seconds_total +Inf
# EOF
"#,
        );
    }

    #[test]
    fn text_metadata_keeps_the_suffix_of_a_counter() {
        check(
            Format::Text,
            counter,
            r#"# TYPE sched_cpu_seconds_total counter
# HELP sched_cpu_seconds_total A "quoted" \\ help\nof two lines.
sched_cpu_seconds_total{host="a\\b\"c\nd",cpu="0"} 1.500000001
sched_cpu_seconds_total{host="a\\b\"c\nd"} 7
sched_cpu_seconds_total{cpu="1"} 0
sched_cpu_seconds_total +Inf
"#,
        );
    }

    #[test]
    fn text_encodes_an_info_as_a_gauge() {
        let family = Family { name: "sched_exporter_build", kind: Kind::Info, help: "Build." };
        let write = |encoder: &mut Encoder<'_>| {
            encoder.family(family);
            encoder.sample(&Labels::default(), "version=\"1\"", Value::Integer(1));
        };
        let open_metrics = "# TYPE sched_exporter_build info\n# HELP sched_exporter_build Build.\n\
                            sched_exporter_build_info{version=\"1\"} 1\n# EOF\n";
        check(Format::OpenMetrics, write, open_metrics);
        let text = "# TYPE sched_exporter_build_info gauge\n\
                    # HELP sched_exporter_build_info Build.\n\
                    sched_exporter_build_info{version=\"1\"} 1\n";
        check(Format::Text, write, text);
    }

    #[test]
    fn histogram_ends_with_the_inf_bucket() {
        let family = Family { name: "wait_seconds", kind: Kind::Histogram, help: "Wait." };
        let labels = Labels::from_iter([("cpu", "0")]);
        let mut encoder = Encoder::new(Format::OpenMetrics, 0, Some(1.5));
        encoder.family(family);
        encoder.histogram(&labels, [("0.5", 1), ("1.0", 3)], Value::Nanoseconds(2_000_000_000), 4);
        encoder.histogram(&Labels::default(), [("0.5", 0)], Value::Nanoseconds(1), 0);
        assert_eq!(
            encoder.finish(),
            r#"# TYPE wait_seconds histogram
# UNIT wait_seconds seconds
# HELP wait_seconds Wait.
wait_seconds_bucket{cpu="0",le="0.5"} 1
wait_seconds_bucket{cpu="0",le="1.0"} 3
wait_seconds_bucket{cpu="0",le="+Inf"} 4
wait_seconds_count{cpu="0"} 4
wait_seconds_sum{cpu="0"} 2
wait_seconds_created{cpu="0"} 1.5
wait_seconds_bucket{le="0.5"} 0
wait_seconds_bucket{le="+Inf"} 0
wait_seconds_count 0
wait_seconds_sum 0.000000001
wait_seconds_created 1.5
# EOF
"#
        );
    }

    #[test]
    fn text_leaves_out_created() {
        let mut encoder = Encoder::new(Format::Text, 0, Some(1.5));
        encoder.family(COUNTER);
        encoder.sample(&Labels::default(), "", Value::Integer(1));
        assert!(!encoder.finish().contains("_created"));
    }

    #[test]
    fn seconds_are_exact_to_the_nanosecond() {
        let seconds = |ns| {
            let mut text = String::new();
            write_seconds(&mut text, ns);
            text
        };
        assert_eq!(seconds(0), "0");
        assert_eq!(seconds(1), "0.000000001");
        assert_eq!(seconds(1_000_000_000), "1");
        assert_eq!(seconds(90_000_000_000_000_001), "90000000.000000001");
        assert_eq!(seconds(u64::MAX), "18446744073.709551615");
    }

    #[test]
    fn bounds_are_canonical() {
        for (bound, expected) in [
            (0.0, "0.0"),
            (1.0, "1.0"),
            (10.0, "10.0"),
            (100_000.0, "100000.0"),
            (1e6, "1e+06"),
            (1e-5, "1e-05"),
            (0.001, "0.001"),
            (1e-10, "1e-10"),
            (1.024e-6, "1.024e-06"),
            (8.589_934_592, "8.589934592"),
            (8_589_934.592, "8.589934592e+06"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(canonical(bound), expected);
        }
    }

    #[test]
    fn bounds_are_those_of_native_histograms() {
        // Exact powers of two.
        assert_eq!(le(-160), "9.5367431640625e-07");
        assert_eq!(le(-80), "0.0009765625");
        assert_eq!(le(-16), "0.25");
        assert_eq!(le(0), "1.0");
        assert_eq!(le(48), "64.0");
        // Go's `%g` of Prometheus's `getBound(index, 3)`.
        assert_eq!(le(-192), "5.960464477539063e-08");
        assert_eq!(le(-79), "0.0010649489576809157");
        assert_eq!(le(-4), "0.7071067811865475");
        assert_eq!(le(4), "1.414213562373095");
        for index in -192..=48 {
            let bound: f64 = le(index).parse().unwrap();
            assert_eq!(canonical(bound), le(index));
            assert!((bound / (f64::from(index) / 8.0).exp2() - 1.0).abs() < 3e-16, "{bound}");
        }
    }
}
