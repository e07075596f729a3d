//! A store in a file: an SQLite database with a write-ahead log.
//!
//! One thread writes. It commits the changes that wait together, and a change is answered once the
//! log is on the disk. Reads run beside it in threads that may block, a bounded number at once. One
//! process at a time has the store: it holds a lock on a file beside the database.

mod editor;
mod entries;
mod lock;
mod readers;
mod writer;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::{mpsc, oneshot};

pub use editor::FileEditor;
pub use entries::FileEntries;

use crate::error::Error;
use crate::limits::{CurrentLimits, StoreLimits};
use crate::store::{Change, ListQuery, Map, Page, Store, StoreKind, check_changes};
use crate::turn::{Turn, Turns};
use crate::value::MemoryMeter;
use lock::LockFile;
use readers::Readers;
use writer::{Job, Outcome, Write, Writer};

/// Changes that wait for the writer. Further ones wait in their tasks.
const QUEUE: usize = 256;

/// How long a connection waits for another one of the same database: only programs that look into
/// the file from outside take it.
const BUSY: Duration = Duration::from_secs(5);

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{} is in use by {holder}: one process at a time has a store", .path.display())]
    InUse {
        /// The database.
        path: PathBuf,
        /// The program that has it, its process id and its machine or container.
        holder: String,
    },
    /// A file cannot be opened.
    #[error("cannot open {}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The disk has no room for what SQLite keeps beside the file while it is open.
    #[error("the disk of {} is full: a store needs some KiB to be opened", .path.display())]
    DiskFull {
        /// The database.
        path: PathBuf,
    },
    /// The file is not a store, or is damaged.
    #[error("{} is no key/value store that this version can read: {source}", .path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
}

impl OpenError {
    /// Why SQLite cannot open a database.
    fn of_database(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::DiskFull { path },
            _ => Self::Database { path, source },
        }
    }
}

/// A store in a file.
pub struct FileStore {
    writer: mpsc::Sender<Job>,
    readers: Readers,
    limits: Arc<CurrentLimits>,
    meter: Option<Arc<dyn MemoryMeter>>,
    turns: Turns,
}

impl FileStore {
    /// Opens the store in a file, which is created if it does not exist. Blocks the thread.
    ///
    /// # Errors
    /// Another process has it, or the file cannot be opened.
    pub fn open(path: &Path, limits: StoreLimits) -> Result<Self, OpenError> {
        let lock = LockFile::take(path)?;
        let limits = Arc::new(CurrentLimits::new(limits));
        let writer = Writer::open(path, lock, limits.clone())?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let started = std::thread::Builder::new()
            .name("kv-writer".into())
            .spawn(move || writer.run(receiver));
        started.map_err(|source| OpenError::Io {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            writer: sender,
            readers: Readers::new(path.to_owned()),
            limits,
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

    async fn write(&self, namespace: &str, write: Write) -> Result<Outcome, Error> {
        let (reply, answer) = oneshot::channel();
        let job = Job {
            namespace: namespace.to_owned(),
            write,
            reply,
        };
        let stopped = || Error::Unavailable("the writer of the store has stopped".into());
        self.writer.send(job).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    fn check(&self, changes: &[Change]) -> Result<(), Error> {
        check_changes(&self.limits.get(), changes)
    }
}

#[async_trait]
impl Store for FileStore {
    fn kind(&self) -> StoreKind {
        StoreKind::File
    }

    fn set_limits(&self, limits: StoreLimits) {
        self.limits.set(limits);
    }

    async fn snapshot(&self, namespace: &str) -> Result<Map, Error> {
        let (namespace, meter) = (namespace.to_owned(), self.meter.clone());
        self.readers
            .read(move |connection| readers::snapshot(connection, &namespace, meter.as_ref()))
            .await
    }

    async fn apply(&self, namespace: &str, changes: Vec<Change>) -> Result<(), Error> {
        self.check(&changes)?;
        self.write(namespace, Write::Apply(changes)).await?;
        Ok(())
    }

    async fn get(&self, namespace: &str, key: &str) -> Result<Option<String>, Error> {
        let (namespace, key) = (namespace.to_owned(), key.to_owned());
        self.readers
            .read(move |connection| readers::get(connection, &namespace, &key))
            .await
    }

    async fn list(&self, namespace: &str, query: ListQuery<'_>) -> Result<Page, Error> {
        let namespace = namespace.to_owned();
        let prefix = query.prefix.to_owned();
        let after = query.after.map(str::to_owned);
        let limit = query.limit;
        self.readers
            .read(move |connection| {
                let query = ListQuery {
                    prefix: &prefix,
                    after: after.as_deref(),
                    limit,
                };
                readers::list(connection, &namespace, &query)
            })
            .await
    }

    async fn increment(&self, namespace: &str, key: &str, delta: i64) -> Result<i64, Error> {
        let write = Write::Increment(key.to_owned(), delta);
        self.check(&[Change::Set(key.to_owned(), String::new())])?;
        match self.write(namespace, write).await? {
            Outcome::Sum(sum) => Ok(sum),
            Outcome::Applied | Outcome::Swapped(_) => Err(Error::Unavailable(MIXED_UP.into())),
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
        let write = Write::Swap(expected.map(str::to_owned), change);
        match self.write(namespace, write).await? {
            Outcome::Swapped(swapped) => Ok(swapped),
            Outcome::Applied | Outcome::Sum(_) => Err(Error::Unavailable(MIXED_UP.into())),
        }
    }

    async fn serial(&self, namespace: &str) -> Result<Turn, Error> {
        Ok(Turn::new(None, self.turns.take(namespace).await))
    }
}

const MIXED_UP: &str = "the writer of the store answered another question";

/// Milliseconds since 1970, as the database has them.
fn now() -> i64 {
    i64::try_from(crate::entry::now()).unwrap_or(i64::MAX)
}

/// Opens a connection that only reads.
fn open_to_read(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    // KiB, of each connection.
    connection.pragma_update(None, "cache_size", -1024)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}
