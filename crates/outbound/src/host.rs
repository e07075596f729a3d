//! A host, or a host and a port, as written in allow lists and overrides.

use std::net::{Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// Parses `host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address. Names become lower-case
/// ASCII without the root's dot, as in [`of_url`].
pub(crate) fn parse(text: &str) -> Result<(Host, Option<u16>), String> {
    if text.is_empty() {
        return Err("is empty".into());
    }
    if text.contains("://") {
        return Err("is a URL".into());
    }
    if text.contains('/') {
        return Err("has a `/`: neither paths nor networks can be named".into());
    }
    if text.contains('*') {
        return Err("has a `*`: only `*` alone, any public host, is known".into());
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("has a space or a control character".into());
    }
    if let Ok(address) = text.parse::<Ipv6Addr>() {
        return Ok((Host::Ipv6(address), None));
    }
    let (host, port) = match text.rsplit_once(':') {
        // The last colon of `[::1]` is not before a port.
        Some((host, port)) if !port.ends_with(']') => {
            let port = port
                .parse::<u16>()
                .ok()
                .filter(|number| *number != 0 && !port.starts_with('+'))
                .ok_or_else(|| format!("has `{port}` for a port: expected 1 to 65535"))?;
            (host, Some(port))
        }
        _ => (text, None),
    };
    let parsed = Host::parse(host).map_err(|error| format!("is no host: {error}"))?;
    match parsed {
        // The URL standard parses `8080` and `10.1` as addresses, which is not what is meant here.
        Host::Ipv4(address) if host.parse::<Ipv4Addr>() != Ok(address) => {
            Err(format!("is read as the address {address}: write it so"))
        }
        parsed => Ok((normal(parsed).ok_or("is no host: it has no name")?, port)),
    }
}

/// The host and the port of a URL; `None` without a host.
pub(crate) fn of_url(url: &Url) -> Option<(Host, u16)> {
    let host = normal(url.host()?.to_owned())?;
    Some((host, url.port_or_known_default()?))
}

/// `example.com.` is `example.com`.
fn normal(host: Host) -> Option<Host> {
    match host {
        Host::Domain(name) => {
            let name = name.strip_suffix('.').unwrap_or(&name).to_ascii_lowercase();
            (!name.is_empty() && !name.ends_with('.')).then_some(Host::Domain(name))
        }
        address => Some(address),
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn parses_usual_forms() {
        for (text, host, port) in [
            ("api.example.com", "api.example.com", None),
            ("API.Example.com.", "api.example.com", None),
            ("api.example.com:8443", "api.example.com", Some(8443)),
            ("b\u{fc}cher.example", "xn--bcher-kva.example", None),
            ("10.0.0.5:80", "10.0.0.5", Some(80)),
            ("::1", "[::1]", None),
            ("[::1]", "[::1]", None),
            ("[FD00::1]:8080", "[fd00::1]", Some(8080)),
            ("my_service", "my_service", None),
        ] {
            let (parsed, parsed_port) = parse(text).expect(text);
            assert_eq!((parsed.to_string().as_str(), parsed_port), (host, port));
        }
    }

    #[test]
    fn reports_parse_errors() {
        for (text, part) in [
            ("", "is empty"),
            ("https://example.com", "is a URL"),
            ("example.com/path", "neither paths nor networks"),
            ("10.0.0.0/8", "neither paths nor networks"),
            ("*.example.com", "only `*` alone"),
            ("a b", "has a space"),
            ("example.com:", "has `` for a port"),
            ("example.com:0", "expected 1 to 65535"),
            ("example.com:+80", "expected 1 to 65535"),
            ("example.com:65536", "expected 1 to 65535"),
            ("user@example.com", "is no host"),
            ("8080", "is read as the address 0.0.31.144"),
            ("10.1", "is read as the address 10.0.0.1"),
            ("256.0.0.1", "is no host"),
            ("[::1", "is no host"),
            ("[fe80::1%eth0]", "is no host"),
            (".", "is no host"),
            ("a..", "is no host"),
        ] {
            let message = parse(text).expect_err(text);
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
