//! Connections to Redis. Each carries the commands of many tasks.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, RedisError, RedisFuture,
    RedisResult, TlsCertificates, aio::MultiplexedConnection, io::AsyncDNSResolver,
};
use tokio::sync::Mutex;

use super::{HostAddresses, RedisOptions};

/// Connections at most.
const CONNECTIONS: usize = 4;

/// Time for a connection, without TLS. While Redis is away, each attempt takes so long at most, and
/// the next request after [`PAUSE`] tries again.
const CONNECT: Duration = Duration::from_millis(200);

/// Time for a connection with TLS, whose handshake takes round trips of its own.
const CONNECT_TLS: Duration = Duration::from_millis(750);

/// Time in which no attempt follows one that failed.
const PAUSE: Duration = Duration::from_millis(50);

/// Time for the answer to a command.
const ANSWER: Duration = Duration::from_secs(2);

/// A connection that was not used for so long is tried before a command that must not be repeated.
const IDLE: Duration = Duration::from_millis(500);

/// Whether a command may be sent again if its connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Twice is as once.
    Harmless,
    /// It may have been executed.
    Never,
}

pub(super) struct Pool {
    client: Client,
    config: AsyncConnectionConfig,
    connections: [Mutex<Slot>; CONNECTIONS],
    next: AtomicUsize,
}

/// A connection that may be open.
#[derive(Default)]
struct Slot {
    open: Option<MultiplexedConnection>,
    /// Of the connection that is open: counted up.
    number: u64,
    used: Option<Instant>,
    /// The last attempt that failed.
    failed: Option<(Instant, String)>,
}

/// Finds addresses for the client.
struct Names(Arc<dyn HostAddresses>);

impl AsyncDNSResolver for Names {
    fn resolve<'a, 'b: 'a>(
        &'a self,
        host: &'b str,
        port: u16,
    ) -> RedisFuture<'a, Box<dyn Iterator<Item = SocketAddr> + Send + 'a>> {
        Box::pin(async move {
            let addresses = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
                Ok(address) => vec![address],
                Err(_) => self.0.addresses(host).await?,
            };
            let addresses = addresses.into_iter();
            let found = addresses.map(move |address| SocketAddr::new(address, port));
            Ok(Box::new(found) as Box<dyn Iterator<Item = SocketAddr> + Send>)
        })
    }
}

impl Pool {
    pub(super) fn new(url: &str, options: RedisOptions) -> RedisResult<Self> {
        let is_tls = url.starts_with("rediss:");
        if is_tls {
            // The client takes that of the process. An error means that there is one already.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        // Only for TLS: the client refuses certificates for other URLs.
        let client = match options.roots.filter(|_| is_tls) {
            Some(roots) => Client::build_with_tls(
                url,
                TlsCertificates {
                    client_tls: None,
                    root_cert: Some(roots),
                },
            )?,
            None => Client::open(url)?,
        };
        let limit = if is_tls { CONNECT_TLS } else { CONNECT };
        let mut config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(limit))
            .set_response_timeout(Some(ANSWER));
        if let Some(names) = options.names {
            config = config.set_dns_resolver(Names(names));
        }
        Ok(Self {
            client,
            config,
            connections: Default::default(),
            next: AtomicUsize::new(0),
        })
    }

    /// Runs a command on one of the connections.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        command: &Cmd,
        repeat: Repeat,
    ) -> RedisResult<T> {
        let slot = self.next.fetch_add(1, Ordering::Relaxed) % CONNECTIONS;
        self.run_on(slot, command, repeat).await
    }

    /// Runs a command on a connection, after those that were sent on it before.
    pub(super) async fn run_on<T: FromRedisValue>(
        &self,
        slot: usize,
        command: &Cmd,
        repeat: Repeat,
    ) -> RedisResult<T> {
        let mut is_repeated = repeat == Repeat::Never;
        loop {
            let (mut connection, number) = self.connection(slot, repeat).await?;
            let error = match command.query_async(&mut connection).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let is_broken = error.is_io_error() || error.is_unrecoverable_error();
            if is_broken || error.is_timeout() {
                self.forget(slot, number).await;
            }
            // A server that does not answer is not asked twice.
            if !is_broken || error.is_timeout() || std::mem::replace(&mut is_repeated, true) {
                return Err(error);
            }
        }
    }

    async fn connection(
        &self,
        slot: usize,
        repeat: Repeat,
    ) -> RedisResult<(MultiplexedConnection, u64)> {
        let slot = &mut *self.connections[slot % CONNECTIONS].lock().await;
        let is_idle = slot.used.is_none_or(|used| used.elapsed() > IDLE);
        if let Some(open) = &mut slot.open
            && repeat == Repeat::Never
            && is_idle
            && redis::cmd("PING").query_async::<()>(open).await.is_err()
        {
            slot.open = None;
        }
        slot.used = Some(Instant::now());
        if let Some(open) = &slot.open {
            return Ok((open.clone(), slot.number));
        }
        // Those who wait here get the error of the one who tried.
        if let Some((at, error)) = &slot.failed
            && at.elapsed() < PAUSE
        {
            let error = std::io::Error::new(std::io::ErrorKind::NotConnected, error.clone());
            return Err(error.into());
        }
        let connecting = self
            .client
            .get_multiplexed_async_connection_with_config(&self.config);
        match connecting.await {
            Ok(open) => {
                slot.failed = None;
                slot.number += 1;
                slot.open = Some(open.clone());
                Ok((open, slot.number))
            }
            Err(error) => {
                slot.failed = Some((Instant::now(), error.to_string()));
                Err(connect_failure(error))
            }
        }
    }

    /// Closes a connection that broke, unless another one has taken its place.
    async fn forget(&self, slot: usize, number: u64) {
        let slot = &mut *self.connections[slot % CONNECTIONS].lock().await;
        if slot.number == number {
            slot.open = None;
        }
    }
}

/// Whatever the reason why there is no connection, a later attempt may have one.
fn connect_failure(error: RedisError) -> RedisError {
    match error.kind() {
        ErrorKind::Io => error,
        _ => std::io::Error::new(std::io::ErrorKind::NotConnected, error.to_string()).into(),
    }
}
