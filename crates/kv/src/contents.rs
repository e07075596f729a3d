//! The contents of a store for operators: all entries, beside the servers that use the store.

use std::path::{Path, PathBuf};

use crate::entry::{EntryFilter, StoredEntry};
use crate::error::Error;
use crate::file::{FileEditor, FileEntries, OpenError};
use crate::limits::StoreLimits;
use crate::redis::RedisStore;

/// The contents of a store that lasts. Reading and changing a file blocks the thread.
pub struct StoreContents(ContentsBackend);

enum ContentsBackend {
    File(FileContents),
    Redis(RedisStore),
}

/// The file of a store.
struct FileContents {
    path: PathBuf,
    limits: StoreLimits,
    /// Opened with the first change.
    editor: Option<FileEditor>,
}

impl FileContents {
    fn entries(&self) -> Result<FileEntries, ContentsError> {
        Ok(FileEntries::open(&self.path)?)
    }

    fn editor(&mut self) -> Result<&mut FileEditor, ContentsError> {
        if self.editor.is_none() {
            self.editor = Some(FileEditor::open(&self.path, self.limits)?);
        }
        let missing = || Error::Unavailable("the file is not open".into());
        Ok(self.editor.as_mut().ok_or_else(missing)?)
    }
}

/// An operation on the contents of a store failed.
#[derive(Debug, thiserror::Error)]
pub enum ContentsError {
    /// The file cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store rejected the operation, or failed.
    #[error(transparent)]
    Store(#[from] Error),
}

impl StoreContents {
    /// The contents of a file, which is opened when it is used.
    #[must_use]
    pub fn of_file(path: &Path, limits: StoreLimits) -> Self {
        Self(ContentsBackend::File(FileContents {
            path: path.to_owned(),
            limits,
            editor: None,
        }))
    }

    /// The contents of a store in Redis.
    #[must_use]
    pub fn of_redis(store: RedisStore) -> Self {
        Self(ContentsBackend::Redis(store))
    }

    /// The entry of a key.
    ///
    /// # Errors
    /// The store cannot be opened or read.
    pub async fn get(
        &self,
        namespace: &str,
        key: &str,
    ) -> Result<Option<StoredEntry>, ContentsError> {
        match &self.0 {
            ContentsBackend::File(file) => Ok(file.entries()?.get(namespace, key)?),
            ContentsBackend::Redis(store) => Ok(store.entry(namespace, key).await?),
        }
    }

    /// The namespaces that have entries, in order.
    ///
    /// # Errors
    /// The store cannot be opened or read.
    pub async fn namespaces(&self) -> Result<Vec<String>, ContentsError> {
        match &self.0 {
            ContentsBackend::File(file) => Ok(file.entries()?.namespaces()?),
            ContentsBackend::Redis(store) => Ok(store.namespaces().await?),
        }
    }

    /// Passes on entries in the order of their namespaces and keys, until `found` returns an error:
    /// those of one moment from a file, of one moment for each few hundred keys from Redis.
    ///
    /// # Errors
    /// The store cannot be opened or read, or `found` failed.
    pub async fn each<E: From<ContentsError> + Send>(
        &self,
        filter: EntryFilter<'_>,
        mut found: impl FnMut(StoredEntry) -> Result<(), E> + Send,
    ) -> Result<(), E> {
        let mut ended = None;
        let mut pass_on = |entry| {
            found(entry).map_err(|error| {
                ended = Some(error);
                Error::Unavailable("the reader has ended".into())
            })
        };
        let done = match &self.0 {
            ContentsBackend::File(file) => file
                .entries()
                .and_then(|entries| Ok(entries.each(filter, &mut pass_on)?)),
            ContentsBackend::Redis(store) => {
                store.each(filter, &mut pass_on).await.map_err(Into::into)
            }
        };
        match (ended, done) {
            (Some(error), _) => Err(error),
            (None, done) => done.map_err(E::from),
        }
    }

    /// Stores all entries of one namespace, or none if one is rejected.
    ///
    /// # Errors
    /// The store cannot be opened or written, or rejects an entry.
    pub async fn put(&mut self, entries: Vec<StoredEntry>) -> Result<(), ContentsError> {
        match &mut self.0 {
            ContentsBackend::File(file) => Ok(file.editor()?.put(entries)?),
            ContentsBackend::Redis(store) => Ok(store.put(&entries).await?),
        }
    }

    /// Removes a key. Returns whether it existed.
    ///
    /// # Errors
    /// The store cannot be opened or written.
    pub async fn delete(&mut self, namespace: &str, key: &str) -> Result<bool, ContentsError> {
        match &mut self.0 {
            ContentsBackend::File(file) => Ok(file.editor()?.delete(namespace, key)?),
            ContentsBackend::Redis(store) => Ok(store.remove(namespace, key).await?),
        }
    }
}
