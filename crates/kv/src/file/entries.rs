//! A look into a store's file from outside, also while a server has it.

use std::path::Path;

use rusqlite::{Connection, params};

use super::{OpenError, now, open_to_read};
use crate::error::Error;

/// The entries of a store's file, read without taking the store.
pub struct FileEntries(Connection);

/// An entry of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// The namespace.
    pub namespace: String,
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
    /// Milliseconds until it is removed.
    pub ttl: Option<u64>,
}

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
        connection.map(Self).map_err(|source| OpenError::Database {
            path: path.to_owned(),
            source,
        })
    }

    /// The value of a key. Blocks the thread.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn get(&self, namespace: &str, key: &str) -> Result<Option<String>, Error> {
        super::readers::get(&self.0, namespace, key)
    }

    /// Passes on all entries of one moment, or those of a namespace whose keys have a prefix, in
    /// order, until `found` returns an error. Blocks the thread.
    ///
    /// # Errors
    /// The file cannot be read, or `found` failed.
    pub fn each<E: From<Error>>(
        &self,
        namespace: Option<&str>,
        prefix: &str,
        mut found: impl FnMut(FileEntry) -> Result<(), E>,
    ) -> Result<(), E> {
        let failed = |error: rusqlite::Error| E::from(Error::Unavailable(error.to_string()));
        let now = now();
        let mut statement = self
            .0
            .prepare(
                "SELECT namespace, key, value, expires FROM entries
                 WHERE (?1 IS NULL OR namespace = ?1) AND key >= ?2
                     AND (expires IS NULL OR expires > ?3)
                 ORDER BY namespace, key",
            )
            .map_err(failed)?;
        let mut rows = statement
            .query(params![namespace, prefix, now])
            .map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let read = || -> rusqlite::Result<FileEntry> {
                let expires: Option<i64> = row.get(3)?;
                Ok(FileEntry {
                    namespace: row.get(0)?,
                    key: row.get(1)?,
                    value: row.get(2)?,
                    ttl: expires.map(|at| u64::try_from(at.saturating_sub(now)).unwrap_or(1)),
                })
            };
            let entry = read().map_err(failed)?;
            if entry.key.starts_with(prefix) {
                found(entry)?;
            }
        }
        Ok(())
    }
}
