//! Content negotiation by `Accept` and `Accept-Encoding`.

use arbitrary::{Result, Unstructured};
use sched_exporter::{exposition::Format, web::negotiate};

/// Negotiates with each line of the bytes as a header value: any input gets a result. Then derives
/// media ranges and codings from the bytes and compares the result with a slow implementation of
/// RFC 9110.
pub fn accept(bytes: &[u8]) {
    let lines = || bytes.split(|byte| *byte == b'\n');
    check_form(negotiate::exposition(lines()));
    negotiate::gzip(lines());

    let mut choices = Unstructured::new(bytes);
    if let Ok(ranges) = elements(&mut choices, &MEDIA_RANGES) {
        let header = write(&ranges);
        let answer = negotiate::exposition([header.as_bytes()].into_iter());
        check_form(answer);
        assert_eq!(answer.content_type, expected_type(&ranges), "{header}");
    }
    if let Ok(codings) = elements(&mut choices, &CODINGS) {
        let header = write(&codings);
        let answer = negotiate::gzip([header.as_bytes()].into_iter());
        assert_eq!(answer, expected_gzip(&codings), "{header}");
    }
}

const MEDIA_RANGES: [&str; 7] = [
    "application/openmetrics-text",
    "text/plain",
    "*/*",
    "application/*",
    "text/*",
    "text/html",
    "application/vnd.google.protobuf",
];

const CODINGS: [&str; 6] = ["gzip", "x-gzip", "identity", "*", "br", "deflate"];

/// A media range or coding chosen by the bytes.
#[derive(Debug)]
struct Element {
    name: &'static str,
    version: Option<&'static str>,
    escaping: Option<&'static str>,
    /// In thousandths.
    weight: u16,
    /// Without blanks, quotes and upper case, which change nothing.
    plain: bool,
}

fn elements(choices: &mut Unstructured<'_>, names: &[&'static str]) -> Result<Vec<Element>> {
    let mut elements = Vec::new();
    for _ in 0..choices.int_in_range(0..=8)? {
        elements.push(Element {
            name: choices.choose(names)?,
            version: *choices.choose(&[
                None,
                Some("0.0.1"),
                Some("0.0.4"),
                Some("1.0.0"),
                Some("2.0.0"),
            ])?,
            escaping: *choices.choose(&[
                None,
                Some("allow-utf-8"),
                Some("values"),
                Some("dots"),
            ])?,
            weight: *choices.choose(&[0, 1, 100, 500, 999, 1_000])?,
            plain: choices.arbitrary()?,
        });
    }
    Ok(elements)
}

fn write(elements: &[Element]) -> String {
    let mut header = Vec::new();
    for Element { name, version, escaping, weight, plain } in elements {
        let mut parts = vec![if *plain { (*name).to_owned() } else { name.to_uppercase() }];
        for (name, value) in [("version", version), ("escaping", escaping)] {
            let Some(value) = value else { continue };
            parts.push(if *plain {
                format!("{name}={value}")
            } else {
                format!("{name}=\"{value}\"")
            });
        }
        parts.push(format!("q={}.{:03}", weight / 1_000, weight % 1_000));
        header.push(parts.join(if *plain { ";" } else { " ;\t" }));
    }
    header.join(", ")
}

/// How specific an element is for a content type; `None` if it does not match.
fn precision(element: &Element, content_type: &str) -> Option<u8> {
    let is_text_1 = content_type == TEXT_1;
    let is_of = |prefix| content_type.starts_with(prefix);
    match (element.name, element.version) {
        // Few clients can read text 1.0.0, so it must be named.
        ("text/plain", Some("1.0.0")) => is_text_1.then_some(3),
        _ if is_text_1 => None,
        ("*/*", _) => Some(0),
        ("application/*", _) => is_of("application/").then_some(1),
        ("text/*", _) => is_of("text/").then_some(1),
        ("application/openmetrics-text", None | Some("0.0.1")) | ("text/plain", None) => {
            is_of(element.name).then_some(2)
        }
        ("application/openmetrics-text", Some("1.0.0")) | ("text/plain", Some("0.0.4")) => {
            is_of(element.name).then_some(3)
        }
        _ => None,
    }
}

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT_1: &str = "text/plain; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Each type has the weight of its most specific element. The greatest weight wins; ties go to the
/// type listed first. OpenMetrics that only a wildcard covers comes after everything else.
fn expected_type(ranges: &[Element]) -> String {
    if ranges.iter().any(|range| range.name == "text/html" && range.weight > 0) {
        return TEXT.to_owned();
    }
    let names_open_metrics = ranges.iter().any(|it| {
        precision(it, OPEN_METRICS).is_some() && it.name == "application/openmetrics-text"
    });
    let mut chosen = (0, TEXT, None);
    let order = if names_open_metrics {
        [OPEN_METRICS, TEXT_1, TEXT]
    } else {
        [TEXT_1, TEXT, OPEN_METRICS]
    };
    for content_type in order {
        if content_type == OPEN_METRICS && !names_open_metrics && chosen.0 > 0 {
            continue;
        }
        let fitting = ranges.iter().filter_map(|it| Some((precision(it, content_type)?, it)));
        // `max_by_key` returns the last of equal elements.
        let reversed = fitting.collect::<Vec<_>>().into_iter().rev();
        let best = reversed.max_by_key(|(precision, range)| (*precision, range.weight));
        if let Some((_, best)) = best
            && best.weight > chosen.0
        {
            chosen = (best.weight, content_type, best.escaping);
        }
    }
    match chosen {
        (_, TEXT, _) => TEXT.to_owned(),
        (_, content_type, Some(escaping @ ("allow-utf-8" | "values"))) => {
            format!("{content_type}; escaping={escaping}")
        }
        (_, content_type, _) => format!("{content_type}; escaping=underscores"),
    }
}

/// Whether gzip is acceptable and weighs at least as much as no compression.
fn expected_gzip(codings: &[Element]) -> bool {
    let weight = |names: &[&str]| {
        let named = codings.iter().filter(|coding| names.contains(&coding.name));
        named.map(|coding| coding.weight).max()
    };
    let any = weight(&["*"]);
    let gzip = weight(&["gzip", "x-gzip"]).or(any).unwrap_or(0);
    let identity = weight(&["identity"]).or(any).unwrap_or(0);
    gzip > 0 && gzip >= identity
}

fn check_form(answer: negotiate::Exposition) {
    let is_open_metrics = answer.content_type.starts_with("application/openmetrics-text;");
    assert_eq!(is_open_metrics, answer.format == Format::OpenMetrics, "{answer:?}");
    assert!(is_open_metrics || answer.content_type.starts_with("text/plain;"), "{answer:?}");
}
