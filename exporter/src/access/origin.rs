//! Where a client is, as far as taking turns and shares are concerned.

use std::net::IpAddr;

/// Where a connection or a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// This machine: the loopback interface, or a Unix socket.
    Local,
    /// An IPv4 address.
    V4([u8; 4]),
    /// An IPv6 network of 64 bits. Its users choose the rest of their addresses.
    V6([u16; 4]),
}

impl Origin {
    /// The origin of clients at an address.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            address if address.is_loopback() => Self::Local,
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [network @ .., _, _, _, _] = address.segments();
                Self::V6(network)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_addresses_or_networks() {
        let of = |text: &str| Origin::of(text.parse().unwrap());
        for local in ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(of(local), Origin::Local, "{local}");
        }
        assert_eq!(of("10.0.0.1"), of("::ffff:10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    }
}
