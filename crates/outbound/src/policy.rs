//! What one worker may send.

use std::{collections::HashSet, net::IpAddr, sync::Arc, time::Duration};

use http::Method;
use url::{Host, Url};

use crate::{address, error::Error, host};

/// Bounds of one request of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyLimits {
    /// Bytes of an answer's body.
    pub response: u64,
    /// From the request to the answer's last byte, redirects included.
    pub timeout: Duration,
    /// Redirects that are followed; one more is an error.
    pub redirects: u32,
}

impl PolicyLimits {
    const DEFAULT: Self = Self {
        response: 10 << 20,
        timeout: Duration::from_secs(10),
        redirects: 10,
    };
}

impl Default for PolicyLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// An entry of an allow list that is no host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{entry}` {problem}; expected a host (\"api.example.com\", \"10.0.0.5\", \"[::1]\"), a host and a port \
     (\"api.example.com:8443\") or \"*\" (any public host)"
)]
pub struct PolicyError {
    /// The entry as it was written.
    pub entry: String,
    /// What is wrong with it.
    pub problem: String,
}

/// What one worker may send: to which hosts, by which methods, how much. Cheap to clone.
///
/// An entry `host` allows every port of it, `host:port` that port only. Names match without regard to case; `bücher.example`
/// is `xn--bcher-kva.example`. The entry `*` alone allows every host at a public address.
///
/// An address that is not the public internet's (loopback, private, link-local, metadata services, ...) is refused even
/// where the name that leads to it is allowed, unless the list names the address itself, literally.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `None` allows nothing.
    inner: Option<Arc<Inner>>,
}

#[derive(Debug)]
struct Inner {
    any_host: bool,
    hosts: HashSet<(Host, Option<u16>)>,
    methods: Vec<Method>,
    allow_http: bool,
    limits: PolicyLimits,
}

impl Policy {
    /// A policy from a worker's configuration.
    ///
    /// # Errors
    /// An entry is no host: the first such entry, with what was expected.
    pub fn new(
        hosts: &[String],
        methods: &[Method],
        allow_http: bool,
        limits: PolicyLimits,
    ) -> Result<Self, PolicyError> {
        let mut any_host = false;
        let mut entries = HashSet::with_capacity(hosts.len());
        for entry in hosts {
            let text = entry.trim();
            if text == "*" {
                any_host = true;
                continue;
            }
            let parsed = host::parse(text).map_err(|problem| PolicyError {
                entry: entry.clone(),
                problem,
            })?;
            entries.insert(parsed);
        }
        Ok(Self {
            inner: Some(Arc::new(Inner {
                any_host,
                hosts: entries,
                methods: methods.to_vec(),
                allow_http,
                limits,
            })),
        })
    }

    /// Allows nothing.
    #[must_use]
    pub const fn deny_all() -> Self {
        Self { inner: None }
    }

    /// Bounds of one request.
    #[must_use]
    pub fn limits(&self) -> &PolicyLimits {
        match &self.inner {
            Some(inner) => &inner.limits,
            None => &PolicyLimits::DEFAULT,
        }
    }

    /// Whether a request may leave, as far as its URL and method tell. Where it leads to.
    pub(crate) fn check(&self, url: &Url, method: &Method) -> Result<(Host, u16), Error> {
        let Some(inner) = &self.inner else {
            return Err(Error::not_allowed("this worker may not send requests"));
        };
        match url.scheme() {
            "https" => {}
            "http" if inner.allow_http => {}
            "http" => {
                return Err(Error::not_allowed(format!(
                    "plain http to `{}` is not allowed: use https, or set allow_http",
                    url.host_str().unwrap_or_default()
                )));
            }
            other => {
                return Err(Error::invalid(format!(
                    "`{other}` URLs cannot be requested: expected https or http"
                )));
            }
        }
        let Some((host, port)) = host::of_url(url) else {
            return Err(Error::invalid("the URL has no host"));
        };
        if !inner.any_host && !self.names(&host, port) {
            return Err(Error::not_allowed(format!(
                "`{host}:{port}` is not in the worker's allowed_hosts"
            )));
        }
        if !inner.methods.contains(method) {
            return Err(Error::not_allowed(format!(
                "the method {method} (to `{host}`) is not in the worker's allowed_methods"
            )));
        }
        Ok((host, port))
    }

    /// Whether an address that `host` resolved to may be connected to; else, what it is.
    pub(crate) fn check_address(&self, address: IpAddr, port: u16) -> Result<(), &'static str> {
        let Some(what) = address::not_public(address) else {
            return Ok(());
        };
        let literal = match address {
            IpAddr::V4(address) => Host::Ipv4(address),
            IpAddr::V6(address) => Host::Ipv6(address),
        };
        if self.names(&literal, port) {
            Ok(())
        } else {
            Err(what)
        }
    }

    fn names(&self, host: &Host, port: u16) -> bool {
        // The set owns its keys: two clones of a short name are cheaper than a second table.
        self.inner.as_ref().is_some_and(|inner| {
            inner.hosts.contains(&(host.clone(), None))
                || inner.hosts.contains(&(host.clone(), Some(port)))
        })
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn policy(hosts: &[&str], allow_http: bool) -> Policy {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        Policy::new(
            &hosts,
            &[Method::GET, Method::POST],
            allow_http,
            PolicyLimits::default(),
        )
        .expect("hosts")
    }

    fn check(policy: &Policy, url: &str) -> Result<(), Error> {
        policy
            .check(&url.parse().expect(url), &Method::GET)
            .map(|_| ())
    }

    #[test]
    fn hosts_and_ports() {
        let policy = policy(
            &[
                "api.example.com",
                "Db.Example.com:8443",
                "[::1]:80",
                "10.0.0.5",
            ],
            true,
        );
        for allowed in [
            "https://api.example.com/",
            "https://API.EXAMPLE.COM./x",
            "http://api.example.com:81/",
            "https://db.example.com:8443",
            "http://[::1]/",
            "http://[0:0::1]:80/",
            "http://10.0.0.5:9/",
            "http://0xa.5/",
        ] {
            check(&policy, allowed).expect(allowed);
        }
        for refused in [
            "https://example.com/",
            "https://x.api.example.com/",
            "https://api.example.com.evil.org/",
            "https://db.example.com/",
            "http://[::1]:81/",
            "http://[::ffff:10.0.0.5]/",
            "http://10.0.0.6/",
            "https://evil.org#@api.example.com/",
            "https://evil.org\\@api.example.com/",
        ] {
            let error = check(&policy, refused).expect_err(refused);
            assert_eq!(error.kind, ErrorKind::NotAllowed, "{refused}: {error}");
        }
    }

    #[test]
    fn names_in_other_alphabets() {
        let policy = policy(&["b\u{fc}cher.example"], false);
        check(&policy, "https://xn--bcher-kva.example/").expect("ascii");
        check(&policy, "https://B\u{dc}CHER.example/").expect("unicode");
    }

    #[test]
    fn scheme_and_method() {
        let policy = policy(&["a.example"], false);
        let error = check(&policy, "http://a.example/").expect_err("http");
        assert_eq!(error.kind, ErrorKind::NotAllowed);
        assert!(error.message.contains("allow_http"));
        let error = check(&policy, "ftp://a.example/").expect_err("ftp");
        assert_eq!(error.kind, ErrorKind::InvalidRequest);
        let error = policy
            .check(&"https://a.example".parse().expect("url"), &Method::DELETE)
            .expect_err("method");
        assert_eq!(error.kind, ErrorKind::NotAllowed);
        assert!(error.message.contains("DELETE"));
    }

    #[test]
    fn addresses_that_are_named() {
        let policy = policy(&["*", "10.0.0.5", "127.0.0.1:8080"], true);
        let check =
            |address: &str, port| policy.check_address(address.parse().expect(address), port);
        assert_eq!(check("93.184.216.34", 1), Ok(()));
        assert_eq!(check("10.0.0.5", 1), Ok(()));
        assert_eq!(check("10.0.0.6", 1), Err("a private address"));
        assert_eq!(check("127.0.0.1", 8080), Ok(()));
        assert_eq!(check("127.0.0.1", 8081), Err("a loopback address"));
    }

    #[test]
    fn nothing_and_nonsense() {
        check(&Policy::deny_all(), "https://a.example").expect_err("denied");
        let error = Policy::new(
            &["https://a.example".to_owned()],
            &[],
            false,
            PolicyLimits::default(),
        )
        .expect_err("a URL");
        assert!(
            error
                .to_string()
                .starts_with("`https://a.example` is a URL; expected a host")
        );
    }
}
