//! Parses the addresses to listen on.

use std::{
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _},
    os::unix,
    path::{Path, PathBuf},
    str::FromStr,
};

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    text: String,
    target: Target,
}

/// What an address names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A host and a port.
    Tcp(HostPort),
    /// The absolute path of a Unix socket.
    Unix(PathBuf),
}

/// `HOST:PORT`, or `:PORT` for all addresses of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    text: String,
    port: u16,
}

impl HostPort {
    /// Returns the socket addresses that the host resolves to, at least one. The exporter binds the first
    /// that this machine has. Blocks as long as the resolver does.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        if self.text.starts_with(':') {
            let all = [
                (Ipv6Addr::UNSPECIFIED, self.port).into(),
                (Ipv4Addr::UNSPECIFIED, self.port).into(),
            ];
            return Ok(all.into());
        }
        let found: Vec<_> = self.text.to_socket_addrs()?.collect();
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address"));
        }
        Ok(found)
    }
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORMS: &str = "give HOST:PORT, :PORT or unix:/PATH";
        let (host, port) = text.rsplit_once(':').ok_or(FORMS)?;
        let port = port.parse().map_err(|error| format!("port `{port}`: {error}; {FORMS}"))?;
        let is_ipv6 = host.starts_with('[') && host.ends_with(']');
        if host.contains(':') && !is_ipv6 {
            return Err(format!("an IPv6 address needs brackets, as in [{host}]:{port}"));
        }
        Ok(Self { text: text.to_owned(), port })
    }
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

    /// Parses `HOST:PORT`, `:PORT` for all IPv6 and IPv4 addresses, or `unix:/PATH`.
    fn from_str(text: &str) -> Result<Self, String> {
        let target = match text.strip_prefix("unix:") {
            Some(path) => Target::Unix(socket_path(path)?),
            None => Target::Tcp(text.parse()?),
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
        let Target::Tcp(all) = address.target() else { panic!("{address:?}") };
        let candidates: Vec<_> = all.resolve().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(candidates, ["[::]:10435", "0.0.0.0:10435"]);
    }

    #[test]
    fn a_host_is_resolved_when_asked_for() {
        let addresses = |text: &str| text.parse::<HostPort>().unwrap().resolve();
        assert_eq!(addresses("[::1]:1").unwrap(), [(Ipv6Addr::LOCALHOST, 1).into()]);
        assert_eq!(addresses("127.0.0.1:0").unwrap(), [(Ipv4Addr::LOCALHOST, 0).into()]);
        assert!(addresses("no host:1").is_err());
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
        assert!(wrong("host:65536").contains("port `65536`"));
        assert!(wrong("::1:80").contains("[::1]:80"));
        assert!(wrong("unix:exporter.sock").contains("`exporter.sock` is not absolute"));
        assert!(wrong("unix:").contains("not absolute"));
        let long = format!("unix:/{}", "x".repeat(200));
        assert!(wrong(&long).contains("path must be shorter than SUN_LEN"), "{}", wrong(&long));
    }
}
