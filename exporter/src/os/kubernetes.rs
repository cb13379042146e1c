//! The Kubernetes API as a pod reaches it: at the address in its environment, with the service account that is
//! mounted into it.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt,
    net::SocketAddr,
    num::ParseIntError,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{
    Request,
    header::{ACCEPT, AUTHORIZATION, HeaderValue, InvalidHeaderValue},
};
use tokio_rustls::rustls::ClientConfig;

use super::{
    files::{self, FileError},
    http_client::{self, Exchange, HttpError, LookupError, Server, TrustError},
};

/// Maximum size of the certificate and of the token.
const MAX_FILE_BYTES: u64 = 1 << 16;

/// The reason why the API cannot be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("environment variable {0} is not set")]
    NoVariable(&'static str),
    #[error("environment variable {0} is not UTF-8")]
    VariableNotUtf8(&'static str),
    #[error("NODE_NAME `{0}` is not a valid node name")]
    NodeName(String),
    #[error("KUBERNETES_SERVICE_PORT `{port}` is not a port")]
    Port { port: String, source: ParseIntError },
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error("cannot trust `{}`", path.display())]
    Trust { path: PathBuf, source: TrustError },
    #[error("the service account's token cannot be sent in a header")]
    Token(#[source] InvalidHeaderValue),
    #[error("cannot build a request for {server}")]
    Request { server: String, source: hyper::http::Error },
    #[error(transparent)]
    Http(#[from] HttpError),
}

/// The API, and the node that this pod runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiServer {
    node: String,
    host: String,
    port: u16,
    service_account: PathBuf,
}

/// What a request needs, and can change at any time. It does not implement `Debug`, since it has the token.
pub(crate) struct Access {
    addresses: Vec<SocketAddr>,
    tls: Arc<ClientConfig>,
    bearer: HeaderValue,
}

impl ApiServer {
    /// Finds the API in a pod's environment. `service_account` is the directory with `ca.crt` and `token`.
    pub(crate) fn find(
        environment: &BTreeMap<OsString, OsString>,
        service_account: &Path,
    ) -> Result<Self, ApiError> {
        let variable = |name: &'static str| {
            let value = environment.get(OsStr::new(name)).ok_or(ApiError::NoVariable(name))?;
            value.to_str().ok_or(ApiError::VariableNotUtf8(name))
        };
        let node = variable("NODE_NAME")?;
        // A node name is a DNS name; this one becomes part of a path.
        if node.is_empty() || !node.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
        {
            return Err(ApiError::NodeName(node.into()));
        }
        let host = variable("KUBERNETES_SERVICE_HOST")?.to_owned();
        let port = variable("KUBERNETES_SERVICE_PORT")?;
        let port = port.parse().map_err(|source| ApiError::Port { port: port.into(), source })?;
        Ok(Self { node: node.into(), host, port, service_account: service_account.into() })
    }

    /// The name of the node.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    /// Reads the certificate and the token, and looks up the address. Blocks as long as the filesystem and the
    /// resolver do.
    pub(crate) fn access(&self) -> Result<Access, ApiError> {
        let certificate = self.service_account.join("ca.crt");
        let authority = files::read(&certificate, MAX_FILE_BYTES)?;
        let token = files::read(&self.service_account.join("token"), MAX_FILE_BYTES)?;
        let addresses = http_client::addresses(&self.host, self.port)?;
        let tls = http_client::trust(&authority)
            .map_err(|source| ApiError::Trust { path: certificate, source })?;
        let bearer = [b"Bearer ", token.trim_ascii_end()].concat();
        let mut bearer = HeaderValue::try_from(bearer).map_err(ApiError::Token)?;
        bearer.set_sensitive(true);
        Ok(Access { addresses, tls, bearer })
    }

    /// Requests an object or a list in a format.
    pub(crate) async fn get(
        &self,
        access: &Access,
        path: &str,
        format: &'static str,
    ) -> Result<Exchange, ApiError> {
        let server = Server { host: &self.host, port: self.port, addresses: &access.addresses };
        let request = Request::get(path)
            .header(ACCEPT, format)
            .header(AUTHORIZATION, access.bearer.clone())
            .body(Empty::<Bytes>::new())
            .map_err(|source| ApiError::Request { server: server.to_string(), source })?;
        Ok(server.open(request, Some(Arc::clone(&access.tls))).await?)
    }
}

impl fmt::Display for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Server { host: &self.host, port: self.port, addresses: &[] }.fmt(f)
    }
}
