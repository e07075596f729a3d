//! Writes an entry piece by piece: code is large, and the writer need not hold all of it.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
};

use crate::code_cache::cache::{CodeCache, CodeKey, MAGIC, TRAILER, UNFINISHED};

/// An entry that is being written. It is removed unless it is finished.
#[derive(Debug)]
pub struct EntryWriter<'a> {
    store: &'a CodeCache,
    max: u64,
    unfinished: PathBuf,
    path: PathBuf,
    file: File,
    sum: crc32fast::Hasher,
    len: u64,
    error: Option<io::ErrorKind>,
}

impl CodeCache {
    /// Begins an entry.
    ///
    /// # Errors
    /// Returns an error if the cache is read-only, the disk is full, or the like.
    pub fn write(&self, key: &CodeKey) -> io::Result<EntryWriter<'_>> {
        let max = self.max.ok_or(io::ErrorKind::ReadOnlyFilesystem)?;
        let unfinished =
            self.directory
                .join(format!("{}.{}{UNFINISHED}", key.0, std::process::id()));
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&unfinished)?;
        let writing = EntryWriter {
            store: self,
            max,
            unfinished,
            path: self.path(key),
            file,
            sum: crc32fast::Hasher::new(),
            len: 0,
            error: None,
        };
        let readable = Permissions::from_mode(0o444);
        writing.file.set_permissions(readable)?;
        Ok(writing)
    }
}

impl EntryWriter<'_> {
    /// Whether the cache failed, rather than the source of the code.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.error.is_some()
    }

    /// Finishes the entry. Removes the least recently used entries if there is no room.
    ///
    /// Does not wait until the entry is on the disk, since a container waits for the code; the
    /// checksum detects what a power cut leaves.
    ///
    /// # Errors
    /// Returns the errors of [`CodeCache::write`].
    pub fn finish(mut self) -> io::Result<()> {
        if let Some(error) = self.error {
            return Err(error.into());
        }
        let sum = self.sum.clone().finalize();
        self.file.write_all(MAGIC)?;
        self.file.write_all(&self.len.to_le_bytes())?;
        self.file.write_all(&sum.to_le_bytes())?;
        self.store.make_room(self.max - self.len - TRAILER)?;
        fs::rename(&self.unfinished, &self.path)
    }
}

impl Write for EntryWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = if self.len + bytes.len() as u64 + TRAILER > self.max {
            Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("more code than the store's {} bytes", self.max),
            ))
        } else {
            self.file.write(bytes)
        };
        let written = written.inspect_err(|error| self.error = Some(error.kind()))?;
        self.sum.update(&bytes[..written]);
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for EntryWriter<'_> {
    fn drop(&mut self) {
        // A finished entry was renamed.
        let _ = fs::remove_file(&self.unfinished);
    }
}
