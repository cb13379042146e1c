//! Handshakes with what a web configuration allows, over a pair of sockets.

use std::{fs, sync::Arc};

use rcgen::{ExtendedKeyUsagePurpose, SanType};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        CipherSuite, ClientConfig, NamedGroup, ProtocolVersion, RootCertStore,
        SupportedProtocolVersion,
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
        version::{TLS12, TLS13},
    },
};

use super::{
    super::load::load,
    certificates::{Authority, Pair, dns, self_signed, write},
};

/// A server's files, and the authority of its certificate.
struct Server {
    directory: TempDir,
    authority: Authority,
}

/// What a client offers.
struct Client {
    provider: CryptoProvider,
    versions: Vec<&'static SupportedProtocolVersion>,
    certificate: Option<Pair>,
    protocols: Vec<&'static [u8]>,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            provider: ring::default_provider(),
            versions: vec![&TLS12, &TLS13],
            certificate: None,
            protocols: vec![],
        }
    }
}

/// What a handshake agreed on.
#[derive(Debug)]
struct Agreed {
    version: ProtocolVersion,
    suite: CipherSuite,
    group: NamedGroup,
    protocol: Option<Vec<u8>>,
}

impl Server {
    fn new() -> Self {
        let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        write(directory.path(), &authority);
        Self { directory, authority }
    }

    fn add(&self, name: &str, pem: &str) {
        fs::write(self.directory.path().join(name), pem).unwrap();
    }

    /// Shakes hands, with further keys in the web configuration. An error is the server's.
    async fn shake(&self, keys: &str, client: Client) -> Result<Agreed, String> {
        let text =
            format!("tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n{keys}");
        self.add("web.yml", &text);
        let tls = load(&self.directory.path().join("web.yml")).unwrap().access.tls.unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.certificate.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(client.provider))
            .with_protocol_versions(&client.versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match &client.certificate {
            None => builder.with_no_client_auth(),
            Some(Pair { certificate, key }) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = client.protocols.iter().map(|it| it.to_vec()).collect();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let connect = async {
            let name = ServerName::try_from("localhost").unwrap();
            let mut stream = TlsConnector::from(Arc::new(config)).connect(name, theirs).await?;
            // With TLS 1.3, a client learns only now that it was refused.
            stream.write_all(b"x").await?;
            stream.flush().await
        };
        let accept = async {
            let mut stream = TlsAcceptor::from(tls).accept(ours).await?;
            let _ = stream.read_u8().await?;
            let connection = stream.get_ref().1;
            Ok(Agreed {
                version: connection.protocol_version().unwrap(),
                suite: connection.negotiated_cipher_suite().unwrap().suite(),
                group: connection.negotiated_key_exchange_group().unwrap().name(),
                protocol: connection.alpn_protocol().map(<[u8]>::to_vec),
            })
        };
        let (_, accepted) = tokio::join!(connect, accept);
        accepted.map_err(|error: std::io::Error| error.to_string())
    }
}

fn showing(certificate: &Pair) -> Client {
    Client { certificate: Some(certificate.clone()), ..Client::default() }
}

#[tokio::test]
async fn each_mode_lets_in_the_clients_that_it_names() {
    let server = Server::new();
    let trusted = server.authority.sign(vec![dns("client")]);
    let untrusted = Authority::new().sign(vec![dns("client")]);
    for (mode, [none, any, trust]) in [
        ("NoClientCert", [true; 3]),
        ("RequestClientCert", [true; 3]),
        ("RequireAnyClientCert", [false, true, true]),
        ("RequireClientCert", [false, true, true]),
        ("VerifyClientCertIfGiven", [true, false, true]),
        ("RequireAndVerifyClientCert", [false, false, true]),
    ] {
        let mut keys = format!("  client_auth_type: {mode}\n");
        if mode != "NoClientCert" {
            keys.push_str("  client_ca_file: ca.pem\n");
        }
        for version in [&TLS12, &TLS13] {
            for (certificate, expected) in
                [(None, none), (Some(&untrusted), any), (Some(&trusted), trust)]
            {
                let certificate = certificate.cloned();
                let client = Client { certificate, versions: vec![version], ..Client::default() };
                let shaken = server.shake(&keys, client).await;
                assert_eq!(shaken.is_ok(), expected, "{mode} {:?}: {shaken:?}", version.version);
            }
        }
    }
}

#[tokio::test]
async fn without_an_authority_no_certificate_is_trusted() {
    let server = Server::new();
    let client = server.authority.sign(vec![]);
    for (mode, without) in
        [("VerifyClientCertIfGiven", true), ("RequireAndVerifyClientCert", false)]
    {
        let keys = format!("  client_auth_type: {mode}\n");
        assert_eq!(server.shake(&keys, Client::default()).await.is_ok(), without);
        server.shake(&keys, showing(&client)).await.unwrap_err();
    }
}

#[tokio::test]
async fn a_certificate_that_signs_itself_is_trusted_if_it_is_configured() {
    let server = Server::new();
    let keys = "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: clients.pem\n";
    let (own, other) = (self_signed(&[]), self_signed(&[]));
    server.add("clients.pem", &own.certificate);
    server.shake(keys, showing(&own)).await.unwrap();
    server.shake(keys, showing(&other)).await.unwrap_err();
    // One that is only for servers does not authenticate clients.
    let for_servers = self_signed(&[ExtendedKeyUsagePurpose::ServerAuth]);
    server.add("clients.pem", &for_servers.certificate);
    server.shake(keys, showing(&for_servers)).await.unwrap_err();
}

#[tokio::test]
async fn a_certificate_needs_one_of_the_allowed_names() {
    let server = Server::new();
    let certificate = server.authority.sign(vec![
        dns("one.example"),
        SanType::Rfc822Name("me@example.com".try_into().unwrap()),
        SanType::IpAddress("10.0.0.1".parse().unwrap()),
        SanType::IpAddress("2001:db8::1".parse().unwrap()),
        SanType::URI("spiffe://example.com/prometheus".try_into().unwrap()),
    ]);
    let verify = "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n";
    for name in [
        "one.example",
        "me@example.com",
        "10.0.0.1",
        "2001:db8::1",
        "spiffe://example.com/prometheus",
    ] {
        let keys = format!("{verify}  client_allowed_sans: [\"other\", \"{name}\"]\n");
        server.shake(&keys, showing(&certificate)).await.unwrap();
    }
    for name in ["example", "*.example", "ONE.EXAMPLE", "10.0.0.2", ""] {
        let keys = format!("{verify}  client_allowed_sans: [\"{name}\"]\n");
        let error = server.shake(&keys, showing(&certificate)).await.unwrap_err();
        assert!(error.contains("none of the names"), "{error}");
    }
    // A certificate without names, no allowed name, and no certificate.
    let nameless = server.authority.sign(vec![]);
    let keys = format!("{verify}  client_allowed_sans: [a]\n");
    server.shake(&keys, showing(&nameless)).await.unwrap_err();
    let none = format!("{verify}  client_allowed_sans: []\n");
    server.shake(&none, showing(&certificate)).await.unwrap_err();
    let keys = "  client_auth_type: RequestClientCert\n  client_allowed_sans: [one.example]\n";
    server.shake(keys, Client::default()).await.unwrap_err();
    server.shake(keys, showing(&certificate)).await.unwrap();
}

#[tokio::test]
async fn versions_are_limited() {
    let server = Server::new();
    for (keys, version, expected) in [
        ("", &TLS12, true),
        ("", &TLS13, true),
        ("  min_version: TLS13\n", &TLS12, false),
        ("  min_version: TLS13\n", &TLS13, true),
        ("  max_version: TLS12\n", &TLS12, true),
        ("  max_version: TLS12\n", &TLS13, false),
    ] {
        let client = Client { versions: vec![version], ..Client::default() };
        let shaken = server.shake(keys, client).await;
        assert_eq!(shaken.is_ok(), expected, "{keys}: {shaken:?}");
        if let Ok(agreed) = shaken {
            assert_eq!(agreed.version, version.version);
        }
    }
}

#[tokio::test]
async fn cipher_suites_are_chosen_in_the_order_of_server_or_client() {
    let [small, large] = [
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ];
    let server = Server::new();
    let offering = |suites: &[CipherSuite]| {
        let mut provider = ring::default_provider();
        let all = provider.cipher_suites;
        let find = |suite: &CipherSuite| *all.iter().find(|it| it.suite() == *suite).unwrap();
        provider.cipher_suites = suites.iter().map(find).collect();
        Client { provider, versions: vec![&TLS12], ..Client::default() }
    };
    let keys = "  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, \
                TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384]\n";
    let agreed = server.shake(keys, offering(&[large, small])).await.unwrap();
    assert_eq!(agreed.suite, small);
    let client_order = format!("{keys}  prefer_server_cipher_suites: false\n");
    let agreed = server.shake(&client_order, offering(&[large, small])).await.unwrap();
    assert_eq!(agreed.suite, large);
    let chacha = CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256;
    server.shake(keys, offering(&[chacha])).await.unwrap_err();
    server.shake("", offering(&[chacha])).await.unwrap();
    // Those of TLS 1.3 stay, as in Go.
    let agreed = server.shake(keys, Client::default()).await.unwrap();
    assert_eq!(agreed.version, ProtocolVersion::TLSv1_3);
}

#[tokio::test]
async fn curves_are_limited() {
    let server = Server::new();
    let keys = "  curve_preferences: [CurveP384]\n";
    let agreed = server.shake(keys, Client::default()).await.unwrap();
    assert_eq!(agreed.group, NamedGroup::secp384r1);
    let mut provider = ring::default_provider();
    provider.kx_groups.retain(|it| it.name() == NamedGroup::X25519);
    let client = || Client { provider: provider.clone(), ..Client::default() };
    server.shake(keys, client()).await.unwrap_err();
    server.shake("", client()).await.unwrap();
}

#[tokio::test]
async fn clients_choose_http2_unless_it_is_off() {
    let server = Server::new();
    let client = || Client { protocols: vec![b"h2", b"http/1.1"], ..Client::default() };
    let protocol = |agreed: Agreed| String::from_utf8(agreed.protocol.unwrap()).unwrap();
    assert_eq!(protocol(server.shake("", client()).await.unwrap()), "h2");
    let off = "http_server_config: {http2: false}\n";
    assert_eq!(protocol(server.shake(off, client()).await.unwrap()), "http/1.1");
    assert_eq!(server.shake("", Client::default()).await.unwrap().protocol, None);
}
