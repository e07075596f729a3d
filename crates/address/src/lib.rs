//! Which addresses and names belong to the public internet.
//!
//! One table serves both who reads a list of hosts (`project`) and who connects to them
//! (`outbound`).

#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The name of addresses of private networks. Only these can be allowed, by network or by a private
/// host name.
pub const PRIVATE: &str = "a private address";

/// A range of addresses: its first one, the length of its prefix, and its name.
type AddressRange<A> = (A, u32, &'static str);

const fn v4(a: u8, b: u8, c: u8, d: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, d)
}

/// An address of which all but the first three groups are 0.
const fn v6([a, b, c]: [u16; 3]) -> Ipv6Addr {
    Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)
}

/// IPv4 ranges that requests do not reach by default (IANA special-purpose registry, RFC 6890, and
/// services of platforms at addresses that look public).
const V4: &[AddressRange<Ipv4Addr>] = &[
    (v4(0, 0, 0, 0), 8, "an unspecified address"),
    (v4(10, 0, 0, 0), 8, PRIVATE),
    (v4(100, 100, 100, 200), 32, "the cloud's metadata service"),
    // Clusters and overlay networks use it as a private network.
    (v4(100, 64, 0, 0), 10, PRIVATE),
    (Ipv4Addr::LOCALHOST, 8, "a loopback address"),
    (v4(169, 254, 169, 254), 32, "the cloud's metadata service"),
    (v4(169, 254, 0, 0), 16, "a link-local address"),
    (v4(172, 16, 0, 0), 12, PRIVATE),
    // It contains a cloud's metadata service, 192.0.0.192.
    (v4(192, 0, 0, 0), 24, "an address reserved for protocols"),
    (v4(192, 0, 2, 0), 24, "a documentation address"),
    (v4(192, 88, 99, 0), 24, "a 6to4 relay"),
    (v4(192, 168, 0, 0), 16, PRIVATE),
    // Reachable from Azure's machines only, it returns their configuration.
    (v4(168, 63, 129, 16), 32, "the cloud's platform service"),
    (v4(198, 18, 0, 0), 15, "a benchmarking address"),
    (v4(198, 51, 100, 0), 24, "a documentation address"),
    (v4(203, 0, 113, 0), 24, "a documentation address"),
    (v4(224, 0, 0, 0), 4, "a multicast address"),
    (Ipv4Addr::BROADCAST, 32, "the broadcast address"),
    (v4(240, 0, 0, 0), 4, "a reserved address"),
];

/// IPv6 ranges that requests do not reach by default. Addresses outside of 2000::/3 are rejected
/// anyway: ranges there are listed for their names.
const V6: &[AddressRange<Ipv6Addr>] = &[
    (Ipv6Addr::UNSPECIFIED, 128, "an unspecified address"),
    (Ipv6Addr::LOCALHOST, 128, "a loopback address"),
    (
        Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0),
        96,
        "an IPv4-mapped address",
    ),
    (Ipv6Addr::UNSPECIFIED, 96, "an IPv4-compatible address"),
    (v6([0x64, 0xff9b, 0]), 96, "a NAT64 address"),
    (v6([0x64, 0xff9b, 1]), 48, "a NAT64 address"),
    (v6([0x100, 0, 0]), 64, "a discard address"),
    // Includes Teredo, which carries an IPv4 address.
    (v6([0x2001, 0, 0]), 23, "an address reserved for protocols"),
    (v6([0x2001, 0xdb8, 0]), 32, "a documentation address"),
    (v6([0x2002, 0, 0]), 16, "a 6to4 address"),
    (v6([0x3fff, 0, 0]), 20, "a documentation address"),
    // AWS: metadata, credentials, names.
    (v6([0xfd00, 0xec2, 0]), 32, "the cloud's metadata service"),
    (
        Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
        128,
        "the cloud's metadata service",
    ),
    (v6([0xfc00, 0, 0]), 7, PRIVATE),
    (v6([0xfe80, 0, 0]), 10, "a link-local address"),
    (v6([0xfec0, 0, 0]), 10, "a site-local address"),
    (v6([0xff00, 0, 0]), 8, "a multicast address"),
];

/// What a non-public address is; `None` for an address of the public internet.
pub fn not_public(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => ranges_v4(address).next().map(|(.., name)| *name),
        IpAddr::V6(address) => ranges_v6(address)
            .next()
            .map(|(.., name)| *name)
            .or_else(|| (address.to_bits() >> 125 != 1).then_some("a reserved address")),
    }
}

/// The ranges that an address is in.
fn ranges_v4(address: Ipv4Addr) -> impl Iterator<Item = &'static AddressRange<Ipv4Addr>> {
    V4.iter().filter(move |(first, prefix, _)| {
        (address.to_bits() ^ first.to_bits()) >> (32 - prefix) == 0
    })
}

/// The ranges that an address is in.
fn ranges_v6(address: Ipv6Addr) -> impl Iterator<Item = &'static AddressRange<Ipv6Addr>> {
    V6.iter().filter(move |(first, prefix, _)| {
        (address.to_bits() ^ first.to_bits()) >> (128 - prefix) == 0
    })
}

/// Whether all addresses of a network, which an address and the length of a prefix name, are in one
/// private range.
pub fn is_private_network(address: IpAddr, prefix: u8) -> bool {
    let is_within = |range: u32, name: &str| name == PRIVATE && range <= u32::from(prefix);
    match address {
        IpAddr::V4(address) => ranges_v4(address).any(|(_, range, name)| is_within(*range, name)),
        IpAddr::V6(address) => ranges_v6(address).any(|(_, range, name)| is_within(*range, name)),
    }
}

/// Whether a name in lower case can only belong to a private network, so that no outsider controls
/// its address.
pub fn is_private_name(name: &str) -> bool {
    // Never in the public DNS: RFC 6762, RFC 8375, and reserved for private use by ICANN.
    const SUFFIXES: [&str; 3] = [".internal", ".local", ".home.arpa"];
    !name.contains('.') || SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<&'static str> {
        not_public(text.parse().expect(text))
    }

    #[test]
    fn edges_of_every_range() {
        for inside in [
            "0.0.0.0",
            "0.255.255.255",
            "10.0.0.0",
            "10.255.255.255",
            "100.64.0.0",
            "100.127.255.255",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.255",
            "168.63.129.16",
            "169.254.0.0",
            "169.254.169.254",
            "169.254.255.255",
            "172.16.0.0",
            "172.31.255.255",
            "192.0.0.0",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.0",
            "192.168.255.255",
            "198.18.0.0",
            "198.19.255.255",
            "198.51.100.255",
            "203.0.113.0",
            "224.0.0.0",
            "239.255.255.255",
            "240.0.0.0",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "100::1",
            "1fff::1",
            "2001::1",
            "2001:1ff:ffff::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "3fff:fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fdff::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "ffff::1",
        ] {
            assert!(of(inside).is_some(), "{inside}");
        }
        for outside in [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "168.63.129.15",
            "168.63.129.17",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.0.3.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.99.255",
            "203.0.112.255",
            "203.0.114.0",
            "223.255.255.255",
            "2000::1",
            "2001:200::1",
            "2001:db7::1",
            "2001:db9::1",
            "2003::1",
            "2606:4700::1111",
            "3ffe::1",
            "3fff:1000::1",
        ] {
            assert_eq!(of(outside), None, "{outside}");
        }
    }

    #[test]
    fn names_ranges() {
        assert_eq!(of("169.254.169.254"), Some("the cloud's metadata service"));
        assert_eq!(of("169.254.169.253"), Some("a link-local address"));
        assert_eq!(of("::1"), Some("a loopback address"));
        assert_eq!(of("::ffff:10.0.0.1"), Some("an IPv4-mapped address"));
        assert_eq!(of("::2"), Some("an IPv4-compatible address"));
        for metadata in [
            "100.100.100.200",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
        ] {
            assert_eq!(
                of(metadata),
                Some("the cloud's metadata service"),
                "{metadata}"
            );
        }
        for private in ["10.0.0.1", "100.64.0.1", "fd00::1", "fd00:ec3::1"] {
            assert_eq!(of(private), Some(PRIVATE), "{private}");
        }
    }

    #[test]
    fn private_network_is_within_one_range() {
        let is_private =
            |address: &str, prefix| is_private_network(address.parse().expect(address), prefix);
        assert!(is_private("10.0.0.0", 8) && is_private("10.1.2.3", 32));
        assert!(is_private("fd00::", 8) && is_private("100.64.0.0", 10));
        assert!(!is_private("10.0.0.0", 7) && !is_private("172.16.0.0", 11));
        assert!(!is_private("127.0.0.1", 32) && !is_private("8.8.8.8", 32));
        assert!(!is_private("::ffff:10.0.0.1", 128));
    }

    #[test]
    fn recognises_private_names() {
        for name in ["db", "api.internal", "printer.local", "router.home.arpa"] {
            assert!(is_private_name(name), "{name}");
        }
        for name in ["example.com", "internal.example.com", "notlocal.org"] {
            assert!(!is_private_name(name), "{name}");
        }
    }
}
