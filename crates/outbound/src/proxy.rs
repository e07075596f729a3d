//! Proxies that the operator names: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`.

use std::sync::Arc;

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use url::Host;

use crate::host;

/// An invalid variable of a proxy. The value is not shown: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: expected an HTTP proxy such as http://proxy.example:3128; {problem}")]
pub struct ProxyError {
    /// The variable's name.
    pub variable: &'static str,
    /// What is wrong with its value.
    pub problem: &'static str,
}

/// Proxies by scheme, and the hosts that are reached directly.
#[derive(Clone, Debug, Default)]
pub struct Proxies(Option<Arc<Matcher>>);

impl Proxies {
    /// Reads the usual variables; `get` returns the value of a variable. Lower-case names take
    /// precedence.
    ///
    /// `NO_PROXY` is a list of names (with all names below them), addresses, and networks such as
    /// `10.0.0.0/8`.
    ///
    /// # Errors
    /// The first invalid proxy.
    pub fn from_env<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Self, ProxyError> {
        let value = |lower: &str, upper: &str| {
            let value = [lower, upper].into_iter().find_map(&get).unwrap_or("");
            value.trim()
        };
        let all = value("all_proxy", "ALL_PROXY");
        let https = value("https_proxy", "HTTPS_PROXY");
        let http = value("http_proxy", "HTTP_PROXY");
        for (variable, text) in [
            ("ALL_PROXY", all),
            ("HTTPS_PROXY", https),
            ("HTTP_PROXY", http),
        ] {
            check(variable, text)?;
        }
        if all.is_empty() && https.is_empty() && http.is_empty() {
            return Ok(Self::default());
        }
        let matcher = Matcher::builder()
            .all(all.to_owned())
            .https(https.to_owned())
            .http(http.to_owned())
            .no(value("no_proxy", "NO_PROXY").to_owned())
            .build();
        Ok(Self(Some(Arc::new(matcher))))
    }

    /// The proxy for requests to a host. This machine is never reached through a proxy.
    pub(crate) fn of(&self, scheme: &str, host: &Host, port: u16) -> Option<Proxy> {
        let matcher = self.0.as_ref()?;
        let is_local = match host {
            Host::Domain(name) => name == "localhost" || name.ends_with(".localhost"),
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => address.is_loopback(),
        };
        if is_local {
            return None;
        }
        let target: Uri = format!("{scheme}://{host}:{port}/").parse().ok()?;
        Proxy::new(&matcher.intercept(&target)?)
    }
}

fn check(variable: &'static str, text: &str) -> Result<(), ProxyError> {
    if text.is_empty() {
        return Ok(());
    }
    let wrong = |problem| Err(ProxyError { variable, problem });
    let scheme = text.split_once("://").map_or("http", |(scheme, _)| scheme);
    if !scheme.eq_ignore_ascii_case("http") {
        return wrong("proxies of other schemes are not supported");
    }
    let probe = Uri::from_static("http://probe.invalid/");
    let matcher = Matcher::builder().all(text.to_owned()).build();
    match matcher.intercept(&probe).as_ref().and_then(Proxy::new) {
        Some(_) => Ok(()),
        None => wrong("the value is no URL"),
    }
}

/// One proxy.
pub(crate) struct Proxy {
    pub(crate) host: Host,
    pub(crate) port: u16,
    pub(crate) authorization: Option<HeaderValue>,
}

impl Proxy {
    fn new(intercept: &Intercept) -> Option<Self> {
        let uri = intercept.uri();
        let (host, port) = host::parse(uri.authority()?.as_str().rsplit('@').next()?).ok()?;
        Some(Self {
            host,
            port: port.unwrap_or(80),
            authorization: intercept.basic_auth().cloned(),
        })
    }

    pub(crate) fn uri(&self) -> Option<Uri> {
        format!("http://{}:{}/", self.host, self.port).parse().ok()
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &'static str)]) -> Result<Proxies, ProxyError> {
        Proxies::from_env(|name| {
            variables
                .iter()
                .find_map(|(variable, value)| (*variable == name).then_some(*value))
        })
    }

    fn of(proxies: &Proxies, url: &str) -> Option<String> {
        let url: url::Url = url.parse().expect(url);
        let (host, port) = host::of_url(&url).expect("a host");
        let proxy = proxies.of(url.scheme(), &host, port)?;
        Some(format!("{}:{}", proxy.host, proxy.port))
    }

    #[test]
    fn each_scheme_has_its_own_proxy() {
        let proxies = proxies(&[
            ("HTTPS_PROXY", "http://secure.example:3128"),
            ("http_proxy", "plain.example:8080"),
            ("HTTP_PROXY", "http://never.example:1"),
            ("NO_PROXY", "inside.example, .corp.example, 10.0.0.0/8"),
        ])
        .expect("proxies");
        for (url, proxy) in [
            ("https://a.example/", Some("secure.example:3128")),
            ("http://a.example/", Some("plain.example:8080")),
            ("https://inside.example/", None),
            ("https://x.inside.example/", None),
            ("https://x.corp.example/", None),
            ("https://10.1.2.3/", None),
            ("https://11.1.2.3/", Some("secure.example:3128")),
            ("http://localhost:8080/", None),
            ("http://127.0.0.1/", None),
            ("http://[::1]/", None),
        ] {
            assert_eq!(of(&proxies, url).as_deref(), proxy, "{url}");
        }
    }

    #[test]
    fn all_proxy_applies_to_both_schemes_with_its_password() {
        let proxies = proxies(&[("ALL_PROXY", "http://me:secret@p.example")]).expect("proxies");
        assert_eq!(
            of(&proxies, "https://a.example/").as_deref(),
            Some("p.example:80")
        );
        let host = Host::parse("a.example").expect("host");
        let proxy = proxies.of("http", &host, 80).expect("a proxy");
        assert_eq!(
            proxy.authorization.expect("authorization"),
            "Basic bWU6c2VjcmV0"
        );
    }

    #[test]
    fn invalid_proxy_is_reported_without_its_value() {
        for (value, problem) in [
            ("socks5://me:secret@p.example:1080", "other schemes"),
            ("https://me:secret@p.example", "other schemes"),
            ("http://", "is no URL"),
            ("http://me:secret@a b", "is no URL"),
        ] {
            let error = proxies(&[("https_proxy", value)]).expect_err(value);
            let text = error.to_string();
            assert!(
                text.starts_with("HTTPS_PROXY: expected") && text.contains(problem),
                "{text}"
            );
            assert!(!text.contains("secret"), "{text}");
        }
        assert!(proxies(&[("HTTPS_PROXY", "")]).expect("none").0.is_none());
    }
}
