//! Where the sources are.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf};

use super::files;

/// Where the sources are. It can't be printed: the environment may hold secrets.
#[derive(Clone)]
pub struct SourceOrigins {
    /// Where `/etc`, `/usr/lib` and `/proc` are: `/`.
    pub root: PathBuf,
    /// The environment, as it was at start.
    pub environment: BTreeMap<OsString, OsString>,
    /// The directory of the downward API's `labels` and `annotations`.
    pub pod_info: PathBuf,
    /// The directory of the service account's `ca.crt` and `token`.
    pub service_account: PathBuf,
    /// Host and port of the EC2 metadata service.
    pub aws: (String, u16),
    /// Host and port of the Google Cloud metadata service.
    pub gcp: (String, u16),
    /// Host and port of the Azure metadata service.
    pub azure: (String, u16),
}

impl SourceOrigins {
    /// The usual places, or those that the environment names: `POD_INFO_DIR`, and what the clouds'
    /// own tools read, `AWS_EC2_METADATA_SERVICE_ENDPOINT` and `GCE_METADATA_HOST`.
    pub fn new(environment: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let environment: BTreeMap<_, _> = environment.into_iter().collect();
        let pod_info = environment.get(&OsString::from("POD_INFO_DIR"));
        // All three clouds answer at the same address.
        let usual = || ("169.254.169.254".to_owned(), 80);
        let metadata = |variable: &str| {
            let named = environment.get(&OsString::from(variable)).and_then(|it| it.to_str());
            named.filter(|url| !url.is_empty()).map_or_else(usual, authority)
        };
        let aws = metadata("AWS_EC2_METADATA_SERVICE_ENDPOINT");
        let gcp = metadata("GCE_METADATA_HOST");
        Self {
            root: "/".into(),
            pod_info: pod_info.map_or_else(|| "/etc/podinfo".into(), PathBuf::from),
            environment,
            service_account: "/var/run/secrets/kubernetes.io/serviceaccount".into(),
            aws,
            gcp,
            azure: usual(),
        }
    }

    /// A variable of the environment.
    pub(super) fn variable(&self, name: &str) -> Result<&str, String> {
        let value = self.environment.get(&OsString::from(name));
        let value = value.ok_or_else(|| format!("the environment has no {name}"))?;
        value.to_str().ok_or_else(|| format!("{name} in the environment is not UTF-8"))
    }

    /// A path below `root`.
    pub(super) fn host(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

/// Host and port of `http://host:port/`, of which only the host is needed.
fn authority(url: &str) -> (String, u16) {
    let authority = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    let split =
        authority.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    // An address of IPv6 is in brackets.
    let (host, port) = split.unwrap_or((authority, 80));
    (host.trim_matches(['[', ']']).to_owned(), port)
}

/// A file below `root`, or why there is none.
pub(super) fn read_host(endpoints: &SourceOrigins, path: &str) -> Result<String, String> {
    files::read(&endpoints.host(path)).map_err(|error| error.to_string())
}
