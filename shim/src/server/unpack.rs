//! The unpacked program: one directory for each version, which only root can enter.
//!
//! ```text
//! DIRECTORY/lock              locked while a version is unpacked or removed
//! DIRECTORY/SHA-256/wws       locked, shared, by each shim that uses it
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::payload::Payload;
use crate::error::{Error, PathContext, Result};
use crate::sys::hex::hexadecimal;
use crate::sys::state;

/// The name of the program.
pub(super) const PROGRAM: &str = "wws";

/// The file that is locked while versions change.
const LOCK_FILE: &str = "lock";

/// The suffix of a file that is being written.
const PARTIAL: &str = "partial";

/// An unpacked program. Its file is not removed until this is dropped.
#[derive(Debug)]
pub(super) struct Unpacked {
    path: PathBuf,
    /// Locked, shared.
    file: File,
}

impl Unpacked {
    /// Returns the program of `payload` below `directory`, and unpacks it if it is missing.
    /// Versions that no shim uses any more are removed.
    ///
    /// # Errors
    /// The directory cannot be created, belongs to another user or is mounted `noexec`, or the
    /// program cannot be written.
    pub(super) fn new(payload: &Payload, directory: &Path) -> Result<Self> {
        create_closed(directory)?;
        state::require_executable(directory)?;
        let lock_path = directory.join(LOCK_FILE);
        let lock = File::create(&lock_path).with_path("create", &lock_path)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).with_path("lock", &lock_path)?;
        let version = directory.join(hexadecimal(&payload.digest));
        let path = version.join(PROGRAM);
        if !matches!(fs::metadata(&path), Ok(found) if found.len() == payload.length) {
            remove_unused(directory);
            create_closed(&version)?;
            write(payload, &path)?;
        }
        let file = File::open(&path).with_path("open", &path)?;
        rustix::fs::flock(&file, FlockOperation::LockShared).with_path("lock", &path)?;
        Ok(Self { path, file })
    }

    /// Returns the path of the program.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether the path still names the program.
    pub(super) fn is_current(&self) -> bool {
        match (fs::metadata(&self.path), self.file.metadata()) {
            (Ok(named), Ok(held)) => (named.dev(), named.ino()) == (held.dev(), held.ino()),
            _ => false,
        }
    }
}

/// Creates a directory that only its owner, who runs this, can enter.
fn create_closed(directory: &Path) -> Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(directory).with_path("create", directory)?;
    let metadata = fs::symlink_metadata(directory).with_path("look at", directory)?;
    let owner = rustix::process::geteuid().as_raw();
    if !metadata.is_dir() || metadata.uid() != owner {
        return Err(Error::unknown(format!(
            "{} is not a directory of user {owner}",
            directory.display()
        )));
    }
    if metadata.mode() & 0o077 != 0 {
        let closed = Permissions::from_mode(0o700);
        fs::set_permissions(directory, closed).with_path("close", directory)?;
    }
    Ok(())
}

/// Writes the program as a whole: a crash or a full disk leaves no part of it under its name.
fn write(payload: &Payload, path: &Path) -> Result<()> {
    let partial = path.with_extension(PARTIAL);
    let written = write_partial(payload, &partial)
        .and_then(|()| fs::rename(&partial, path).with_path("rename", &partial));
    if written.is_err() {
        // The room is needed by others.
        let _ = fs::remove_file(&partial);
    }
    written
}

fn write_partial(payload: &Payload, partial: &Path) -> Result<()> {
    match fs::remove_file(partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_path("remove", partial);
        }
        _ => {}
    }
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o700)
        .open(partial)
        .with_path("create", partial)?;
    payload
        .write_to(&mut file)
        .map_err(|error| error.context(partial.display()))?;
    // The container's user, who may be anybody, executes it: by a bind mount.
    file.set_permissions(Permissions::from_mode(0o755))
        .with_path("change the mode of", partial)?;
    file.sync_all().with_path("write", partial)
}

/// Removes the versions that no shim uses. What cannot be removed stays.
fn remove_unused(directory: &Path) {
    let versions = fs::read_dir(directory).into_iter().flatten().flatten();
    for version in versions.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        let program = version.path().join(PROGRAM);
        let unused = match File::open(&program) {
            Ok(file) => rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if unused {
            let _ = fs::remove_dir_all(version.path());
        }
    }
}
