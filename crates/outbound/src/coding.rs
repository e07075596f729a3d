//! Content codings (RFC 9110, 8.4.1): which ones a request asks for, and which ones a response has.

use http::{HeaderMap, HeaderValue, header};

/// The codings that are asked for if the sender does not say what it accepts.
const ACCEPTED: HeaderValue = HeaderValue::from_static("gzip, deflate, br");

/// An extension of a request: the content codings of the response are decoded, and
/// `Content-Encoding` and `Content-Length` are removed. Without it, the body is not decoded.
///
/// If the request has no `Accept-Encoding`, the codings that can be decoded are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decode {
    /// Always, as `fetch` does.
    Always,
    /// Unless the request has its own `Accept-Encoding`: its author may decode the body.
    IfUnasked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Gzip,
    Deflate,
    Brotli,
}

/// Asks for the codings that can be decoded, if the sender wants that. Returns whether the response
/// is decoded.
pub(crate) fn ask_for_codings(headers: &mut HeaderMap, decode: Option<Decode>) -> bool {
    let is_asked = headers.contains_key(header::ACCEPT_ENCODING);
    match decode {
        None => return false,
        Some(Decode::IfUnasked) if is_asked => return false,
        Some(_) => {}
    }
    if is_asked {
        only_accepted(headers);
    } else {
        // A range of an encoded body cannot be decoded (Fetch standard, HTTP-network-or-cache
        // fetch).
        let value = match headers.contains_key(header::RANGE) {
            true => HeaderValue::from_static("identity"),
            false => ACCEPTED,
        };
        headers.insert(header::ACCEPT_ENCODING, value);
    }
    true
}

/// An `Accept-Encoding` without the codings that cannot be decoded.
fn only_accepted(headers: &mut HeaderMap) {
    let known = |entry: &&[u8]| {
        let name = entry.split(|byte| *byte == b';').next().unwrap_or_default();
        let name = name.trim_ascii().to_ascii_lowercase();
        matches!(
            name.as_slice(),
            b"gzip" | b"x-gzip" | b"deflate" | b"br" | b"identity" | b"*"
        )
    };
    let values = headers.get_all(header::ACCEPT_ENCODING).iter();
    let entries = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let kept: Vec<&[u8]> = entries.map(<[u8]>::trim_ascii).filter(known).collect();
    let kept = HeaderValue::from_bytes(&kept.join(&b", "[..]));
    // A header with a value keeps one; without any coding it is `identity`.
    let kept = kept.unwrap_or(HeaderValue::from_static(""));
    headers.insert(
        header::ACCEPT_ENCODING,
        match kept.is_empty() {
            true => HeaderValue::from_static("identity"),
            false => kept,
        },
    );
}

/// The codings of a response, in the order in which they were applied; none if one of them is
/// unknown.
pub(crate) fn codings(headers: &HeaderMap) -> Vec<Coding> {
    let mut codings = Vec::new();
    let values = headers.get_all(header::CONTENT_ENCODING).iter();
    for name in values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')) {
        let known = match name.trim_ascii().to_ascii_lowercase().as_slice() {
            b"" | b"identity" => continue,
            b"gzip" | b"x-gzip" => Coding::Gzip,
            b"deflate" => Coding::Deflate,
            b"br" => Coding::Brotli,
            _ => return Vec::new(),
        };
        codings.push(known);
    }
    codings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_codings() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CONTENT_ENCODING, HeaderValue::from_static(value));
            }
            codings(&headers)
        };
        assert_eq!(of(&["GZIP"]), [Coding::Gzip]);
        assert_eq!(
            of(&["x-gzip, identity", "br"]),
            [Coding::Gzip, Coding::Brotli]
        );
        assert_eq!(of(&["deflate"]), [Coding::Deflate]);
        // Unknown values are kept.
        assert_eq!(of(&["gzip, zstd"]), []);
        assert_eq!(of(&[]), []);
    }

    #[test]
    fn asks_only_for_supported_codings() {
        for (asked, kept) in [
            ("gzip, deflate, br, zstd", "gzip, deflate, br"),
            ("br;q=1.0, zstd;q=0.9,*;q=0", "br;q=1.0, *;q=0"),
            ("zstd", "identity"),
            ("identity", "identity"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(asked));
            only_accepted(&mut headers);
            assert_eq!(headers[header::ACCEPT_ENCODING], kept);
        }
    }
}
