//! The thread that writes.

use std::{path::Path, sync::Arc, time::Duration};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, params};
use rustix::fs::statvfs;
use tokio::sync::{mpsc, oneshot};

use super::{BUSY, OpenError, lock::LockFile, now, readers::value};
use crate::error::Error;
use crate::limits::{CurrentLimits, StoreLimits};
use crate::store::Change;

/// Most changes of one commit.
const BATCH: usize = 256;

/// Keys whose time has passed that one commit removes.
const EXPIRED: i64 = 200;

/// Pages of the log after which it is copied into the database.
const LOG_PAGES: i64 = 1000;

/// Free pages of the file that are returned to the disk at once.
const RETURNED_PAGES: i64 = 512;

/// Bytes of a page of the database.
const PAGE: u64 = 4096;

/// What the file says it is: "wwsk".
const APPLICATION: i64 = 0x7777_736b;

/// The version of the tables.
const VERSION: i64 = 1;

const TABLES: &str = "
    CREATE TABLE entries (
        namespace TEXT NOT NULL,
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        expires INTEGER,
        PRIMARY KEY (namespace, key)
    ) STRICT;
    CREATE INDEX expiries ON entries (expires) WHERE expires IS NOT NULL;
";

/// A change of the store.
pub(super) enum Write {
    Apply(Vec<Change>),
    Increment(String, i64),
    /// The expected value, and the change if the key has it.
    Swap(Option<String>, Change),
}

/// What a change came to.
pub(super) enum Outcome {
    Applied,
    Sum(i64),
    Swapped(bool),
}

/// A change that waits for the writer.
pub(super) struct Job {
    pub(super) namespace: String,
    pub(super) write: Write,
    pub(super) reply: oneshot::Sender<Result<Outcome, Error>>,
}

pub(super) struct Writer {
    connection: Connection,
    limits: Arc<CurrentLimits>,
    /// The limit of the file's size that the connection knows, in bytes.
    size: Option<u64>,
    /// Released after the connection was closed.
    _lock: LockFile,
}

impl Writer {
    /// Opens the database, and creates its tables if it is new.
    pub(super) fn open(
        path: &Path,
        lock: LockFile,
        limits: Arc<CurrentLimits>,
    ) -> Result<Self, OpenError> {
        let opened = open(path).map_err(|source| OpenError::of_database(path, source));
        Ok(Self {
            connection: opened?,
            limits,
            size: None,
            _lock: lock,
        })
    }

    /// Writes until the store is dropped.
    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut batch = Vec::new();
        while let Some(first) = jobs.blocking_recv() {
            batch.push(first);
            while batch.len() < BATCH
                && let Ok(job) = jobs.try_recv()
            {
                batch.push(job);
            }
            self.write(std::mem::take(&mut batch));
        }
        // The next start finds all of it in the database. If it fails, the log still has it.
        let _ = self
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }

    fn write(&mut self, batch: Vec<Job>) {
        let limits = self.limits.get();
        match self.attempt(&batch, &limits) {
            Ok(outcomes) => reply(batch, outcomes),
            // One that does not fit must not fail the others.
            Err(_) if batch.len() > 1 => {
                for job in batch {
                    let batch = vec![job];
                    match self.attempt(&batch, &limits) {
                        Ok(outcomes) => reply(batch, outcomes),
                        Err(error) => self.fail(batch, &error, &limits),
                    }
                }
            }
            Err(error) => self.fail(batch, &error, &limits),
        }
        // What is not returned now is returned later.
        let _ = self.return_free_pages();
    }

    /// Commits all changes together. A change that is rejected leaves no trace.
    fn attempt(
        &mut self,
        batch: &[Job],
        limits: &StoreLimits,
    ) -> rusqlite::Result<Vec<Result<Outcome, Error>>> {
        if self.size != Some(limits.size) {
            limit_size(&self.connection, limits.size)?;
            self.size = Some(limits.size);
        }
        let now = now();
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        remove_expired(&transaction, now)?;
        let mut outcomes = Vec::with_capacity(batch.len());
        for job in batch {
            outcomes.push(execute(&transaction, job, now)?);
        }
        transaction.commit()?;
        Ok(outcomes)
    }

    fn fail(&self, batch: Vec<Job>, error: &rusqlite::Error, limits: &StoreLimits) {
        for job in batch {
            let error = rejected(&self.connection, error, limits);
            // A caller that has gone needs no answer.
            let _ = job.reply.send(Err(error));
        }
    }

    /// Makes the file smaller if much of it is free.
    fn return_free_pages(&mut self) -> rusqlite::Result<()> {
        let pragma = |name| {
            self.connection
                .query_row(name, [], |row| row.get::<_, i64>(0))
        };
        let free = pragma("PRAGMA freelist_count")?;
        if free >= RETURNED_PAGES && free >= pragma("PRAGMA page_count")? / 4 {
            let statement = format!("PRAGMA incremental_vacuum({RETURNED_PAGES})");
            let mut statement = self.connection.prepare(&statement)?;
            let mut rows = statement.query([])?;
            while rows.next()?.is_some() {}
        }
        Ok(())
    }
}

fn reply(batch: Vec<Job>, outcomes: Vec<Result<Outcome, Error>>) {
    for (job, outcome) in batch.into_iter().zip(outcomes) {
        // A caller that has gone needs no answer.
        let _ = job.reply.send(outcome);
    }
}

/// Why nothing was changed.
pub(super) fn rejected(
    connection: &Connection,
    error: &rusqlite::Error,
    limits: &StoreLimits,
) -> Error {
    /// A disk with less room has none for the change, or for the log.
    const ROOM: u64 = 64 << 10;
    if error.sqlite_error_code() != Some(ErrorCode::DiskFull) {
        return Error::Unavailable(error.to_string());
    }
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let disk = connection.path().and_then(|path| statvfs(path).ok());
    match disk {
        Some(disk) if disk.f_bavail.saturating_mul(disk.f_frsize) < ROOM => Error::Full {
            what: "bytes on the disk of the store's file",
            limit: size(disk.f_blocks.saturating_mul(disk.f_frsize)),
        },
        _ => Error::Full {
            what: "bytes of the store's file (`max_size`)",
            limit: size(limits.size),
        },
    }
}

/// Limits the size of the database. One that is larger already keeps its size.
pub(super) fn limit_size(connection: &Connection, bytes: u64) -> rusqlite::Result<()> {
    let pages = i64::try_from(bytes / PAGE).unwrap_or(i64::MAX).max(1);
    let pragma = format!("PRAGMA max_page_count = {}", pages.min(0xffff_fffe));
    connection.query_row(&pragma, [], |_| Ok(()))
}

/// Opens the database for changes, and creates its tables if it is new.
pub(super) fn open(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "page_size", PAGE as i64)?;
    // Effective only for a new file.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", LOG_PAGES * PAGE as i64)?;
    // KiB.
    connection.pragma_update(None, "cache_size", -2048)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let number =
        |name: &str| transaction.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (application, version) = (number("application_id")?, number("user_version")?);
    let tables: i64 =
        transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match (application, version) {
        (APPLICATION, VERSION) => {}
        (0, 0) if tables == 0 => {
            transaction.execute_batch(TABLES)?;
            transaction.pragma_update(None, "application_id", APPLICATION)?;
            transaction.pragma_update(None, "user_version", VERSION)?;
        }
        _ => {
            return Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_NOTADB),
                Some("it is the database of another program, or of a newer version".into()),
            ));
        }
    }
    transaction.commit()?;
    Ok(connection)
}

fn remove_expired(transaction: &Transaction<'_>, now: i64) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(
        "DELETE FROM entries WHERE rowid IN (
            SELECT rowid FROM entries WHERE expires IS NOT NULL AND expires <= ?1 LIMIT ?2)",
    )?;
    statement.execute(params![now, EXPIRED])?;
    Ok(())
}

/// Executes a change. The outer error is the database's, and ends the transaction.
fn execute(
    transaction: &Transaction<'_>,
    job: &Job,
    now: i64,
) -> rusqlite::Result<Result<Outcome, Error>> {
    let namespace = &job.namespace;
    Ok(match &job.write {
        Write::Apply(changes) => {
            for change in changes {
                put(transaction, namespace, change, now)?;
            }
            Ok(Outcome::Applied)
        }
        Write::Increment(key, delta) => {
            let old = value(transaction, namespace, key, now)?;
            match Error::sum(key, old.as_deref(), *delta) {
                Ok(sum) => {
                    add(transaction, namespace, key, sum, old.is_some())?;
                    Ok(Outcome::Sum(sum))
                }
                Err(error) => Err(error),
            }
        }
        Write::Swap(expected, change) => {
            let is_expected = value(transaction, namespace, change.key(), now)? == *expected;
            if is_expected {
                put(transaction, namespace, change, now)?;
            }
            Ok(Outcome::Swapped(is_expected))
        }
    })
}

/// Stores a sum. The time of a key that exists stays.
fn add(
    transaction: &Transaction<'_>,
    namespace: &str,
    key: &str,
    sum: i64,
    exists: bool,
) -> rusqlite::Result<()> {
    if !exists {
        let change = Change::Set(key.to_owned(), sum.to_string());
        return put(transaction, namespace, &change, 0);
    }
    let mut statement = transaction
        .prepare_cached("UPDATE entries SET value = ?3 WHERE namespace = ?1 AND key = ?2")?;
    statement.execute(params![namespace, key, sum.to_string()])?;
    Ok(())
}

pub(super) fn put(
    transaction: &Transaction<'_>,
    namespace: &str,
    change: &Change,
    now: i64,
) -> rusqlite::Result<()> {
    match change.value() {
        Some((value, ttl)) => {
            let mut statement = transaction.prepare_cached(
                "INSERT INTO entries (namespace, key, value, expires) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO UPDATE SET value = excluded.value, expires = excluded.expires",
            )?;
            let expires = ttl.map(|ttl: Duration| {
                now.saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX))
            });
            statement.execute(params![namespace, change.key(), value, expires])?;
        }
        None => {
            let mut statement = transaction
                .prepare_cached("DELETE FROM entries WHERE namespace = ?1 AND key = ?2")?;
            statement.execute(params![namespace, change.key()])?;
        }
    }
    Ok(())
}
