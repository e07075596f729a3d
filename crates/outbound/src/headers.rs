//! Header fields that guests may not set, and those that they are not told.

use http::{
    HeaderMap, HeaderValue,
    header::{self, HeaderName},
};

use crate::error::Error;

/// Fields of one connection (RFC 9110, 7.6.1), which is ours and not the guest's. The rest frames the message or opens
/// another protocol.
const OF_CONNECTION: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Fields that only the client sets.
const OF_CLIENT: [HeaderName; 4] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::PROXY_AUTHORIZATION,
];

const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("wws/", env!("CARGO_PKG_VERSION")));

/// Bytes of the fields that a guest may send: servers take a quarter of it at most.
const MAX_FIELDS: usize = 64 << 10;

/// A guest's fields without those that are not its own, and with defaults.
pub(crate) fn of_request(mut headers: HeaderMap) -> Result<HeaderMap, Error> {
    let size: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if size > MAX_FIELDS {
        return Err(Error::invalid(format!(
            "the headers have {size} bytes: {MAX_FIELDS} may be sent"
        )));
    }
    strip_connection(&mut headers);
    for name in &OF_CLIENT {
        headers.remove(name);
    }
    headers.entry(header::USER_AGENT).or_insert(USER_AGENT);
    headers
        .entry(header::ACCEPT)
        .or_insert(HeaderValue::from_static("*/*"));
    Ok(headers)
}

/// Takes away what belongs to one connection, the fields that `Connection` names among it.
pub(crate) fn strip_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&OF_CONNECTION) {
        headers.remove(name);
    }
}

/// The value of `Host`.
pub(crate) fn host(host: &url::Host, port: Option<u16>) -> Result<HeaderValue, Error> {
    let text = match port {
        Some(port) => format!("{host}:{port}"),
        None => host.to_string(),
    };
    HeaderValue::from_str(&text)
        .map_err(|_| Error::invalid(format!("`{host}` cannot be sent as a header")))
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_may_not_set_is_dropped() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("Host", "evil.example"),
            ("Content-Length", "5"),
            ("Transfer-Encoding", "chunked"),
            ("Connection", "close, X-Mine, , b@d"),
            ("X-Mine", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "x"),
            ("Proxy-Authorization", "x"),
            ("TE", "trailers"),
            ("Trailer", "x"),
            ("Upgrade", "websocket"),
            ("Expect", "100-continue"),
            ("X-Kept", "1"),
            ("X-Kept", "2"),
            ("Authorization", "x"),
        ] {
            headers.append(
                name.parse::<HeaderName>().expect(name),
                value.parse().expect(value),
            );
        }
        let headers = of_request(headers).expect("small");
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "authorization", "user-agent", "x-kept"]);
        assert_eq!(headers.get_all("x-kept").iter().count(), 2);
    }

    #[test]
    fn own_defaults_win() {
        let mut headers = HeaderMap::new();
        headers.insert("user-agent", "mine".parse().expect("value"));
        assert_eq!(of_request(headers).expect("small")["user-agent"], "mine");
    }

    #[test]
    fn too_much_is_refused() {
        let mut headers = HeaderMap::new();
        headers.insert("x", "y".repeat(MAX_FIELDS - 1).parse().expect("value"));
        of_request(headers.clone()).expect("just fits");
        headers.insert("z", HeaderValue::from_static(""));
        let error = of_request(headers).expect_err("one too many");
        assert!(error.message.contains("65537 bytes"), "{error}");
    }
}
