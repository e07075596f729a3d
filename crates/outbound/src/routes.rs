//! Finds the way to a host: its addresses, checked against the policy, or the operator's proxy.

use std::{net::SocketAddr, sync::Arc};

use url::{Host, Url};
use wws_address::PRIVATE;

use crate::{
    connect::Route,
    error::{Error, Reason},
    overrides::Overrides,
    policy::Policy,
    proxy::Proxies,
    resolve::Resolver,
};

/// What decides where a request is sent.
pub(crate) struct Routes {
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) overrides: Overrides,
    pub(crate) proxies: Proxies,
}

impl Routes {
    /// The route to a host: its admitted addresses, or the operator's proxy.
    ///
    /// A name that the allow list spells out is resolved by the proxy: many machines behind one
    /// cannot resolve it. A name that only `*` allows may be anybody's: it is resolved and checked
    /// here, and the proxy gets the address.
    pub(crate) async fn find(
        &self,
        policy: &Policy,
        url: &Url,
        host: &Host,
        port: u16,
    ) -> Result<Route, Error> {
        if let Some(address) = self.overrides.get(host, port) {
            return Ok(Route::Direct(vec![address]));
        }
        let is_proxied = self.proxies.of(url.scheme(), host, port).is_some();
        let is_name = matches!(host, Host::Domain(_));
        if is_proxied && is_name && policy.names(host, port) {
            return Ok(match url.scheme() {
                "http" => Route::Forward,
                _ => Route::Tunnel,
            });
        }
        let admitted = self.admitted(policy, host, port).await?;
        Ok(match admitted.first() {
            Some(_) if is_proxied && !is_name && url.scheme() == "http" => Route::Forward,
            Some(address) if is_proxied => Route::TunnelTo(*address),
            _ => Route::Direct(admitted),
        })
    }

    /// The addresses of a host that the policy admits; never empty.
    async fn admitted(
        &self,
        policy: &Policy,
        host: &Host,
        port: u16,
    ) -> Result<Vec<SocketAddr>, Error> {
        let found = match host {
            Host::Domain(name) => self.resolver.addresses(name).await?,
            Host::Ipv4(address) => vec![(*address).into()],
            Host::Ipv6(address) => vec![(*address).into()],
        };
        let mut refused = "no address";
        let mut admitted = Vec::with_capacity(found.len());
        for address in found {
            match policy.check_address(host, address, port) {
                Ok(()) => admitted.push((address, port).into()),
                Err(what) => {
                    tracing::debug!(%host, %address, "address refused: {what}");
                    refused = what;
                }
            }
        }
        if admitted.is_empty() {
            let remedy = match refused {
                _ if policy.is_public_only() => {
                    "to a project that you did not write (`--allow-private-hosts` allows it)"
                }
                PRIVATE => {
                    "unless allowed_hosts names that address itself or allow_private has its \
                     network"
                }
                _ => "unless allowed_hosts names that address itself",
            };
            return Err(Error::not_allowed(format!(
                "`{host}` is at {refused}, which is refused {remedy}"
            ))
            .because(Reason::AddressRefused));
        }
        Ok(admitted)
    }
}
