//! The web configuration: the file that exporters built with Prometheus's exporter-toolkit read, in its format.
//! <https://github.com/prometheus/exporter-toolkit/blob/19a7c2d/docs/web-configuration.md>
//!
//! Messages never show keys, hashes or passwords.

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr as _, time::Duration};

use bcrypt::HashParts;

use super::{
    diagnostics::Diagnostics,
    go_duration,
    yaml::{self, Entry, Report},
};
use crate::expr::suggest;

/// A valid web configuration. The default protects nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebConfig {
    /// TLS, unless connections are plain.
    pub tls: Option<Tls>,
    /// Whether clients may choose HTTP/2. Without TLS, they cannot.
    pub http2: bool,
    /// Headers of every response, by name.
    pub headers: BTreeMap<&'static str, String>,
    /// The users and the bcrypt hashes of their passwords. If there are none, nobody needs a password.
    pub users: BTreeMap<String, Secret>,
    /// How often requests may come.
    pub rate_limit: Option<RateLimit>,
    /// What is valid in the file, but probably not meant.
    pub warnings: Diagnostics,
}

impl Default for WebConfig {
    fn default() -> Self {
        Self {
            tls: None,
            http2: true,
            headers: BTreeMap::new(),
            users: BTreeMap::new(),
            rate_limit: None,
            warnings: Diagnostics::default(),
        }
    }
}

/// A limit on requests: a bucket of `burst` tokens, of which each request takes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// How long it takes until a token comes back. Not zero.
    pub interval: Duration,
    /// How many tokens the bucket holds. If it is 0, every request is refused.
    pub burst: u32,
}

/// Text that is not for logs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Secret(String);

impl Secret {
    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// How connections are encrypted, and which clients may open them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The certificate, and those that lead to its authority.
    pub certificate: Pem,
    /// Its private key.
    pub key: Pem,
    /// Which certificates clients show.
    pub client_auth: ClientAuth,
    /// The authorities of clients' certificates.
    pub client_ca: Option<Pem>,
    /// The names of which a client's certificate must have one, if it is restricted.
    pub client_allowed_sans: Option<Vec<String>>,
    /// The versions of TLS, at least one, in ascending order.
    pub versions: Vec<Version>,
    /// The cipher suites of TLS 1.2; all of them if it is empty.
    pub cipher_suites: Vec<CipherSuite>,
    /// Whether the server's order of cipher suites counts, and not the client's.
    pub prefer_server_cipher_suites: bool,
    /// The groups for key exchange, in order of preference; all of them if it is empty.
    pub curve_preferences: Vec<Curve>,
}

impl Tls {
    /// Whether a client without a certificate is refused. Without one, it has no name that could be allowed.
    pub const fn requires_certificate(&self) -> bool {
        matches!(self.client_auth, ClientAuth::RequireAny | ClientAuth::RequireAndVerify)
            || (self.client_allowed_sans.is_some() && !matches!(self.client_auth, ClientAuth::No))
    }
}

/// Where PEM comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pem {
    /// The web configuration itself.
    Inline(Secret),
    /// A file; if its path is relative, it is relative to the directory of the web configuration.
    File(PathBuf),
}

/// Which certificates clients show: Go's `ClientAuthType`.
/// <https://pkg.go.dev/crypto/tls#ClientAuthType>
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// None is asked for.
    #[default]
    No,
    /// One is asked for, but need not be shown nor trusted.
    Request,
    /// One must be shown, but need not be trusted.
    RequireAny,
    /// One that is shown must be trusted.
    VerifyIfGiven,
    /// One that is trusted must be shown.
    RequireAndVerify,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// A cipher suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in the standard")]
pub enum CipherSuite {
    EcdheEcdsaAes128Gcm,
    EcdheEcdsaAes256Gcm,
    EcdheEcdsaChaCha20,
    EcdheRsaAes128Gcm,
    EcdheRsaAes256Gcm,
    EcdheRsaChaCha20,
    /// One of TLS 1.3. As in Go, these are always on.
    OfTls13,
}

/// A group for key exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in the standard")]
pub enum Curve {
    P256,
    P384,
    X25519,
}

const SECTIONS: [&str; 4] =
    ["tls_server_config", "http_server_config", "basic_auth_users", "rate_limit"];

const TLS_KEYS: [&str; 13] = [
    "cert",
    "cert_file",
    "key",
    "key_file",
    "client_ca",
    "client_ca_file",
    "client_auth_type",
    "client_allowed_sans",
    "min_version",
    "max_version",
    "cipher_suites",
    "curve_preferences",
    "prefer_server_cipher_suites",
];

const CLIENT_AUTH: [(&str, ClientAuth); 6] = [
    ("NoClientCert", ClientAuth::No),
    ("RequestClientCert", ClientAuth::Request),
    ("RequireAnyClientCert", ClientAuth::RequireAny),
    ("RequireClientCert", ClientAuth::RequireAny),
    ("VerifyClientCertIfGiven", ClientAuth::VerifyIfGiven),
    ("RequireAndVerifyClientCert", ClientAuth::RequireAndVerify),
];

const CIPHER_SUITES: [(&str, CipherSuite); 9] = [
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", CipherSuite::EcdheEcdsaAes128Gcm),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", CipherSuite::EcdheEcdsaAes256Gcm),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", CipherSuite::EcdheEcdsaChaCha20),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", CipherSuite::EcdheRsaAes128Gcm),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", CipherSuite::EcdheRsaAes256Gcm),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", CipherSuite::EcdheRsaChaCha20),
    ("TLS_AES_128_GCM_SHA256", CipherSuite::OfTls13),
    ("TLS_AES_256_GCM_SHA384", CipherSuite::OfTls13),
    ("TLS_CHACHA20_POLY1305_SHA256", CipherSuite::OfTls13),
];

const CURVES: [(&str, Curve); 3] =
    [("CurveP256", Curve::P256), ("CurveP384", Curve::P384), ("X25519", Curve::X25519)];

/// The headers that can be set, with their values if only some are valid.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Content-Security-Policy", &[]),
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
];

/// Highest cost of a hash. Each step doubles the time of a check: at 10, it is some 50 ms.
const MAX_COST: u32 = 20;

impl WebConfig {
    /// Parses and validates the text of a file. An empty text protects nothing, as in exporter-toolkit. Reads
    /// no certificates.
    pub fn parse(text: &str) -> Result<Self, Diagnostics> {
        let (mut report, root) = yaml::read(text);
        let config = web(&mut report, &Entry::whole_file(&root));
        Ok(Self { warnings: report.finish()?, ..config })
    }
}

fn web(report: &mut Report<'_>, file: &Entry<'_>) -> WebConfig {
    let mut config = WebConfig::default();
    let entries = report.entries(file);
    for entry in &entries {
        match entry.name {
            "tls_server_config" => config.tls = tls(report, entry),
            "http_server_config" => http(report, entry, &mut config),
            "basic_auth_users" => config.users = users(report, entry),
            "rate_limit" => config.rate_limit = rate_limit(report, entry),
            _ => report.unknown_key(entry, &SECTIONS),
        }
    }
    if config.http2
        && let Some(tls) = &config.tls
        && let Some(entry) = entries.iter().find(|entry| entry.name == "tls_server_config")
    {
        check_http2(report, entry, tls);
    }
    config
}

/// HTTP/2 over TLS 1.2 needs a cipher suite that clients count on.
/// <https://www.rfc-editor.org/rfc/rfc9113.html#section-9.2.2>
fn check_http2(report: &mut Report<'_>, section: &Entry<'_>, tls: &Tls) {
    let required = [CipherSuite::EcdheEcdsaAes128Gcm, CipherSuite::EcdheRsaAes128Gcm];
    if tls.versions.contains(&Version::Tls12)
        && !tls.cipher_suites.is_empty()
        && !tls.cipher_suites.iter().any(|suite| required.contains(suite))
    {
        report.key_error(section, |_| {
            "HTTP/2 with TLS 1.2 needs TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 or \
             TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 in cipher_suites; add one, or write http2: false in \
             http_server_config"
                .into()
        });
    }
}

fn tls(report: &mut Report<'_>, section: &Entry<'_>) -> Option<Tls> {
    let mut entries = report.entries(section);
    for entry in entries.iter().filter(|entry| !TLS_KEYS.contains(&entry.name)) {
        report.unknown_key(entry, &TLS_KEYS);
    }
    // As in Go, an empty value is none.
    entries.retain(|entry| !entry.is_null() && entry.string() != Some(""));
    let find = |name: &str| entries.iter().find(|entry| entry.name == name);
    let client_auth = find("client_auth_type").map(|entry| client_auth(report, entry));
    let mut pem = |inline: &str, file: &str| {
        let (inline, file) = (find(inline), find(file));
        if let (Some(inline), Some(file)) = (inline, file) {
            let message =
                format!("not used, since {} is given, too; remove one of them", file.name);
            report.key_warning(inline, &message);
        }
        match (inline, file) {
            (_, Some(file)) => Some(Pem::File(report.string(file)?.into())),
            (Some(text), None) => Some(Pem::Inline(Secret(report.string(text)?.to_owned()))),
            (None, None) => None,
        }
    };
    let (certificate, key) = (pem("cert", "cert_file"), pem("key", "key_file"));
    let client_ca = pem("client_ca", "client_ca_file");
    let min = find("min_version").map_or(Some(Version::Tls12), |it| version(report, it));
    let max = find("max_version").map_or(Some(Version::Tls13), |it| version(report, it));
    let (min, max) = (min.unwrap_or(Version::Tls12), max.unwrap_or(Version::Tls13));
    if min > max
        && let Some(entry) = find("max_version")
    {
        report.error(entry, |_| "below min_version; raise it, or lower min_version".into());
    }
    let cipher_suites = find("cipher_suites").map(|it| list(report, it, cipher_suite));
    let curves = find("curve_preferences").map(|it| list(report, it, curve));
    let sans = find("client_allowed_sans")
        .map(|it| list(report, it, |report, entry| report.string(entry).map(ToOwned::to_owned)));
    let prefers = find("prefer_server_cipher_suites").is_none_or(|it| report.boolean(it));
    // As in exporter-toolkit, other keys alone do not turn TLS on.
    if certificate.is_none() && key.is_none() && client_ca.is_none() && client_auth.is_none() {
        if let Some(entry) = entries.first() {
            report.key_warning(
                entry,
                "has no effect without cert_file and key_file: connections are not encrypted",
            );
        }
        return None;
    }
    let client_auth = client_auth.flatten().unwrap_or_default();
    if client_ca.is_some() && client_auth == ClientAuth::No {
        let entry = find("client_ca_file").or_else(|| find("client_ca")).unwrap_or(section);
        report.key_error(entry, |_| {
            "no certificate is asked for; write client_auth_type: RequireAndVerifyClientCert".into()
        });
    }
    if client_auth == ClientAuth::No
        && let Some(entry) = find("client_allowed_sans")
    {
        report.key_warning(
            entry,
            "has no effect: no certificate is asked for; write client_auth_type: \
             RequireAndVerifyClientCert",
        );
    }
    if client_ca.is_none()
        && matches!(client_auth, ClientAuth::VerifyIfGiven | ClientAuth::RequireAndVerify)
        && let Some(entry) = find("client_auth_type")
    {
        report.key_warning(
            entry,
            "no certificate is trusted without client_ca_file or client_ca; the authorities of this \
             system are not used",
        );
    }
    let mut missing = |pem: Option<Pem>, key: &str| {
        if pem.is_none() {
            report
                .key_error(section, |_| format!("{key} is missing; write the path of a PEM file"));
        }
        pem
    };
    let (certificate, key) = (missing(certificate, "cert_file"), missing(key, "key_file"));
    Some(Tls {
        certificate: certificate?,
        key: key?,
        client_auth,
        client_ca,
        client_allowed_sans: sans,
        versions: [Version::Tls12, Version::Tls13]
            .into_iter()
            .filter(|it| (min..=max).contains(it))
            .collect(),
        cipher_suites: cipher_suites.unwrap_or_default(),
        prefer_server_cipher_suites: prefers,
        curve_preferences: curves.unwrap_or_default(),
    })
}

fn list<T>(
    report: &mut Report<'_>,
    entry: &Entry<'_>,
    parse: impl Fn(&mut Report<'_>, &Entry<'_>) -> Option<T>,
) -> Vec<T> {
    report.items(entry).iter().filter_map(|item| parse(report, item)).collect()
}

/// Looks up a name, or reports that it is unknown.
fn named<T: Copy>(
    report: &mut Report<'_>,
    entry: &Entry<'_>,
    what: &str,
    known: &[(&str, T)],
) -> Option<T> {
    let name = report.string(entry)?;
    let found = known.iter().find(|(known, _)| *known == name);
    if found.is_none() {
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        report.error(entry, |value| {
            format!("{value} is not {what}; {}", suggest::one_of(name, &names))
        });
    }
    found.map(|(_, value)| *value)
}

fn client_auth(report: &mut Report<'_>, entry: &Entry<'_>) -> Option<ClientAuth> {
    named(report, entry, "a client_auth_type", &CLIENT_AUTH)
}

fn version(report: &mut Report<'_>, entry: &Entry<'_>) -> Option<Version> {
    if let Some(old @ ("TLS10" | "TLS11")) = entry.string() {
        let version = if old == "TLS10" { "1.0" } else { "1.1" };
        report.error(entry, |_| {
            format!(
                "TLS {version} is not supported: it is insecure, and rustls lacks it; write TLS12"
            )
        });
        return None;
    }
    let known = [("TLS12", Version::Tls12), ("TLS13", Version::Tls13)];
    named(report, entry, "a version of TLS", &known)
}

fn cipher_suite(report: &mut Report<'_>, entry: &Entry<'_>) -> Option<CipherSuite> {
    let name = entry.string().unwrap_or_default();
    let reason = if name.contains("_CBC_") {
        Some("it uses CBC")
    } else if name.starts_with("TLS_RSA_WITH_") {
        Some("its key exchange uses RSA")
    } else if name.contains("_RC4_") {
        Some("it uses RC4")
    } else {
        None
    };
    if let Some(reason) = reason {
        report.error(entry, |value| {
            format!("{value} is not supported: {reason}, which rustls lacks; remove it")
        });
        return None;
    }
    named(report, entry, "a cipher suite", &CIPHER_SUITES)
}

fn curve(report: &mut Report<'_>, entry: &Entry<'_>) -> Option<Curve> {
    if entry.string() == Some("CurveP521") {
        report.error(entry, |value| {
            format!("{value} is not supported: rustls lacks it; remove it, or write CurveP384")
        });
        return None;
    }
    named(report, entry, "a curve", &CURVES)
}

fn http(report: &mut Report<'_>, section: &Entry<'_>, config: &mut WebConfig) {
    for entry in report.entries(section) {
        match entry.name {
            "http2" if entry.is_null() => {}
            "http2" => config.http2 = report.boolean(&entry),
            "headers" => config.headers = headers(report, &entry),
            _ => report.unknown_key(&entry, &["http2", "headers"]),
        }
    }
}

fn headers(report: &mut Report<'_>, section: &Entry<'_>) -> BTreeMap<&'static str, String> {
    let mut headers = BTreeMap::new();
    for entry in report.entries(section) {
        let Some((name, values)) = HEADERS.iter().find(|(name, _)| *name == entry.name) else {
            let known = HEADERS.map(|(name, _)| name);
            report.key_error(&entry, |_| {
                format!("this header cannot be set; {}", suggest::one_of(entry.name, &known))
            });
            continue;
        };
        let value = if entry.is_null() { Some("") } else { report.string(&entry) };
        let Some(value) = value else { continue };
        if !values.is_empty() && !values.contains(&value) {
            report.error(&entry, |given| {
                format!("{given} is not a value of {name}; write {}", values.join(" or "))
            });
        } else if value.chars().any(|c| c.is_control() && c != '\t') {
            report.error(&entry, |_| "a header has one line; remove control characters".into());
        } else if !value.is_empty() {
            headers.insert(*name, value.to_owned());
        }
    }
    headers
}

fn users(report: &mut Report<'_>, section: &Entry<'_>) -> BTreeMap<String, Secret> {
    let mut users = BTreeMap::new();
    for entry in report.entries(section) {
        if entry.name.contains(':') {
            report.key_warning(&entry, "nobody can log in under a name with a colon");
        }
        let hash = entry.string().unwrap_or_default();
        if let Err(reason) = check_hash(hash) {
            report.error(&entry, |_| {
                format!("{reason}; write the output of `htpasswd -nBC 10 \"\" | tr -d ':\\n'`")
            });
        }
        users.insert(entry.name.to_owned(), Secret(hash.to_owned()));
    }
    users
}

/// Checks a hash without a password: an error says what is wrong with it.
fn check_hash(hash: &str) -> Result<(), String> {
    // 2x marks hashes of an implementation that dropped bits of characters outside ASCII.
    let is_known = ["$2a$", "$2b$", "$2y$"].iter().any(|prefix| hash.starts_with(prefix));
    match HashParts::from_str(hash) {
        Ok(parts) if is_known && (4..=MAX_COST).contains(&parts.get_cost()) => Ok(()),
        Ok(parts) if is_known => {
            Err(format!("the cost is {}; it can be 4 to {MAX_COST}", parts.get_cost()))
        }
        Ok(_) | Err(_) => Err("this is not a bcrypt hash".into()),
    }
}

fn rate_limit(report: &mut Report<'_>, section: &Entry<'_>) -> Option<RateLimit> {
    let (mut interval, mut burst) = (Duration::ZERO, 0);
    for entry in report.entries(section) {
        match entry.name {
            _ if entry.is_null() => {}
            "interval" => {
                let parsed = report.string(&entry).map(go_duration::parse);
                match parsed {
                    Some(Some(parsed)) => interval = parsed,
                    Some(None) => report.error(&entry, |value| {
                        format!(
                            "{value} is not a duration; write a number and a unit, like 100ms or 2s"
                        )
                    }),
                    None => {}
                }
            }
            "burst" => {
                let given = report.integer(&entry).unwrap_or_default();
                burst = u32::try_from(given).unwrap_or(u32::MAX);
            }
            _ => report.unknown_key(&entry, &["interval", "burst"]),
        }
    }
    if burst == 0 && !interval.is_zero() {
        report.key_warning(section, "with a burst of 0, every request is refused; raise it");
    }
    (!interval.is_zero()).then_some(RateLimit { interval, burst })
}

#[cfg(test)]
mod tests;
