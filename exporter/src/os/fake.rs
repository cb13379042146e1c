//! Servers for tests.

use std::{convert::Infallible, future::pending, sync::Arc};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::net::TcpListener;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

pub(crate) type HttpAnswer = Response<Full<Bytes>>;

pub(crate) fn answer(status: u16, body: impl Into<Bytes>) -> HttpAnswer {
    Response::builder().status(status).body(Full::new(body.into())).unwrap()
}

/// Starts a server on a free loopback port. If `respond` returns `None`, the request hangs.
pub(crate) async fn serve(
    tls: Option<TlsAcceptor>,
    respond: impl Fn(Request<Incoming>) -> Option<HttpAnswer> + Send + Sync + 'static,
) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let respond = Arc::new(respond);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (tls, respond) = (tls.clone(), Arc::clone(&respond));
            let service = service_fn(move |request| {
                let answer = respond(request);
                async move {
                    match answer {
                        Some(answer) => Ok::<_, Infallible>(answer),
                        None => pending().await,
                    }
                }
            });
            tokio::spawn(async move {
                let http = http1::Builder::new();
                // Errors are expected: some tests give up on a connection.
                if let Some(tls) = tls {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                } else {
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                }
            });
        }
    });
    port
}

/// A certificate authority and a server with a certificate signed by it.
pub(crate) struct Authority {
    pub(crate) pem: String,
    pub(crate) acceptor: TlsAcceptor,
}

impl Authority {
    pub(crate) fn new(server: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new([server.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        Self { pem: authority.pem(), acceptor: TlsAcceptor::from(Arc::new(config)) }
    }
}
