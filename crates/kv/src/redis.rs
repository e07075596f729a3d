//! A store in Redis or Valkey, which several servers share.
//!
//! Each key of a namespace is a string of its own, so that Redis keeps its time to live. A sorted
//! set lists the keys of the namespace. Every operation that changes something is one script, which
//! Redis runs as a whole. Keys whose time has passed, or that Redis has evicted, leave the set when
//! it is next read.

mod contents;
mod lease;
mod names;
mod pool;
mod scripts;

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use redis::{Cmd, FromRedisValue, RedisError};

use crate::error::Error;
use crate::limits::{CurrentLimits, StoreLimits};
use crate::snapshot::SnapshotBuilder;
use crate::store::{
    Change, ListQuery, MAX_SNAPSHOT, MAX_SNAPSHOT_KEYS, Map, PAGE_KEYS, Page, Store, StoreKind,
    check_changes,
};
use crate::turn::{Turn, Turns};
use crate::value::MemoryMeter;
use lease::Lease;
use names::Names;
use pool::{Pool, Repeat};

/// Finds the addresses of hosts.
#[async_trait]
pub trait HostAddresses: Send + Sync + 'static {
    /// The addresses of a host.
    async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// How a Redis is reached, besides its URL.
#[derive(Default)]
pub struct RedisOptions {
    /// The certificates, as PEM, that TLS trusts instead of public ones.
    pub roots: Option<Vec<u8>>,
    /// Finds the addresses of the URL's host; without it, the C library does.
    pub names: Option<Arc<dyn HostAddresses>>,
}

/// A store in Redis.
pub struct RedisStore {
    pool: Arc<Pool>,
    limits: CurrentLimits,
    meter: Option<Arc<dyn MemoryMeter>>,
    turns: Turns,
}

impl RedisStore {
    /// A store at a URL: `redis://`, `rediss://` (TLS) or `redis+unix://`. Connects when it is
    /// first used.
    ///
    /// # Errors
    /// The URL is not valid. The error does not contain it.
    pub fn new(url: &str, options: RedisOptions, limits: StoreLimits) -> Result<Self, Error> {
        Ok(Self {
            pool: Arc::new(Pool::new(url, options).map_err(failed)?),
            limits: CurrentLimits::new(limits),
            meter: None,
            turns: Turns::default(),
        })
    }

    /// Lets `meter` count the snapshots of namespaces; it may refuse more.
    #[must_use]
    pub fn metered(mut self, meter: Arc<dyn MemoryMeter>) -> Self {
        self.meter = Some(meter);
        self
    }

    fn check(&self, changes: &[Change]) -> Result<(), Error> {
        check_changes(&self.limits.get(), changes)
    }

    async fn run<T: FromRedisValue>(&self, command: &Cmd, repeat: Repeat) -> Result<T, Error> {
        self.pool.run(command, repeat).await.map_err(failed)
    }

    async fn write(
        &self,
        namespace: &str,
        changes: &[Change],
        turn: Option<&Turn>,
    ) -> Result<(), Error> {
        self.check(changes)?;
        let names = Names::new(namespace);
        let token = turn.and_then(|turn| turn.token.as_deref());
        let command = scripts::apply(&names, changes, token);
        match self.run(&command, Repeat::Harmless).await? {
            true => Ok(()),
            false => Err(Error::TurnLost),
        }
    }
}

/// What an error of Redis means.
fn failed(error: RedisError) -> Error {
    /// Codes of a server that starts, is being replaced, or cannot write for now.
    const LATER: [&str; 9] = [
        "LOADING",
        "BUSY",
        "MASTERDOWN",
        "READONLY",
        "CLUSTERDOWN",
        "TRYAGAIN",
        "MISCONF",
        "NOREPLICAS",
        "UNKILLABLE",
    ];
    let is_later = error.is_io_error()
        || error.is_timeout()
        || error.is_unrecoverable_error()
        || error.code().is_some_and(|code| LATER.contains(&code));
    if is_later {
        return Error::Unavailable(format!("Redis: {error}"));
    }
    match error.code() {
        Some(scripts::TOO_LARGE) => Error::TooLarge {
            what: "the keys and values of a namespace that is read as a whole,",
            size: MAX_SNAPSHOT + 1,
            limit: MAX_SNAPSHOT,
        },
        _ => Error::backend(error),
    }
}

#[async_trait]
impl Store for RedisStore {
    fn kind(&self) -> StoreKind {
        StoreKind::Redis
    }

    fn set_limits(&self, limits: StoreLimits) {
        self.limits.set(limits);
    }

    async fn snapshot(&self, namespace: &str) -> Result<Map, Error> {
        let command = scripts::snapshot(&Names::new(namespace), MAX_SNAPSHOT_KEYS, MAX_SNAPSHOT);
        let entries: Vec<(String, String)> = self.run(&command, Repeat::Harmless).await?;
        let mut builder = SnapshotBuilder::default();
        for (key, value) in entries {
            builder.add(&key, &value, self.meter.as_ref())?;
        }
        Ok(builder.map)
    }

    async fn apply(&self, namespace: &str, changes: Vec<Change>) -> Result<(), Error> {
        self.write(namespace, &changes, None).await
    }

    async fn apply_in(
        &self,
        namespace: &str,
        changes: Vec<Change>,
        turn: &Turn,
    ) -> Result<(), Error> {
        self.write(namespace, &changes, Some(turn)).await
    }

    async fn get(&self, namespace: &str, key: &str) -> Result<Option<String>, Error> {
        let mut command = redis::cmd("GET");
        command.arg(Names::new(namespace).entry(key));
        self.run(&command, Repeat::Harmless).await
    }

    async fn list(&self, namespace: &str, query: ListQuery<'_>) -> Result<Page, Error> {
        let names = Names::new(namespace);
        let limit = query.limit.clamp(1, PAGE_KEYS);
        let mut keys: Vec<String> = Vec::new();
        let mut after = query.after.map(str::to_owned);
        // One more than the page, which tells whether it is the last.
        while keys.len() <= limit {
            let command = scripts::list(&names, query.prefix, after.as_deref(), limit + 1);
            let (seen, last, found): (usize, String, Vec<String>) =
                self.run(&command, Repeat::Harmless).await?;
            keys.extend(found);
            if seen <= limit {
                break;
            }
            after = Some(last);
        }
        Page::collect(&query, keys.into_iter().map(Ok))
    }

    async fn increment(&self, namespace: &str, key: &str, delta: i64) -> Result<i64, Error> {
        self.check(&[Change::Set(key.to_owned(), String::new())])?;
        let command = scripts::increment(&Names::new(namespace), key, delta);
        let sum: Result<String, Error> = self.run(&command, Repeat::Never).await;
        let not_a_number = || Error::NotANumber {
            key: key.to_owned(),
        };
        match sum {
            Ok(sum) => sum.parse().map_err(|_| not_a_number()),
            Err(Error::Backend(error)) if error.to_string().contains(scripts::NOT_A_NUMBER) => {
                Err(not_a_number())
            }
            Err(error) => Err(error),
        }
    }

    async fn compare_and_swap(
        &self,
        namespace: &str,
        key: &str,
        expected: Option<&str>,
        value: &str,
        ttl: Option<Duration>,
    ) -> Result<bool, Error> {
        let change = Change::set(key.to_owned(), value.to_owned(), ttl);
        self.check(std::slice::from_ref(&change))?;
        let command = scripts::compare_and_swap(&Names::new(namespace), expected, &change);
        self.run(&command, Repeat::Never).await
    }

    async fn serial(&self, namespace: &str) -> Result<Turn, Error> {
        // One of each server asks Redis, the others wait in their order.
        let local = self.turns.take(namespace).await;
        let lease = Lease::take(&self.pool, Names::new(namespace).turn(), local);
        let lease = lease.await.map_err(failed)?;
        Ok(Turn::new(Some(lease.token()), lease))
    }
}
