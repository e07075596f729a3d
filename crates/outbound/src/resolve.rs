//! From a name to addresses: `/etc/hosts`, then the DNS servers of `/etc/resolv.conf`. Never `getaddrinfo`, which a
//! static binary cannot trust.

use std::{
    fs::File,
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use hickory_resolver::{
    Hosts, TokioResolver,
    config::{
        LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
        ServerOrderingStrategy,
    },
    name_server::TokioConnectionProvider,
    proto::xfer::Protocol,
    system_conf::parse_resolv_conf,
};

use crate::error::{Error, chain};

/// Addresses of a name that are looked at.
const MAX_ADDRESSES: usize = 16;
/// Bytes of `hosts` and `resolv.conf`: both can come from an image.
const MAX_FILE: u64 = 1 << 20;
/// Answers that are kept.
const CACHE: usize = 1024;
/// How long an answer is kept at most, whatever its time to live.
const MAX_TTL: Duration = Duration::from_secs(300);
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(10);
/// How often the files are looked at for changes: container engines rewrite them when networks come and go.
const RELOAD: Duration = Duration::from_secs(5);

/// Where names are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dns {
    /// By the files `hosts` and `resolv.conf` of a folder (`/etc`), read when first needed and again when they change.
    System(PathBuf),
    /// By these servers only.
    Servers(Vec<SocketAddr>),
}

impl Default for Dns {
    fn default() -> Self {
        Self::System(PathBuf::from("/etc"))
    }
}

pub(crate) struct Resolver {
    dns: Dns,
    state: Mutex<Option<State>>,
}

struct State {
    checked: Instant,
    stamps: [Stamp; 2],
    resolver: Arc<TokioResolver>,
}

/// What tells one version of a file from another; `None`: not there.
type Stamp = Option<(Option<SystemTime>, u64)>;

impl Resolver {
    pub(crate) fn new(dns: Dns) -> Self {
        Self {
            dns,
            state: Mutex::new(None),
        }
    }

    /// Addresses of a name, IPv4 first, each once; never none. Not checked against any policy.
    pub(crate) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, Error> {
        // RFC 6761: not for the DNS to say.
        if name == "localhost" || name.ends_with(".localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let resolver = self
            .resolver()
            .map_err(|problem| Error::internal(format!("cannot resolve `{name}`: {problem}")))?;
        let mut addresses: Vec<IpAddr> = match resolver.lookup_ip(name).await {
            Ok(lookup) => lookup.iter().take(MAX_ADDRESSES).collect(),
            Err(error) => {
                tracing::debug!(target: "outbound", name, error = %chain(&error), "name not resolved");
                return Err(Error::internal(if error.is_no_records_found() {
                    format!("cannot resolve `{name}`: no such name, or it has no address")
                } else {
                    format!("cannot resolve `{name}`: no answer from the name servers")
                }));
            }
        };
        // Servers rotate their answers: in one order, equal sets share pooled connections.
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.is_empty() {
            return Err(Error::internal(format!("`{name}` has no address")));
        }
        Ok(addresses)
    }

    fn resolver(&self) -> Result<Arc<TokioResolver>, String> {
        let mut state = self.lock();
        if let Some(state) = state.as_ref()
            && (matches!(self.dns, Dns::Servers(_)) || state.checked.elapsed() < RELOAD)
        {
            return Ok(state.resolver.clone());
        }
        let stamps = match &self.dns {
            Dns::System(folder) => [
                stamp(&folder.join("resolv.conf")),
                stamp(&folder.join("hosts")),
            ],
            Dns::Servers(_) => [None, None],
        };
        if let Some(state) = state.as_mut()
            && state.stamps == stamps
        {
            state.checked = Instant::now();
            return Ok(state.resolver.clone());
        }
        let resolver = Arc::new(build(&self.dns)?);
        *state = Some(State {
            checked: Instant::now(),
            stamps,
            resolver: resolver.clone(),
        });
        Ok(resolver)
    }

    fn lock(&self) -> MutexGuard<'_, Option<State>> {
        // Nothing in it is ever half written.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn build(dns: &Dns) -> Result<TokioResolver, String> {
    let (config, mut options, hosts) = match dns {
        Dns::System(folder) => {
            let (config, options) = system_servers(&folder.join("resolv.conf"))?;
            (config, options, system_hosts(&folder.join("hosts")))
        }
        Dns::Servers(servers) => {
            let mut config = ResolverConfig::new();
            for server in servers {
                for protocol in [Protocol::Udp, Protocol::Tcp] {
                    config.add_name_server(NameServerConfig::new(*server, protocol));
                }
            }
            (config, ResolverOpts::default(), Hosts::default())
        }
    };
    options.cache_size = CACHE;
    options.positive_max_ttl = Some(MAX_TTL);
    options.negative_max_ttl = Some(MAX_NEGATIVE_TTL);
    options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
    // As libc does: the first server is asked first, the others are for when it fails.
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    options.num_concurrent_reqs = 1;
    // Else the builder reads the file of the machine, wherever ours lies.
    options.use_hosts_file = ResolveHosts::Never;
    let mut resolver =
        TokioResolver::builder_with_config(config, TokioConnectionProvider::default())
            .with_options(options)
            .build();
    resolver.set_hosts(Arc::new(hosts));
    Ok(resolver)
}

/// A missing or broken `resolv.conf` leaves names of `hosts` usable: without servers every other lookup fails.
fn system_servers(path: &Path) -> Result<(ResolverConfig, ResolverOpts), String> {
    let text = match read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
    };
    match parse_resolv_conf(&text) {
        Ok(parsed) => Ok(parsed),
        Err(error) => {
            tracing::warn!(target: "outbound", file = %path.display(), error = %chain(&error), "no name servers");
            Ok((ResolverConfig::new(), ResolverOpts::default()))
        }
    }
}

fn system_hosts(path: &Path) -> Hosts {
    let mut hosts = Hosts::default();
    let read = read(path).and_then(|text| hosts.read_hosts_conf(text.as_slice()));
    if let Err(error) = read
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(target: "outbound", file = %path.display(), %error, "hosts not read");
    }
    hosts
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    let mut text = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut text)?;
    Ok(text)
}

fn stamp(path: &Path) -> Stamp {
    let metadata = path.metadata().ok()?;
    Some((metadata.modified().ok(), metadata.len()))
}
