//! `sched_exporter healthcheck`: asks a running exporter on this machine, for containers that hold
//! nothing else to ask with.

use std::{
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

/// How long the exporter may take; it answers within a millisecond.
const TIMEOUT: Duration = Duration::from_secs(2);

const PATH: &str = "/-/healthy";

/// Why the exporter is not known to be healthy.
#[derive(Debug, thiserror::Error)]
pub enum Unhealthy {
    /// It can't be asked.
    #[error("{0}")]
    Unreachable(String),
    /// It does not answer.
    #[error("{0} does not answer within {TIMEOUT:?}")]
    Silent(SocketAddr),
    /// It says otherwise.
    #[error("{0}{PATH} answers {1}")]
    Answer(SocketAddr, StatusCode),
    /// The address has no candidates.
    #[error("`{0}` is no address")]
    NoAddress(String),
}

/// Asks the exporter that listens on `address`, or would by default.
pub async fn healthcheck(address: &ListenAddress) -> Result<(), Unhealthy> {
    let mut unhealthy = Unhealthy::NoAddress(address.to_string());
    for candidate in address.candidates().iter().copied().map(reachable) {
        match timeout(TIMEOUT, ask(candidate)).await {
            Ok(Ok(StatusCode::OK)) => return Ok(()),
            Ok(Ok(status)) => return Err(Unhealthy::Answer(candidate, status)),
            Ok(Err(error)) => unhealthy = Unhealthy::Unreachable(error.to_string()),
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

/// Who listens on all addresses is reached on the loopback.
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
    fn all_addresses_are_reached_on_the_loopback() {
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
