//! The policy for outgoing requests of one worker.

use std::{collections::HashSet, net::IpAddr, sync::Arc, time::Duration};

use http::Method;
use ipnet::IpNet;
use url::{Host, Url};
use wws_address::PRIVATE;

use crate::{error::Error, host};

/// Bounds of one request of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyLimits {
    /// Bytes of an answer's body that is collected.
    pub response: u64,
    /// Bytes of an answer's body that is read as it comes; `None` for any number. More than
    /// `response` bytes are decoded only up to 1100 times as many as were received.
    pub streamed_response: Option<u64>,
    /// The time from the request to the last byte of the response, redirects included. For an
    /// answer that is read as it comes, to its head; while the body of the request is sent, from
    /// its last piece.
    pub timeout: Duration,
    /// How long the next piece of a streamed body may take; `None` for `timeout`.
    pub idle: Option<Duration>,
    /// The number of redirects that are followed; one more is an error.
    pub redirects: u32,
}

impl PolicyLimits {
    const DEFAULT: Self = Self {
        response: 10 << 20,
        streamed_response: None,
        idle: None,
        timeout: Duration::from_secs(10),
        redirects: 20,
    };
}

impl Default for PolicyLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// An entry of a list of networks that is not a private network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{entry}` {problem}; expected a private network (\"10.0.0.0/8\", \"192.168.1.0/24\", \
     \"fd00::/8\") or an address in one: 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10, \
     fc00::/7"
)]
pub struct NetworkError {
    /// The entry as it was written.
    pub entry: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// An entry of an allow list that is not a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{entry}` {problem}; expected a host (\"api.example.com\", \"10.0.0.5\", \"[::1]\"), a host \
     and a port (\"api.example.com:8443\") or \"*\" (any public host)"
)]
pub struct PolicyError {
    /// The entry as it was written.
    pub entry: String,
    /// What is wrong with it.
    pub problem: String,
}

/// What one worker may send: to which hosts, with which methods, and how much. Cheap to clone.
///
/// An entry `host` allows every port of it, `host:port` that port only. Names match without regard
/// to case; `bücher.example` is `xn--bcher-kva.example`. The entry `*` alone allows every host at a
/// public address.
///
/// A non-public address (loopback, private, link-local, metadata services, ...) is refused even if
/// the name that resolves to it is allowed, unless the list has the address itself. There are two
/// ways to reach private addresses (RFC 1918, RFC 6598 and RFC 4193), and only these: their
/// networks can be allowed ([`allow_private`](Self::allow_private)), and a name that the public DNS
/// cannot have, such as a Compose service's (`db`) or one below `.internal`, may resolve to them if
/// the list spells it out.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `None` allows nothing.
    inner: Option<Arc<PolicyRules>>,
}

#[derive(Clone, Debug)]
struct PolicyRules {
    any_host: bool,
    hosts: HashSet<(Host, Option<u16>)>,
    methods: Vec<Method>,
    allow_http: bool,
    /// Private networks whose addresses names may lead to.
    networks: Vec<IpNet>,
    /// Whether names may lead to any address.
    any_address: bool,
    /// Whether names and addresses of the list lead to public addresses alone.
    public_only: bool,
    limits: PolicyLimits,
}

impl Policy {
    /// A policy from a worker's configuration.
    ///
    /// # Errors
    /// The first entry that is not a host, with what was expected.
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
            inner: Some(Arc::new(PolicyRules {
                any_host,
                hosts: entries,
                methods: methods.to_vec(),
                allow_http,
                networks: Vec::new(),
                any_address: false,
                public_only: false,
                limits,
            })),
        })
    }

    /// Also allows hosts of the list at addresses of these private networks, each written as CIDR
    /// or as one address.
    ///
    /// The list still decides which hosts are allowed. An address in the list itself needs no
    /// network.
    ///
    /// # Errors
    /// The first entry that is not a private network, with what was expected.
    pub fn allow_private(mut self, networks: &[String]) -> Result<Self, NetworkError> {
        let mut parsed = Vec::with_capacity(networks.len());
        for entry in networks {
            let wrong = |problem| NetworkError {
                entry: entry.clone(),
                problem,
            };
            let text = entry.trim();
            let network = match text.parse::<IpAddr>() {
                Ok(address) => IpNet::from(address),
                Err(_) => text.parse::<IpNet>().map_err(|_| wrong("is no network"))?,
            };
            if !wws_address::is_private_network(network.addr(), network.prefix_len()) {
                return Err(wrong("is no private network, or has other addresses, too"));
            }
            parsed.push(network.trunc());
        }
        if let Some(inner) = &mut self.inner {
            Arc::make_mut(inner).networks.extend(parsed);
        }
        Ok(self)
    }

    /// Also allows hosts of the list at any address. For hosts that the operator names, never for
    /// those of a worker.
    #[must_use]
    pub fn allow_any_address(mut self) -> Self {
        if let Some(inner) = &mut self.inner {
            Arc::make_mut(inner).any_address = true;
        }
        self
    }

    /// Allows no address for being in the list, or for being that of a private name: those of
    /// public networks and of [`Self::allow_private`] are left.
    #[must_use]
    pub fn public_only(mut self) -> Self {
        if let Some(inner) = &mut self.inner {
            Arc::make_mut(inner).public_only = true;
        }
        self
    }

    /// Whether private addresses of the list are refused.
    pub(crate) fn is_public_only(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.public_only)
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

    /// Whether a request is allowed by its URL and method. Returns where it goes.
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

    /// Whether an address that `host` resolved to may be connected to; if not, what it is.
    pub(crate) fn check_address(
        &self,
        host: &Host,
        address: IpAddr,
        port: u16,
    ) -> Result<(), &'static str> {
        let Some(what) = wws_address::not_public(address) else {
            return Ok(());
        };
        let literal = match address {
            IpAddr::V4(address) => Host::Ipv4(address),
            IpAddr::V6(address) => Host::Ipv6(address),
        };
        let is_private_name =
            matches!(host, Host::Domain(name) if wws_address::is_private_name(name));
        let is_any = self.inner.as_ref().is_some_and(|inner| inner.any_address);
        let is_listed = !self.is_public_only()
            && (self.names(&literal, port)
                || what == PRIVATE && is_private_name && self.names(host, port));
        if is_any || is_listed || what == PRIVATE && self.has_network(address) {
            Ok(())
        } else {
            Err(what)
        }
    }

    fn has_network(&self, address: IpAddr) -> bool {
        self.inner
            .as_ref()
            .is_some_and(|inner| inner.networks.iter().any(|net| net.contains(&address)))
    }

    /// Whether the list spells the host out.
    pub(crate) fn names(&self, host: &Host, port: u16) -> bool {
        // The set owns its keys: cloning two short names is cheaper than a second table.
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
    fn accepts_internationalized_names() {
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

    /// Why a policy refuses an address; nothing if it may be reached.
    fn refused(policy: &Policy, host: &str, address: &str, port: u16) -> &'static str {
        let host = Host::parse(host).expect(host);
        let address = address.parse().expect(address);
        policy
            .check_address(&host, address, port)
            .err()
            .unwrap_or("")
    }

    #[test]
    fn addresses_that_are_named() {
        let policy = policy(&["*", "10.0.0.5", "127.0.0.1:8080"], true);
        let refused = |address, port| refused(&policy, "a.example", address, port);
        assert_eq!(refused("93.184.216.34", 1), "");
        assert_eq!(refused("10.0.0.5", 1), "");
        assert_eq!(refused("10.0.0.6", 1), PRIVATE);
        assert_eq!(refused("127.0.0.1", 8080), "");
        assert_eq!(refused("127.0.0.1", 8081), "a loopback address");
    }

    #[test]
    fn a_list_does_not_allow_private_hosts_where_only_public_ones_are() {
        let hosts = [
            "*",
            "10.0.0.5",
            "127.0.0.1",
            "db",
            "db.internal",
            "169.254.169.254",
        ];
        let policy = policy(&hosts, true).public_only();
        for (host, address, what) in [
            ("a.example", "93.184.216.34", ""),
            ("db", "10.0.0.5", PRIVATE),
            ("db.internal", "10.0.0.6", PRIVATE),
            ("127.0.0.1", "127.0.0.1", "a loopback address"),
            ("a.example", "127.0.0.1", "a loopback address"),
            (
                "169.254.169.254",
                "169.254.169.254",
                "the cloud's metadata service",
            ),
        ] {
            assert_eq!(refused(&policy, host, address, 80), what, "{host}");
        }
        let networks = ["10.0.0.0/24".to_owned()];
        let policy = policy.allow_private(&networks).expect("networks");
        assert_eq!(refused(&policy, "db", "10.0.0.5", 80), "");
        assert_eq!(refused(&policy, "db", "10.0.1.5", 80), PRIVATE);
    }

    #[test]
    fn private_networks_can_be_allowed() {
        let networks = ["10.1.0.0/16", "192.168.7.7", "100.64.0.0/10", "fd00::/8"];
        let policy = policy(&["*"], true)
            .allow_private(&networks.map(str::to_owned))
            .expect("networks");
        for address in ["10.1.2.3", "192.168.7.7", "100.65.0.1", "fd12::1"] {
            assert_eq!(refused(&policy, "a.example", address, 80), "", "{address}");
        }
        for (address, what) in [
            ("10.2.0.1", PRIVATE),
            ("192.168.7.8", PRIVATE),
            ("172.16.0.1", PRIVATE),
            ("fc00::1", PRIVATE),
            ("127.0.0.1", "a loopback address"),
            ("169.254.169.254", "the cloud's metadata service"),
            // In the networks, and never allowed by them.
            ("100.100.100.200", "the cloud's metadata service"),
            ("fd00:ec2::254", "the cloud's metadata service"),
            ("::ffff:10.1.2.3", "an IPv4-mapped address"),
        ] {
            assert_eq!(
                refused(&policy, "a.example", address, 80),
                what,
                "{address}"
            );
        }
    }

    #[test]
    fn only_private_networks_can_be_allowed() {
        for (entry, problem) in [
            ("0.0.0.0/0", "is no private network"),
            ("10.0.0.0/7", "is no private network"),
            ("127.0.0.0/8", "is no private network"),
            ("169.254.169.254", "is no private network"),
            ("169.254.0.0/16", "is no private network"),
            ("8.8.8.0/24", "is no private network"),
            ("::/0", "is no private network"),
            ("fe80::/10", "is no private network"),
            ("10.0.0.0/33", "is no network"),
            ("private", "is no network"),
            ("", "is no network"),
        ] {
            let policy = policy(&["*"], true).allow_private(&[entry.to_owned()]);
            let error = policy.expect_err(entry).to_string();
            assert!(error.contains(problem), "{error}");
            assert!(error.contains("expected a private network"), "{error}");
        }
    }

    #[test]
    fn names_of_services_may_be_at_private_addresses() {
        let listed = policy(
            &["api", "db:5432", "x.internal", "localhost", "a.example"],
            true,
        );
        let any = policy(&["*"], true);
        for (host, address, port, what) in [
            ("api", "10.0.0.5", 80, ""),
            ("api", "172.18.0.2", 80, ""),
            ("api", "fd12::1", 80, ""),
            ("db", "10.0.0.5", 5432, ""),
            ("db", "10.0.0.5", 80, PRIVATE),
            ("x.internal", "192.168.0.1", 80, ""),
            // A name that anybody can register may not.
            ("a.example", "10.0.0.5", 80, PRIVATE),
            // A service is at a private address, not anywhere else.
            ("api", "127.0.0.1", 80, "a loopback address"),
            ("localhost", "127.0.0.1", 80, "a loopback address"),
            ("api", "169.254.169.254", 80, "the cloud's metadata service"),
            ("api", "100.100.100.200", 80, "the cloud's metadata service"),
            ("api", "169.254.1.1", 80, "a link-local address"),
            ("api", "0.0.0.0", 80, "an unspecified address"),
            ("api", "::ffff:10.0.0.5", 80, "an IPv4-mapped address"),
        ] {
            assert_eq!(
                refused(&listed, host, address, port),
                what,
                "{host} {address}"
            );
        }
        // `*` does not spell a name out.
        assert_eq!(refused(&any, "api", "10.0.0.5", 80), PRIVATE);
    }

    #[test]
    fn rejects_empty_and_invalid_entries() {
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
