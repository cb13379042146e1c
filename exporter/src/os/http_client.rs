//! HTTP as a client: one request, one connection, one answer of bounded size. There are no proxies,
//! redirects or cookies. Time is bounded by whoever asks.

use std::{fmt, io, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::{Request, Response, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        self, ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, InvalidDnsNameError, ServerName, pem, pem::PemObject as _},
    },
};

/// Size of the largest body that is read.
const MAX_BODY_BYTES: usize = 1 << 20;

/// Size of the largest head of an answer.
const MAX_HEAD_BYTES: usize = 1 << 14;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("connecting to {server}: {error}")]
    Connect { server: String, error: io::Error },
    #[error("TLS with {server}: {error}")]
    Tls { server: String, error: io::Error },
    #[error("{server} is no name that a certificate can have: {error}")]
    ServerName { server: String, error: InvalidDnsNameError },
    #[error("{server}: {error}")]
    Protocol { server: String, error: hyper::Error },
    #[error("{server}: the answer breaks off or is not HTTP: {error}")]
    Body { server: String, error: Box<dyn std::error::Error + Send + Sync> },
    #[error("{server}: the answer is larger than {MAX_BODY_BYTES} bytes")]
    TooLarge { server: String },
}

/// Why certificate authorities can't be trusted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    #[error("not PEM: {0}")]
    Pem(pem::Error),
    #[error("no certificate in it")]
    Empty,
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// Where requests go: a host and a port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Server<'s> {
    pub(crate) host: &'s str,
    pub(crate) port: u16,
}

impl fmt::Display for Server<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl Server<'_> {
    /// Sends a request without a body, over TLS if it is given what to trust.
    pub(crate) async fn send(
        self,
        mut request: Request<Empty<Bytes>>,
        tls: Option<Arc<ClientConfig>>,
    ) -> Result<Response<Bytes>, HttpError> {
        let server = || self.to_string();
        if let Ok(host) = server().parse() {
            request.headers_mut().insert(HOST, host);
        }
        let stream = TcpStream::connect((self.host, self.port)).await;
        let stream = stream.map_err(|error| HttpError::Connect { server: server(), error })?;
        let Some(tls) = tls else { return self.exchange(stream, request).await };
        let name = ServerName::try_from(self.host.to_owned())
            .map_err(|error| HttpError::ServerName { server: server(), error })?;
        let stream = TlsConnector::from(tls).connect(name, stream).await;
        let stream = stream.map_err(|error| HttpError::Tls { server: server(), error })?;
        self.exchange(stream, request).await
    }

    async fn exchange(
        self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        request: Request<Empty<Bytes>>,
    ) -> Result<Response<Bytes>, HttpError> {
        let protocol = |error| HttpError::Protocol { server: self.to_string(), error };
        let mut client = http1::Builder::new();
        client.max_buf_size(MAX_HEAD_BYTES);
        let (mut sender, connection) =
            client.handshake(TokioIo::new(stream)).await.map_err(protocol)?;
        // Dropped with this exchange, whether it ends or is given up.
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let (head, body) = sender.send_request(request).await.map_err(protocol)?.into_parts();
        let body = Limited::new(body, MAX_BODY_BYTES).collect().await.map_err(|error| {
            let server = self.to_string();
            if error.is::<LengthLimitError>() {
                HttpError::TooLarge { server }
            } else {
                HttpError::Body { server, error }
            }
        })?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}

/// Trusts these certificate authorities alone.
pub(crate) fn trust(certificates: &[u8]) -> Result<Arc<ClientConfig>, TrustError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(certificates) {
        roots.add(certificate.map_err(TrustError::Pem)?)?;
    }
    if roots.is_empty() {
        return Err(TrustError::Empty);
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
