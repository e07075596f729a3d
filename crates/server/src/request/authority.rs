//! The host of a request's URL, and a port where there is one.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use http::uri::Authority;

/// Parses a host as clients and proxies send it.
pub(crate) fn parse(bytes: &[u8]) -> Option<Authority> {
    let host = Authority::try_from(bytes).ok()?;
    let is_valid = !host.host().is_empty()
        && !host.as_str().contains(['@', '%'])
        && (host.as_str().len() == host.host().len() || host.port_u16().is_some());
    is_valid.then_some(host)
}

/// The host that the last request of a connection named: most name it again.
#[derive(Default)]
pub(crate) struct LastHost(Mutex<Option<Authority>>);

impl LastHost {
    /// Longer hosts are not kept, in bytes.
    const MAX: usize = 64;

    /// Parses a host as [`parse`] does.
    pub(crate) fn parse(&self, bytes: &[u8]) -> Option<Authority> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*last
            && known.as_str().as_bytes() == bytes
        {
            return Some(known.clone());
        }
        let host = parse(bytes)?;
        if bytes.len() <= Self::MAX {
            *last = Some(host.clone());
        }
        Some(host)
    }
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
    fn remembers_the_last_host() {
        let hosts = LastHost::default();
        let long = "a".repeat(100);
        for host in [
            "a.example",
            "a.example",
            "A.example",
            "a.example:81",
            &long,
            "b",
        ] {
            assert_eq!(hosts.parse(host.as_bytes()).unwrap().as_str(), host);
        }
        assert_eq!(hosts.parse(b"b@c"), None);
        assert_eq!(hosts.parse(b""), None);
        assert_eq!(hosts.parse(b"b").unwrap().as_str(), "b");
    }

    #[test]
    fn formats_addresses_as_hosts() {
        let of = |text: &str| of_address(text.parse().unwrap()).to_string();
        assert_eq!(of("127.0.0.1:80"), "127.0.0.1:80");
        assert_eq!(of("[::1]:80"), "[::1]:80");
    }
}
