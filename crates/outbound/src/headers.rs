//! Header fields that guests may not set, and those that they do not see.

use http::{
    HeaderMap, HeaderValue,
    header::{self, HeaderName},
};

use crate::error::Error;

/// Fields of one connection (RFC 9110, 7.6.1), which belongs to the client. The others frame the
/// message or switch protocols.
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

/// The maximum size of a guest's header lines, in bytes: servers accept a quarter of it at most.
const MAX_BYTES: usize = 64 << 10;

/// The maximum number of a guest's header lines.
const MAX_LINES: usize = 1024;

/// Counts header lines against the limits.
#[derive(Default)]
struct Size {
    lines: usize,
    bytes: usize,
}

impl Size {
    fn add(&mut self, name: &[u8], value: &[u8]) -> Result<(), Error> {
        self.lines += 1;
        self.bytes += name.len() + value.len();
        if self.lines > MAX_LINES {
            return Err(Error::invalid(format!(
                "the request has more than {MAX_LINES} headers"
            )));
        }
        if self.bytes > MAX_BYTES {
            return Err(Error::invalid(format!(
                "the headers of the request have more than {MAX_BYTES} bytes"
            )));
        }
        Ok(())
    }
}

/// Builds the headers of a request from names and values of a guest, which are not trusted.
///
/// # Errors
/// A name or a value is invalid, or there are more than 1024 lines or 64 KiB.
pub fn header_map<'a>(
    lines: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    let mut size = Size::default();
    for (name, value) in lines {
        size.add(name, value)?;
        let name = HeaderName::from_bytes(name).map_err(|_| {
            let name = String::from_utf8_lossy(name);
            Error::invalid(format!("{name:?} is not the name of a header"))
        })?;
        let value = HeaderValue::from_bytes(value).map_err(|_| {
            Error::invalid(format!("the value of the header `{name}` is not valid"))
        })?;
        headers
            .try_append(name, value)
            .map_err(|_| Error::invalid("the request has too many headers"))?;
    }
    Ok(headers)
}

/// A guest's headers without those that it may not set, and with defaults.
pub(crate) fn of_request(mut headers: HeaderMap) -> Result<HeaderMap, Error> {
    let mut size = Size::default();
    for (name, value) in &headers {
        size.add(name.as_str().as_bytes(), value.as_bytes())?;
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

/// Fields of a request with a streamed body that frame it; `of_request` removes them.
#[derive(Debug, Default)]
pub(crate) struct Framing {
    pub(crate) length: Option<u64>,
    /// The values of `Trailer`.
    pub(crate) trailer: Vec<HeaderValue>,
    /// The sender reads trailers of the response.
    pub(crate) reads_trailers: bool,
}

impl Framing {
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Error> {
        let mut length = None;
        for value in headers.get_all(header::CONTENT_LENGTH) {
            let digits = value
                .to_str()
                .ok()
                .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
            let number = digits.and_then(|text| text.parse::<u64>().ok());
            if number.is_none() || length.is_some() && length != number {
                return Err(Error::invalid("the request has an invalid Content-Length"));
            }
            length = number;
        }
        let reads_trailers = headers.get_all(header::TE).iter().any(|value| {
            let mut codings = value.as_bytes().split(|byte| *byte == b',');
            codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
        });
        Ok(Self {
            length,
            trailer: headers.get_all(header::TRAILER).iter().cloned().collect(),
            reads_trailers,
        })
    }
}

/// Removes fields of one connection, including those that `Connection` names.
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
    fn drops_headers_that_guests_must_not_set() {
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
    fn headers_of_the_guest_take_precedence() {
        let mut headers = HeaderMap::new();
        headers.insert("user-agent", "mine".parse().expect("value"));
        assert_eq!(of_request(headers).expect("small")["user-agent"], "mine");
    }

    #[test]
    fn rejects_too_many_headers() {
        let mut headers = HeaderMap::new();
        headers.insert("x", "y".repeat(MAX_BYTES - 1).parse().expect("value"));
        of_request(headers.clone()).expect("just fits");
        headers.insert("z", HeaderValue::from_static(""));
        let error = of_request(headers).expect_err("one too many");
        assert!(error.message.contains("more than 65536 bytes"), "{error}");
    }

    fn map(lines: &[(String, String)]) -> Result<HeaderMap, Error> {
        header_map(lines.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())))
    }

    #[test]
    fn builds_headers_within_bounds() {
        let lines = |count: usize| -> Vec<(String, String)> {
            (0..count).map(|n| (format!("x-{n}"), "y".into())).collect()
        };
        assert_eq!(map(&lines(MAX_LINES)).expect("just fits").len(), MAX_LINES);
        // `HeaderMap` itself panics above 32768 different names.
        for count in [MAX_LINES + 1, 40_000] {
            let error = map(&lines(count)).expect_err("too many");
            assert!(error.message.contains("more than 1024 headers"), "{error}");
        }
        let same = vec![("x".to_owned(), "y".to_owned()); MAX_LINES + 1];
        map(&same).expect_err("lines of one name count, too");
        let large = [("x".to_owned(), "y".repeat(MAX_BYTES))];
        let error = map(&large).expect_err("too large");
        assert!(error.message.contains("more than 65536 bytes"), "{error}");
    }

    #[test]
    fn names_the_header_that_is_not_valid() {
        let error = map(&[("b d".into(), String::new())]).expect_err("name");
        assert!(error.message.contains("\"b d\" is not the name"), "{error}");
        let error = map(&[("X-A".into(), "a\nb".into())]).expect_err("value");
        assert!(error.message.contains("header `x-a`"), "{error}");
    }
}
