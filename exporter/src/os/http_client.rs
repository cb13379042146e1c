//! An HTTP client: one request per connection, and a response of bounded size. No proxies, redirects or
//! cookies. Timeouts are up to the caller.

use std::{
    fmt, io,
    net::{SocketAddr, ToSocketAddrs as _},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, Response,
    body::{Body, Incoming},
    client::conn::http1::{self, SendRequest},
    header::{HOST, HeaderValue},
    http::response::Parts,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    task::JoinSet,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
        client::{
            ResolvesClientCert,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        },
        crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature},
        pki_types::{
            CertificateDer, InvalidDnsNameError, ServerName, UnixTime, pem, pem::PemObject as _,
        },
        sign::CertifiedKey,
    },
};

/// Maximum size of a response body.
const MAX_BODY_BYTES: usize = 1 << 20;

/// Maximum size of a response's head.
const MAX_HEAD_BYTES: usize = 1 << 14;

/// The error when there is no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("connecting to {server}")]
    Connect { server: String, source: io::Error },
    #[error("TLS with {server}")]
    Tls { server: String, source: io::Error },
    #[error("{server}: not a valid TLS server name")]
    ServerName { server: String, source: InvalidDnsNameError },
    #[error("{server}: the HTTP exchange failed")]
    Protocol { server: String, source: hyper::Error },
    #[error("{server}: incomplete or malformed HTTP response")]
    Body { server: String, source: hyper::Error },
    #[error("{server}: the response is larger than {MAX_BODY_BYTES} bytes")]
    TooLarge { server: String },
}

/// The error when the addresses of a host are not known.
#[derive(Debug, thiserror::Error)]
#[error("looking up {host}")]
pub(crate) struct LookupError {
    host: String,
    source: io::Error,
}

/// The error when certificate authorities cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    #[error("not PEM")]
    Pem(#[source] pem::Error),
    #[error("no certificate in it")]
    Empty,
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// The server that requests go to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Server<'s> {
    /// Its name or address, for the `Host` header and for TLS.
    pub(crate) host: &'s str,
    pub(crate) port: u16,
    /// Where to connect; the first that answers. Looking up a name is up to the caller, since it blocks.
    pub(crate) addresses: &'s [SocketAddr],
}

impl fmt::Display for Server<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { host, port, .. } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self { host, port, .. } => write!(f, "{host}:{port}"),
        }
    }
}

impl Server<'_> {
    /// Sends a request without a body, over TLS if `tls` is given.
    pub(crate) async fn send(
        self,
        request: Request<Empty<Bytes>>,
        tls: Option<Arc<ClientConfig>>,
    ) -> Result<Response<Bytes>, HttpError> {
        self.open(request, tls).await?.finish().await
    }

    /// Sends a request like [`Server::send`], and returns once the head of the response is there.
    pub(crate) async fn open(
        self,
        mut request: Request<Empty<Bytes>>,
        tls: Option<Arc<ClientConfig>>,
    ) -> Result<Exchange, HttpError> {
        let server = || self.to_string();
        if let Ok(host) = server().parse() {
            request.headers_mut().insert(HOST, host);
        }
        let stream = TcpStream::connect(self.addresses).await;
        let stream = stream.map_err(|source| HttpError::Connect { server: server(), source })?;
        let Some(tls) = tls else { return Exchange::begin(server(), stream, request).await };
        let name = ServerName::try_from(self.host.to_owned())
            .map_err(|source| HttpError::ServerName { server: server(), source })?;
        let stream = TlsConnector::from(tls).connect(name, stream).await;
        let stream = stream.map_err(|source| HttpError::Tls { server: server(), source })?;
        Exchange::begin(server(), stream, request).await
    }
}

/// Sends a request without a body over a Unix socket, over TLS if `tls` is given.
pub(crate) async fn send_to_socket(
    path: &Path,
    mut request: Request<Empty<Bytes>>,
    tls: Option<Arc<ClientConfig>>,
) -> Result<Response<Bytes>, HttpError> {
    let Some(tls) = tls else { return open_socket(path, request).await?.finish().await };
    let server = format!("unix:{}", path.display());
    request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    let stream = UnixStream::connect(path).await;
    let stream = stream.map_err(|source| HttpError::Connect { server: server.clone(), source })?;
    let name = ServerName::try_from("localhost")
        .map_err(|source| HttpError::ServerName { server: server.clone(), source })?;
    let stream = TlsConnector::from(tls).connect(name, stream).await;
    let stream = stream.map_err(|source| HttpError::Tls { server: server.clone(), source })?;
    Exchange::begin(server, stream, request).await?.finish().await
}

/// Sends a request without TLS like [`send_to_socket`], and returns once the head of the response is there.
pub(crate) async fn open_socket(
    path: &Path,
    mut request: Request<Empty<Bytes>>,
) -> Result<Exchange, HttpError> {
    let server = format!("unix:{}", path.display());
    request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    match UnixStream::connect(path).await {
        Ok(stream) => Exchange::begin(server, stream, request).await,
        Err(source) => Err(HttpError::Connect { server, source }),
    }
}

/// A response whose body may not be there yet. Dropping it ends the connection.
#[derive(Debug)]
pub(crate) struct Exchange {
    server: String,
    head: Parts,
    body: Incoming,
    _sender: SendRequest<Empty<Bytes>>,
    _driver: JoinSet<hyper::Result<()>>,
}

impl Exchange {
    async fn begin(
        server: String,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        request: Request<Empty<Bytes>>,
    ) -> Result<Self, HttpError> {
        let protocol = |source| HttpError::Protocol { server: server.clone(), source };
        let mut client = http1::Builder::new();
        client.max_buf_size(MAX_HEAD_BYTES);
        let (mut sender, connection) =
            client.handshake(TokioIo::new(stream)).await.map_err(protocol)?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let (head, body) = sender.send_request(request).await.map_err(protocol)?.into_parts();
        Ok(Self { server, head, body, _sender: sender, _driver: driver })
    }

    /// The head of the response.
    pub(crate) const fn head(&self) -> &Parts {
        &self.head
    }

    /// Waits for the next piece of the body; `None` at its end. Trailers, which hyper limits, are dropped.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, HttpError> {
        chunk(&mut self.body)
            .await
            .map_err(|source| HttpError::Body { server: self.server.clone(), source })
    }

    /// Receives the whole body, of at most [`MAX_BODY_BYTES`].
    pub(crate) async fn finish(self) -> Result<Response<Bytes>, HttpError> {
        match collect(self.body).await {
            Ok(Some(body)) => Ok(Response::from_parts(self.head, body)),
            Ok(None) => Err(HttpError::TooLarge { server: self.server }),
            Err(source) => Err(HttpError::Body { server: self.server, source }),
        }
    }
}

async fn chunk<B>(body: &mut B) -> Result<Option<Bytes>, B::Error>
where
    B: Body<Data = Bytes> + Unpin,
{
    while let Some(frame) = body.frame().await {
        if let Ok(chunk) = frame?.into_data() {
            return Ok(Some(chunk));
        }
    }
    Ok(None)
}

/// Reads a whole body; `None` if it is larger than [`MAX_BODY_BYTES`]. Copies each chunk: to keep one of a
/// single byte costs more than a hundred.
async fn collect<B>(mut body: B) -> Result<Option<Bytes>, B::Error>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut bytes = Vec::new();
    while let Some(chunk) = chunk(&mut body).await? {
        if chunk.len() > MAX_BODY_BYTES - bytes.len() {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes.into()))
}

/// Returns the addresses of a host: itself, or those of its name. A name blocks as long as its resolver does.
pub(crate) fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, LookupError> {
    let lookup = |source| LookupError { host: host.to_owned(), source };
    Ok((host, port).to_socket_addrs().map_err(lookup)?.collect())
}

/// Builds a TLS configuration that trusts only these certificate authorities, in PEM.
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

/// A TLS client that takes any certificate for the server's, and has none itself. It sends nothing secret.
#[derive(Debug, Default)]
pub(crate) struct AnyServer(Arc<Asked>);

/// Whether the server asked for a certificate.
#[derive(Debug, Default)]
struct Asked(AtomicBool);

impl AnyServer {
    /// The configuration of connections.
    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        let provider = Arc::new(ring::default_provider());
        let verifier = AnyCertificate(provider.signature_verification_algorithms);
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has cipher suites of each version")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::clone(&self.0) as Arc<dyn ResolvesClientCert>);
        Arc::new(config)
    }

    /// Whether the server has asked for a certificate.
    pub(crate) fn has_asked(&self) -> bool {
        self.0.0.load(Ordering::Relaxed)
    }
}

impl ResolvesClientCert for Asked {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// Takes any certificate whose key the server has.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        pin::Pin,
        task::{Context, Poll},
    };

    use hyper::body::Frame;

    use super::*;

    /// A body of chunks of one byte, followed by trailers.
    struct Chunks {
        left: usize,
        /// Counts the references to chunks.
        alive: Arc<()>,
    }

    struct Chunk(#[expect(dead_code, reason = "only counted")] Arc<()>);

    impl AsRef<[u8]> for Chunk {
        fn as_ref(&self) -> &[u8] {
            b"x"
        }
    }

    impl Body for Chunks {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            assert_eq!(Arc::strong_count(&self.alive), 1, "a chunk is kept");
            let chunk = Bytes::from_owner(Chunk(Arc::clone(&self.alive)));
            let left = self.left.checked_sub(1);
            self.left = left.unwrap_or_default();
            let frame = if left.is_some() { Frame::data(chunk) } else { return Poll::Ready(None) };
            Poll::Ready(Some(Ok(frame)))
        }
    }

    fn chunks(left: usize) -> Chunks {
        Chunks { left, alive: Arc::new(()) }
    }

    #[tokio::test]
    async fn a_body_costs_its_size_however_it_is_cut() {
        let body = collect(chunks(MAX_BODY_BYTES)).await.unwrap().unwrap();
        assert_eq!(body.len(), MAX_BODY_BYTES);
        assert_eq!(body.try_into_mut().unwrap().capacity(), MAX_BODY_BYTES);
        assert_eq!(collect(chunks(0)).await.unwrap().unwrap(), "");
    }

    #[tokio::test]
    async fn an_endless_body_is_too_large() {
        assert_eq!(collect(chunks(usize::MAX)).await.unwrap(), None);
    }
}
