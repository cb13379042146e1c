//! `sched_exporter healthcheck`: checks a running exporter on this machine, for containers without
//! another HTTP client.

use std::{
    error::Error,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use http_body_util::Empty;
use hyper::{Request, StatusCode};
use tokio::time::timeout;

use crate::{
    os::http_client::{HttpError, Server},
    web::address::ListenAddress,
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
    Silent(SocketAddr),
    /// The response was not 200.
    #[error("{0}{PATH} responded with {1}")]
    Status(SocketAddr, StatusCode),
    /// The host name resolved to no address.
    #[error("`{0}` has no address")]
    NoAddress(String),
}

/// Requests `/-/healthy` from the exporter that listens on `address`.
pub async fn healthcheck(address: &ListenAddress) -> Result<(), Unhealthy> {
    let mut unhealthy = Unhealthy::NoAddress(address.to_string());
    for candidate in address.candidates().iter().copied().map(reachable) {
        match timeout(TIMEOUT, ask(candidate)).await {
            Ok(Ok(StatusCode::OK)) => return Ok(()),
            Ok(Ok(status)) => return Err(Unhealthy::Status(candidate, status)),
            Ok(Err(error)) => unhealthy = Unhealthy::Unreachable(error.into()),
            Err(_) => unhealthy = Unhealthy::Silent(candidate),
        }
    }
    Err(unhealthy)
}

async fn ask(address: SocketAddr) -> Result<StatusCode, HttpError> {
    let host = address.ip().to_string();
    let server = Server { host: &host, port: address.port() };
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = hyper::Uri::from_static(PATH);
    Ok(server.send(request, None).await?.status())
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
