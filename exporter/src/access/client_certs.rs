//! Verifies the certificates of clients, in the modes of Go's `ClientAuthType`.
//! <https://pkg.go.dev/crypto/tls#ClientAuthType>

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{
        CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    },
    pki_types::{CertificateDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    prelude::{FromDer as _, X509Error},
};

use crate::config::web::{ClientAuth, Tls};

/// Decides whether a client's certificate will do.
#[derive(Debug)]
pub(super) struct ClientCerts {
    is_required: bool,
    /// Whether one that is shown must be trusted.
    is_verified: bool,
    /// The authorities as they were configured.
    authorities: Vec<CertificateDer<'static>>,
    /// Verifies that a certificate is from one of them; `None` if there are none.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// The names of which a certificate must have one.
    allowed: Option<Vec<String>>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// Why a certificate will not do, besides what rustls finds.
#[derive(thiserror::Error)]
enum Refused {
    #[error("the certificate cannot be parsed")]
    Malformed(#[source] X509Error),
    #[error("the certificate has none of the names in client_allowed_sans; it has {0:?}")]
    Name(Vec<String>),
}

/// rustls shows this in its message, instead of the one for people.
impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        let other = CertificateError::Other(OtherError(Arc::new(refused)));
        Self::InvalidCertificate(other)
    }
}

impl ClientCerts {
    pub(super) fn new(
        tls: &Tls,
        authorities: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        for authority in &authorities {
            roots.add(authority.clone())?;
        }
        let verifier = if roots.is_empty() {
            None
        } else {
            let builder =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
            let built = builder.build();
            Some(built.map_err(|error| Error::General(error.to_string()))?)
        };
        Ok(Self {
            is_required: tls.requires_certificate(),
            is_verified: matches!(
                tls.client_auth,
                ClientAuth::VerifyIfGiven | ClientAuth::RequireAndVerify
            ),
            authorities,
            verifier,
            allowed: tls.client_allowed_sans.clone(),
            algorithms: provider.signature_verification_algorithms,
        })
    }

    /// Verifies that a certificate is from an authority, or is one of those that were configured: a certificate
    /// that signs itself is trusted, too, if it is configured itself.
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let unknown = || Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let verifier = self.verifier.as_ref().ok_or_else(unknown)?;
        match verifier.verify_client_cert(end_entity, intermediates, now) {
            Ok(_) => Ok(()),
            Err(error) if self.authorities.iter().any(|it| **it == **end_entity) => {
                if is_for_clients(end_entity, now)? {
                    Ok(())
                } else {
                    Err(error)
                }
            }
            Err(error) => Err(error),
        }
    }
}

fn parse<'c>(certificate: &'c CertificateDer<'_>) -> Result<X509Certificate<'c>, Refused> {
    let parsed = X509Certificate::from_der(certificate);
    parsed.map(|(_, certificate)| certificate).map_err(|error| {
        Refused::Malformed(match error {
            x509_parser::nom::Err::Error(error) | x509_parser::nom::Err::Failure(error) => error,
            x509_parser::nom::Err::Incomplete(_) => X509Error::Generic,
        })
    })
}

/// Whether a certificate is valid now, and may authenticate clients.
fn is_for_clients(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<bool, Error> {
    let parsed = parse(certificate)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = parsed.validity();
    let is_valid =
        (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now);
    let usage = parsed.extended_key_usage().map_err(Refused::Malformed)?;
    Ok(is_valid && usage.is_none_or(|it| it.value.any || it.value.client_auth))
}

/// The alternative names of a certificate, as Go prints them.
fn names(certificate: &CertificateDer<'_>) -> Result<Vec<String>, Error> {
    let parsed = parse(certificate)?;
    let names = parsed.subject_alternative_name().map_err(Refused::Malformed)?;
    let names = names.map_or(&[][..], |names| &names.value.general_names);
    Ok(names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => {
                Some((*name).to_owned())
            }
            GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
            _ => None,
        })
        .collect())
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    let v6 = <[u8; 16]>::try_from(bytes).ok()?;
    Some(IpAddr::from(Ipv6Addr::from(v6)).to_canonical())
}

impl ClientCertVerifier for ClientCerts {
    fn client_auth_mandatory(&self) -> bool {
        self.is_required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.as_ref().map_or(&[], |it| it.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.is_verified {
            self.verify(end_entity, intermediates, now)?;
        }
        if let Some(allowed) = &self.allowed {
            let names = names(end_entity)?;
            if !names.iter().any(|name| allowed.contains(name)) {
                return Err(Refused::Name(names).into());
            }
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
