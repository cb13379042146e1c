//! Builds rustls's configuration of a server.

use std::{path::PathBuf, sync::Arc};

use tokio_rustls::rustls::{
    self, CipherSuite as Suite, InconsistentKeys, NamedGroup, ServerConfig, SupportedCipherSuite,
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};

use super::client_certs::ClientCerts;
use crate::config::web::{CipherSuite, ClientAuth, Curve, Pem, Tls, Version};

/// The protocols that clients choose from, by ALPN.
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// The error when TLS cannot be offered with what was configured.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// It is not PEM.
    #[error("{0}: not PEM")]
    Pem(PemSource, #[source] pem::Error),
    /// It has no certificate.
    #[error("{0}: no certificate in it; a block begins with -----BEGIN CERTIFICATE-----")]
    NoCertificate(PemSource),
    /// It has no private key that is not encrypted.
    #[error(
        "{0}: no private key in it; a block begins with -----BEGIN PRIVATE KEY-----, and is not encrypted"
    )]
    NoKey(PemSource),
    /// The key is of a kind that rustls lacks.
    #[error(
        "{0}: rustls cannot use this key; create one of P-256, P-384, Ed25519, or RSA with 2048 to 8192 \
         bits"
    )]
    Key(PemSource, #[source] rustls::Error),
    /// The certificate is for another key.
    #[error("{certificate} is not the certificate of {key}; replace both together")]
    OtherKey {
        /// Where the certificate is.
        certificate: PemSource,
        /// Where the key is.
        key: PemSource,
    },
    /// A certificate is malformed.
    #[error("{0}: a certificate is malformed")]
    Certificate(PemSource, #[source] rustls::Error),
    /// Versions and cipher suites do not go together.
    #[error("tls_server_config: these versions and cipher suites do not go together")]
    Versions(#[source] rustls::Error),
}

/// Where PEM was, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PemSource {
    /// A key of the web configuration.
    Key(&'static str),
    /// A file.
    File(PathBuf),
}

impl std::fmt::Display for PemSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Key(key) => write!(f, "tls_server_config.{key}"),
            Self::File(path) => write!(f, "`{}`", path.display()),
        }
    }
}

/// PEM that was read.
#[derive(Clone)]
pub(super) struct Text {
    pub(super) source: PemSource,
    pub(super) bytes: Vec<u8>,
}

/// What a configuration of TLS names.
#[derive(Clone)]
pub(super) struct Material {
    pub(super) certificate: Text,
    pub(super) key: Text,
    pub(super) client_ca: Option<Text>,
}

impl Material {
    /// Reads what `tls` names; `read` reads a file.
    pub(super) fn read<E>(
        tls: &Tls,
        mut read: impl FnMut(&std::path::Path) -> Result<(PathBuf, Vec<u8>), E>,
    ) -> Result<Self, E> {
        let mut text = |pem: &Pem, key| match pem {
            Pem::Inline(text) => {
                Ok(Text { source: PemSource::Key(key), bytes: text.reveal().as_bytes().to_vec() })
            }
            Pem::File(path) => {
                read(path).map(|(path, bytes)| Text { source: PemSource::File(path), bytes })
            }
        };
        Ok(Self {
            certificate: text(&tls.certificate, "cert")?,
            key: text(&tls.key, "key")?,
            client_ca: tls.client_ca.as_ref().map(|it| text(it, "client_ca")).transpose()?,
        })
    }
}

/// Builds the configuration of a server.
pub(super) fn server(
    tls: &Tls,
    material: &Material,
    http2: bool,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(provider(tls));
    let versions: Vec<_> = tls
        .versions
        .iter()
        .map(|version| match version {
            Version::Tls12 => &TLS12,
            Version::Tls13 => &TLS13,
        })
        .collect();
    let certified = certified(&material.certificate, &material.key, &provider)?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)
        .map_err(TlsError::Versions)?;
    let builder = if tls.client_auth == ClientAuth::No {
        builder.with_no_client_auth()
    } else {
        let authorities = material.client_ca.as_ref().map(certificates).transpose()?;
        let verifier = ClientCerts::new(tls, authorities.unwrap_or_default(), &provider);
        let verifier = verifier.map_err(|error| {
            let source = material.client_ca.as_ref().map(|it| it.source.clone());
            TlsError::Certificate(source.unwrap_or(PemSource::Key("client_ca")), error)
        })?;
        builder.with_client_cert_verifier(Arc::new(verifier))
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.ignore_client_order = tls.prefer_server_cipher_suites;
    config.alpn_protocols = if http2 { vec![HTTP2, HTTP1] } else { vec![HTTP1] }
        .into_iter()
        .map(<[u8]>::to_vec)
        .collect();
    // A handshake costs little, and sessions cost memory for each client. Also, a resumed session would let in
    // a client whose certificate is trusted no longer.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The algorithms that `tls` allows.
fn provider(tls: &Tls) -> CryptoProvider {
    let mut provider = ring::default_provider();
    if !tls.cipher_suites.is_empty() {
        let is_13 = |it: &SupportedCipherSuite| it.tls13().is_some();
        let all = provider.cipher_suites;
        let chosen = tls.cipher_suites.iter().filter_map(|suite| {
            let suite = match suite {
                CipherSuite::EcdheEcdsaAes128Gcm => Suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
                CipherSuite::EcdheEcdsaAes256Gcm => Suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
                CipherSuite::EcdheEcdsaChaCha20 => {
                    Suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
                }
                CipherSuite::EcdheRsaAes128Gcm => Suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
                CipherSuite::EcdheRsaAes256Gcm => Suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
                CipherSuite::EcdheRsaChaCha20 => Suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
                CipherSuite::OfTls13 => return None,
            };
            all.iter().find(|it| it.suite() == suite).copied()
        });
        provider.cipher_suites = all.iter().filter(|it| is_13(it)).copied().chain(chosen).collect();
    }
    if !tls.curve_preferences.is_empty() {
        let all = provider.kx_groups;
        let chosen = tls.curve_preferences.iter().filter_map(|curve| {
            let group = match curve {
                Curve::P256 => NamedGroup::secp256r1,
                Curve::P384 => NamedGroup::secp384r1,
                Curve::X25519 => NamedGroup::X25519,
            };
            all.iter().find(|it| it.name() == group).copied()
        });
        provider.kx_groups = chosen.collect();
    }
    provider
}

/// The certificates in PEM; at least one.
fn certificates(text: &Text) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text.bytes).collect();
    let read = read.map_err(|error| TlsError::Pem(text.source.clone(), error))?;
    if read.is_empty() {
        return Err(TlsError::NoCertificate(text.source.clone()));
    }
    Ok(read)
}

/// A certificate with its key.
fn certified(
    certificate: &Text,
    key: &Text,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    let chain = certificates(certificate)?;
    let der = PrivateKeyDer::from_pem_slice(&key.bytes).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::NoKey(key.source.clone()),
        error => TlsError::Pem(key.source.clone(), error),
    })?;
    let signer = provider.key_provider.load_private_key(der);
    let signer = signer.map_err(|error| TlsError::Key(key.source.clone(), error))?;
    let certified = CertifiedKey::new(chain, signer);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err(TlsError::OtherKey {
                certificate: certificate.source.clone(),
                key: key.source.clone(),
            })
        }
        Err(error) => Err(TlsError::Certificate(certificate.source.clone(), error)),
    }
}
