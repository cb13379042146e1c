use super::*;

/// A hash of `secret`, with a cost of 4.
const HASH: &str = "$2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW";

#[track_caller]
fn parse(text: &str) -> WebConfig {
    WebConfig::parse(text).unwrap_or_else(|errors| panic!("{text}\n{errors:?}"))
}

#[track_caller]
fn errors(text: &str) -> Vec<String> {
    let errors = WebConfig::parse(text).expect_err(text);
    errors.shown.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn tls(keys: &str) -> Tls {
    let text = format!("tls_server_config:\n  cert_file: a.crt\n  key_file: a.key\n{keys}");
    parse(&text).tls.unwrap()
}

#[test]
fn an_empty_file_protects_nothing() {
    for text in ["", "# nothing\n", "{}", "tls_server_config:\nbasic_auth_users:\n"] {
        assert_eq!(parse(text), WebConfig::default(), "{text}");
    }
}

#[test]
fn defaults_are_those_of_exporter_toolkit() {
    let defaults = Tls {
        certificate: Pem::File("a.crt".into()),
        key: Pem::File("a.key".into()),
        client_auth: ClientAuth::No,
        client_ca: None,
        client_allowed_sans: None,
        versions: vec![Version::Tls12, Version::Tls13],
        cipher_suites: vec![],
        prefer_server_cipher_suites: true,
        curve_preferences: vec![],
    };
    assert_eq!(tls(""), defaults);
    assert_eq!(tls("  client_auth_type: \"\"\n  cert: \"\"\n  cipher_suites:\n"), defaults);
    assert!(parse("").http2);
}

#[test]
fn every_key_is_read() {
    let config = parse(
        "tls_server_config:\n  cert: CERT\n  key: KEY\n  client_ca: CA\n  \
         client_auth_type: RequireAndVerifyClientCert\n  client_allowed_sans: [a, 10.0.0.1]\n  \
         min_version: TLS13\n  max_version: TLS13\n  cipher_suites: [TLS_AES_128_GCM_SHA256, \
         TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384]\n  prefer_server_cipher_suites: false\n  \
         curve_preferences: [X25519, CurveP384]\nhttp_server_config:\n  http2: false\n  headers:\n    \
         X-Frame-Options: deny\n    X-XSS-Protection: 1\n    Content-Security-Policy: \"\"\n\
         rate_limit: {interval: 1.5s, burst: 3}\n",
    );
    let tls = config.tls.unwrap();
    let inline = |text: &str| Pem::Inline(Secret(text.into()));
    assert_eq!((tls.certificate, tls.key), (inline("CERT"), inline("KEY")));
    assert_eq!(tls.client_ca, Some(inline("CA")));
    assert_eq!(tls.client_auth, ClientAuth::RequireAndVerify);
    assert_eq!(tls.client_allowed_sans.unwrap(), ["a", "10.0.0.1"]);
    assert_eq!(tls.versions, [Version::Tls13]);
    assert_eq!(tls.cipher_suites, [CipherSuite::OfTls13, CipherSuite::EcdheRsaAes256Gcm]);
    assert_eq!(tls.curve_preferences, [Curve::X25519, Curve::P384]);
    assert!(!tls.prefer_server_cipher_suites && !config.http2);
    let headers: Vec<_> = config.headers.iter().map(|(name, value)| (*name, &**value)).collect();
    assert_eq!(headers, [("X-Frame-Options", "deny"), ("X-XSS-Protection", "1")]);
    let limit = RateLimit { interval: Duration::from_millis(1500), burst: 3 };
    assert_eq!(config.rate_limit, Some(limit));
}

#[test]
fn an_interval_of_zero_is_no_limit() {
    for text in ["rate_limit: {interval: 0, burst: 0}", "rate_limit: {interval: 0s, burst: 9}"] {
        assert_eq!(parse(text).rate_limit, None, "{text}");
    }
}

#[test]
fn what_rustls_lacks_is_refused_by_name() {
    for (key, value, reason) in [
        ("min_version", "TLS10", "TLS 1.0 is not supported"),
        ("max_version", "TLS11", "TLS 1.1 is not supported"),
        ("cipher_suites", "[TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA]", "it uses CBC"),
        ("cipher_suites", "[TLS_RSA_WITH_AES_128_GCM_SHA256]", "its key exchange uses RSA"),
        ("cipher_suites", "[TLS_ECDHE_RSA_WITH_RC4_128_SHA]", "it uses RC4"),
        ("curve_preferences", "[CurveP521]", "rustls lacks it"),
    ] {
        let text = format!("tls_server_config:\n  cert_file: a\n  key_file: b\n  {key}: {value}\n");
        let errors = errors(&text);
        assert!(errors.len() == 1 && errors[0].contains(reason), "{errors:?}");
        assert!(errors[0].starts_with("4:"), "{errors:?}");
    }
}

#[test]
fn errors_say_what_to_write() {
    for (text, expected) in [
        ("tls_server_config: {cert_filse: a}", "did you mean cert_file?"),
        ("tls_server_config: {cert_file: a}", "key_file is missing"),
        ("tls_server_config: {client_auth_type: NoClientCert}", "cert_file is missing"),
        ("tls: {}", "unknown key"),
        ("http_server_config: {headers: {Content-Type: a}}", "this header cannot be set"),
        ("http_server_config: {headers: {X-Frame-Options: a}}", "write deny or sameorigin"),
        ("http_server_config: {headers: {X-Frame-Options: \"\"}}", "write deny or sameorigin"),
        ("http_server_config: {headers: {X-XSS-Protection: \"a\\nb\"}}", "a header has one line"),
        ("http_server_config: {http2: often}", "write true or false"),
        ("rate_limit: {interval: 1d}", "write a number and a unit"),
        ("rate_limit: {burst: -1}", "is not a positive integer"),
        ("basic_auth_users: [a]", "is not a map"),
        (
            "tls_server_config: {cert_file: a, key_file: b, client_ca_file: c}",
            "client_auth_type: RequireAndVerifyClientCert",
        ),
        (
            "tls_server_config: {cert_file: a, key_file: b, min_version: TLS13, max_version: TLS12}",
            "below min_version",
        ),
        (
            "tls_server_config: {cert_file: a, key_file: b, client_auth_type: Maybe}",
            "is not a client_auth_type",
        ),
        (
            "tls_server_config: {cert_file: a, key_file: b, cipher_suites: \
             [TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384]}",
            "write http2: false",
        ),
    ] {
        let errors = errors(text).join("\n");
        assert!(errors.contains(expected), "{text}\n{errors}");
    }
}

#[test]
fn http2_needs_its_cipher_suite_only_with_tls_1_2() {
    for keys in [
        "  min_version: TLS13\n  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384]\n",
        "  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]\n",
        "  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384]\nhttp_server_config: {http2: false}\n",
    ] {
        tls(keys);
    }
}

#[test]
fn hashes_of_every_maker_are_accepted() {
    for version in ["2a", "2b", "2y"] {
        let config = parse(&format!("basic_auth_users: {{a: {}}}", HASH.replace("2y", version)));
        assert!(config.users["a"].reveal().starts_with(&format!("${version}$")));
    }
    for (hash, reason) in [
        ("doe", "this is not a bcrypt hash"),
        ("", "this is not a bcrypt hash"),
        (&*HASH.replace("2y", "2x"), "this is not a bcrypt hash"),
        (&HASH[1..], "this is not a bcrypt hash"),
        (&HASH[..59], "this is not a bcrypt hash"),
        (&*HASH.replace("$04$", "$31$"), "the cost is 31; it can be 4 to 20"),
        (&*HASH.replace("$04$", "$03$"), "the cost is 3; it can be 4 to 20"),
    ] {
        let errors = errors(&format!("basic_auth_users:\n  a: \"{hash}\"\n"));
        assert!(errors.len() == 1 && errors[0].contains(reason), "{hash}: {errors:?}");
    }
}

#[test]
fn secrets_are_in_no_message() {
    let texts = [
        "basic_auth_users: {a: hunter2}".to_owned(),
        "basic_auth_users: {a: [hunter2]}".to_owned(),
        format!("basic_auth_users: {{a: {HASH}}}\nfoo: 1"),
    ];
    for text in texts {
        let errors = errors(&text).join("\n");
        assert!(!errors.contains("hunter2") && !errors.contains("$2y$"), "{errors}");
    }
    let config = parse("tls_server_config: {cert: a, key: hunter2}");
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let tls = "tls_server_config: {cert_file: a, key_file: b, ";
    for (text, expected) in [
        (format!("{tls}cert: c}}"), "not used, since cert_file is given, too"),
        (format!("{tls}client_allowed_sans: [a]}}"), "no certificate is asked for"),
        (format!("{tls}client_auth_type: VerifyClientCertIfGiven}}"), "no certificate is trusted"),
        ("tls_server_config: {min_version: TLS13}".into(), "connections are not encrypted"),
        (format!("basic_auth_users: {{\"a:b\": {HASH}}}"), "name with a colon"),
        ("rate_limit: {interval: 1s}".into(), "every request is refused"),
    ] {
        let warnings = parse(&text).warnings;
        let shown: Vec<_> = warnings.shown.iter().map(ToString::to_string).collect();
        assert!(shown.len() == 1 && shown[0].contains(expected), "{text}: {shown:?}");
    }
}
