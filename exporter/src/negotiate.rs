//! Which text a request asks for, and whether compressed. Pure functions over header values. No
//! request is refused: whoever accepts nothing that we have gets Prometheus text 0.0.4.
//!
//! RFC 9110 §12.5 <https://www.rfc-editor.org/rfc/rfc9110#section-12.5>,
//! <https://prometheus.io/docs/instrumenting/content_negotiation/>

use std::cmp::Reverse;

/// Grammar of an exposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus text 0.0.4. Text 1.0.0 differs only in names that need quotes, and ours do not.
    Text,
}

/// What to answer with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exposition {
    /// Grammar of the body.
    pub format: Format,
    content_type: &'static str,
}

impl Exposition {
    /// Value of the header `Content-Type`.
    pub fn content_type(self) -> &'static str {
        self.content_type
    }

    // All schemes but `dots` leave our names as they are, so they are confirmed as asked for. The
    // others are answered with the default.
    fn open_metrics(escaping: Option<&[u8]>) -> Self {
        let content_type = match escaping {
            Some(b"allow-utf-8") => {
                "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8"
            }
            Some(b"values") => {
                "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=values"
            }
            _ => "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores",
        };
        Self { format: Format::OpenMetrics, content_type }
    }

    fn text_1(escaping: Option<&[u8]>) -> Self {
        let content_type = match escaping {
            Some(b"allow-utf-8") => {
                "text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8"
            }
            Some(b"values") => "text/plain; version=1.0.0; charset=utf-8; escaping=values",
            _ => "text/plain; version=1.0.0; charset=utf-8; escaping=underscores",
        };
        Self { format: Format::Text, content_type }
    }

    fn text() -> Self {
        Self { format: Format::Text, content_type: "text/plain; version=0.0.4; charset=utf-8" }
    }
}

/// The exposition that the values of a request's `Accept` headers ask for: of the acceptable ones
/// the one with the greatest weight, at a tie OpenMetrics before text 1.0.0 before text 0.0.4.
///
/// No header, or an empty one, accepts anything and gets OpenMetrics.
pub fn exposition<'a>(accept: impl Iterator<Item = &'a [u8]>) -> Exposition {
    let mut is_asked = false;
    let mut best: [Option<Offer>; 3] = [None; 3];
    for element in elements(accept) {
        is_asked = true;
        let Some(element) = Element::parse(element) else { continue };
        // A browser shows plain text, and would save OpenMetrics to a file.
        if element.name == b"text/html" && element.weight > 0 {
            return Exposition::text();
        }
        for &(kind, precision) in element.kinds() {
            let escaping = element.escaping.as_deref();
            let exposition = match kind {
                Kind::OpenMetrics => Exposition::open_metrics(escaping),
                Kind::Text1 => Exposition::text_1(escaping),
                Kind::Text => Exposition::text(),
            };
            let offer = Offer { precision, weight: element.weight, exposition };
            let best = &mut best[kind as usize];
            if best.is_none_or(|best| offer.overrules(best)) {
                *best = Some(offer);
            }
        }
    }
    if !is_asked {
        return Exposition::open_metrics(None);
    }
    // Of equal elements the first is the minimum.
    let acceptable = best.into_iter().flatten().filter(|offer| offer.weight > 0);
    acceptable
        .min_by_key(|offer| Reverse(offer.weight))
        .map_or_else(Exposition::text, |offer| offer.exposition)
}

/// Whether the values of a request's `Accept-Encoding` headers prefer gzip, or are indifferent
/// between it and no compression. Without a header nothing is compressed.
pub fn gzip<'a>(accept_encoding: impl Iterator<Item = &'a [u8]>) -> bool {
    let (mut gzip, mut identity, mut any) = (None, None, None);
    for element in elements(accept_encoding).filter_map(Element::parse) {
        let weight = match element.name.as_slice() {
            b"gzip" | b"x-gzip" => &mut gzip,
            b"identity" => &mut identity,
            b"*" => &mut any,
            _ => continue,
        };
        *weight = (*weight).max(Some(element.weight));
    }
    let gzip = gzip.or(any).unwrap_or(0);
    gzip > 0 && identity.or(any).is_none_or(|identity| gzip >= identity)
}

/// What we can answer with, the preferred first.
#[derive(Clone, Copy)]
enum Kind {
    OpenMetrics,
    Text1,
    Text,
}

/// How exactly a media range names a kind; the most exact range decides on its weight.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Precision {
    Anything,
    Type,
    Subtype,
    Version,
}

/// What the most exact media range says of a kind.
#[derive(Clone, Copy)]
struct Offer {
    precision: Precision,
    weight: u16,
    exposition: Exposition,
}

impl Offer {
    fn overrules(self, other: Self) -> bool {
        (self.precision, self.weight) > (other.precision, other.weight)
    }
}

/// A header lists few elements; more are not looked at.
const MAX_ELEMENTS: usize = 64;

/// The elements of a list that may be spread over several header values.
fn elements<'a>(values: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
    values.flat_map(|value| split(value, b',')).filter(|it| !it.is_empty()).take(MAX_ELEMENTS)
}

/// A media range or coding, as far as it concerns us.
struct Element {
    /// In lower case.
    name: Vec<u8>,
    version: Option<Vec<u8>>,
    escaping: Option<Vec<u8>>,
    /// In thousandths.
    weight: u16,
}

impl Element {
    /// None where a parameter is malformed, or stands twice.
    fn parse(text: &[u8]) -> Option<Self> {
        let mut parts = split(text, b';');
        let name = parts.next()?.to_ascii_lowercase();
        let (mut version, mut escaping, mut quality) = (None, None, None);
        for part in parts.filter(|part| !part.is_empty()) {
            let equals = part.iter().position(|byte| *byte == b'=')?;
            let (name, text) = (&part[..equals], value(&part[equals + 1..])?);
            let slot = match name.to_ascii_lowercase().as_slice() {
                b"version" => &mut version,
                b"escaping" => &mut escaping,
                b"q" => &mut quality,
                _ if is_token(name) => continue,
                _ => return None,
            };
            if slot.replace(text).is_some() {
                return None;
            }
        }
        let weight = quality.map_or(Some(1000), |quality| weight(&quality))?;
        Some(Self { name, version, escaping, weight })
    }

    /// The kinds that this media range covers. Text 1.0.0 goes only to those who name it, since
    /// few can read that version; OpenMetrics 0.0.1 was a draft, and its readers read 1.0.0.
    fn kinds(&self) -> &'static [(Kind, Precision)] {
        match (self.name.as_slice(), self.version.as_deref()) {
            (b"*/*", _) => {
                &[(Kind::OpenMetrics, Precision::Anything), (Kind::Text, Precision::Anything)]
            }
            (b"application/*", _) => &[(Kind::OpenMetrics, Precision::Type)],
            (b"text/*", _) => &[(Kind::Text, Precision::Type)],
            (b"application/openmetrics-text", None | Some(b"0.0.1")) => {
                &[(Kind::OpenMetrics, Precision::Subtype)]
            }
            (b"application/openmetrics-text", Some(b"1.0.0")) => {
                &[(Kind::OpenMetrics, Precision::Version)]
            }
            (b"text/plain", None) => &[(Kind::Text, Precision::Subtype)],
            (b"text/plain", Some(b"0.0.4")) => &[(Kind::Text, Precision::Version)],
            (b"text/plain", Some(b"1.0.0")) => &[(Kind::Text1, Precision::Version)],
            _ => &[],
        }
    }
}

/// Thousandths from a weight: 0 to 1 with at most three decimals.
fn weight(text: &[u8]) -> Option<u16> {
    let (whole, decimals) = match text {
        [whole] => (whole, [].as_slice()),
        [whole, b'.', decimals @ ..] if decimals.len() <= 3 => (whole, decimals),
        _ => return None,
    };
    let mut digits = [whole].into_iter().chain(decimals).chain(b"000").take(4);
    let weight = digits.try_fold(0, |weight: u16, digit| {
        digit.is_ascii_digit().then(|| weight * 10 + u16::from(digit - b'0'))
    })?;
    (weight <= 1000).then_some(weight)
}

/// The pieces of `text` between separators, without the blanks around them. A separator in a quoted
/// string does not count.
fn split(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let pieces = text.split(move |byte| {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            byte => return !is_quoted && *byte == separator,
        }
        false
    });
    pieces.map(<[u8]>::trim_ascii)
}

/// What a token or a quoted string says; none for anything else.
fn value(text: &[u8]) -> Option<Vec<u8>> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        return is_token(text).then(|| text.to_vec());
    };
    let mut value = Vec::new();
    let mut bytes = quoted.iter();
    loop {
        match bytes.next()? {
            b'"' => return bytes.as_slice().is_empty().then_some(value),
            b'\\' => value.push(*bytes.next()?),
            byte => value.push(*byte),
        }
    }
}

fn is_token(text: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(is_part)
}

#[cfg(test)]
mod tests {
    use std::iter;

    use proptest::prelude::*;

    use super::*;

    const OPEN_METRICS: &str =
        "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores";
    const OPEN_METRICS_UTF_8: &str =
        "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8";
    const OPEN_METRICS_VALUES: &str =
        "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=values";
    const TEXT_1: &str = "text/plain; version=1.0.0; charset=utf-8; escaping=underscores";
    const TEXT_1_UTF_8: &str = "text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8";
    const TEXT_1_VALUES: &str = "text/plain; version=1.0.0; charset=utf-8; escaping=values";
    const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

    const PROTOBUF: &str =
        "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily";

    #[track_caller]
    fn check_all(accept: &[&[u8]], expected: &str) {
        let exposition = exposition(accept.iter().copied());
        let shown: Vec<_> = accept.iter().map(|value| value.escape_ascii().to_string()).collect();
        assert_eq!(exposition.content_type(), expected, "{shown:?}");
        let is_open_metrics = expected.starts_with("application/openmetrics-text");
        assert_eq!(exposition.format == Format::OpenMetrics, is_open_metrics, "{shown:?}");
    }

    #[track_caller]
    fn check(accept: &str, expected: &str) {
        check_all(&[accept.as_bytes()], expected);
    }

    #[track_caller]
    fn check_gzip(accept_encoding: &str, expected: bool) {
        let is_asked = gzip(iter::once(accept_encoding.as_bytes()));
        assert_eq!(is_asked, expected, "{accept_encoding:?}");
    }

    #[test]
    fn prometheus_gets_its_first_choice_that_we_have() {
        check(
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;\
             q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            OPEN_METRICS,
        );
        let three = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                     application/openmetrics-text;version=0.0.1;q=0.5,\
                     text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
                     text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        check(three, OPEN_METRICS_UTF_8);
        check(&format!("{PROTOBUF};encoding=delimited;q=0.7,{three}"), OPEN_METRICS_UTF_8);
        check(
            "application/openmetrics-text;version=1.0.0;escaping=underscores;q=0.6,*/*;q=0.2",
            OPEN_METRICS,
        );
        check(
            "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.5,\
             application/openmetrics-text;version=1.0.0;q=0.4,*/*;q=0.2",
            TEXT_1_UTF_8,
        );
        check("text/plain;version=0.0.4;q=0.3,*/*;q=0.2", TEXT);
        check(&format!("{PROTOBUF};encoding=delimited;q=0.7,text/plain;version=0.0.4;q=0.3"), TEXT);
    }

    #[test]
    fn no_header_or_an_empty_one_gets_openmetrics() {
        check_all(&[], OPEN_METRICS);
        check("", OPEN_METRICS);
        check(" ,\t, ", OPEN_METRICS);
    }

    #[test]
    fn headers_add_up() {
        check_all(&[b"text/plain;q=0.5", b"application/openmetrics-text"], OPEN_METRICS);
        check_all(&[b"text/plain", b"application/openmetrics-text;q=0.5"], TEXT);
        check_all(&[b"", b"text/plain"], TEXT);
    }

    #[test]
    fn protobuf_falls_through_to_text() {
        for encoding in ["delimited", "text", "compact-text"] {
            check(&format!("{PROTOBUF};encoding={encoding}"), TEXT);
            check(&format!("{PROTOBUF};encoding={encoding}; escaping=allow-utf-8;"), TEXT);
            check(&format!("{PROTOBUF};encoding={encoding}; escaping=underscores;"), TEXT);
        }
    }

    #[test]
    fn versions_that_we_have_are_served_and_others_are_not() {
        check("application/openmetrics-text", OPEN_METRICS);
        check("application/openmetrics-text;version=0.0.1", OPEN_METRICS);
        check("application/openmetrics-text;version=1.0.0", OPEN_METRICS);
        check("application/openmetrics-text;version=2.0.0", TEXT);
        check("application/openmetrics-text;version=0.0.4", TEXT);
        check("application/openmetrics-text;version=", TEXT);
        check("text/plain", TEXT);
        check("text/plain;version=0.0.4", TEXT);
        check("text/plain;version=1.0.0", TEXT_1);
        check("text/plain;version=1.0.0, text/plain;version=9;q=0.1", TEXT_1);
        check("text/plain;version=9, application/openmetrics-text;q=0.1", OPEN_METRICS);
        check(
            "application/openmetrics-text;version=1.0.0;q=0.8, \
             application/openmetrics-text;version=2.0.0;q=0.9",
            OPEN_METRICS,
        );
        check("application/openmetrics-text;version=2.0.0, text/plain;version=1.0.0;q=0.1", TEXT_1);
    }

    #[test]
    fn schemes_that_leave_our_names_alone_are_confirmed() {
        for (escaping, open_metrics, text_1) in [
            ("allow-utf-8", OPEN_METRICS_UTF_8, TEXT_1_UTF_8),
            ("values", OPEN_METRICS_VALUES, TEXT_1_VALUES),
            ("underscores", OPEN_METRICS, TEXT_1),
            ("dots", OPEN_METRICS, TEXT_1),
            ("unknown", OPEN_METRICS, TEXT_1),
        ] {
            let range = "application/openmetrics-text;version";
            check(&format!("{range}=1.0.0; escaping={escaping};"), open_metrics);
            check(&format!("{range}=0.0.1;q=0.5;escaping=\"{escaping}\""), open_metrics);
            check(&format!("text/plain;version=1.0.0; escaping={escaping}"), text_1);
            check(&format!("text/plain;version=0.0.4; escaping={escaping};"), TEXT);
        }
    }

    #[test]
    fn the_scheme_is_that_of_the_range_that_decides() {
        check("*/*;escaping=values;q=0.1, application/openmetrics-text;q=0.5", OPEN_METRICS);
        check(&format!("{PROTOBUF};escaping=values, application/openmetrics-text"), OPEN_METRICS);
        check("application/openmetrics-text;escaping=values,*/*", OPEN_METRICS_VALUES);
        let open_metrics = "application/openmetrics-text";
        check(&format!("{open_metrics};escaping=values, {open_metrics}"), OPEN_METRICS_VALUES);
    }

    #[test]
    fn the_greatest_weight_wins() {
        check("application/openmetrics-text;q=0.1, text/plain;q=0.2", TEXT);
        check("application/openmetrics-text;q=0.2, text/plain;q=0.1", OPEN_METRICS);
        check("application/openmetrics-text;q=0.998, text/plain;q=0.999", TEXT);
        check("application/openmetrics-text;q=0.9, text/plain", TEXT);
        check("text/plain;version=0.0.4;q=0.5, text/plain;version=1.0.0;q=0.4", TEXT);
    }

    #[test]
    fn ties_go_to_the_richer_format() {
        let open_metrics = "application/openmetrics-text";
        let text_1 = "text/plain;version=1.0.0";
        check(&format!("text/plain, {text_1}, {open_metrics}"), OPEN_METRICS);
        check(&format!("{open_metrics}, {text_1}, text/plain"), OPEN_METRICS);
        check(&format!("text/plain, {text_1}"), TEXT_1);
        check(&format!("text/plain;q=1.000, {open_metrics};q=1."), OPEN_METRICS);
    }

    #[test]
    fn wildcards_stand_for_what_they_cover() {
        check("*/*", OPEN_METRICS);
        check("*/*;q=0.001", OPEN_METRICS);
        check("application/*", OPEN_METRICS);
        check("text/*", TEXT);
        check("image/*", TEXT);
        check("text/*, application/*", OPEN_METRICS);
        check("text/*, application/*;q=0.9", TEXT);
    }

    #[test]
    fn the_more_exact_range_decides_whatever_its_weight() {
        check("*/*, application/openmetrics-text;q=0.1", TEXT);
        check("application/*;q=0.1, */*;q=0.9", TEXT);
        check("application/openmetrics-text;q=0.1, application/*, text/plain;q=0.5", TEXT);
        check(
            "application/openmetrics-text, application/openmetrics-text;version=1.0.0;q=0.1, \
             text/plain;q=0.5",
            TEXT,
        );
        check("text/plain;q=0.9, text/plain;version=0.0.4;q=0.1, */*;q=0.5", OPEN_METRICS);
    }

    #[test]
    fn a_weight_of_nothing_excludes() {
        check("application/openmetrics-text;q=0, */*", TEXT);
        check("application/*;q=0.000, */*", TEXT);
        check("text/plain;version=1.0.0;q=0, text/plain;q=0.1", TEXT);
        check("text/plain;q=0, */*;q=0.1", OPEN_METRICS);
        check("*/*;q=0, application/openmetrics-text;q=0.1", OPEN_METRICS);
    }

    #[test]
    fn whoever_accepts_nothing_that_we_have_gets_text() {
        check("*/*;q=0", TEXT);
        check("application/json", TEXT);
        check("application/unknown", TEXT);
        check("application/openmetrics-text;q=0", TEXT);
        check("text/plain;q=0", TEXT);
    }

    #[test]
    fn a_browser_gets_text_that_it_shows() {
        check("text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8", TEXT);
        check("text/html, */*", TEXT);
        check("*/*, Text/HTML;charset=utf-8;q=0.1", TEXT);
        check("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", TEXT);
        check("text/html;q=0, */*", OPEN_METRICS);
        check("text/htmlx, */*", OPEN_METRICS);
    }

    #[test]
    fn names_are_of_any_case_and_blanks_are_allowed_around_separators() {
        check("Application/OpenMetrics-TEXT;VERSION=1.0.0;Escaping=values", OPEN_METRICS_VALUES);
        check(" \ttext/plain \t; version=1.0.0 ;\tQ=1\t", TEXT_1);
        check(";;, ,text/plain;;version=1.0.0;;q=1;, ,", TEXT_1);
    }

    #[test]
    fn quoted_strings_are_read_as_one_value() {
        check(r#"text/plain;version="1.0.0""#, TEXT_1);
        check(r#"text/plain;version="1\.0.\0""#, TEXT_1);
        check(r#"text/plain;x="a, application/openmetrics-text;q=\",";version=1.0.0"#, TEXT_1);
        check(r#"image/png;x="\\", application/openmetrics-text"#, OPEN_METRICS);
    }

    #[test]
    fn malformed_elements_are_ignored() {
        for malformed in [
            "*",
            "text",
            "text/",
            "/",
            "text/plain/",
            "application / openmetrics-text",
            "application/openmetrics-text version=1.0.0",
            "application/openmetrics-text;version",
            "application/openmetrics-text;=1.0.0",
            "application/openmetrics-text;version =1.0.0",
            "application/openmetrics-text;version= 1.0.0",
            "application/openmetrics-text;version=1.0.0;version=1.0.0",
            "application/openmetrics-text;x y=1",
            "application/openmetrics-text;x=y z",
            "application/openmetrics-text;x=\"y\"z",
            "application/openmetrics-text;version=\u{1}",
            "application/openmetrics-text;version=é",
            "application/openmetrics-text;q",
            "application/openmetrics-text;q=",
            "application/openmetrics-text;q=.5",
            "application/openmetrics-text;q=-1",
            "application/openmetrics-text;q=+1",
            "application/openmetrics-text;q=2",
            "application/openmetrics-text;q=1.1",
            "application/openmetrics-text;q=1.001",
            "application/openmetrics-text;q=10",
            "application/openmetrics-text;q=0.9999",
            "application/openmetrics-text;q=1e0",
            "application/openmetrics-text;q=one",
            "application/openmetrics-text;q=1;q=1",
            "\0",
            "é",
        ] {
            check(malformed, TEXT);
            check(&format!("{malformed}, text/plain;version=1.0.0;q=0.1"), TEXT_1);
        }
        check("application/openmetrics-text;version=\"1.0.0", TEXT);
        check("application/openmetrics-text;version=\"1.0.0\\", TEXT);
        check_all(&[b"text/plain;q=\"", b"text/plain;version=1.0.0"], TEXT_1);
        check_all(&[b"\xff\xfe;\x80=\xff, text/plain;version=1.0.0"], TEXT_1);
    }

    #[test]
    fn only_so_many_elements_are_looked_at() {
        let filler = "a/b, ".repeat(MAX_ELEMENTS - 1);
        check(&format!("{filler}application/openmetrics-text"), OPEN_METRICS);
        check(&format!("{filler}a/b, application/openmetrics-text"), TEXT);
        check(&format!("{}application/openmetrics-text", ",".repeat(8192)), OPEN_METRICS);
    }

    #[test]
    fn long_headers_do_no_harm() {
        for piece in ["a", ",", ";", "\"", "\\", "\"\\", "=", ";q=1", "*/*,", "text/plain;a=b,"] {
            let long = piece.repeat(8192 / piece.len());
            for value in [long.clone(), format!("text/plain{long}"), format!("text/plain;a={long}")]
            {
                exposition(iter::once(value.as_bytes()));
                gzip(iter::once(value.as_bytes()));
            }
        }
        check(&format!("application/openmetrics-text;a={}", "b".repeat(8192)), OPEN_METRICS);
        check(&format!("application/openmetrics-text;a=\"{}\"", ",".repeat(8192)), OPEN_METRICS);
    }

    #[test]
    fn gzip_is_used_where_it_is_asked_for() {
        check_gzip("gzip", true);
        check_gzip("x-gzip", true);
        check_gzip("GZip", true);
        check_gzip("gzip, deflate, br, zstd", true);
        check_gzip("gzip;q=1.0, identity; q=0.5, *;q=0", true);
        check_gzip("deflate, gzip;q=0.001", true);
        check_gzip("*", true);
        check_gzip("identity;q=0, *", true);
        check_gzip("identity, gzip", true);
        check_gzip("identity;q=0.5, *;q=0.8", true);
    }

    #[test]
    fn gzip_is_left_out_where_it_is_not() {
        assert!(!gzip(iter::empty()));
        check_gzip("", false);
        check_gzip("identity", false);
        check_gzip("br, zstd", false);
        check_gzip("gzip;q=0", false);
        check_gzip("x-gzip;q=0.000", false);
        check_gzip("gzip;q=0, *", false);
        check_gzip("*;q=0", false);
        check_gzip("identity;q=0", false);
        check_gzip("gzip;q=0.5, identity", false);
        check_gzip("*;q=0.5, identity;q=0.6", false);
        check_gzip("gzip;q=0.3, *;q=0.5", false);
        check_gzip("gzip;q=2", false);
        check_gzip("gzip;q", false);
        check_gzip("gzipped", false);
        check_gzip("\"gzip\"", false);
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(values: Vec<Vec<u8>>) {
            exposition(values.iter().map(Vec::as_slice));
            gzip(values.iter().map(Vec::as_slice));
        }

        #[test]
        fn anything_that_resembles_a_header_is_answered(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "application/openmetrics-text", "text/plain", "text/*", "*/*", "*", "gzip",
                    "identity", ";", ",", "=", "\"", "\\", " ", "q", "version", "escaping", "1.0.0",
                    "0", ".", "1", "é",
                ]),
                0..64,
            )
        ) {
            let value = pieces.concat();
            exposition(iter::once(value.as_bytes()));
            gzip(iter::once(value.as_bytes()));
        }
    }
}
