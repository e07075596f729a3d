//! Resolves names: `/etc/hosts`, then the DNS servers of `/etc/resolv.conf`. Never `getaddrinfo`,
//! which a static binary cannot trust.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::{Either, select};
use hickory_resolver::{
    Hosts, TokioResolver,
    config::{
        NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts, ServerOrderingStrategy,
    },
    lookup::Lookup,
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::Query,
        rr::{Name, RecordType},
    },
};

use crate::{
    error::{Error, Reason, chain},
    system,
};

/// The maximum number of addresses of a name.
const MAX_ADDRESSES: usize = 16;
/// The maximum number of cached results.
const CACHE: usize = 1024;
/// How long a result is cached at most, whatever its time to live.
const MAX_TTL: Duration = Duration::from_secs(300);
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(10);
/// How often the files are checked for changes: container engines rewrite them when networks
/// change.
const RELOAD: Duration = Duration::from_secs(5);
/// How long the result for one family waits for the other (RFC 8305, 3): some servers never answer
/// for IPv6.
const OTHER_FAMILY: Duration = Duration::from_millis(50);

/// How names are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dns {
    /// By the files `hosts` and `resolv.conf` of a directory (`/etc`), read when first needed and
    /// again when they change.
    System(PathBuf),
    /// By these servers only.
    Servers(Vec<SocketAddr>),
}

impl Default for Dns {
    fn default() -> Self {
        Self::System(PathBuf::from("/etc"))
    }
}

/// Resolves names for programs that connect on their own, without any policy. Cheap to clone.
#[derive(Clone)]
pub struct HostNames(Arc<Resolver>);

impl HostNames {
    /// Resolves names as `dns` says.
    #[must_use]
    pub fn new(dns: Dns) -> Self {
        Self(Arc::new(Resolver::new(dns)))
    }

    /// Addresses of a name, IPv4 first; never empty.
    ///
    /// # Errors
    /// The name has no address, or no server answers.
    pub async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, Error> {
        self.0.addresses(name).await
    }
}

pub(crate) struct Resolver {
    dns: Dns,
    state: Mutex<Option<ResolverState>>,
}

struct ResolverState {
    checked: Instant,
    version: Option<system::Version>,
    sources: Arc<Sources>,
    /// Results, for as long as the DNS says. The library keeps records, but not the absence of a
    /// family if the server does not say for how long.
    answers: HashMap<String, CachedAddresses>,
}

struct Sources {
    hosts: Hosts,
    dns: Result<TokioResolver, NetError>,
}

#[derive(Clone)]
struct CachedAddresses {
    addresses: Vec<IpAddr>,
    until: Instant,
}

impl Resolver {
    pub(crate) fn new(dns: Dns) -> Self {
        Self {
            dns,
            state: Mutex::new(None),
        }
    }

    /// Addresses of a name, IPv4 first, without duplicates; never empty. They are not checked
    /// against any policy.
    pub(crate) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, Error> {
        // RFC 6761: not looked up in the DNS.
        if name == "localhost" || name.ends_with(".localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let sources = {
            let mut state = self.lock();
            let state = self.current(&mut state);
            match state.answers.get(name) {
                Some(answer) if answer.until > Instant::now() => {
                    return Ok(answer.addresses.clone());
                }
                _ => state.sources.clone(),
            }
        };
        let parsed = Name::from_utf8(name)
            .map_err(|error| Error::internal(format!("`{name}` cannot be a name: {error}")))?;
        let mut answer = match of_hosts(&sources.hosts, &parsed) {
            Some(answer) => answer,
            None => of_dns(&sources.dns, &parsed).await.map_err(|error| {
                tracing::debug!(name, error = %chain(&error), "name not resolved");
                let text = if error.is_no_records_found() {
                    format!("cannot resolve `{name}`: no such name, or it has no address")
                } else {
                    format!("cannot resolve `{name}`: no answer from the name servers")
                };
                Error::internal(text).because(Reason::NameNotFound)
            })?,
        };
        // Servers rotate their answers: in a fixed order, equal sets share pooled connections.
        answer.addresses.sort_unstable();
        answer.addresses.dedup();
        answer.addresses.truncate(MAX_ADDRESSES);
        if answer.addresses.is_empty() {
            let text = format!("`{name}` has no address");
            return Err(Error::internal(text).because(Reason::NameNotFound));
        }
        self.keep(name, &sources, &answer);
        Ok(answer.addresses)
    }

    /// The current state, read again if the files changed.
    fn current<'a>(&self, state: &'a mut Option<ResolverState>) -> &'a mut ResolverState {
        let now = Instant::now();
        let version = match (&self.dns, &state) {
            (Dns::Servers(_), _) => None,
            (Dns::System(_), Some(state)) if now - state.checked < RELOAD => state.version,
            (Dns::System(directory), _) => Some(system::Version::of(directory)),
        };
        let new = || ResolverState {
            checked: now,
            version,
            sources: Arc::new(Sources::new(&self.dns)),
            answers: HashMap::new(),
        };
        let state = state.get_or_insert_with(new);
        if state.version != version {
            *state = new();
        } else if now - state.checked >= RELOAD {
            state.checked = now;
        }
        state
    }

    fn keep(&self, name: &str, sources: &Arc<Sources>, answer: &CachedAddresses) {
        let now = Instant::now();
        if answer.until <= now {
            return;
        }
        let mut state = self.lock();
        let Some(state) = state.as_mut() else {
            return;
        };
        // The files may have changed meanwhile.
        if !Arc::ptr_eq(&state.sources, sources) {
            return;
        }
        if state.answers.len() >= CACHE {
            state.answers.retain(|_, answer| answer.until > now);
        }
        if state.answers.len() >= CACHE {
            state.answers.clear();
        }
        state.answers.insert(name.to_owned(), answer.clone());
    }

    fn lock(&self) -> MutexGuard<'_, Option<ResolverState>> {
        // The state is always consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sources {
    fn new(dns: &Dns) -> Self {
        let (config, mut options, hosts) = match dns {
            Dns::System(directory) => {
                let (config, options) = system::servers(directory);
                (config, options, system::hosts(directory))
            }
            Dns::Servers(servers) => {
                let servers = servers.iter().map(name_server).collect();
                let config = ResolverConfig::from_name_servers(servers);
                (config, ResolverOpts::default(), Hosts::default())
            }
        };
        options.cache_size = CACHE as u64;
        options.positive_max_ttl = Some(MAX_TTL);
        options.negative_max_ttl = Some(MAX_NEGATIVE_TTL);
        // As libc does: the first server is asked first, the others if it fails.
        options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
        options.num_concurrent_reqs = 1;
        // `hosts` comes first, for both families at once: a name in it is never looked up in the
        // DNS.
        options.use_hosts_file = ResolveHosts::Never;
        let dns = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build();
        Self { hosts, dns }
    }
}

/// A server that is asked by UDP, and by TCP where an answer is too large for that.
fn name_server(server: &SocketAddr) -> NameServerConfig {
    let mut config = NameServerConfig::udp_and_tcp(server.ip());
    for connection in &mut config.connections {
        connection.port = server.port();
    }
    config
}

fn of_hosts(hosts: &Hosts, name: &Name) -> Option<CachedAddresses> {
    let addresses: Vec<IpAddr> = [RecordType::A, RecordType::AAAA]
        .into_iter()
        .filter_map(|family| hosts.lookup_static_host(&Query::query(name.clone(), family)))
        .flat_map(|lookup| addresses(&lookup))
        .collect();
    // Kept until the file changes.
    (!addresses.is_empty()).then(|| CachedAddresses {
        addresses,
        until: Instant::now() + MAX_TTL,
    })
}

/// Asks for both families at once.
async fn of_dns(
    dns: &Result<TokioResolver, NetError>,
    name: &Name,
) -> Result<CachedAddresses, NetError> {
    let dns = dns.as_ref().map_err(NetError::clone)?;
    let v4 = pin!(dns.lookup(name.clone(), RecordType::A));
    let v6 = pin!(dns.lookup(name.clone(), RecordType::AAAA));
    match select(v4, v6).await {
        Either::Left((first, other)) => both(first, other).await,
        Either::Right((first, other)) => both(first, other).await,
    }
}

async fn both(
    first: Result<Lookup, NetError>,
    other: impl Future<Output = Result<Lookup, NetError>>,
) -> Result<CachedAddresses, NetError> {
    let Ok(first) = first else {
        return Ok(answer(&other.await?));
    };
    let mut answered = answer(&first);
    if let Ok(Ok(other)) = tokio::time::timeout(OTHER_FAMILY, other).await {
        let other = answer(&other);
        answered.addresses.extend(other.addresses);
        answered.until = answered.until.min(other.until);
    }
    Ok(answered)
}

fn answer(lookup: &Lookup) -> CachedAddresses {
    CachedAddresses {
        addresses: addresses(lookup),
        until: lookup.valid_until(),
    }
}

fn addresses(lookup: &Lookup) -> Vec<IpAddr> {
    let records = lookup.answers().iter();
    records.filter_map(|record| record.data.ip_addr()).collect()
}
