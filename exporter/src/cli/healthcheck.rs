//! `sched_exporter healthcheck`: checks a running exporter on this machine, for containers without
//! another HTTP client.
//!
//! With TLS, it verifies no certificate: it asks this machine, and sends no secret. Where the exporter requires a
//! certificate, its refusal for want of one shows that it serves.

use std::{
    error::Error,
    fmt::Display,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Request, Response, StatusCode};
use tokio::time::timeout;

use crate::{
    access::{self, WebConfigError},
    os::http_client::{self, AnyServer, HttpError, Server},
    web::address::{ListenAddress, Target},
};

/// Time limit for the response; it usually takes less than a millisecond.
const TIMEOUT: Duration = Duration::from_secs(2);

const PATH: &str = "/-/healthy";

/// The error when the exporter is not known to be healthy.
#[derive(Debug, thiserror::Error)]
pub enum Unhealthy {
    /// The request failed.
    #[error(transparent)]
    Unreachable(Box<dyn Error + Send + Sync>),
    /// There was no response in time.
    #[error("{0}: no response within {TIMEOUT:?}")]
    Silent(String),
    /// The response was not 200.
    #[error("{0}{PATH} responded with {1}")]
    Status(String, StatusCode),
    /// The web configuration does not say how to connect.
    #[error("--web.config.file: {}", .0.one_line())]
    WebConfig(WebConfigError),
    /// The host name could not be resolved.
    #[error("`{0}`: {1}")]
    Unresolved(String, io::Error),
}

/// Requests `/-/healthy` from the exporter that listens on `address` and has this web configuration, if any.
pub async fn healthcheck(address: &ListenAddress, web: Option<&Path>) -> Result<(), Unhealthy> {
    let web = web.map(access::read).transpose().map_err(Unhealthy::WebConfig)?;
    let server = AnyServer::default();
    let tls = web.and_then(|web| web.tls).map(|tls| (&server, tls.requires_certificate()));
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = hyper::Uri::from_static(PATH);
    let candidates = match address.target() {
        Target::Tcp(tcp) => {
            tcp.resolve().map_err(|error| Unhealthy::Unresolved(address.to_string(), error))?
        }
        Target::Unix(path) => {
            let response =
                http_client::send_to_socket(path, request, tls.map(|(server, _)| server.config()));
            return check(address, tls, response).await;
        }
    };
    let mut unhealthy = None;
    for candidate in candidates.into_iter().map(reachable) {
        let host = candidate.ip().to_string();
        let server = Server { host: &host, port: candidate.port(), addresses: &[candidate] };
        let response = server.send(request.clone(), tls.map(|(server, _)| server.config()));
        match check(&candidate, tls, response).await {
            Err(error @ (Unhealthy::Unreachable(_) | Unhealthy::Silent(_))) => {
                unhealthy = Some(error);
            }
            checked => return checked,
        }
    }
    unhealthy.map_or(Ok(()), Err)
}

/// Waits for the response. `tls` says how it is connected, and whether the exporter requires a certificate.
async fn check(
    address: &impl Display,
    tls: Option<(&AnyServer, bool)>,
    response: impl Future<Output = Result<Response<Bytes>, HttpError>>,
) -> Result<(), Unhealthy> {
    match timeout(TIMEOUT, response).await {
        Ok(Ok(response)) if response.status() == StatusCode::OK => Ok(()),
        Ok(Ok(response)) => Err(Unhealthy::Status(address.to_string(), response.status())),
        // It refused the connection for want of a certificate.
        Ok(Err(_)) if tls.is_some_and(|(server, requires)| requires && server.has_asked()) => {
            Ok(())
        }
        Ok(Err(error)) => Err(Unhealthy::Unreachable(error.into())),
        Err(_) => Err(Unhealthy::Silent(address.to_string())),
    }
}

/// Maps wildcard addresses to loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_wildcard_addresses_to_loopback() {
        for (listens, reached) in [
            ("[::]:10435", "[::1]:10435"),
            ("0.0.0.0:10435", "127.0.0.1:10435"),
            ("10.0.0.1:10435", "10.0.0.1:10435"),
        ] {
            let address = reachable(listens.parse().unwrap());
            assert_eq!(address, reached.parse().unwrap());
        }
    }
}
