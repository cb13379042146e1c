//! Listens on TCP and Unix sockets, which it binds or systemd passes.

use std::{
    fmt, io,
    net::{self, Ipv6Addr, SocketAddr},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix,
    },
    path::PathBuf,
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, SockType, SockaddrLike as _, SockaddrStorage, getsockname, getsockopt,
        setsockopt, sockopt,
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, UnixListener},
};

use super::{
    address::{ListenAddress, Target},
    socket::{Resetting, limit_buffers, limit_unix_buffer},
};
use crate::os::{
    systemd,
    unix_socket::{self, SocketFile},
};

/// Maximum number of connections that the kernel queues to be accepted.
const BACKLOG: u32 = 1_024;

/// The socket of a connection.
pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Socket for S {}

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Peer {
    Tcp(SocketAddr),
    Unix,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// A socket that accepts connections.
pub struct Listener {
    socket: Listening,
    address: String,
}

enum Listening {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        /// The file, which is removed with this, if the exporter made it.
        file: Option<SocketFile>,
    },
}

/// The error when the exporter cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// An address cannot be bound.
    #[error("cannot listen on `{address}`")]
    Bind {
        /// As given on the command line.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// What systemd passed cannot be read.
    #[error("cannot take the sockets that systemd passes")]
    Passed(#[source] io::Error),
    /// systemd passed none.
    #[error(
        "systemd passed no sockets; start the exporter by a socket unit, or without \
         --web.systemd-socket"
    )]
    NonePassed,
    /// systemd passed something else.
    #[error(
        "file descriptor {0}, passed by systemd, is not a TCP or Unix stream socket that listens; in \
         the socket unit, use only ListenStream=, with Accept=no"
    )]
    Unsuitable(i32),
}

impl Listener {
    /// Where it listens, as for `--web.listen-address`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The directory from which dropping this removes the file of its socket.
    pub fn directory(&self) -> Option<PathBuf> {
        match &self.socket {
            Listening::Unix { file, .. } => Some(file.as_ref()?.path().parent()?.to_owned()),
            Listening::Tcp(_) => None,
        }
    }

    /// Accepts a connection.
    pub(super) async fn accept(&self) -> io::Result<(Box<dyn Socket>, Peer)> {
        match &self.socket {
            Listening::Tcp(listener) => {
                let (socket, peer) = listener.accept().await?;
                let peer = Peer::Tcp(peer);
                if let Err(error) = socket.set_nodelay(true) {
                    tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
                }
                Ok((Box::new(Resetting::new(socket)), peer))
            }
            Listening::Unix { listener, .. } => {
                let (socket, _) = listener.accept().await?;
                if let Err(error) = limit_unix_buffer(&socket) {
                    tracing::debug!(%error, "cannot limit the buffer of a Unix socket");
                }
                Ok((Box::new(socket), Peer::Unix))
            }
        }
    }

    fn tcp(listener: TcpListener) -> io::Result<Self> {
        limit_buffers(&listener)?;
        let address = listener.local_addr()?.to_string();
        Ok(Self { socket: Listening::Tcp(listener), address })
    }

    fn unix(listener: UnixListener, file: Option<SocketFile>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let path = address.as_pathname().map_or_else(String::new, |it| it.display().to_string());
        let socket = Listening::Unix { listener, file };
        Ok(Self { socket, address: format!("unix:{path}") })
    }
}

/// Binds every address, each to the first of its candidates that this machine has. Any other error is
/// returned: otherwise a port in use would be served on only some addresses. Blocks as long as the resolver
/// does.
///
/// Call it inside a tokio runtime.
pub fn bind(addresses: &[ListenAddress]) -> Result<Vec<Listener>, ListenError> {
    let named = |address: &ListenAddress| {
        let bound = match address.target() {
            Target::Tcp(tcp) => {
                tcp.resolve().and_then(|them| bind_first(&them)).and_then(Listener::tcp)
            }
            Target::Unix(path) => unix_socket::bind(path, BACKLOG)
                .and_then(|(listener, file)| Listener::unix(listener, Some(file))),
        };
        bound.map_err(|source| ListenError::Bind { address: address.to_string(), source })
    };
    addresses.iter().map(named).collect()
}

/// Takes the sockets that systemd passes.
///
/// Call it once, inside a tokio runtime.
pub fn passed() -> Result<Vec<Listener>, ListenError> {
    let sockets = systemd::sockets().map_err(ListenError::Passed)?;
    if sockets.is_empty() {
        return Err(ListenError::NonePassed);
    }
    sockets.into_iter().map(listen_on).collect()
}

fn listen_on(socket: OwnedFd) -> Result<Listener, ListenError> {
    let number = socket.as_raw_fd();
    let is_listening = getsockopt(&socket.as_fd(), sockopt::AcceptConn) == Ok(true);
    let is_stream = getsockopt(&socket.as_fd(), sockopt::SockType) == Ok(SockType::Stream);
    let family = getsockname::<SockaddrStorage>(number).ok().and_then(|address| address.family());
    let listener = match family {
        Some(AddressFamily::Inet | AddressFamily::Inet6) if is_listening && is_stream => {
            let listener = net::TcpListener::from(socket);
            listener
                .set_nonblocking(true)
                .and_then(|()| Listener::tcp(TcpListener::from_std(listener)?))
        }
        Some(AddressFamily::Unix) if is_listening && is_stream => {
            let listener = unix::net::UnixListener::from(socket);
            listener
                .set_nonblocking(true)
                .and_then(|()| Listener::unix(UnixListener::from_std(listener)?, None))
        }
        _ => return Err(ListenError::Unsuitable(number)),
    };
    listener.map_err(ListenError::Passed)
}

fn bind_first(candidates: &[SocketAddr]) -> io::Result<TcpListener> {
    let mut bound = Err(io::ErrorKind::AddrNotAvailable.into());
    for candidate in candidates {
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
    use std::net::UdpSocket;

    use super::*;

    #[tokio::test]
    async fn takes_listening_stream_sockets_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let tcp = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        assert_eq!(listen_on(tcp.into()).unwrap().address(), address.to_string());
        let unix = unix::net::UnixListener::bind(&path).unwrap();
        let listener = listen_on(unix.into()).unwrap();
        assert_eq!(listener.address(), format!("unix:{}", path.display()));
        drop(listener);
        assert!(path.exists(), "systemd's socket was removed");

        let connected = unix::net::UnixStream::pair().unwrap().0;
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        for unsuitable in [OwnedFd::from(connected), datagrams.into(), file.into()] {
            let number = unsuitable.as_raw_fd();
            let error = listen_on(unsuitable).err().unwrap();
            assert!(matches!(error, ListenError::Unsuitable(it) if it == number), "{error}");
        }
    }
}
