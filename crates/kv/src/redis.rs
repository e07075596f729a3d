//! A store in Redis or Valkey, which several servers share.
//!
//! Each key of a namespace is a string of its own, so that Redis keeps its time to live. A sorted
//! set lists the keys of the namespace. Every operation that changes something is one script, which
//! Redis runs as a whole. Keys whose time has passed, or that Redis has evicted, leave the set when
//! it is next read.

mod address;
mod command;
mod connect;
mod contents;
mod failure;
mod lease;
mod link;
mod names;
mod pool;
mod reply;
mod scripts;

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use crate::error::Error;
use crate::limits::{CurrentLimits, StoreLimits};
use crate::snapshot::SnapshotBuilder;
use crate::store::{
    Change, ListQuery, MAX_SNAPSHOT, MAX_SNAPSHOT_KEYS, Map, PAGE_KEYS, Page, Store, StoreKind,
    check_changes,
};
use crate::turn::{Turn, Turns};
use crate::value::MemoryMeter;
use command::Command;
use failure::Failure;
use lease::Lease;
use names::Names;
use pool::{Pool, Repeat, Way};
use reply::{Elements, FromReply, ReplyReader};

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
    large: LargeNamespaces,
    shortcuts: Shortcuts,
}

impl RedisStore {
    /// A store at a URL: `redis://`, `rediss://` (TLS) or `redis+unix://`. Connects when it is
    /// first used.
    ///
    /// # Errors
    /// The URL is not valid. The error does not contain it.
    pub fn new(url: &str, options: RedisOptions, limits: StoreLimits) -> Result<Self, Error> {
        Ok(Self {
            pool: Arc::new(Pool::new(url, options)?),
            limits: CurrentLimits::new(limits),
            meter: None,
            turns: Turns::default(),
            large: LargeNamespaces::default(),
            shortcuts: Shortcuts::default(),
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

    async fn run<T: FromReply>(
        &self,
        way: Way,
        command: &Command,
        repeat: Repeat,
    ) -> Result<T, Error> {
        let result = self.pool.run(way, command, repeat).await;
        result.map_err(failed)
    }

    /// Reads a namespace of few keys, by a command that costs Redis less than a script. `None` if
    /// it has more of them.
    async fn small_snapshot(&self, namespace: &str, names: &Names) -> Result<Option<Map>, Error> {
        if self.shortcuts.is_refused(Shortcut::Sort) || self.large.has(namespace) {
            return Ok(None);
        }
        let Some(command) = scripts::small_snapshot(names, SMALL) else {
            return Ok(None);
        };
        let meter = self.meter.as_ref();
        let read = |reply: &mut ReplyReader<'_>| read_small(reply, meter);
        let pool = &self.pool;
        match pool
            .run_with(Way::Any, &command, Repeat::Harmless, read)
            .await
        {
            Ok(read) => read,
            Err(failure) => {
                let is_refused = matches!(failure, Failure::Server(_));
                match failed(failure) {
                    // Those whom an access list allows some keys only may not run it.
                    Error::Backend(_) if is_refused => {
                        self.shortcuts.refuse(Shortcut::Sort);
                        Ok(None)
                    }
                    error => Err(error),
                }
            }
        }
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
        let is_refused = self.shortcuts.is_refused(Shortcut::Transaction);
        if let ([change], None, false) = (changes, token, is_refused) {
            let command = scripts::apply_one(&names, change);
            let done = self.pool.run::<()>(Way::Any, &command, Repeat::Harmless);
            match done.await {
                Err(failure) if failure.is_forbidden() => {
                    self.shortcuts.refuse(Shortcut::Transaction);
                }
                done => return done.map_err(failed),
            }
        }
        let command = scripts::apply(&names, changes, token);
        match self.run(Way::Any, &command, Repeat::Harmless).await? {
            true => Ok(()),
            false => Err(Error::TurnLost),
        }
    }
}

/// A command that costs Redis less than the script for the same.
#[derive(Clone, Copy)]
enum Shortcut {
    /// [`scripts::small_snapshot`].
    Sort,
    /// [`scripts::apply_one`].
    Transaction,
}

/// The shortcuts that an access list of Redis does not allow. Scripts are used instead.
#[derive(Default)]
struct Shortcuts {
    /// By [`Shortcut`].
    refused: [AtomicBool; 2],
}

impl Shortcuts {
    fn is_refused(&self, shortcut: Shortcut) -> bool {
        self.refused[shortcut as usize].load(Ordering::Relaxed)
    }

    fn refuse(&self, shortcut: Shortcut) {
        self.refused[shortcut as usize].store(true, Ordering::Relaxed);
    }
}

/// What a failure means.
fn failed(failure: Failure) -> Error {
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
    let is_later = match &failure {
        Failure::NotConnected(_) | Failure::NotSent(_) | Failure::Lost(_) | Failure::TimedOut => {
            true
        }
        Failure::Server(_) => failure.code().is_some_and(|code| LATER.contains(&code)),
        Failure::Unexpected(_) => false,
    };
    if is_later {
        return Error::Unavailable(format!("Redis: {failure}"));
    }
    match failure.code() {
        Some(scripts::TOO_LARGE) => Error::TooLarge {
            what: "the keys and values of a namespace that is read as a whole,",
            size: MAX_SNAPSHOT + 1,
            limit: MAX_SNAPSHOT,
        },
        _ => Error::backend(failure),
    }
}

/// The namespaces that were too large for [`scripts::small_snapshot`] when they were read last.
#[derive(Default)]
struct LargeNamespaces(Mutex<HashSet<String>>);

impl LargeNamespaces {
    /// Namespaces that are remembered.
    const MOST: usize = 1000;

    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, namespace: &str) -> bool {
        self.lock().contains(namespace)
    }

    fn learn(&self, namespace: &str, is_large: bool) {
        let mut names = self.lock();
        match is_large {
            true => {
                if names.len() >= Self::MOST {
                    names.clear();
                }
                names.insert(namespace.to_owned());
            }
            false => {
                names.remove(namespace);
            }
        }
    }
}

/// Keys of a small namespace: with the largest values they take no more than one that is large.
const SMALL: usize = 64;

/// Reads pairs of a key and a value.
fn read_pairs(
    reply: &mut ReplyReader<'_>,
    meter: Option<&Arc<dyn MemoryMeter>>,
) -> Result<Result<Map, Error>, Failure> {
    let mut builder = SnapshotBuilder::default();
    for _ in 0..reply.array()? {
        if reply.array()? != 2 {
            return Err(Failure::unexpected("no pair"));
        }
        let (key, value) = (reply::text(reply.text()?)?, reply::text(reply.text()?)?);
        if let Err(error) = builder.add(key, value, meter) {
            return Ok(Err(error));
        }
    }
    Ok(Ok(builder.map))
}

/// Reads keys and values in turns. `None` if there may be more of them, or some have no value.
fn read_small(
    reply: &mut ReplyReader<'_>,
    meter: Option<&Arc<dyn MemoryMeter>>,
) -> Result<Result<Option<Map>, Error>, Failure> {
    let keys = reply.array()? / 2;
    if keys >= SMALL {
        return Ok(Ok(None));
    }
    let mut builder = SnapshotBuilder::default();
    for _ in 0..keys {
        let key = reply::text(reply.text()?)?;
        let Some(value) = reply.optional_text()? else {
            return Ok(Ok(None));
        };
        if let Err(error) = builder.add(key, reply::text(value)?, meter) {
            return Ok(Err(error));
        }
    }
    Ok(Ok(Some(builder.map)))
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
        let names = Names::new(namespace);
        if let Some(map) = self.small_snapshot(namespace, &names).await? {
            return Ok(map);
        }
        let command = scripts::snapshot(&names, MAX_SNAPSHOT_KEYS, MAX_SNAPSHOT);
        let meter = self.meter.as_ref();
        let read = |reply: &mut ReplyReader<'_>| read_pairs(reply, meter);
        let pool = &self.pool;
        let read = pool.run_with(Way::Last, &command, Repeat::Harmless, read);
        let map = read.await.map_err(failed)??;
        self.large.learn(namespace, map.size() >= SMALL);
        Ok(map)
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
        let mut command = Command::new("GET");
        command.arg(Names::new(namespace).entry(key));
        self.run(Way::Any, &command, Repeat::Harmless).await
    }

    async fn list(&self, namespace: &str, query: ListQuery<'_>) -> Result<Page, Error> {
        let names = Names::new(namespace);
        let limit = query.limit.clamp(1, PAGE_KEYS);
        let mut keys: Vec<String> = Vec::new();
        let mut after = query.after.map(str::to_owned);
        // One more than the page, which tells whether it is the last.
        while keys.len() <= limit {
            let command = scripts::list(&names, query.prefix, after.as_deref(), limit + 1);
            let (seen, last, found): (i64, String, Elements<String>) =
                self.run(Way::Any, &command, Repeat::Harmless).await?;
            keys.extend(found.0);
            if seen <= limit as i64 {
                break;
            }
            after = Some(last);
        }
        Page::collect(&query, keys.into_iter().map(Ok))
    }

    async fn increment(&self, namespace: &str, key: &str, delta: i64) -> Result<i64, Error> {
        self.check(&[Change::Set(key.to_owned(), String::new())])?;
        let command = scripts::increment(&Names::new(namespace), key, delta);
        let sum: Result<String, Error> = self.run(Way::Any, &command, Repeat::Never).await;
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
        self.run(Way::Any, &command, Repeat::Never).await
    }

    async fn serial(&self, namespace: &str) -> Result<Turn, Error> {
        // One of each server asks Redis, the others wait in their order.
        let local = self.turns.take(namespace).await;
        let lease = Lease::take(&self.pool, Names::new(namespace).turn(), local);
        let lease = lease.await.map_err(failed)?;
        Ok(Turn::new(Some(lease.token()), lease))
    }
}
