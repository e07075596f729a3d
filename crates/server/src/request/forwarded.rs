//! Where a request comes from, according to its connection and to trusted proxies: the client's
//! address, and the scheme and host that it asked for.
//!
//! A worker reads the client's address from `x-forwarded-for`. Anybody can send such headers: only
//! values of proxies in `server.trusted_proxies` are passed on, and the first address is always the
//! client's.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue, header,
    uri::{Authority, Scheme},
};
use wws_project::Network;

use crate::request::authority;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Other headers that proxies set. They are removed if the peer is not a trusted proxy.
static PROXY_HEADERS: [HeaderName; 7] = [
    header::FORWARDED,
    FORWARDED_PROTO,
    FORWARDED_HOST,
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-forwarded-prefix"),
    HeaderName::from_static("x-real-ip"),
];

/// The number of addresses in `x-forwarded-for` or `forwarded` that are evaluated.
const MAX_HOPS: usize = 64;

/// The proxies whose headers are trusted.
pub(crate) struct TrustedProxies(pub(crate) Vec<Network>);

/// The peer of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    address: IpAddr,
    /// The address, as workers read it.
    text: HeaderValue,
}

impl Peer {
    /// The peer at an address.
    pub(crate) fn new(address: IpAddr) -> Self {
        // A socket for IPv6 accepts IPv4 clients, too.
        let address = address.to_canonical();
        Self {
            address,
            text: text(address),
        }
    }

    /// Whether the peer is a program on this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        self.address.is_loopback()
    }
}

/// Where a request comes from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) client: IpAddr,
    pub(crate) scheme: Scheme,
    /// The host that the client asked for, if a proxy reports it.
    pub(crate) host: Option<Authority>,
}

impl TrustedProxies {
    fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }

    /// Whether the headers of a peer are believed.
    pub(crate) fn trust(&self, peer: &Peer) -> bool {
        self.contains(peer.address)
    }

    /// Determines where a request comes from, and removes untrusted values from its headers.
    pub(crate) fn origin(&self, peer: &Peer, headers: &mut HeaderMap) -> Origin {
        let mut origin = Origin {
            client: peer.address,
            scheme: Scheme::HTTP,
            host: None,
        };
        if !self.contains(peer.address) {
            // Most requests have none, and fewer names than it takes to look each one up.
            if headers.keys().any(|name| PROXY_HEADERS.contains(name)) {
                for name in &PROXY_HEADERS {
                    headers.remove(name);
                }
            }
            headers.insert(FORWARDED_FOR, peer.text.clone());
            return origin;
        }
        let conventional = [FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST];
        if conventional.iter().any(|name| headers.contains_key(name)) {
            // A proxy that sets these passes the standard header on as its client sent it.
            headers.remove(header::FORWARDED);
        }
        let forwarded = ForwardedHeaders::parse(headers);
        // Starting with the nearest: a trusted proxy names the client or another proxy.
        let mut hops = vec![peer.text.clone()];
        for hop in forwarded.hops.iter().rev() {
            let Some(address) = hop else { break };
            origin.client = *address;
            hops.push(text(*address));
            if !self.contains(*address) {
                break;
            }
        }
        hops.reverse();
        headers.insert(FORWARDED_FOR, joined(&hops));
        if forwarded.is_https {
            origin.scheme = Scheme::HTTPS;
        }
        origin.host = forwarded.host;
        origin
    }
}

/// What the headers that proxies set say.
struct ForwardedHeaders {
    /// The first is the farthest; `None` is an invalid address.
    hops: Vec<Option<IpAddr>>,
    is_https: bool,
    host: Option<Authority>,
}

impl ForwardedHeaders {
    /// Reads `X-Forwarded-*`, or else `Forwarded` (RFC 7239). Of several values for scheme and
    /// host, the last one is the nearest proxy's.
    fn parse(headers: &HeaderMap) -> Self {
        let last = |name| {
            headers
                .get_all(name)
                .iter()
                .next_back()?
                .to_str()
                .ok()?
                .rsplit(',')
                .next()
        };
        let (mut hops, mut scheme, mut host) = (Vec::new(), None, None);
        let standard = elements(headers, &header::FORWARDED);
        if headers.contains_key(FORWARDED_FOR) {
            let elements = elements(headers, &FORWARDED_FOR).into_iter();
            hops = elements.map(node).collect();
        } else {
            hops.extend(
                standard
                    .iter()
                    .map(|element| node(parameter(element, "for")?)),
            );
        }
        if let Some(nearest) = standard.last() {
            scheme = parameter(nearest, "proto");
            host = parameter(nearest, "host");
        }
        scheme = last(FORWARDED_PROTO).or(scheme);
        host = last(FORWARDED_HOST).or(host);
        let first = hops.len().saturating_sub(MAX_HOPS);
        Self {
            hops: hops.split_off(first),
            is_https: scheme.is_some_and(|scheme| scheme.trim().eq_ignore_ascii_case("https")),
            host: host.and_then(|host| authority::parse(host.trim().as_bytes())),
        }
    }
}

/// The elements of a list header that may have several lines. One that is not text is `unknown`.
/// Separators in quotes do not count.
fn elements<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Vec<&'h str> {
    let lines = headers.get_all(name).iter();
    let elements = lines.flat_map(|line| split(line.as_bytes(), b','));
    let elements = elements.map(|element| str::from_utf8(element).unwrap_or("unknown").trim());
    elements.filter(|element| !element.is_empty()).collect()
}

/// Splits at a separator outside of quotes. Quotes are found from the end: one that a client has
/// left open does not reach into what its proxy has added.
fn split(text: &[u8], separator: u8) -> Vec<&[u8]> {
    let mut is_quoted = false;
    let parts = text.rsplit(move |byte| {
        is_quoted ^= *byte == b'"';
        *byte == separator && !is_quoted
    });
    let mut parts: Vec<&[u8]> = parts.collect();
    parts.reverse();
    parts
}

/// A parameter of an element of `Forwarded`.
fn parameter<'e>(element: &'e str, name: &str) -> Option<&'e str> {
    split(element.as_bytes(), b';')
        .into_iter()
        .find_map(|pair| {
            let (key, value) = str::from_utf8(pair).ok()?.split_once('=')?;
            let matches = key.trim().eq_ignore_ascii_case(name);
            matches.then(|| value.trim().trim_matches('"'))
        })
}

/// An address, which may have a port: `192.0.2.1:80`, `[2001:db8::1]:80`, `2001:db8::1`.
fn node(text: &str) -> Option<IpAddr> {
    let address = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        // One colon separates a port; several belong to an IPv6 address.
        None => match text.split_once(':') {
            Some((host, port)) if !port.contains(':') => host,
            _ => text,
        },
    };
    address
        .parse()
        .ok()
        .map(|address: IpAddr| address.to_canonical())
}

/// An address is visible ASCII.
fn text(address: IpAddr) -> HeaderValue {
    HeaderValue::from_maybe_shared(address.to_string().into_bytes())
        .unwrap_or(HeaderValue::from_static("unknown"))
}

fn joined(hops: &[HeaderValue]) -> HeaderValue {
    let hops: Vec<&[u8]> = hops.iter().map(HeaderValue::as_bytes).collect();
    HeaderValue::from_maybe_shared(hops.join(&b", "[..]))
        .unwrap_or(HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn origin(peer: &str, lines: &[(&'static str, &str)]) -> (Origin, HeaderMap) {
        let proxies = TrustedProxies(
            ["10.0.0.0/8", "::1"]
                .map(|text| text.parse().unwrap())
                .to_vec(),
        );
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        let origin = proxies.origin(&Peer::new(peer.parse().unwrap()), &mut headers);
        (origin, headers)
    }

    fn client(peer: &str, lines: &[(&'static str, &str)]) -> (String, String) {
        let (origin, headers) = origin(peer, lines);
        let all = headers["x-forwarded-for"].to_str().unwrap().to_owned();
        (origin.client.to_string(), all)
    }

    #[test]
    fn removes_headers_of_untrusted_peers() {
        let lines = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.example"),
            ("x-real-ip", "1.1.1.1"),
            ("forwarded", "for=1.1.1.1;proto=https;host=evil.example"),
        ];
        let (origin, headers) = origin("192.0.2.7", &lines);
        let expected = Origin {
            client: "192.0.2.7".parse().unwrap(),
            scheme: Scheme::HTTP,
            host: None,
        };
        assert_eq!(origin, expected);
        assert_eq!(
            (headers.len(), &headers["x-forwarded-for"]),
            (1, &text(origin.client))
        );
    }

    #[test]
    fn trusts_forwarded_addresses_up_to_the_first_untrusted_hop() {
        for (line, expected) in [
            ("198.51.100.1", "198.51.100.1, 10.0.0.1"),
            ("6.6.6.6, 198.51.100.1", "198.51.100.1, 10.0.0.1"),
            (
                "6.6.6.6, 198.51.100.1, 10.2.2.2",
                "198.51.100.1, 10.2.2.2, 10.0.0.1",
            ),
            ("198.51.100.1:4711", "198.51.100.1, 10.0.0.1"),
            ("6.6.6.6, unknown, 10.2.2.2", "10.2.2.2, 10.0.0.1"),
            ("[2001:db8::1]:80", "2001:db8::1, 10.0.0.1"),
            ("2001:db8::1", "2001:db8::1, 10.0.0.1"),
            ("::ffff:198.51.100.1", "198.51.100.1, 10.0.0.1"),
            ("nonsense", "10.0.0.1"),
            ("", "10.0.0.1"),
        ] {
            let (client, all) = client("10.0.0.1", &[("x-forwarded-for", line)]);
            assert_eq!(all, expected, "{line}");
            assert!(expected.starts_with(&client), "{line}: {client}");
        }
        // What a client has sent hides nothing that a proxy has added.
        for line in [&b"\", 198.51.100.1"[..], b"\xE9, 198.51.100.1"] {
            let proxies = TrustedProxies(vec!["10.0.0.0/8".parse().unwrap()]);
            let line = HeaderValue::from_bytes(line).unwrap();
            let mut headers = HeaderMap::from_iter([(FORWARDED_FOR, line)]);
            let origin = proxies.origin(&Peer::new([10, 0, 0, 1].into()), &mut headers);
            assert_eq!(origin.client, IpAddr::from([198, 51, 100, 1]));
        }
        let lines = [
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-for", "198.51.100.1"),
        ];
        assert_eq!(
            client("::ffff:10.0.0.1", &lines).1,
            "198.51.100.1, 10.0.0.1"
        );
    }

    #[test]
    fn takes_scheme_and_host_from_a_trusted_proxy() {
        let (origin, headers) = origin(
            "::1",
            &[
                ("x-forwarded-proto", "HTTPS"),
                ("x-forwarded-host", "a.example:8443"),
            ],
        );
        assert_eq!(origin.scheme, Scheme::HTTPS);
        assert_eq!(origin.host.unwrap(), "a.example:8443");
        assert_eq!(headers["x-forwarded-proto"], "HTTPS");
        let (origin, _) = super::tests::origin("::1", &[("x-forwarded-host", "no host/at all")]);
        assert_eq!((origin.scheme, origin.host), (Scheme::HTTP, None));
    }

    #[test]
    fn a_standard_header_beside_the_conventional_ones_is_the_clients() {
        let (origin, headers) = origin(
            "10.0.0.1",
            &[
                ("forwarded", "for=6.6.6.6;host=evil.example;proto=https"),
                ("x-forwarded-for", "198.51.100.1"),
            ],
        );
        assert_eq!(origin.client, IpAddr::from([198, 51, 100, 1]));
        assert_eq!((origin.scheme, origin.host), (Scheme::HTTP, None));
        assert!(!headers.contains_key("forwarded"));
        let open = r#"for="6.6.6.6;host=evil.example, for=198.51.100.1"#;
        let (client, _) = client("10.0.0.1", &[("forwarded", open)]);
        assert_eq!(client, "198.51.100.1");
    }

    #[test]
    fn reads_the_standard_header() {
        let line = r#"for=6.6.6.6, for="[2001:db8::1]:47011";by=x;proto=https;host="a.example:8""#;
        let (origin, headers) = origin("10.0.0.1", &[("forwarded", line)]);
        assert_eq!(origin.client, "2001:db8::1".parse::<IpAddr>().unwrap());
        assert_eq!(
            (origin.scheme, origin.host.unwrap().as_str()),
            (Scheme::HTTPS, "a.example:8")
        );
        assert_eq!(headers["x-forwarded-for"], "2001:db8::1, 10.0.0.1");
    }
}
