//! `sched_exporter healthcheck`: checks a running exporter on this machine, for containers without
//! another HTTP client.

use std::{
    error::Error,
    fmt::Display,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Request, Response, StatusCode};
use tokio::time::timeout;

use crate::{
    os::http_client::{self, HttpError, Server},
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
    /// The host name could not be resolved.
    #[error("`{0}`: {1}")]
    Unresolved(String, io::Error),
}

/// Requests `/-/healthy` from the exporter that listens on `address`.
pub async fn healthcheck(address: &ListenAddress) -> Result<(), Unhealthy> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = hyper::Uri::from_static(PATH);
    let candidates = match address.target() {
        Target::Tcp(tcp) => {
            tcp.resolve().map_err(|error| Unhealthy::Unresolved(address.to_string(), error))?
        }
        Target::Unix(path) => {
            return check(address, http_client::send_to_socket(path, request)).await;
        }
    };
    let mut unhealthy = None;
    for candidate in candidates.into_iter().map(reachable) {
        let host = candidate.ip().to_string();
        let server = Server { host: &host, port: candidate.port(), addresses: &[candidate] };
        match check(&candidate, server.send(request.clone(), None)).await {
            Err(error @ (Unhealthy::Unreachable(_) | Unhealthy::Silent(_))) => {
                unhealthy = Some(error);
            }
            checked => return checked,
        }
    }
    unhealthy.map_or(Ok(()), Err)
}

async fn check(
    address: &impl Display,
    response: impl Future<Output = Result<Response<Bytes>, HttpError>>,
) -> Result<(), Unhealthy> {
    match timeout(TIMEOUT, response).await {
        Ok(Ok(response)) if response.status() == StatusCode::OK => Ok(()),
        Ok(Ok(response)) => Err(Unhealthy::Status(address.to_string(), response.status())),
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
