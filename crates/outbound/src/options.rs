//! Options of a client, and extensions of requests and responses.

use std::time::Duration;

use crate::overrides::Overrides;
use crate::proxy::Proxies;
use crate::resolve::Dns;
use crate::roots::Roots;

/// Bytes for the head of a response, and for the buffer of a connection.
pub(crate) const MAX_HEAD: usize = 128 << 10;

/// Options of a [`Client`](crate::Client).
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Hosts whose addresses the operator sets.
    pub resolve: Overrides,
    /// The trusted certificates.
    pub roots: Roots,
    /// Proxies that the operator names.
    pub proxies: Proxies,
    /// How names are resolved.
    pub dns: Dns,
    /// The time for TCP and TLS together.
    pub connect_timeout: Duration,
    /// How long an idle connection is kept.
    pub idle_timeout: Duration,
    /// Idle connections to one host.
    pub max_idle_per_host: usize,
    /// The number of connections, idle or not, above which none is kept for another request.
    pub max_kept: usize,
    /// Concurrent requests; further ones wait within their own time limits.
    pub max_requests: usize,
    /// Bytes of bodies that all requests hold together: of requests until they are answered, of
    /// responses until the guest has them. A request or response that exceeds it fails.
    pub memory: u64,
}

impl ClientOptions {
    /// Bounds for a server with this much memory for outgoing requests.
    #[must_use]
    pub fn with_memory(self, bytes: u64) -> Self {
        // Buffers hold heads, which rarely have their maximum size: they get a quarter as much.
        let connections = usize::try_from(bytes / 4 / MAX_HEAD as u64).unwrap_or(usize::MAX);
        let connections = connections.max(8);
        Self {
            memory: bytes,
            max_requests: connections.min(self.max_requests),
            max_kept: connections.min(self.max_kept),
            max_idle_per_host: connections.min(self.max_idle_per_host),
            ..self
        }
    }
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            resolve: Overrides::default(),
            roots: Roots::default(),
            proxies: Proxies::default(),
            dns: Dns::default(),
            connect_timeout: Duration::from_secs(5),
            // Servers commonly close after 60 s or more: the client closes first.
            idle_timeout: Duration::from_secs(30),
            max_idle_per_host: 32,
            max_kept: 128,
            max_requests: 512,
            memory: 256 << 20,
        }
    }
}

/// An extension of a request: a redirect is passed to the guest instead of followed.
#[derive(Clone, Copy, Debug)]
pub struct KeepRedirects;

/// An extension of a streamed request: its own times, which hold in addition to the policy's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// To connect.
    pub connect: Option<Duration>,
    /// From the connection, or the last piece that was sent, to the head of the response.
    pub first_byte: Option<Duration>,
    /// Between two pieces of the response's body.
    pub between_bytes: Option<Duration>,
}

/// An extension of a response: where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnsweredBy {
    /// The URL of the last hop.
    pub url: String,
    /// Redirects that were followed.
    pub redirects: u32,
}
