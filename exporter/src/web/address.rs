//! Parses the addresses to listen on, and binds sockets to them.

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

/// Maximum number of connections that the kernel queues to be accepted.
const BACKLOG: u32 = 1_024;

/// An address to listen on, with its host name resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    text: String,
    candidates: Vec<SocketAddr>,
}

impl ListenAddress {
    /// The socket addresses that it resolves to. [`bind`] uses the first that this machine has.
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

    /// Parses `HOST:PORT` and resolves the host, or parses `:PORT` for all IPv6 and IPv4 addresses.
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

/// The error when an address cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on `{address}`")]
pub struct BindError {
    address: String,
    source: io::Error,
}

/// Binds every address, each to the first of its candidates that this machine has. Any other error is
/// returned: otherwise a port in use would be served on only some addresses.
///
/// Call it inside a tokio runtime.
pub fn bind(addresses: &[ListenAddress]) -> Result<Vec<TcpListener>, BindError> {
    let named = |address: &ListenAddress| {
        bind_one(address).map_err(|source| BindError { address: address.to_string(), source })
    };
    addresses.iter().map(named).collect()
}

fn bind_one(address: &ListenAddress) -> io::Result<TcpListener> {
    let mut bound = Err(io::ErrorKind::AddrNotAvailable.into());
    for candidate in address.candidates() {
        bound = listen(*candidate);
        if !bound.as_ref().is_err_and(is_absent) {
            break;
        }
    }
    bound
}

/// Listens on a socket address. The IPv6 wildcard address includes IPv4, whatever the value of
/// `net.ipv6.bindv6only`.
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
    fn port_without_host_means_all_addresses() {
        let address: ListenAddress = ":10435".parse().unwrap();
        let candidates: Vec<_> = address.candidates().iter().map(ToString::to_string).collect();
        assert_eq!(candidates, ["[::]:10435", "0.0.0.0:10435"]);
    }

    #[test]
    fn rejects_invalid_addresses_with_a_reason() {
        assert!(":http".parse::<ListenAddress>().unwrap_err().contains("port `http`"));
        assert!("10435".parse::<ListenAddress>().unwrap_err().contains("HOST:PORT"));
    }
}
