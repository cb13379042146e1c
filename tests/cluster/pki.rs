//! The certificates of a cluster.

use std::{fs, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};

/// An authority, which writes certificates and keys into a directory.
pub(crate) struct Authority<'d> {
    directory: &'d Path,
    issuer: Issuer<'static, KeyPair>,
}

impl<'d> Authority<'d> {
    /// Creates it, and writes its certificate as `ca.crt`.
    pub(crate) fn new(directory: &'d Path) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "kubernetes");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        fs::write(directory.join("ca.crt"), certificate.pem()).unwrap();
        Self { directory, issuer: Issuer::new(params, key) }
    }

    /// Writes the certificate of a user in a group, with names as a server, and its key.
    pub(crate) fn certify(&self, file: &str, user: &str, group: &str, names: &[&str]) {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |extension: &str| self.directory.join(file).with_extension(extension);
        fs::write(path("crt"), certificate.pem()).unwrap();
        fs::write(path("key"), key.serialize_pem()).unwrap();
    }

    /// Writes the keys of the tokens of service accounts.
    pub(crate) fn sign_tokens(&self) {
        let key = KeyPair::generate().unwrap();
        fs::write(self.directory.join("tokens.key"), key.serialize_pem()).unwrap();
        fs::write(self.directory.join("tokens.pub"), key.public_key_pem()).unwrap();
    }
}
