//! The full URL of a request, as its worker sees it: `http://HOST/path?query`, or the scheme and
//! host that a trusted proxy reports.

use http::{
    HeaderMap, Uri, Version, header,
    uri::{Authority, PathAndQuery},
};

use crate::request::authority::{self, LastHost};
use crate::request::forwarded::Origin;

/// Why a request has no URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadTarget {
    NoHost,
    SeveralHosts,
    NotAHost,
    NotAPath,
}

impl BadTarget {
    /// The text for the caller.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::NoHost => "The request has no Host header.",
            Self::SeveralHosts => "The request has several Host headers.",
            Self::NotAHost => "The Host header is not a host.",
            Self::NotAPath => "The request's target is not a path.",
        }
    }
}

/// The URL of a request. `local` is the host of HTTP/1.0 requests without one, `last` the one that
/// the connection's last request named.
pub(crate) fn url(
    uri: &Uri,
    headers: &HeaderMap,
    version: Version,
    local: &Authority,
    last: &LastHost,
    origin: &Origin,
) -> Result<Uri, BadTarget> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => return Err(BadTarget::SeveralHosts),
        (Some(host), None) => Some(last.parse(host.as_bytes()).ok_or(BadTarget::NotAHost)?),
        (None, _) if version == Version::HTTP_11 => return Err(BadTarget::NoHost),
        (None, _) => None,
    };
    // The host of an absolute target takes precedence (RFC 9112, 3.2.2).
    let host = match uri.authority() {
        Some(own) => authority::parse(own.as_str().as_bytes()).ok_or(BadTarget::NotAHost)?,
        None => host.unwrap_or_else(|| local.clone()),
    };
    let host = origin.host.clone().unwrap_or(host);
    let path = match uri.path_and_query() {
        Some(path) if path.as_str().starts_with('/') => path.clone(),
        Some(path) if path.as_str().starts_with('?') => {
            PathAndQuery::try_from(format!("/{}", path.as_str()))
                .map_err(|_| BadTarget::NotAPath)?
        }
        _ => return Err(BadTarget::NotAPath),
    };
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(origin.scheme.clone());
    parts.authority = Some(host);
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).map_err(|_| BadTarget::NotAPath)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use http::uri::Scheme;

    fn of(target: &str, hosts: &[&str], version: Version) -> Result<String, BadTarget> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, host.parse().unwrap());
        }
        let local = Authority::from_static("127.0.0.1:3000");
        let origin = Origin {
            client: [127, 0, 0, 1].into(),
            scheme: Scheme::HTTP,
            host: None,
        };
        let (target, last) = (target.parse().unwrap(), LastHost::default());
        url(&target, &headers, version, &local, &last, &origin).map(|uri| uri.to_string())
    }

    #[test]
    fn builds_the_full_url() {
        let of = |target, host| of(target, &[host], Version::HTTP_11).unwrap();
        assert_eq!(
            of("/a%20b?x=1&y", "a.example:81"),
            "http://a.example:81/a%20b?x=1&y"
        );
        assert_eq!(of("/", "[::1]:80"), "http://[::1]:80/");
        assert_eq!(of("http://b.example/x", "a.example"), "http://b.example/x");
        assert_eq!(of("http://b.example?x", "a.example"), "http://b.example/?x");
    }

    #[test]
    fn accepts_http_1_0_without_host() {
        assert_eq!(
            of("/x", &[], Version::HTTP_10).unwrap(),
            "http://127.0.0.1:3000/x"
        );
        assert_eq!(of("/x", &[], Version::HTTP_11), Err(BadTarget::NoHost));
    }

    #[test]
    fn rejects_invalid_hosts() {
        for host in [
            "",
            "a b",
            "user@a.example",
            "a.example:",
            "a.example:x",
            "a.example:99999",
            "a/b",
            "a%41",
            "a.example, b.example",
            ":80",
        ] {
            assert_eq!(
                of("/", &[host], Version::HTTP_11),
                Err(BadTarget::NotAHost),
                "{host}"
            );
        }
        assert_eq!(
            of("/", &["a", "a"], Version::HTTP_11),
            Err(BadTarget::SeveralHosts)
        );
        assert_eq!(of("*", &["a"], Version::HTTP_11), Err(BadTarget::NotAPath));
    }
}
