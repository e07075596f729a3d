//! Reads, in threads that may block.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::Semaphore;

use super::{now, open_to_read};
use crate::error::Error;
use crate::snapshot::SnapshotBuilder;
use crate::store::{ListQuery, Map, Page};
use crate::value::MemoryMeter;

/// Reads at once.
const READS: usize = 4;

/// The connections that read. Each is opened when it is first needed.
pub(super) struct Readers {
    path: Arc<PathBuf>,
    places: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path: Arc::new(path),
            places: Arc::new(Semaphore::new(READS)),
            idle: Arc::default(),
        }
    }

    /// Reads in a thread that may block, once there is a place.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let place = self.places.clone().acquire_owned().await;
        let place = place.map_err(Error::backend)?;
        let (path, idle) = (self.path.clone(), self.idle.clone());
        let reading = tokio::task::spawn_blocking(move || {
            // Held until the thread is done, even if the caller is gone.
            let _place = place;
            let kept = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match kept {
                Some(connection) => connection,
                None => open_to_read(&path).map_err(unavailable)?,
            };
            let result = read(&connection)?;
            idle.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(connection);
            Ok(result)
        });
        reading
            .await
            .unwrap_or_else(|error| Err(Error::backend(error)))
    }
}

fn unavailable(error: rusqlite::Error) -> Error {
    Error::Unavailable(error.to_string())
}

pub(super) fn value(
    connection: &Connection,
    namespace: &str,
    key: &str,
    now: i64,
) -> rusqlite::Result<Option<String>> {
    let mut statement = connection.prepare_cached(
        "SELECT value FROM entries
         WHERE namespace = ?1 AND key = ?2 AND (expires IS NULL OR expires > ?3)",
    )?;
    statement
        .query_row(params![namespace, key, now], |row| row.get(0))
        .optional()
}

pub(super) fn get(
    connection: &Connection,
    namespace: &str,
    key: &str,
) -> Result<Option<String>, Error> {
    value(connection, namespace, key, now()).map_err(unavailable)
}

pub(super) fn list(
    connection: &Connection,
    namespace: &str,
    query: &ListQuery<'_>,
) -> Result<Page, Error> {
    let read = || -> rusqlite::Result<Page> {
        let mut statement = connection.prepare_cached(
            "SELECT key FROM entries
             WHERE namespace = ?1 AND key >= ?2 AND (?3 IS NULL OR key > ?3)
                 AND (expires IS NULL OR expires > ?4)
             ORDER BY key",
        )?;
        // The index is entered here: at the page, not at the first key with the prefix.
        let from = query.prefix.max(query.after.unwrap_or_default());
        let parameters = params![namespace, from, query.after, now()];
        let keys = statement.query_map(parameters, |row| row.get(0))?;
        Page::collect(query, keys)
    };
    read().map_err(unavailable)
}

/// The whole namespace, of one moment.
pub(super) fn snapshot(
    connection: &Connection,
    namespace: &str,
    meter: Option<&Arc<dyn MemoryMeter>>,
) -> Result<Map, Error> {
    let mut statement = connection
        .prepare_cached(
            "SELECT key, value FROM entries
             WHERE namespace = ?1 AND (expires IS NULL OR expires > ?2)",
        )
        .map_err(unavailable)?;
    let mut rows = statement
        .query(params![namespace, now()])
        .map_err(unavailable)?;
    let mut builder = SnapshotBuilder::default();
    while let Some(row) = rows.next().map_err(unavailable)? {
        let entry = row.get_ref(0).and_then(|key| Ok((key, row.get_ref(1)?)));
        let (key, value) = entry.map_err(unavailable)?;
        let (key, value) = (key.as_str(), value.as_str());
        builder.add(
            key.map_err(Error::backend)?,
            value.map_err(Error::backend)?,
            meter,
        )?;
    }
    Ok(builder.map)
}
