//! Parts of pulled images, by digest: what a registry sent once is not sent again.
//!
//! The cache is an OCI layout without an index. Its content is checked each time that it is used,
//! so that a damaged part is fetched again.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};

use crate::blob::Digesting;
use crate::error::ImageError;
use crate::stored::{BlobStore, Descriptor};

/// The file that is locked: by all who use the cache, or by one who removes from it.
const LOCK: &str = "lock";

/// How a part begins that is not complete.
const PART: &str = ".part-";

/// The most parts that are looked at to find the oldest.
const MAX_PARTS: usize = 100_000;

/// A directory with parts of pulled images. Nothing is removed from it while it is open.
#[derive(Debug)]
pub struct ImageCache {
    directory: PathBuf,
    _lock: File,
}

impl ImageCache {
    /// Opens the cache in a directory, which is created for this user alone, after removing the
    /// parts that were not used for the longest time until at most `max` bytes are left. Nothing is
    /// removed while another process uses the cache.
    ///
    /// # Errors
    /// A directory or file cannot be created.
    pub fn open(directory: &Path, max: u64) -> Result<Self, ImageError> {
        let blobs = directory.join("blobs/sha256");
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&blobs);
        made.map_err(|error| ImageError::file(&blobs, error))?;
        let path = directory.join(LOCK);
        let failed = |error: io::Error| ImageError::file(&path, error);
        let mut options = File::options();
        let lock = options.write(true).create(true).truncate(false).open(&path);
        let lock = lock.map_err(failed)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // What is left is tried the next time.
            let _ = shrink(&blobs, max);
        }
        flock(&lock, FlockOperation::LockShared).map_err(|error| failed(error.into()))?;
        Ok(Self {
            directory: directory.to_owned(),
            _lock: lock,
        })
    }

    /// Its parts.
    pub(crate) fn store(&self) -> BlobStore {
        BlobStore::Layout(self.directory.clone())
    }

    /// Whether it has a part, undamaged. One that is used is the last to be removed.
    pub(crate) fn has(&self, part: &Descriptor) -> bool {
        let path = self.directory.join(part.path());
        let Ok(mut file) = File::open(&path) else {
            return false;
        };
        let mut checked = Digesting::new(io::sink());
        // No more than it should have.
        let limit = part.size.saturating_add(1);
        let read = io::copy(&mut (&mut file).take(limit), &mut checked);
        let is_whole = read.is_ok() && part.check(&checked.finish().0).is_ok();
        if is_whole {
            // One that is not its user's is removed sooner.
            let _ = file.set_modified(SystemTime::now());
        }
        is_whole
    }

    /// The part with a digest, if it has one that is not larger than `max`.
    pub(crate) fn find(&self, digest: &str, max: u64) -> Option<Descriptor> {
        let mut part = Descriptor::of(digest)?;
        let metadata = fs::metadata(self.directory.join(part.path())).ok()?;
        part.size = metadata.len();
        (part.size <= max && self.has(&part)).then_some(part)
    }

    /// Adds a part, whole or not at all. `received` is called with the number of bytes so far.
    pub(crate) fn add(
        &self,
        part: &Descriptor,
        mut from: impl Read,
        received: &dyn Fn(u64),
    ) -> Result<(), ImageError> {
        const PIECE: usize = 128 << 10;
        let failed = |error| ImageError::file(&self.directory, error);
        let file = tempfile::Builder::new()
            .prefix(PART)
            .tempfile_in(self.directory.join("blobs/sha256"))
            .map_err(failed)?;
        let mut written = Digesting::new(file);
        let (mut piece, mut total) = (vec![0; PIECE], 0_u64);
        loop {
            let count = from.read(&mut piece);
            let count = count.map_err(|error| {
                let why = format!("cannot be fetched: {error}");
                ImageError::unreadable(&part.digest, why)
            })?;
            total += count as u64;
            if count == 0 || total > part.size {
                break;
            }
            written.write_all(&piece[..count]).map_err(failed)?;
            received(total);
        }
        if total != part.size {
            let more = if total > part.size { "more" } else { "fewer" };
            let why = format!("the registry sent {more} than {} bytes", part.size);
            return Err(ImageError::unreadable(&part.digest, why));
        }
        written.flush().map_err(failed)?;
        let (file, digest) = written.into_parts();
        part.check(&digest)?;
        let path = self.directory.join(part.path());
        let kept = file.persist(&path).map_err(|error| error.error);
        kept.map(drop)
            .map_err(|error| ImageError::file(&path, error))
    }
}

/// Removes what was not used for the longest time, and what is not complete.
fn shrink(blobs: &Path, max: u64) -> io::Result<()> {
    let mut all = Vec::new();
    for entry in fs::read_dir(blobs)?.take(MAX_PARTS) {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PART) {
            fs::remove_file(entry.path())?;
            continue;
        }
        let metadata = entry.metadata()?;
        all.push((metadata.modified()?, metadata.len(), entry.path()));
    }
    let mut total: u64 = all.iter().map(|(_, size, _)| size).sum();
    all.sort();
    for (_, size, path) in all {
        if total <= max {
            break;
        }
        fs::remove_file(path)?;
        total -= size;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use sha2::{Digest, Sha256};

    use super::*;
    use crate::blob::named;

    fn part(content: &[u8]) -> Descriptor {
        let mut part = Descriptor::of(&named(&Sha256::digest(content))).unwrap();
        part.size = content.len() as u64;
        part
    }

    #[test]
    fn keeps_whole_parts_only() {
        let directory = tempfile::tempdir().unwrap();
        let cache = ImageCache::open(directory.path(), u64::MAX).unwrap();
        let wanted = part(b"content");
        for (sent, text) in [
            (&b"cont"[..], "fewer than 7 bytes"),
            (b"content and more", "more than 7 bytes"),
            (b"contend", "another SHA-256"),
        ] {
            let error = cache.add(&wanted, sent, &|_| {}).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
            assert!(!cache.has(&wanted));
        }
        cache.add(&wanted, &b"content"[..], &|_| {}).unwrap();
        assert!(cache.has(&wanted));
        assert_eq!(cache.find(&wanted.digest, 7).unwrap().size, 7);
        assert!(cache.find(&wanted.digest, 6).is_none());
        assert!(cache.find("sha256:../..", 7).is_none());
        let blobs = directory.path().join("blobs/sha256");
        assert_eq!(fs::read_dir(&blobs).unwrap().count(), 1);
        fs::write(directory.path().join(wanted.path()), "damaged").unwrap();
        assert!(!cache.has(&wanted));
    }

    #[test]
    fn removes_the_least_recently_used_image() {
        let directory = tempfile::tempdir().unwrap();
        let open = |max| ImageCache::open(directory.path(), max).unwrap();
        let parts = [&b"one"[..], b"two", b"three"];
        let cache = open(u64::MAX);
        for (age, content) in parts.iter().enumerate() {
            cache.add(&part(content), *content, &|_| {}).unwrap();
            let file = File::options()
                .write(true)
                .open(directory.path().join(part(content).path()))
                .unwrap();
            let time = SystemTime::now() - Duration::from_secs(1000 - age as u64);
            file.set_modified(time).unwrap();
        }
        // Used just now.
        assert!(cache.has(&part(b"one")));
        fs::write(directory.path().join("blobs/sha256/.part-x"), "").unwrap();
        let other = open(3);
        let three = directory.path().join(part(b"three").path());
        assert!(three.exists(), "another process uses it");
        drop((cache, other));
        let cache = open(3);
        let left: Vec<_> = parts
            .iter()
            .map(|content| cache.has(&part(content)))
            .collect();
        assert_eq!(left, [true, false, false]);
        assert_eq!(
            fs::read_dir(directory.path().join("blobs/sha256"))
                .unwrap()
                .count(),
            1
        );
    }
}
