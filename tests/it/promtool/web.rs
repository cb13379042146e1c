//! Web configurations are valid for the exporter if and only if they are for exporter-toolkit, by
//! `promtool check web-config`; with the exceptions that docs/web.md names. This version of promtool knows
//! neither inline certificates nor allowed names nor rate limits; the table in
//! `exporter/src/access/tests/verdicts.rs` has these.

use std::{fs, path::Path};

use sched_exporter_tests::{
    process::{CONFIG, run},
    tls::{Certificates, USERS, argument},
};

use super::promtool;

/// Verdicts that may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deviation {
    None,
    /// Only exporter-toolkit accepts it: rustls lacks it, or it would fail once it serves.
    Refused(&'static str),
}
use Deviation::{None as Same, Refused};

/// Whether the exporter accepts a web configuration, and what it says.
fn ours(config: &Path, web: &Path) -> (bool, String) {
    let config = format!("--config.file={}", config.display());
    let output = run(&["--config.check", &config, &argument(web)]);
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn theirs(web: &Path) -> bool {
    promtool().args(["check", "web-config"]).arg(web).output().unwrap().status.success()
}

type Case = (String, Deviation);

const PAIR: &str = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n";

fn with(keys: &str) -> String {
    format!("{PAIR}  {keys}\n")
}

fn whole_files() -> Vec<Case> {
    let header = |name: &str, value: &str| {
        format!("http_server_config:\n  headers:\n    {name}: \"{value}\"\n")
    };
    let user = |hash: &str| format!("basic_auth_users:\n  a: \"{hash}\"\n");
    vec![
        (String::new(), Same),
        ("{}".into(), Same),
        ("a\n".into(), Same),
        ("tls: {}".into(), Same),
        ("tls_server_config: {}\n".into(), Same),
        ("tls_server_config: {cert_file: server.crt}".into(), Same),
        ("tls_server_config: {key_file: server.key}".into(), Same),
        ("tls_server_config: {min_version: TLS13}".into(), Same),
        ("tls_server_config: {client_auth_type: NoClientCert}".into(), Same),
        ("tls_server_config: {cert_file: no-file, key_file: server.key}".into(), Same),
        ("tls_server_config: {cert_file: server.crt, key_file: no-file}".into(), Same),
        ("tls_server_config: {cert_file: server.crt, key_file: client.key}".into(), Same),
        ("tls_server_config: {cert_file: server.key, key_file: server.crt}".into(), Same),
        ("tls_server_config: {cert_file: \"\", key_file: \"\"}".into(), Same),
        (format!("{PAIR}{PAIR}"), Same),
        (format!("{PAIR}{USERS}"), Same),
        (USERS.into(), Same),
        ("basic_auth_users:\n".into(), Same),
        ("basic_auth_users: []\n".into(), Same),
        (user("secret"), Same),
        (user(""), Same),
        ("http_server_config: {http2: false}".into(), Same),
        ("http_server_config: {http2: perhaps}".into(), Same),
        ("http_server_config: {http3: true}".into(), Same),
        (header("X-Frame-Options", "deny"), Same),
        (header("X-Frame-Options", "sameorigin"), Same),
        (header("X-Frame-Options", "DENY"), Same),
        (header("x-frame-options", "deny"), Same),
        (header("X-Content-Type-Options", "nosniff"), Same),
        (header("X-Content-Type-Options", "sniff"), Same),
        (header("X-XSS-Protection", "1; mode=block"), Same),
        (header("Strict-Transport-Security", "max-age=1"), Same),
        (header("Content-Security-Policy", "default-src 'self'"), Same),
        (header("Server", "a"), Same),
        (with("client_ca_file: ca.pem"), Same),
        (with("client_ca_file: no-file"), Same),
        (with("client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: no-file"), Same),
        (with("client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem"), Same),
        (with("prefer_server_cipher_suites: false"), Same),
        (with("prefer_server_cipher_suites: sometimes"), Same),
        (with("cipher_suites: TLS_AES_128_GCM_SHA256"), Same),
        (with("min_version: TLS13\n  max_version: TLS12"), Refused("below min_version")),
        (
            with("cipher_suites: [TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384]"),
            Refused("HTTP/2 with TLS 1.2 needs"),
        ),
    ]
}

/// Each value of the keys that have a list of them.
fn values() -> Vec<Case> {
    let mut cases = Vec::new();
    for mode in [
        "NoClientCert",
        "RequestClientCert",
        "RequireAnyClientCert",
        "RequireClientCert",
        "VerifyClientCertIfGiven",
        "RequireAndVerifyClientCert",
        "requireAnyClientCert",
        "x",
    ] {
        cases.push((with(&format!("client_auth_type: {mode}")), Same));
    }
    for (version, deviation) in [
        ("TLS13", Same),
        ("TLS12", Same),
        ("TLS11", Refused("TLS 1.1 is not supported")),
        ("TLS10", Refused("TLS 1.0 is not supported")),
        ("TLS111", Same),
        ("1.3", Same),
    ] {
        cases.push((with(&format!("min_version: {version}")), deviation));
    }
    for (curve, deviation) in [
        ("X25519", Same),
        ("CurveP256", Same),
        ("CurveP384", Same),
        ("CurveP521", Refused("rustls lacks it")),
        ("CurveP257", Same),
    ] {
        cases.push((with(&format!("curve_preferences: [{curve}]")), deviation));
    }
    for (suite, deviation) in [
        ("TLS_AES_128_GCM_SHA256", Same),
        ("TLS_AES_256_GCM_SHA384", Same),
        ("TLS_CHACHA20_POLY1305_SHA256", Same),
        ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", Same),
        ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", Same),
        ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", Same),
        ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", Same),
        ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", Same),
        ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", Same),
        ("TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", Refused("it uses CBC")),
        ("TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA", Refused("it uses CBC")),
        ("TLS_ECDHE_RSA_WITH_RC4_128_SHA", Same),
        ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA2048", Same),
    ] {
        let text = with(&format!("cipher_suites: [{suite}]"));
        cases.push((format!("{text}http_server_config: {{http2: false}}\n"), deviation));
    }
    cases
}

#[test]
fn verdicts_are_those_of_promtool() {
    let certificates = Certificates::new();
    let config = certificates.path("exporter.yaml");
    fs::write(&config, CONFIG).unwrap();
    let cases = [whole_files(), values()].concat();
    let mut valid = 0;
    for (text, deviation) in &cases {
        let web = certificates.web_text(text);
        let (ours, theirs) = (ours(&config, &web), theirs(&web));
        let expected = match deviation {
            Same => (theirs, ""),
            Refused(reason) => {
                assert!(theirs, "promtool refuses this, too:\n{text}");
                (false, *reason)
            }
        };
        assert_eq!(ours.0, expected.0, "promtool: {theirs}\n{text}\n{}", ours.1);
        assert!(ours.1.contains(expected.1), "{text}\n{}", ours.1);
        valid += usize::from(theirs);
    }
    assert!(valid > 20 && cases.len() - valid > 20, "{valid} of {}", cases.len());
}
