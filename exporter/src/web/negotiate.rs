//! Chooses format and compression from a request's headers. Pure functions over header values. They
//! never fail: a client that accepts no available format gets Prometheus text 0.0.4.
//!
//! RFC 9110 §12.5 <https://www.rfc-editor.org/rfc/rfc9110#section-12.5>,
//! <https://prometheus.io/docs/instrumenting/content_negotiation/>

use std::cmp::Reverse;

use crate::exposition::Format;

/// The format and content type of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exposition {
    /// Format of the body.
    pub format: Format,
    /// Value of the header `Content-Type`.
    pub content_type: &'static str,
}

impl Exposition {
    // Every scheme except `dots` leaves our names unchanged, so the requested one is confirmed. `dots`
    // and unknown schemes get the default.
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

/// Chooses the exposition from the values of a request's `Accept` headers: the acceptable one with the
/// greatest weight; at a tie OpenMetrics, then text 1.0.0, then text 0.0.4.
///
/// Only a client that names OpenMetrics, or accepts nothing else, gets it: many that accept anything,
/// e.g. curl before `promtool check metrics`, cannot read it.
pub fn exposition<'a>(accept: impl Iterator<Item = &'a [u8]>) -> Exposition {
    let mut best: [Option<Offer>; 3] = [None; 3];
    for element in elements(accept).filter_map(Element::parse) {
        // A browser displays plain text, but would save OpenMetrics to a file.
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
    // `min_by_key` returns the first of equal elements.
    let acceptable = best.into_iter().flatten().filter(|offer| offer.weight > 0);
    acceptable
        .min_by_key(|offer| (offer.is_unnamed_open_metrics(), Reverse(offer.weight)))
        .map_or_else(Exposition::text, |offer| offer.exposition)
}

/// Whether the values of a request's `Accept-Encoding` headers prefer gzip to no compression, or weigh
/// both equally. Without the header nothing is compressed.
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

/// The available formats, most preferred first.
#[derive(Clone, Copy)]
enum Kind {
    OpenMetrics,
    Text1,
    Text,
}

/// How precisely a media range names a kind; the most precise range decides its weight.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Precision {
    Anything,
    Type,
    Subtype,
    Version,
}

/// The weight that the most precise media range gives to a kind, and the exposition to send.
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

    /// Whether only a wildcard accepts OpenMetrics.
    fn is_unnamed_open_metrics(self) -> bool {
        self.exposition.format == Format::OpenMetrics && self.precision < Precision::Subtype
    }
}

/// Maximum number of list elements that are parsed; real headers have far fewer.
const MAX_ELEMENTS: usize = 64;

/// The non-empty elements of a list that may span several header values.
fn elements<'a>(values: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
    values.flat_map(|value| split(value, b',')).filter(|it| !it.is_empty()).take(MAX_ELEMENTS)
}

/// A media range or content coding, with its relevant parameters.
struct Element {
    /// In lower case.
    name: Vec<u8>,
    version: Option<Vec<u8>>,
    escaping: Option<Vec<u8>>,
    /// In thousandths.
    weight: u16,
}

impl Element {
    /// Parses an element; `None` if a parameter is malformed, or a relevant one is repeated.
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

    /// The kinds that this media range covers. Text 1.0.0 must be requested by version, since few
    /// clients can read it. OpenMetrics 0.0.1 was a draft; clients of it can read 1.0.0.
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

/// Parses a weight, 0 to 1 with at most three decimals, into thousandths.
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

/// Splits `text` at separators outside quoted strings, and trims the pieces.
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

/// The value of a token or a quoted string; `None` for anything else.
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
mod tests;
