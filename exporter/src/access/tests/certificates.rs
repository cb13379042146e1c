//! Certificates made for tests.

use std::{fs, path::Path};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, SanType,
};

/// An authority.
pub(super) struct Authority {
    pub(super) certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, in PEM.
#[derive(Clone)]
pub(super) struct Pair {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        Self { certificate, issuer: Issuer::new(parameters, key) }
    }

    /// Signs a certificate with these names.
    pub(super) fn sign(&self, names: Vec<SanType>) -> Pair {
        let mut parameters = CertificateParams::default();
        parameters.subject_alt_names = names;
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

/// A certificate that signs itself and claims to be an authority, like those that exporter-toolkit is tested
/// with.
pub(super) fn self_signed(usage: &[ExtendedKeyUsagePurpose]) -> Pair {
    let mut parameters = CertificateParams::new(["test3".to_owned()]).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.extended_key_usages = usage.to_vec();
    let key = KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    Pair { certificate: certificate.pem(), key: key.serialize_pem() }
}

pub(super) fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

/// Writes the files of a server: `server.crt`, `server.key`, and `ca.pem` with its authority.
pub(super) fn write(directory: &Path, authority: &Authority) {
    let Pair { certificate, key } = authority.sign(vec![dns("localhost")]);
    fs::write(directory.join("server.crt"), certificate).unwrap();
    fs::write(directory.join("server.key"), key).unwrap();
    fs::write(directory.join("ca.pem"), authority.certificate.pem()).unwrap();
}
