//! Changes of a store's file from outside, also while a server has it.

use std::path::Path;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::{OpenError, now, writer};
use crate::entry::StoredEntry;
use crate::error::Error;
use crate::limits::StoreLimits;
use crate::store::Change;

/// Changes the entries of a store's file without taking the store: the locks of SQLite order these
/// changes and those of a server. The lock of a server is for its turns.
pub struct FileEditor {
    connection: Connection,
    limits: StoreLimits,
}

impl FileEditor {
    /// Opens the file, which is created if it does not exist. Blocks the thread.
    ///
    /// # Errors
    /// It cannot be opened, or is no store.
    pub fn open(path: &Path, limits: StoreLimits) -> Result<Self, OpenError> {
        let opened = writer::open(path).and_then(|connection| {
            writer::limit_size(&connection, limits.size)?;
            Ok(connection)
        });
        let connection = opened.map_err(|source| OpenError::of_database(path, source))?;
        Ok(Self { connection, limits })
    }

    /// Stores all entries, or none if one is rejected. Blocks the thread.
    ///
    /// # Errors
    /// An entry exceeds a limit or is not text, or the file cannot be written.
    pub fn put(&mut self, entries: Vec<StoredEntry>) -> Result<(), Error> {
        let mut changes = Vec::with_capacity(entries.len());
        for entry in entries {
            entry.check(&self.limits)?;
            changes.push((entry.namespace.clone(), entry.into_change()?));
        }
        self.change(|transaction| {
            changes.iter().try_for_each(|(namespace, change)| {
                writer::put(transaction, namespace, change, now())
            })
        })
    }

    /// Removes a key. Returns whether it existed. Blocks the thread.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn delete(&mut self, namespace: &str, key: &str) -> Result<bool, Error> {
        self.change(|transaction| {
            let value = super::readers::value(transaction, namespace, key, now())?;
            let change = Change::Delete(key.to_owned());
            writer::put(transaction, namespace, &change, now())?;
            Ok(value.is_some())
        })
    }

    fn change<T>(
        &mut self,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        let connection = &mut self.connection;
        let attempt = |connection: &mut Connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = change(&transaction)?;
            transaction.commit()?;
            Ok(done)
        };
        attempt(connection).map_err(|error| writer::rejected(connection, &error, &self.limits))
    }
}
