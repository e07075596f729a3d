//! A look into a store's file from outside, also while a server has it.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};

use super::{OpenError, now, open_to_read};
use crate::entry::{EntryFilter, StoredEntry};
use crate::error::Error;

/// The entries of a store's file, read without taking the store.
pub struct FileEntries(Connection);

impl FileEntries {
    /// Opens the file. Blocks the thread.
    ///
    /// # Errors
    /// It does not exist, or is no store.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        if let Err(source) = path.metadata() {
            return Err(OpenError::Io {
                path: path.to_owned(),
                source,
            });
        }
        let connection = open_to_read(path);
        connection
            .map(Self)
            .map_err(|source| OpenError::of_database(path, source))
    }

    /// The entry of a key. Blocks the thread.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn get(&self, namespace: &str, key: &str) -> Result<Option<StoredEntry>, Error> {
        let mut statement = self
            .0
            .prepare_cached(
                "SELECT key, value, expires FROM entries
                 WHERE namespace = ?1 AND key = ?2 AND (expires IS NULL OR expires > ?3)",
            )
            .map_err(failed)?;
        let found =
            statement.query_row(params![namespace, key, now()], |row| entry(namespace, row));
        found.optional().map_err(failed)
    }

    /// The namespaces that have entries, in order. Blocks the thread.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn namespaces(&self) -> Result<Vec<String>, Error> {
        let moment = self.0.unchecked_transaction().map_err(failed)?;
        let names = NamespaceNames::new(&moment).and_then(Iterator::collect);
        names.map_err(failed)
    }

    /// Passes on the entries of one moment, in the order of their namespaces and keys, until
    /// `found` returns an error. Blocks the thread.
    ///
    /// # Errors
    /// The file cannot be read, or `found` failed.
    pub fn each(
        &self,
        filter: EntryFilter<'_>,
        found: &mut (dyn FnMut(StoredEntry) -> Result<(), Error> + Send),
    ) -> Result<(), Error> {
        let moment = self.0.unchecked_transaction().map_err(failed)?;
        if let Some(namespace) = filter.namespace {
            return of_namespace(&moment, namespace, filter.prefix, found);
        }
        for namespace in NamespaceNames::new(&moment).map_err(failed)? {
            of_namespace(&moment, &namespace.map_err(failed)?, filter.prefix, found)?;
        }
        Ok(())
    }
}

fn failed(error: rusqlite::Error) -> Error {
    Error::Unavailable(error.to_string())
}

/// Passes on the entries of a namespace.
fn of_namespace(
    connection: &Connection,
    namespace: &str,
    prefix: &str,
    found: &mut (dyn FnMut(StoredEntry) -> Result<(), Error> + Send),
) -> Result<(), Error> {
    let mut statement = connection
        .prepare_cached(
            "SELECT key, value, expires FROM entries
             WHERE namespace = ?1 AND key >= ?2 AND (expires IS NULL OR expires > ?3)
             ORDER BY key",
        )
        .map_err(failed)?;
    let mut rows = statement
        .query(params![namespace, prefix, now()])
        .map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let entry = entry(namespace, row).map_err(failed)?;
        if !entry.key.starts_with(prefix) {
            break;
        }
        found(entry)?;
    }
    Ok(())
}

fn entry(namespace: &str, row: &rusqlite::Row<'_>) -> rusqlite::Result<StoredEntry> {
    let value: String = row.get(1)?;
    let expires: Option<i64> = row.get(2)?;
    Ok(StoredEntry {
        namespace: namespace.to_owned(),
        key: row.get(0)?,
        value: value.into_bytes(),
        expires: expires.map(|at| u64::try_from(at).unwrap_or(0)),
    })
}

/// The namespaces of a file: one step in the index for each, however many entries it has.
struct NamespaceNames<'c> {
    next: rusqlite::CachedStatement<'c>,
    /// The one before; no namespace has the empty name.
    last: String,
    now: i64,
}

impl<'c> NamespaceNames<'c> {
    fn new(connection: &'c Connection) -> rusqlite::Result<Self> {
        let next = connection.prepare_cached(
            "SELECT namespace FROM entries
             WHERE namespace > ?1 AND (expires IS NULL OR expires > ?2)
             ORDER BY namespace LIMIT 1",
        )?;
        Ok(Self {
            next,
            last: String::new(),
            now: now(),
        })
    }
}

impl Iterator for NamespaceNames<'_> {
    type Item = rusqlite::Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self
            .next
            .query_row(params![self.last, self.now], |row| row.get::<_, String>(0));
        let found = found.optional().transpose()?;
        if let Ok(name) = &found {
            self.last.clone_from(name);
        }
        Some(found)
    }
}
