//! The directories, addresses and environment that sources are read from.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf};

use super::{SourceError, files};

/// Host and port of a server.
pub(super) type Endpoint = (String, u16);

/// The directories, addresses and environment that sources are read from. It does not implement `Debug`,
/// since the environment may hold secrets.
#[derive(Clone)]
pub struct SourceOrigins {
    /// The directory above `etc`, `usr/lib` and `proc`: `/`, except in tests.
    pub root: PathBuf,
    /// The environment at start-up.
    pub environment: BTreeMap<OsString, OsString>,
    /// The directory with the files `labels` and `annotations` of the downward API.
    pub pod_info: PathBuf,
    /// The directory with the service account's `ca.crt` and `token`.
    pub service_account: PathBuf,
    /// Host and port of the EC2 metadata service.
    pub aws: (String, u16),
    /// Host and port of the Google Cloud metadata service.
    pub gcp: (String, u16),
    /// Host and port of the Azure metadata service.
    pub azure: (String, u16),
}

impl SourceOrigins {
    /// Returns the standard origins, except those that the environment overrides: with `POD_INFO_DIR`, or
    /// with the variables of the clouds' own tools, `AWS_EC2_METADATA_SERVICE_ENDPOINT` and
    /// `GCE_METADATA_HOST`.
    pub fn new(environment: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let environment: BTreeMap<_, _> = environment.into_iter().collect();
        let variable = |name: &str| environment.get(&OsString::from(name));
        // All three clouds use the same address.
        let standard = || ("169.254.169.254".to_owned(), 80);
        let metadata = |name: &str| match variable(name).and_then(|url| url.to_str()) {
            None | Some("") => standard(),
            Some(url) => authority(url),
        };
        Self {
            root: "/".into(),
            pod_info: variable("POD_INFO_DIR").map_or_else(|| "/etc/podinfo".into(), PathBuf::from),
            service_account: "/var/run/secrets/kubernetes.io/serviceaccount".into(),
            aws: metadata("AWS_EC2_METADATA_SERVICE_ENDPOINT"),
            gcp: metadata("GCE_METADATA_HOST"),
            azure: standard(),
            environment,
        }
    }

    /// Returns the value of an environment variable.
    pub(super) fn variable(&self, name: &str) -> Result<&str, SourceError> {
        let value = self.environment.get(&OsString::from(name));
        let value = value.ok_or_else(|| SourceError::NoVariable(name.into()))?;
        value.to_str().ok_or_else(|| SourceError::VariableNotUtf8(name.into()))
    }

    /// Reads a small text file below `root`.
    pub(super) fn read_host(&self, path: &str) -> Result<String, SourceError> {
        files::read(&self.root.join(path.trim_start_matches('/')))
    }

    /// The file with the pod's labels.
    pub(super) fn pod_labels(&self) -> PathBuf {
        self.pod_info.join("labels")
    }

    /// The file with the pod's annotations.
    pub(super) fn pod_annotations(&self) -> PathBuf {
        self.pod_info.join("annotations")
    }
}

/// Splits `http://host:port/`; scheme, port and slash are optional. An IPv6 address is in brackets:
/// `http://[fd00:ec2::254]/` gives `fd00:ec2::254` and 80.
fn authority(url: &str) -> Endpoint {
    let authority = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    let with_port =
        authority.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = with_port.unwrap_or((authority, 80));
    (host.trim_matches(['[', ']']).to_owned(), port)
}
