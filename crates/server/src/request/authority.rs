//! The host of a request's URL, and a port where there is one.

use std::net::SocketAddr;

use http::uri::Authority;

/// Parses a host as clients and proxies send it.
pub(crate) fn parse(bytes: &[u8]) -> Option<Authority> {
    let host = Authority::try_from(bytes).ok()?;
    let is_valid = !host.host().is_empty()
        && !host.as_str().contains(['@', '%'])
        && (host.as_str().len() == host.host().len() || host.port_u16().is_some());
    is_valid.then_some(host)
}

/// The server's address as a host, for clients that send none.
pub(crate) fn of_address(address: SocketAddr) -> Authority {
    Authority::try_from(address.to_string()).unwrap_or_else(|_| Authority::from_static("localhost"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn formats_addresses_as_hosts() {
        let of = |text: &str| of_address(text.parse().unwrap()).to_string();
        assert_eq!(of("127.0.0.1:80"), "127.0.0.1:80");
        assert_eq!(of("[::1]:80"), "[::1]:80");
    }
}
