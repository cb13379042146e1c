//! Certificates, web configurations with them, and clients that speak TLS.

use std::{
    fs, io,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType,
};
use tempfile::TempDir;
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};

use crate::{
    client::{Client, OPEN_METRICS},
    exposition::Exposition,
    process::{Exporter, PATIENCE},
};

/// Users of a web configuration: `alice` with the password `alice123` and a cost of 10, `bob` with `bob123` and
/// `carol` with `carol123` at a cost of 4.
pub const USERS: &str = "basic_auth_users:\n  \
                         alice: $2y$10$abcdefghijklmnopqrstuuAuXeCk6cDyT9B/LbcW23Nl3ca8XWmMS\n  \
                         bob: $2b$04$ABCDEFGHIJKLMNOPQRSTUu1fbvFqxm.NJxwcjkXD0eHfFWSUKs2ke\n  \
                         carol: $2a$04$0123456789ABCDEFGHIJKuaoo2gX5yxc23l.lgLsgUWsTTA4zomgS\n";

/// The header for `alice` and her password.
pub const ALICE: (&str, &str) = ("Authorization", "Basic YWxpY2U6YWxpY2UxMjM=");

/// The header for `bob` and his password.
pub const BOB: (&str, &str) = ("Authorization", "Basic Ym9iOmJvYjEyMw==");

/// A connection over TLS.
pub type TlsClient = Client<StreamOwned<ClientConnection, TcpStream>>;

/// A directory with the files of a server and of clients:
///
/// * `ca.pem`: the authority of all that follow but the last
/// * `server.crt`, `server.key`: for `localhost` and 127.0.0.1
/// * `client.crt`, `client.key`: for a client named `prometheus`
/// * `other.crt`, `other.key`: for a client named `prometheus` by another authority of the same name, so that
///   clients in Go show it, too
pub struct Certificates {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
    }
}

impl Certificates {
    /// Makes all of them.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (authority, issuer) = authority();
        fs::write(directory.path().join("ca.pem"), authority).unwrap();
        let certificates = Self { directory, issuer };
        certificates.renew_server();
        let (_, other) = self::authority();
        for (name, issuer) in [("client", &certificates.issuer), ("other", &other)] {
            let usage = ExtendedKeyUsagePurpose::ClientAuth;
            let (certificate, key) = sign(issuer, &["prometheus"], usage);
            certificates.write(&format!("{name}.crt"), &certificate);
            certificates.write(&format!("{name}.key"), &key);
        }
        certificates
    }

    /// The path of a file.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file, as whoever replaces it in place.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Replaces the certificate of the server and its key. Returns the new certificate.
    pub fn renew_server(&self) -> CertificateDer<'static> {
        let names = ["localhost", "127.0.0.1"];
        let (certificate, key) = sign(&self.issuer, &names, ExtendedKeyUsagePurpose::ServerAuth);
        self.write("server.crt", &certificate);
        self.write("server.key", &key);
        CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()
    }

    /// Writes `web.yml` with the server's certificate and further keys of `tls_server_config`, then further
    /// sections. Returns its path.
    pub fn web(&self, tls: &str, more: &str) -> PathBuf {
        let text = format!(
            "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n{tls}{more}"
        );
        self.web_text(&text)
    }

    /// Writes `web.yml` with this text. Returns its path.
    pub fn web_text(&self, text: &str) -> PathBuf {
        self.write("web.yml", text);
        self.path("web.yml")
    }

    /// A client that trusts the authority, and shows the certificate with this name, if one is given.
    pub fn client(&self, certificate: Option<&str>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let Some(name) = certificate else { return builder.with_no_client_auth() };
        let chain = vec![CertificateDer::from_pem_file(self.path(&format!("{name}.crt"))).unwrap()];
        let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).unwrap();
        builder.with_client_auth_cert(chain, key).unwrap()
    }
}

/// A new authority, always of the same name: its certificate in PEM, and what signs with its key.
fn authority() -> (String, Issuer<'static, KeyPair>) {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, "authority of tests");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    (certificate.pem(), Issuer::new(parameters, key))
}

/// Makes a certificate with these names, and its key, in PEM.
fn sign(
    issuer: &Issuer<'static, KeyPair>,
    names: &[&str],
    usage: ExtendedKeyUsagePurpose,
) -> (String, String) {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, names[0]);
    let names = names.iter().map(|name| match name.parse() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName((*name).try_into().unwrap()),
    });
    parameters.subject_alt_names = names.collect();
    parameters.extended_key_usages = vec![usage];
    let key = KeyPair::generate().unwrap();
    let certificate = parameters.signed_by(&key, issuer).unwrap();
    (certificate.pem(), key.serialize_pem())
}

/// Connects, and completes the handshake.
pub fn connect(address: SocketAddr, config: ClientConfig) -> io::Result<TlsClient> {
    Ok(Client::over(open(address, config)?))
}

/// As [`connect`], but returns the stream.
pub fn open(
    address: SocketAddr,
    config: ClientConfig,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let name = ServerName::from(address.ip());
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(connection, stream))
}

/// The arguments of an exporter with a web configuration.
pub fn argument(web: &Path) -> String {
    format!("--web.config.file={}", web.display())
}

/// Scrapes in OpenMetrics, with further headers.
pub fn scrape(client: &mut TlsClient, headers: &[(&str, &str)]) -> Exposition {
    let answer = client.request("GET", "/metrics", &[&[OPEN_METRICS], headers].concat());
    assert_eq!(answer.status, 200, "{}", answer.text());
    Exposition::parse(&answer.text())
}

/// Waits until an exporter that needs no password says this of its web configuration.
#[track_caller]
pub fn wait_until_web_config_is(exporter: &Exporter, client: &mut TlsClient, is_valid: bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    let name = "sched_exporter_web_config_last_reload_successful";
    while (scrape(client, &[]).value(name, &[]) > 0.5) != is_valid {
        assert!(std::time::Instant::now() < deadline, "{}", exporter.log());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
