//! The handshake (RFC 6455, section 4).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use sha1::{Digest, Sha1};

use crate::deflate::Deflate;

/// What a key is joined with before it is hashed.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The version of the protocol.
const VERSION: HeaderValue = HeaderValue::from_static("13");

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// What a client offers.
#[derive(Clone, Debug)]
pub struct Offer {
    /// `None` over HTTP/2.
    key: Option<HeaderValue>,
    protocols: Vec<String>,
    deflate: Option<Deflate>,
}

/// Why a request asks for no socket that can be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadOffer {
    /// The request does not ask for a socket.
    #[error("the request asks for no WebSocket")]
    NotAsked,
    /// The client speaks another version.
    #[error("the version of the WebSocket protocol is not 13")]
    Version,
    /// The request is not a GET of HTTP/1.1, or has a body.
    #[error("a WebSocket begins with a GET of HTTP/1.1 without a body")]
    Request,
    /// The key is missing or malformed.
    #[error("the request has no valid Sec-WebSocket-Key")]
    Key,
    /// The list of protocols is malformed.
    #[error("the request has no valid Sec-WebSocket-Protocol")]
    Protocols,
}

/// Whether a header has a word in its list.
fn has_word(headers: &HeaderMap, name: HeaderName, word: &str) -> bool {
    let mut words = headers.get_all(name).iter().flat_map(|value| {
        let bytes = value.as_bytes().split(|byte| *byte == b',');
        bytes.map(<[u8]>::trim_ascii)
    });
    words.any(|found| found.eq_ignore_ascii_case(word.as_bytes()))
}

/// Whether a text is a token (RFC 9110, 5.6.2), as names of protocols are.
#[must_use]
pub fn is_token(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_part)
}

/// The answer to a key.
fn accepted(key: &HeaderValue) -> Option<HeaderValue> {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(GUID);
    HeaderValue::try_from(BASE64.encode(hash.finalize())).ok()
}

/// The only value of a header.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

impl Offer {
    /// What the head of a request offers.
    ///
    /// # Errors
    /// It asks for no socket, or not as the protocol says.
    pub fn of(request: &http::request::Parts, has_body: bool) -> Result<Self, BadOffer> {
        let headers = &request.headers;
        if !has_word(headers, header::UPGRADE, "websocket")
            || !has_word(headers, header::CONNECTION, "upgrade")
        {
            return Err(BadOffer::NotAsked);
        }
        if request.method != Method::GET || request.version != Version::HTTP_11 || has_body {
            return Err(BadOffer::Request);
        }
        if only(headers, &header::SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
            return Err(BadOffer::Version);
        }
        let key = only(headers, &header::SEC_WEBSOCKET_KEY).ok_or(BadOffer::Key)?;
        let decoded = BASE64.decode(key.as_bytes());
        if !decoded.is_ok_and(|bytes| bytes.len() == 16) {
            return Err(BadOffer::Key);
        }
        Self::with_key(headers, Some(key.clone()))
    }

    /// What an extended CONNECT of HTTP/2 offers, whose protocol is `websocket` (RFC 8441).
    ///
    /// # Errors
    /// It does not ask as the protocol says.
    pub fn of_extended_connect(headers: &HeaderMap) -> Result<Self, BadOffer> {
        if only(headers, &header::SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
            return Err(BadOffer::Version);
        }
        Self::with_key(headers, None)
    }

    fn with_key(headers: &HeaderMap, key: Option<HeaderValue>) -> Result<Self, BadOffer> {
        let mut protocols: Vec<String> = Vec::new();
        for value in headers.get_all(header::SEC_WEBSOCKET_PROTOCOL) {
            let value = value.to_str().map_err(|_| BadOffer::Protocols)?;
            for name in value.split(',').map(str::trim) {
                if !is_token(name) || protocols.iter().any(|known| known == name) {
                    return Err(BadOffer::Protocols);
                }
                protocols.push(name.to_owned());
            }
        }
        Ok(Self {
            key,
            protocols,
            deflate: Deflate::offered(headers),
        })
    }

    /// How messages can be compressed, if the client offers that.
    #[must_use]
    pub fn deflate(&self) -> Option<Deflate> {
        self.deflate
    }

    /// Whether the client offers a protocol.
    #[must_use]
    pub fn has(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|known| known == protocol)
    }

    /// The headers that accept the offer, without a protocol.
    #[must_use]
    pub fn accept(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let Some(key) = &self.key else {
            return headers;
        };
        headers.insert(header::UPGRADE, WEBSOCKET);
        let upgrade = HeaderValue::from_static("upgrade");
        headers.insert(header::CONNECTION, upgrade);
        if let Some(accepted) = accepted(key) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accepted);
        }
        headers
    }
}

impl BadOffer {
    /// The status that tells the client.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::NotAsked | Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::Request | Self::Key | Self::Protocols => StatusCode::BAD_REQUEST,
        }
    }

    /// Headers that say what the server would accept.
    #[must_use]
    pub fn headers(self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if self.status() == StatusCode::UPGRADE_REQUIRED {
            headers.insert(header::UPGRADE, WEBSOCKET);
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::SEC_WEBSOCKET_VERSION, VERSION);
        }
        headers
    }
}

/// What a client has asked a server for.
#[derive(Clone, Debug)]
pub struct ClientHandshake {
    key: HeaderValue,
    protocols: Vec<String>,
}

/// Why a server's answer opens no socket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadAnswer {
    /// The server answers as to any request.
    #[error("the server answered with status {0} instead of 101")]
    Status(u16),
    /// The answer is not one to this request.
    #[error("the server's answer has no valid {0}")]
    Header(&'static str),
    /// The server chose a protocol that was not offered, or an extension.
    #[error("the server chose {0:?}, which was not offered")]
    NotOffered(String),
}

impl ClientHandshake {
    /// Asks for a socket with one of `protocols`, which are tokens.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new(protocols: Vec<String>) -> Result<Self, getrandom::Error> {
        let mut key = [0; 16];
        getrandom::fill(&mut key)?;
        let key = HeaderValue::try_from(BASE64.encode(key));
        Ok(Self {
            // Base64 is always a value.
            key: key.unwrap_or(VERSION),
            protocols,
        })
    }

    /// The headers of the request.
    #[must_use]
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::UPGRADE, WEBSOCKET);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, VERSION);
        headers.insert(header::SEC_WEBSOCKET_KEY, self.key.clone());
        if let Ok(protocols) = HeaderValue::try_from(self.protocols.join(", "))
            && !self.protocols.is_empty()
        {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocols);
        }
        headers
    }

    /// Checks the server's answer. Returns the protocol that it chose.
    ///
    /// # Errors
    /// The answer opens no socket.
    pub fn check(&self, status: StatusCode, headers: &HeaderMap) -> Result<String, BadAnswer> {
        if status != StatusCode::SWITCHING_PROTOCOLS {
            return Err(BadAnswer::Status(status.as_u16()));
        }
        if !has_word(headers, header::UPGRADE, "websocket") {
            return Err(BadAnswer::Header("Upgrade"));
        }
        if !has_word(headers, header::CONNECTION, "upgrade") {
            return Err(BadAnswer::Header("Connection"));
        }
        let accept = only(headers, &header::SEC_WEBSOCKET_ACCEPT);
        if accept.is_none() || accept != accepted(&self.key).as_ref() {
            return Err(BadAnswer::Header("Sec-WebSocket-Accept"));
        }
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        if let Some(extensions) = headers.get(header::SEC_WEBSOCKET_EXTENSIONS) {
            return Err(BadAnswer::NotOffered(text(extensions)));
        }
        match headers.get(header::SEC_WEBSOCKET_PROTOCOL) {
            None => Ok(String::new()),
            Some(value) => {
                let name = text(value);
                match only(headers, &header::SEC_WEBSOCKET_PROTOCOL) {
                    Some(_) if self.protocols.contains(&name) => Ok(name),
                    _ => Err(BadAnswer::NotOffered(name)),
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn offer(headers: &[(&str, &str)]) -> Result<Offer, BadOffer> {
        let mut request = http::Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Offer::of(&request.body(()).unwrap().into_parts().0, false)
    }

    /// A good offer with one header changed, removed (an empty value) or added.
    fn changed(name: &'static str, value: &'static str) -> Result<Offer, BadOffer> {
        let kept = GOOD.iter().filter(|(known, _)| *known != name).copied();
        let new = (!value.is_empty()).then_some((name, value));
        offer(&kept.chain(new).collect::<Vec<_>>())
    }

    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        let headers = offer(&GOOD).unwrap().accept();
        assert_eq!(
            headers["sec-websocket-accept"],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        assert_eq!(headers["upgrade"], "websocket");
    }

    #[test]
    fn bad_offers_have_a_status() {
        for (name, value, expected, status) in [
            ("upgrade", "", BadOffer::NotAsked, 426),
            ("upgrade", "h2c", BadOffer::NotAsked, 426),
            ("connection", "keep-alive", BadOffer::NotAsked, 426),
            ("sec-websocket-version", "", BadOffer::Version, 426),
            ("sec-websocket-version", "8", BadOffer::Version, 426),
            ("sec-websocket-key", "", BadOffer::Key, 400),
            ("sec-websocket-key", "c2hvcnQ=", BadOffer::Key, 400),
            (
                "sec-websocket-key",
                "not base64, 24 characters",
                BadOffer::Key,
                400,
            ),
            ("sec-websocket-protocol", "a, b c", BadOffer::Protocols, 400),
            ("sec-websocket-protocol", "a, a", BadOffer::Protocols, 400),
        ] {
            let bad = changed(name, value).unwrap_err();
            assert_eq!(
                (bad, bad.status().as_u16()),
                (expected, status),
                "{name}: {value}"
            );
        }
        assert_eq!(BadOffer::Version.headers()["sec-websocket-version"], "13");
        let mut twice = GOOD.to_vec();
        twice.push(("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="));
        assert_eq!(offer(&twice).unwrap_err(), BadOffer::Key);
    }

    #[test]
    fn an_offer_is_a_get_of_http_1_1_without_a_body() {
        let request = |method: &str, version| {
            let mut request = http::Request::builder().method(method).version(version);
            for (name, value) in GOOD {
                request = request.header(name, value);
            }
            request.body(()).unwrap().into_parts().0
        };
        let get = request("GET", Version::HTTP_11);
        assert!(Offer::of(&get, false).is_ok());
        assert_eq!(Offer::of(&get, true).unwrap_err(), BadOffer::Request);
        for bad in [
            request("POST", Version::HTTP_11),
            request("GET", Version::HTTP_10),
        ] {
            assert_eq!(Offer::of(&bad, false).unwrap_err(), BadOffer::Request);
        }
    }

    #[test]
    fn an_answer_is_checked() {
        let asked = ClientHandshake::new(vec!["chat".into(), "log".into()]).unwrap();
        let mut request = http::Request::builder().body(()).unwrap().into_parts().0;
        request.headers = asked.headers();
        let offer = Offer::of(&request, false).unwrap();
        assert!(offer.has("log") && !offer.has("other"));
        let good = offer.accept();
        let ok = StatusCode::SWITCHING_PROTOCOLS;
        assert_eq!(asked.check(ok, &good), Ok(String::new()));
        assert_eq!(
            asked.check(StatusCode::OK, &good),
            Err(BadAnswer::Status(200))
        );
        for (name, value, good_end) in [
            ("sec-websocket-protocol", "log", true),
            ("sec-websocket-protocol", "other", false),
            (
                "sec-websocket-accept",
                "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
                false,
            ),
            ("sec-websocket-extensions", "permessage-deflate", false),
            ("upgrade", "h2c", false),
            ("connection", "close", false),
        ] {
            let mut headers = good.clone();
            headers.insert(name, HeaderValue::from_static(value));
            assert_eq!(
                asked.check(ok, &headers).is_ok(),
                good_end,
                "{name}: {value}"
            );
        }
    }
}
