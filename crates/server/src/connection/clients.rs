//! Open connections: how many there may be, what they may hold, and which of them is evicted for
//! another one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Resource, getrlimit};
use wws_engine::{Account, Charge};
use wws_project::ServerSettings;

use crate::connection::activity::Activity;

/// Bytes that a connection costs: hyper's buffers for reading (16 KiB while a head arrives) and
/// writing, its task, the kernel's socket, and a response that is too small to be charged.
pub(crate) const CONNECTION_COST: u64 = 40 << 10;

/// File descriptors kept for other uses: files, outgoing requests, the log.
const OTHER_FILES: u64 = 256;

/// The server always has room for this many connections.
const MIN_CONNECTIONS: u64 = 32;

/// Divisor: at most this part of the memory is set aside for connections.
const MEMORY_PART: u64 = 8;

/// Time between two attempts to evict a connection.
pub(crate) const EVICTION_INTERVAL: Duration = Duration::from_millis(100);

/// Divisor: at most this part of the connections is evicted at once.
const EVICTED_PART: usize = 16;

/// Connections that may be open at once: the setting, as far as open files and `memory` bytes
/// allow.
pub(crate) fn max_connections(settings: &ServerSettings, memory: u64) -> u64 {
    let wanted = u64::from(settings.max_connections);
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    // A quarter is for the files of guests.
    let by_files = (files / 4 * 3).saturating_sub(OTHER_FILES).max(files / 2);
    let by_memory = (memory / MEMORY_PART / CONNECTION_COST).max(MIN_CONNECTIONS);
    if by_files < wanted.min(by_memory) {
        tracing::warn!("only {by_files} connections at once: the limit of open files is {files}");
    } else if by_memory < wanted {
        tracing::info!(
            "at most {by_memory} connections at once: there are {memory} bytes of memory"
        );
    }
    wanted.min(by_files).min(by_memory).max(1)
}

/// The connections at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionCount {
    pub(crate) open: u64,
    /// Since the start.
    pub(crate) accepted: u64,
    /// That may be open at once.
    pub(crate) max: u64,
}

/// All connections that are open.
pub(crate) struct Clients {
    /// Connections that may be open at once.
    max: u64,
    /// The memory for connections: [`CONNECTION_COST`] for each.
    memory: Account,
    open: Mutex<OpenClients>,
}

#[derive(Default)]
struct OpenClients {
    next: u64,
    closed: u64,
    /// When connections that stream were evicted last.
    streams_evicted: Option<Instant>,
    all: HashMap<u64, Arc<Activity>>,
    /// Streams of HTTP/2 whose workers stream.
    streams: HashMap<u64, Arc<Activity>>,
}

/// A stream that may be evicted, until this is dropped.
pub(crate) struct ListedStream {
    clients: Arc<Clients>,
    number: u64,
}

impl Drop for ListedStream {
    fn drop(&mut self) {
        self.clients.lock().streams.remove(&self.number);
    }
}

/// The right to have a connection open, until it is dropped.
pub(crate) struct ConnectionPermit {
    clients: Arc<Clients>,
    number: u64,
    _charge: Charge,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut open = self.clients.lock();
        open.all.remove(&self.number);
        open.closed += 1;
    }
}

impl Clients {
    /// Allows `max` open connections.
    pub(crate) fn new(max: u64) -> Arc<Self> {
        Arc::new(Self {
            max,
            memory: Account::new(max * CONNECTION_COST),
            open: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, OpenClients> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connections at one time.
    pub(crate) fn count(&self) -> ConnectionCount {
        let open = self.lock();
        let now = open.all.len() as u64;
        ConnectionCount {
            open: now,
            accepted: open.closed + now,
            max: self.max,
        }
    }

    /// The number of connections that have been closed.
    pub(crate) fn closed(&self) -> u64 {
        self.lock().closed
    }

    /// Waits for room for one more connection. Without room, connections that wait for their
    /// clients are evicted.
    pub(crate) async fn enter(self: &Arc<Self>, activity: Arc<Activity>) -> ConnectionPermit {
        let charge = match self.memory.charge(CONNECTION_COST) {
            Some(charge) => charge,
            None => loop {
                self.evict();
                let reserved =
                    tokio::time::timeout(EVICTION_INTERVAL, self.memory.reserve(CONNECTION_COST))
                        .await;
                if let Ok(Some(charge)) = reserved {
                    break charge;
                }
            },
        };
        let mut open = self.lock();
        open.next += 1;
        let number = open.next;
        open.all.insert(number, activity);
        drop(open);
        ConnectionPermit {
            clients: self.clone(),
            number,
            _charge: charge,
        }
    }

    /// Lists a stream of HTTP/2 among those that [`Self::evict_streams`] may evict.
    pub(crate) fn list(self: &Arc<Self>, stream: &Arc<Activity>) -> ListedStream {
        let mut open = self.lock();
        open.next += 1;
        let number = open.next;
        open.streams.insert(number, stream.clone());
        drop(open);
        ListedStream {
            clients: self.clone(),
            number,
        }
    }

    /// Evicts some of the connections that wait for their clients: those that have used most of
    /// their time.
    fn evict(&self) {
        let open = self.lock();
        let count = (open.all.len() / EVICTED_PART).max(1);
        let waiting = waiting(open.all.values());
        drop(open);
        evict_longest(waiting, count);
    }

    /// Evicts some of the requests whose clients keep a worker waiting that streams, because calls
    /// wait for its place. At most once within [`EVICTION_INTERVAL`].
    pub(crate) fn evict_streams(&self) {
        let mut open = self.lock();
        let now = Instant::now();
        let last = open.streams_evicted;
        if last.is_some_and(|last| now < last + EVICTION_INTERVAL) {
            return;
        }
        open.streams_evicted = Some(now);
        let connections = open.all.values();
        let streaming = connections.filter(|activity| activity.requests.is_any_streaming());
        let waiting = waiting(streaming.chain(open.streams.values()));
        drop(open);
        let count = (waiting.len() / EVICTED_PART).max(1);
        evict_longest(waiting, count);
    }
}

/// Those that wait for their clients, with the part of the time that has passed.
fn waiting<'a>(all: impl Iterator<Item = &'a Arc<Activity>>) -> Vec<(u64, Arc<Activity>)> {
    all.filter_map(|activity| Some((activity.waiting.used()?, activity.clone())))
        .collect()
}

/// Evicts the `count` that have used most of their time.
fn evict_longest(mut waiting: Vec<(u64, Arc<Activity>)>, count: usize) {
    if waiting.len() > count {
        waiting.select_nth_unstable_by_key(count, |(used, _)| std::cmp::Reverse(*used));
        waiting.truncate(count);
    }
    for (_, activity) in waiting {
        activity.waiting.evict();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn evicts_the_connection_that_has_waited_longest_for_its_client() {
        let clients = Clients::new(3);
        let hour = Duration::from_secs(3600);
        let activities: Vec<Arc<Activity>> = (0..3).map(|_| Activity::new()).collect();
        let mut places = Vec::new();
        for activity in &activities {
            places.push(clients.enter(activity.clone()).await);
        }
        // The first is busy; the second has half of its time left, the third almost all.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        activities[1].waiting.begin(Some(Duration::from_secs(2)));
        activities[2].waiting.begin(Some(hour));
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let entering = tokio::spawn({
            let clients = clients.clone();
            async move { clients.enter(Activity::new()).await }
        });
        while !activities[1].waiting.take_evicted() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(!entering.is_finished());
        assert!(!activities[0].waiting.take_evicted() && !activities[2].waiting.take_evicted());
        drop(places.remove(1));
        assert!(entering.await.is_ok());
        assert_eq!(clients.lock().all.len(), 2);
    }

    #[test]
    fn bounds_connections_by_memory() {
        let settings = ServerSettings::default();
        assert_eq!(max_connections(&settings, 0), MIN_CONNECTIONS);
        let small = max_connections(&settings, 40 << 20);
        assert!((MIN_CONNECTIONS..200).contains(&small), "{small}");
        assert!(small * CONNECTION_COST <= (40 << 20) / MEMORY_PART);
    }
}
