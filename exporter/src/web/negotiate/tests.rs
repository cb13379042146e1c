//! Tests of content negotiation.

use std::iter;

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

const PROTOBUF: &str = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily";

#[track_caller]
fn check_all(accept: &[&[u8]], expected: &str) {
    let exposition = exposition(accept.iter().copied());
    let shown: Vec<_> = accept.iter().map(|value| value.escape_ascii().to_string()).collect();
    assert_eq!(exposition.content_type, expected, "{shown:?}");
    let is_open_metrics = expected.starts_with("application/openmetrics-text");
    assert_eq!(exposition.format == Format::OpenMetrics, is_open_metrics, "{shown:?}");
}

#[track_caller]
fn check(accept: &str, expected: &str) {
    check_all(&[accept.as_bytes()], expected);
}

#[track_caller]
fn check_gzip(accept_encoding: &str, expected: bool) {
    let is_chosen = gzip(iter::once(accept_encoding.as_bytes()));
    assert_eq!(is_chosen, expected, "{accept_encoding:?}");
}

#[test]
fn prometheus_gets_its_most_preferred_available_format() {
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
fn missing_or_empty_header_gets_text() {
    check_all(&[], TEXT);
    check("", TEXT);
    check(" ,\t, ", TEXT);
}

#[test]
fn openmetrics_must_be_named() {
    check("*/*", TEXT);
    check("text/plain, */*", TEXT);
    check("text/plain;q=0.5, */*", TEXT);
    check("application/*, text/*;q=0.1", TEXT);
    check("application/json, text/plain, */*", TEXT);
    check("application/openmetrics-text, */*", OPEN_METRICS);
    check("*/*;q=0.1, application/openmetrics-text;version=1.0.0;q=0.2", OPEN_METRICS);
}

#[test]
fn openmetrics_is_for_clients_that_accept_nothing_else() {
    check("application/*", OPEN_METRICS);
    check("text/plain;q=0, */*;q=0.1", OPEN_METRICS);
    check("text/*;q=0, */*", OPEN_METRICS);
}

#[test]
fn combines_repeated_headers() {
    check_all(&[b"text/plain;q=0.5", b"application/openmetrics-text"], OPEN_METRICS);
    check_all(&[b"text/plain", b"application/openmetrics-text;q=0.5"], TEXT);
    check_all(&[b"", b"text/plain"], TEXT);
}

#[test]
fn protobuf_falls_back_to_text() {
    for encoding in ["delimited", "text", "compact-text"] {
        check(&format!("{PROTOBUF};encoding={encoding}"), TEXT);
        check(&format!("{PROTOBUF};encoding={encoding}; escaping=allow-utf-8;"), TEXT);
        check(&format!("{PROTOBUF};encoding={encoding}; escaping=underscores;"), TEXT);
    }
}

#[test]
fn serves_only_supported_versions() {
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
fn confirms_escaping_schemes_that_keep_our_names() {
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
fn escaping_scheme_comes_from_the_winning_range() {
    check("*/*;escaping=values;q=0.1, application/openmetrics-text;q=0.5", OPEN_METRICS);
    check(&format!("{PROTOBUF};escaping=values, application/openmetrics-text"), OPEN_METRICS);
    check("application/openmetrics-text;escaping=values,*/*", OPEN_METRICS_VALUES);
    let open_metrics = "application/openmetrics-text";
    check(&format!("{open_metrics};escaping=values, {open_metrics}"), OPEN_METRICS_VALUES);
}

#[test]
fn greatest_weight_wins() {
    check("application/openmetrics-text;q=0.1, text/plain;q=0.2", TEXT);
    check("application/openmetrics-text;q=0.2, text/plain;q=0.1", OPEN_METRICS);
    check("application/openmetrics-text;q=0.998, text/plain;q=0.999", TEXT);
    check("application/openmetrics-text;q=0.9, text/plain", TEXT);
    check("text/plain;version=0.0.4;q=0.5, text/plain;version=1.0.0;q=0.4", TEXT);
}

#[test]
fn richer_format_wins_ties() {
    let open_metrics = "application/openmetrics-text";
    let text_1 = "text/plain;version=1.0.0";
    check(&format!("text/plain, {text_1}, {open_metrics}"), OPEN_METRICS);
    check(&format!("{open_metrics}, {text_1}, text/plain"), OPEN_METRICS);
    check(&format!("text/plain, {text_1}"), TEXT_1);
    check(&format!("text/plain;q=1.000, {open_metrics};q=1."), OPEN_METRICS);
}

#[test]
fn wildcards_match_what_they_cover() {
    check("*/*;q=0.001", TEXT);
    check("text/*", TEXT);
    check("image/*", TEXT);
    check("text/*, application/*", TEXT);
    check("text/*;q=0.1, application/openmetrics-text;q=0.01", TEXT);
}

#[test]
fn more_precise_range_decides_even_with_less_weight() {
    check("*/*, application/openmetrics-text;q=0.1", TEXT);
    check("application/*;q=0.1, */*;q=0.9", TEXT);
    check("application/openmetrics-text;q=0.1, application/*, text/plain;q=0.5", TEXT);
    check(
        "application/openmetrics-text, application/openmetrics-text;version=1.0.0;q=0.1, \
         text/plain;q=0.5",
        TEXT,
    );
    check(
        "text/plain;q=0.9, text/plain;version=0.0.4;q=0.1, application/openmetrics-text;q=0.5",
        OPEN_METRICS,
    );
}

#[test]
fn zero_weight_excludes() {
    check("application/openmetrics-text;q=0, */*", TEXT);
    check("application/*;q=0.000, */*", TEXT);
    check("text/plain;version=1.0.0;q=0, text/plain;q=0.1", TEXT);
    check("*/*;q=0, application/openmetrics-text;q=0.1", OPEN_METRICS);
}

#[test]
fn falls_back_to_text_if_nothing_is_acceptable() {
    check("*/*;q=0", TEXT);
    check("application/json", TEXT);
    check("application/unknown", TEXT);
    check("application/openmetrics-text;q=0", TEXT);
    check("text/plain;q=0", TEXT);
}

#[test]
fn browsers_get_text_that_they_display() {
    check("text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8", TEXT);
    check("text/html, */*", TEXT);
    check("*/*, Text/HTML;charset=utf-8;q=0.1", TEXT);
    check("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", TEXT);
    check("text/html, application/openmetrics-text", TEXT);
    check("text/html;q=0, application/openmetrics-text", OPEN_METRICS);
    check("text/htmlx, application/openmetrics-text", OPEN_METRICS);
}

#[test]
fn ignores_case_of_names_and_blanks_around_separators() {
    check("Application/OpenMetrics-TEXT;VERSION=1.0.0;Escaping=values", OPEN_METRICS_VALUES);
    check(" \ttext/plain \t; version=1.0.0 ;\tQ=1\t", TEXT_1);
    check(";;, ,text/plain;;version=1.0.0;;q=1;, ,", TEXT_1);
}

#[test]
fn quoted_strings_are_one_value() {
    check(r#"text/plain;version="1.0.0""#, TEXT_1);
    check(r#"text/plain;version="1\.0.\0""#, TEXT_1);
    check(r#"text/plain;x="a, application/openmetrics-text;q=\",";version=1.0.0"#, TEXT_1);
    check(r#"image/png;x="\\", application/openmetrics-text"#, OPEN_METRICS);
}

#[test]
fn ignores_malformed_elements() {
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
fn ignores_elements_beyond_the_limit() {
    let filler = "a/b, ".repeat(MAX_ELEMENTS - 1);
    check(&format!("{filler}application/openmetrics-text"), OPEN_METRICS);
    check(&format!("{filler}a/b, application/openmetrics-text"), TEXT);
    check(&format!("{}application/openmetrics-text", ",".repeat(8192)), OPEN_METRICS);
}

#[test]
fn accepts_long_headers() {
    for piece in ["a", ",", ";", "\"", "\\", "\"\\", "=", ";q=1", "*/*,", "text/plain;a=b,"] {
        let long = piece.repeat(8192 / piece.len());
        for value in [long.clone(), format!("text/plain{long}"), format!("text/plain;a={long}")] {
            exposition(iter::once(value.as_bytes()));
            gzip(iter::once(value.as_bytes()));
        }
    }
    check(&format!("application/openmetrics-text;a={}", "b".repeat(8192)), OPEN_METRICS);
    check(&format!("application/openmetrics-text;a=\"{}\"", ",".repeat(8192)), OPEN_METRICS);
}

#[test]
fn compresses_if_gzip_is_accepted_or_preferred() {
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
fn does_not_compress_otherwise() {
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
