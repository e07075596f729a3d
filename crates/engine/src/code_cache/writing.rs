//! Writing an entry, piece by piece: code is large, and whoever writes it should not have to hold all of it.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
};

use super::{CodeCache, CodeKey, MAGIC, TRAILER, UNFINISHED};

/// An entry that is being written. Nothing of it stays unless it is finished.
#[derive(Debug)]
pub struct Writing<'a> {
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
    /// The store is read-only, the disk full, ...
    pub fn write(&self, key: &CodeKey) -> io::Result<Writing<'_>> {
        let max = self.max.ok_or(io::ErrorKind::ReadOnlyFilesystem)?;
        let unfinished = self
            .folder
            .join(format!("{}.{}{UNFINISHED}", key.0, std::process::id()));
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&unfinished)?;
        let writing = Writing {
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

impl Writing<'_> {
    /// Whether the store, and not who gave the code, is why it cannot be finished.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.error.is_some()
    }

    /// Makes it an entry, and removes those that were not used for longest where there is no room.
    ///
    /// It is not waited for until it is on the disk: a container waits for us. What a power cut leaves of it is found by its checksum.
    ///
    /// # Errors
    /// As of [`CodeCache::write`].
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

impl Write for Writing<'_> {
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

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        // Not there if it was finished.
        let _ = fs::remove_file(&self.unfinished);
    }
}
