//! Parses the addresses to listen on.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _},
    os::unix,
    path::{Path, PathBuf},
    str::FromStr,
};

/// An address to listen on, with its host name resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    text: String,
    target: Target,
}

/// What an address names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The socket addresses that the host and port resolve to. The exporter binds the first that this
    /// machine has.
    Tcp(Vec<SocketAddr>),
    /// The absolute path of a Unix socket.
    Unix(PathBuf),
}

impl ListenAddress {
    /// What it names.
    pub const fn target(&self) -> &Target {
        &self.target
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    /// Parses `HOST:PORT` and resolves the host, `:PORT` for all IPv6 and IPv4 addresses, or `unix:/PATH`.
    fn from_str(text: &str) -> Result<Self, String> {
        let target = match (text.strip_prefix("unix:"), text.strip_prefix(':')) {
            (Some(path), _) => Target::Unix(socket_path(path)?),
            (None, Some(port)) => {
                let port = port.parse().map_err(|error| format!("port `{port}`: {error}"))?;
                Target::Tcp(vec![
                    (Ipv6Addr::UNSPECIFIED, port).into(),
                    (Ipv4Addr::UNSPECIFIED, port).into(),
                ])
            }
            (None, None) => {
                let resolved = text.to_socket_addrs();
                let wrong = |error| format!("{error}; give HOST:PORT, :PORT or unix:/PATH");
                Target::Tcp(resolved.map_err(wrong)?.collect())
            }
        };
        Ok(Self { text: text.to_owned(), target })
    }
}

/// Accepts an absolute path that fits into the address of a socket.
fn socket_path(path: &str) -> Result<PathBuf, String> {
    if !Path::new(path).is_absolute() {
        return Err(format!("path `{path}` is not absolute; give unix:/PATH"));
    }
    unix::net::SocketAddr::from_pathname(path).map_err(|error| error.to_string())?;
    Ok(path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_without_host_means_all_addresses() {
        let address: ListenAddress = ":10435".parse().unwrap();
        let Target::Tcp(candidates) = address.target() else { panic!("{address:?}") };
        let candidates: Vec<_> = candidates.iter().map(ToString::to_string).collect();
        assert_eq!(candidates, ["[::]:10435", "0.0.0.0:10435"]);
    }

    #[test]
    fn unix_sockets_have_absolute_paths() {
        let address: ListenAddress = "unix:/run/exporter.sock".parse().unwrap();
        assert_eq!(address.target(), &Target::Unix("/run/exporter.sock".into()));
        assert_eq!(address.to_string(), "unix:/run/exporter.sock");
    }

    #[test]
    fn rejects_invalid_addresses_with_a_reason() {
        let wrong = |text: &str| text.parse::<ListenAddress>().unwrap_err();
        assert!(wrong(":http").contains("port `http`"));
        assert!(wrong("10435").contains("HOST:PORT"));
        assert!(wrong("unix:exporter.sock").contains("`exporter.sock` is not absolute"));
        assert!(wrong("unix:").contains("not absolute"));
        let long = format!("unix:/{}", "x".repeat(200));
        assert!(wrong(&long).contains("path must be shorter than SUN_LEN"), "{}", wrong(&long));
    }
}
