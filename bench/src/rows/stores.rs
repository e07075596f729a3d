//! A key/value store in a file beside the database that keeps it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use rusqlite::{Connection, params};
use tempfile::TempDir;
use wws_kv::{FileStore, Store, StoreLimits};
use wws_test::workspace;

use crate::report::{Measured, Report, Target, median};

const WRITERS: usize = 8;
const TIME: Duration = Duration::from_secs(4);
const ROUNDS: usize = 3;
const VALUE: &str = "a value of some sixty bytes, as a session or a counter has one";

/// Durable sets per second in a file, and of SQLite alone.
pub(crate) fn file(report: &mut Report) -> Result<()> {
    let (mut ours, mut peers) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(sets_of_store()?);
        // The better way to use it.
        peers.push(sets_of_sqlite(1)?.max(sets_of_sqlite(WRITERS)?));
    }
    report.add(&Measured {
        name: "K/V file store, durable set, 8 writers : SQLite alone",
        value: median(&mut ours),
        unit: "sets/s",
        peer: "SQLite with a write-ahead log, synchronous FULL, one set a transaction; 1 or 8 \
               connections, whichever is faster",
        peer_value: median(&mut peers),
        target: Target::AtLeast(0.7),
        how: "4 s, keys of their own, median of 3 rounds in turns, the same file system",
    });
    Ok(())
}

/// A directory on the file system of the repository: temporary files may be in memory.
fn directory() -> Result<TempDir> {
    Ok(tempfile::tempdir_in(workspace::root().join("target"))?)
}

fn sets_of_store() -> Result<f64> {
    let directory = directory()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let store = FileStore::open(&directory.path().join("kv"), StoreLimits::default())?;
    let store = Arc::new(store);
    let started = Instant::now();
    let counts = runtime.block_on(async {
        let writers = (0..WRITERS).map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut count = 0_u64;
                while started.elapsed() < TIME {
                    let key = format!("{writer}/{count}");
                    store.set("bench", key, VALUE.into()).await?;
                    count += 1;
                }
                Ok::<_, wws_kv::Error>(count)
            })
        });
        let mut sum = 0;
        for writer in writers.collect::<Vec<_>>() {
            sum += writer.await??;
        }
        Ok::<_, anyhow::Error>(sum)
    })?;
    Ok(counts as f64 / started.elapsed().as_secs_f64())
}

fn sets_of_sqlite(writers: usize) -> Result<f64> {
    let directory = directory()?;
    let path = directory.path().join("kv");
    open_sqlite(&path)?.execute_batch(
        "CREATE TABLE entries (namespace TEXT, key TEXT, value TEXT, PRIMARY KEY (namespace, key))",
    )?;
    let started = Instant::now();
    let sum = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..writers)
            .map(|writer| {
                let path = &path;
                scope.spawn(move || -> Result<u64> {
                    let connection = open_sqlite(path)?;
                    let mut set = connection.prepare(
                        "INSERT INTO entries VALUES ('bench', ?1, ?2)
                         ON CONFLICT DO UPDATE SET value = excluded.value",
                    )?;
                    let mut count = 0;
                    while started.elapsed() < TIME {
                        set.execute(params![format!("{writer}/{count}"), VALUE])?;
                        count += 1;
                    }
                    Ok(count)
                })
            })
            .collect();
        let mut sum = 0;
        for writer in writers {
            sum += writer.join().map_err(|_| anyhow!("a writer panicked"))??;
        }
        Ok::<_, anyhow::Error>(sum)
    })?;
    Ok(sum as f64 / started.elapsed().as_secs_f64())
}

fn open_sqlite(path: &Path) -> Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(30))?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}
