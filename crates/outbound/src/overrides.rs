//! Addresses that the operator sets for hosts, instead of DNS: `WWS_RESOLVE`.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use url::Host;

use crate::host;

/// An invalid part of an override list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{part}` {problem}; expected HOST=IP, HOST=IP:PORT or HOST:PORT=IP:PORT, several with commas \
     between them (\"api.example.com=10.0.0.5,db.example.com:443=127.0.0.1:8443\")"
)]
pub struct OverrideError {
    /// The part as it was written.
    pub part: String,
    /// What is wrong with it.
    pub problem: String,
}

/// Hosts whose addresses the operator sets. Such an address is connected to whatever it is, if the
/// worker's allow list has the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides(HashMap<(Host, Option<u16>), (IpAddr, Option<u16>)>);

impl Overrides {
    /// Parses `host=ip,host:port=ip:port`; the empty text has no overrides.
    ///
    /// # Errors
    /// The first part that is invalid, or whose host occurred before.
    pub fn parse(text: &str) -> Result<Self, OverrideError> {
        let mut overrides = HashMap::new();
        for part in text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let wrong = |problem: String| OverrideError {
                part: part.to_owned(),
                problem,
            };
            let Some((from, to)) = part.split_once('=') else {
                return Err(wrong("has no `=`".into()));
            };
            let from = host::parse(from.trim())
                .map_err(|problem| wrong(format!("has a host that {problem}")))?;
            let to = target(to.trim()).map_err(wrong)?;
            if overrides.insert(from, to).is_some() {
                return Err(wrong("names a host that was named before".into()));
            }
        }
        Ok(Self(overrides))
    }

    /// The address for requests to `host:port`, if the operator sets one. An entry with the port
    /// takes precedence.
    pub(crate) fn get(&self, host: &Host, port: u16) -> Option<SocketAddr> {
        if self.0.is_empty() {
            return None;
        }
        let (address, to_port) = self
            .0
            .get(&(host.clone(), Some(port)))
            .or_else(|| self.0.get(&(host.clone(), None)))?;
        Some(SocketAddr::new(*address, to_port.unwrap_or(port)))
    }
}

impl FromStr for Overrides {
    type Err = OverrideError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

fn target(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((address, None));
    }
    if let Some(bare) = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        && let Ok(address) = bare.parse::<Ipv6Addr>()
    {
        return Ok((address.into(), None));
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok((address.ip(), Some(address.port()))),
        _ => Err(format!("has `{text}` where an IP address belongs")),
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    fn get(overrides: &Overrides, host: &str, port: u16) -> Option<String> {
        overrides
            .get(&Host::parse(host).expect(host), port)
            .map(|address| address.to_string())
    }

    #[test]
    fn hosts_ports_and_families() {
        let overrides = Overrides::parse(
            " API.example.com = 10.0.0.5, api.example.com:443=127.0.0.1:8443 \
             ,v6.example=[::1]:80,b.example=fd00::1,c.example=[::2],",
        )
        .expect("overrides");
        assert_eq!(
            get(&overrides, "api.example.com", 80).as_deref(),
            Some("10.0.0.5:80")
        );
        assert_eq!(
            get(&overrides, "api.example.com", 443).as_deref(),
            Some("127.0.0.1:8443")
        );
        assert_eq!(
            get(&overrides, "v6.example", 443).as_deref(),
            Some("[::1]:80")
        );
        assert_eq!(
            get(&overrides, "b.example", 443).as_deref(),
            Some("[fd00::1]:443")
        );
        assert_eq!(get(&overrides, "c.example", 1).as_deref(), Some("[::2]:1"));
        assert_eq!(get(&overrides, "example.com", 80), None);
        assert_eq!(Overrides::parse(""), Ok(Overrides::default()));
    }

    #[test]
    fn reports_parse_errors() {
        for (text, message) in [
            ("a.example", "`a.example` has no `=`"),
            ("a.example=", "has `` where an IP address belongs"),
            (
                "a.example=b.example",
                "has `b.example` where an IP address belongs",
            ),
            (
                "a.example=1.2.3.4:0",
                "has `1.2.3.4:0` where an IP address belongs",
            ),
            ("a.example:x=1.2.3.4", "has a host that has `x` for a port"),
            ("=1.2.3.4", "has a host that is empty"),
            ("*=1.2.3.4", "has a host that has a `*`"),
            (
                "ok.example=1.2.3.4,a.example=1.2.3.4,A.example=::1",
                "`A.example=::1` names a host that was named before",
            ),
        ] {
            let error = Overrides::parse(text).expect_err(text).to_string();
            assert!(error.contains(message), "{text}: {error}");
            assert!(error.contains("expected HOST=IP"));
        }
    }
}
