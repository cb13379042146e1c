//! What is valid, compared with exporter-toolkit: each row is like one of the files that it is tested with.
//! `tests/it/promtool/web.rs` compares with `promtool check web-config`.

use std::{fs, path::Path};

use super::{
    super::load::load,
    certificates::{Authority, Pair, self_signed, write},
};

/// exporter-toolkit's verdict, with ours if it differs, and why.
#[derive(Clone, Copy)]
enum Verdict {
    Good,
    /// Also for exporter-toolkit, with a part of our message.
    Bad(&'static str),
    /// Only for us: rustls lacks what it asks for. With a part of our message.
    Lacking(&'static str),
}
use Verdict::{Bad, Good, Lacking};

const HASH: &str = "$2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW";

/// Keys of a certificate and its key, to which a row adds.
const PAIR: &str = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n";

/// A case: its name, the text, and the verdict.
type Case = (&'static str, String, Verdict);

fn with(keys: &str) -> String {
    format!("{PAIR}{keys}")
}

fn given(keys: &str) -> String {
    format!("{PAIR}  client_auth_type: VerifyClientCertIfGiven\n{keys}")
}

/// PEM as the value of a key.
fn indented(path: &Path) -> String {
    fs::read_to_string(path)
        .unwrap()
        .lines()
        .fold(String::new(), |text, line| text + "    " + line + "\n")
}

/// Certificates of clients, and users.
fn clients(key: &str) -> Vec<Case> {
    let require = "  client_auth_type: RequireAndVerifyClientCert\n";
    vec![
        ("require and verify", with(&format!("{require}  client_ca_file: client.pem\n")), Good),
        ("require any", with("  client_auth_type: RequireAnyClientCert\n"), Good),
        (
            "require any, inline key",
            format!(
                "tls_server_config:\n  cert_file: server.crt\n  key: |\n{key}  client_auth_type: \
                 RequireAnyClientCert\n"
            ),
            Good,
        ),
        (
            "missing CA file",
            with("  client_ca_file: no-file\n"),
            Bad("no certificate is asked for"),
        ),
        (
            "missing CA file, with a policy",
            with(&format!("{require}  client_ca_file: no-file\n")),
            Bad("no-file`: No such file"),
        ),
        ("no CA", with(require), Good),
        (
            "names, none of the certificate",
            with(&format!(
                "{require}  client_ca_file: client.pem\n  client_allowed_sans:\n    - bad\n"
            )),
            Good,
        ),
        (
            "names, one of the certificate",
            with(&format!(
                "{require}  client_ca_file: client.pem\n  client_allowed_sans:\n  - one\n  - test3\n"
            )),
            Good,
        ),
        ("no hash", with("basic_auth_users:\n  john: doe\n"), Bad("not a bcrypt hash")),
        ("empty", String::new(), Good),
    ]
}

fn other_keys() -> Vec<Case> {
    let require = "  client_auth_type: RequireAndVerifyClientCert\n";
    vec![
        (
            "headers",
            "http_server_config:\n  headers:\n    X-Frame-Options: deny\n    \
             Strict-Transport-Security: max-age=1; includeSubDomains\n    X-Content-Type-Options: \
             nosniff\n    X-XSS-Protection: 1\n    Content-Security-Policy: \"default-src 'self'\"\n"
                .into(),
            Good,
        ),
        (
            "header, wrong content type options",
            "http_server_config: {headers: {X-Content-Type-Options: sniff}}".into(),
            Bad("write nosniff"),
        ),
        (
            "header that cannot be set",
            "http_server_config: {headers: {Content-Type: foo}}".into(),
            Bad("this header cannot be set"),
        ),
        (
            "header, wrong frame options",
            "http_server_config: {headers: {X-Frame-Options: foo}}".into(),
            Bad("write deny or sameorigin"),
        ),
        ("junk", "hWkNKCp3fvIx3jKn\nTuEjdwNS8A2v\n".into(), Bad("is not a map")),
        ("unknown key", "tls_server_config:\n  cert_filse: a\n".into(), Bad("unknown key")),
        ("CA without a policy", with("  client_ca_file: /dev/null\n"), Bad("client_auth_type")),
        ("verify if given", given(""), Good),
        ("verify, blocking", with(require), Good),
    ]
}

fn algorithms() -> Vec<Case> {
    vec![
        (
            "all cipher suites",
            given(
                "  cipher_suites:\n  - TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256\n  - \
                 TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA\n",
            ),
            Lacking("it uses CBC"),
        ),
        (
            "all cipher suites that rustls has",
            given(
                "  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, \
                 TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, \
                 TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, \
                 TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, \
                 TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, TLS_AES_128_GCM_SHA256, \
                 TLS_AES_256_GCM_SHA384, TLS_CHACHA20_POLY1305_SHA256]\n",
            ),
            Good,
        ),
        (
            "all curves",
            given("  curve_preferences: [CurveP256, CurveP384, CurveP521, X25519]\n"),
            Lacking("\"CurveP521\" is not supported"),
        ),
        (
            "all curves that rustls has",
            given("  curve_preferences: [CurveP256, CurveP384, X25519]\n"),
            Good,
        ),
        (
            "no HTTP/2, and not its cipher suite",
            given(
                "  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384]\n  max_version: \
                 TLS12\nhttp_server_config: {http2: false}\n",
            ),
            Good,
        ),
        (
            "HTTP/2 without its cipher suite",
            given(
                "  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384]\n  max_version: TLS12\n",
            ),
            Bad("HTTP/2 with TLS 1.2 needs"),
        ),
        (
            "some cipher suites",
            given(
                "  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, \
                 TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384]\n  min_version: TLS12\n  max_version: TLS12\n",
            ),
            Good,
        ),
        (
            "some cipher suites, in the client's order",
            given(
                "  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, \
                 TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]\n  prefer_server_cipher_suites: false\n  \
                 min_version: TLS12\n  max_version: TLS12\n",
            ),
            Good,
        ),
        (
            "some curves",
            given("  min_version: TLS13\n  curve_preferences: [CurveP521]\n"),
            Lacking("\"CurveP521\" is not supported"),
        ),
    ]
}

/// The server's certificate and key, rate limits and users.
fn files(cert: &str, key: &str) -> Vec<Case> {
    let users = format!(
        "basic_auth_users:\n  alice: {HASH}\n  bob: {}\n  carol: {}\n",
        HASH.replace("$04$", "$18$"),
        HASH.replace("$04$", "$12$"),
    );
    vec![
        (
            "empty path of the certificate",
            "tls_server_config: {cert_file: \"\", key_file: server.key}".into(),
            Bad("cert_file is missing"),
        ),
        (
            "wrong path of the certificate",
            "tls_server_config: {cert_file: no-file, key_file: server.key}".into(),
            Bad("no-file`: No such file"),
        ),
        (
            "empty paths and no policy of that name",
            "tls_server_config: {cert_file: \"\", key_file: \"\", client_auth_type: x}".into(),
            Bad("cert_file is missing"),
        ),
        (
            "wrong paths",
            "tls_server_config: {cert_file: no-file, key_file: no-file}".into(),
            Bad("no-file`: No such file"),
        ),
        (
            "empty certificate",
            "tls_server_config: {cert: \"\", key_file: server.key}".into(),
            Bad("cert_file is missing"),
        ),
        (
            "unknown cipher suite",
            given("  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA2048]\n"),
            Bad("is not a cipher suite"),
        ),
        ("unknown curve", given("  curve_preferences: [CurveP257]\n"), Bad("is not a curve")),
        (
            "empty path of the key",
            "tls_server_config: {cert_file: server.crt, key_file: \"\"}".into(),
            Bad("key_file is missing"),
        ),
        (
            "wrong path of the key",
            "tls_server_config: {cert_file: server.crt, key_file: no-file}".into(),
            Bad("no-file`: No such file"),
        ),
        (
            "empty key",
            "tls_server_config: {cert_file: server.crt, key: \"\"}".into(),
            Bad("key_file is missing"),
        ),
        (
            "inline certificate and key",
            format!("tls_server_config:\n  cert: |\n{cert}  key: |\n{key}"),
            Good,
        ),
        ("unknown version", given("  min_version: TLS111\n"), Bad("is not a version of TLS")),
        ("old version", given("  min_version: TLS10\n"), Lacking("TLS 1.0 is not supported")),
        ("no rate limit", "rate_limit:\n  interval: 0\n  burst: 0\n".into(), Good),
        ("rate limit", "rate_limit:\n  interval: \"1s\"\n  burst: 0\n".into(), Good),
        ("users", with(&users), Good),
        ("users without TLS", users.clone(), Good),
    ]
}

#[test]
fn each_case_of_exporter_toolkit_has_its_verdict() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    write(directory.path(), &Authority::new());
    let Pair { certificate, .. } = self_signed(&[]);
    fs::write(path("client.pem"), certificate).unwrap();
    let (cert, key) = (indented(&path("server.crt")), indented(&path("server.key")));
    let cases = [clients(&key), other_keys(), algorithms(), files(&cert, &key)].concat();
    assert!(load(&path("web.yml")).unwrap_err().one_line().contains("No such file"));
    for (name, text, verdict) in cases {
        fs::write(path("web.yml"), &text).unwrap();
        let loaded = load(&path("web.yml")).map_err(|error| error.one_line());
        match (loaded, verdict) {
            (Ok(_), Good) => {}
            (Err(error), Bad(part) | Lacking(part)) => {
                assert!(error.contains(part), "{name}: {error}");
            }
            (Ok(_), _) => panic!("{name}: accepted\n{text}"),
            (Err(error), Good) => panic!("{name}: {error}\n{text}"),
        }
    }
}

#[test]
fn a_certificate_that_cannot_serve_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let authority = Authority::new();
    write(directory.path(), &authority);
    let other = authority.sign(vec![]);
    fs::write(path("other.key"), other.key).unwrap();
    fs::write(path("empty.pem"), "# nothing\n").unwrap();
    fs::write(path("bad.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        .unwrap();
    fs::write(path("bad.key"), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
        .unwrap();
    let pair = |cert: &str, key: &str| {
        format!("tls_server_config:\n  cert_file: {cert}\n  key_file: {key}\n")
    };
    let verify = "  client_auth_type: RequireAndVerifyClientCert\n";
    for (text, part) in [
        (pair("server.crt", "other.key"), "is not the certificate of"),
        (pair("empty.pem", "server.key"), "no certificate in it"),
        (pair("server.crt", "empty.pem"), "no private key in it"),
        (pair("bad.pem", "server.key"), "a certificate is malformed"),
        (pair("server.crt", "bad.key"), "rustls cannot use this key"),
        (pair("server.crt", "."), "is not a regular file"),
        (
            format!("{}{verify}  client_ca_file: empty.pem\n", pair("server.crt", "server.key")),
            "no certificate in it",
        ),
        (
            format!("{}{verify}  client_ca_file: bad.pem\n", pair("server.crt", "server.key")),
            "a certificate is malformed",
        ),
    ] {
        fs::write(path("web.yml"), &text).unwrap();
        let error = load(&path("web.yml")).unwrap_err().one_line();
        assert!(error.contains(part), "{text}\n{error}");
        assert!(error.contains(&directory.path().display().to_string()), "{error}");
    }
}
