//! Addresses to listen on.

use std::{
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _},
    str::FromStr,
};

use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt},
};
use tokio::net::{TcpListener, TcpSocket};

/// Connections that the kernel holds for us to accept.
const BACKLOG: u32 = 1_024;

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    text: String,
    candidates: Vec<SocketAddr>,
}

impl ListenAddress {
    /// What to bind: the first that this machine has.
    pub fn candidates(&self) -> &[SocketAddr] {
        &self.candidates
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    /// Resolves host names. `:PORT` is all addresses, of IPv6 with IPv4 where there is IPv6.
    fn from_str(text: &str) -> Result<Self, String> {
        let candidates = match text.strip_prefix(':') {
            Some(port) => {
                let port = port.parse().map_err(|error| format!("port `{port}`: {error}"))?;
                vec![(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()]
            }
            None => text
                .to_socket_addrs()
                .map_err(|error| format!("{error}; give HOST:PORT or :PORT"))?
                .collect(),
        };
        Ok(Self { text: text.to_owned(), candidates })
    }
}

/// An address could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("listening on `{address}`: {source}")]
pub struct BindError {
    address: String,
    source: io::Error,
}

/// Binds every address: the first of its candidates that this machine has. Another error than that it
/// has not is for whoever chose the address, since a port that is taken would else be served in part.
/// To be called inside a tokio runtime.
pub fn bind(addresses: &[ListenAddress]) -> Result<Vec<TcpListener>, BindError> {
    let mut listeners = Vec::new();
    for address in addresses {
        let mut bound = Err(io::Error::from(io::ErrorKind::AddrNotAvailable));
        for candidate in address.candidates() {
            bound = listen(*candidate);
            if !bound.as_ref().is_err_and(is_absent) {
                break;
            }
        }
        let bound = bound.map_err(|source| BindError { address: address.to_string(), source })?;
        listeners.push(bound);
    }
    Ok(listeners)
}

/// Listens on all addresses of IPv4 too where that is on all of IPv6, whatever the machine's default.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Whether the machine lacks the address, or its family.
fn is_absent(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_all_addresses() {
        let address: ListenAddress = ":10435".parse().unwrap();
        let candidates: Vec<_> = address.candidates().iter().map(ToString::to_string).collect();
        assert_eq!(candidates, ["[::]:10435", "0.0.0.0:10435"]);
    }

    #[test]
    fn a_bad_address_is_refused_with_a_reason() {
        assert!(":http".parse::<ListenAddress>().unwrap_err().contains("port `http`"));
        assert!("10435".parse::<ListenAddress>().unwrap_err().contains("HOST:PORT"));
    }
}
