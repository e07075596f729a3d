//! What a project of somebody else may reach that this machine's user runs without a container.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// What to do about a refused host.
pub(crate) const ALLOW: &str = "`--allow-private-hosts` lets a project that you did not write \
     reach hosts of this machine and of its networks";

/// A project reaches public hosts alone: what its files and its image name is not the user's
/// choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublicHosts {
    /// The variables that the user gives to the project: hosts in these are the user's choice.
    pub given: BTreeSet<String>,
}

/// Whether an entry of `allowed_hosts` names a host of this machine or of a private network: an
/// address that is not public, or a name that no public server has.
pub(crate) fn is_private_host(entry: &str) -> bool {
    let host = host(entry.trim());
    if let Ok(address) = host.parse::<IpAddr>() {
        return wws_address::not_public(address.to_canonical()).is_some();
    }
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    name != "*" && (name.ends_with(".localhost") || wws_address::is_private_name(&name))
}

/// The host of an entry that may have a port.
fn host(entry: &str) -> &str {
    if let Some(rest) = entry.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    match entry.split_once(':') {
        // One colon separates a port; several belong to an IPv6 address.
        Some((host, port)) if !port.contains(':') => host,
        _ => entry,
    }
}

#[cfg(test)]
mod tests {
    use super::is_private_host;

    #[test]
    fn private_hosts_are_known() {
        for entry in [
            "127.0.0.1",
            "127.0.0.1:8080",
            "10.1.2.3",
            "172.16.0.1:80",
            "192.168.0.1",
            "169.254.169.254",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.2.1",
            "[2001:db8::1]:443",
            "0.0.0.0",
            "255.255.255.255",
            "[::1]:80",
            "::1",
            "[fd00::1]",
            "fe80::1",
            "::ffff:10.0.0.1",
            "localhost",
            "LOCALHOST:3000",
            "db",
            "api.localhost",
            "metadata.google.internal",
            "printer.local.",
            "router.home.arpa",
        ] {
            assert!(is_private_host(entry), "{entry}");
        }
        for entry in [
            "*",
            "api.example.com",
            "api.example.com:8443",
            "93.184.216.34",
            "[2606:4700::1111]:443",
            "internal.example.com",
        ] {
            assert!(!is_private_host(entry), "{entry}");
        }
    }
}
