//! Compiled code on disk: made once for a host and an engine, mapped by every process that runs it.
//!
//! Native code is trusted by whoever maps it, so a cache is only ever written by us: by `wws` on behalf of the shim, outside of
//! all containers, which see the entries that they need through a read-only mount. The two ways to have a cache check that:
//! [`CodeCache::read_only`] takes only a read-only mount, [`CodeCache::open`] only a directory and entries of this very user.
//! An entry's name is the SHA-256 of what it was compiled from and of what compiled it; so a changed file, setting, CPU or
//! version of the engine finds no entry rather than a wrong one.
//!
//! An entry is a file of wasmtime's format, and a trailer against damage (not against an attacker, who could write no entry):
//!
//! ```text
//! | code (ELF) | "wwscode1" | length of code, u64 LE | CRC-32 of code, u32 LE |
//! ```
//!
//! It appears by a rename when it is complete, so a crash of ours leaves no half of one, and two processes that store it at once both
//! succeed.
//! Removing one that is mapped is safe: its pages live on until they are unmapped.

mod failed;
mod turn;
mod writing;

pub use turn::{Turn, Work};
pub use writing::Writing;

use std::{
    fs::{self, DirBuilder, File, Permissions},
    hash::{Hash, Hasher},
    io::{self, Read, Write as _},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::fs::{AtFlags, CWD, OFlags, StatVfsMountFlags, StatxAttributes, StatxFlags, statx};
use sha2::{Digest, Sha256};
use wasmtime::{Engine, Module};

const MAGIC: &[u8; 8] = b"wwscode1";
const TRAILER: u64 = 20;

/// How modules are changed before they are compiled (see `image_of`, `state_of`): part of what an entry is made from.
const TRANSFORMATION: u32 = 2;

/// Ending of an entry's name.
const ENDING: &str = ".code";

/// Ending of a file that is being written.
const UNFINISHED: &str = ".part";

/// Files that a crash left unfinished are removed after this time.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Write permission of the group and of all others.
const OTHERS_WRITE: u32 = 0o022;

/// A store of compiled code.
#[derive(Clone, Debug)]
pub struct CodeCache {
    folder: PathBuf,
    /// Bytes of all entries; none for a store that is only read.
    max: Option<u64>,
}

/// How it stands with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryState {
    /// It can be used.
    Whole,
    /// There is none.
    Missing,
    /// It is not what was written, or cannot be read.
    Damaged,
}

/// Name of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CodeKey(String);

impl CodeKey {
    /// The key of a module of this SHA-256, compiled by `engine` as what `kind` says.
    pub(crate) fn new(engine: &Engine, kind: &str, wasm: &[u8; 32]) -> Self {
        struct Into(Sha256);
        impl Hasher for Into {
            fn finish(&self) -> u64 {
                0
            }
            fn write(&mut self, bytes: &[u8]) {
                self.0.update((bytes.len() as u64).to_le_bytes());
                self.0.update(bytes);
            }
        }
        let mut hash = Into(Sha256::new());
        hash.write(env!("CARGO_PKG_VERSION").as_bytes());
        hash.write_u32(TRANSFORMATION);
        hash.write(kind.as_bytes());
        engine.precompile_compatibility_hash().hash(&mut hash);
        hash.write(wasm);
        Self(
            hash.0
                .finalize()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
        )
    }

    /// The name of its file.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!("{}{ENDING}", self.0)
    }
}

/// What a store had.
pub(crate) enum Found {
    Code(Module),
    Nothing,
    /// An entry that cannot be used, and why.
    Damaged(String),
}

impl CodeCache {
    /// A cache that the shim fills, with entries that it has found whole, and mounts into a container.
    ///
    /// # Errors
    /// There is none, or it is not a read-only mount: somebody other than the shim may have written its entries.
    pub fn read_only(folder: &Path) -> io::Result<Self> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let found = statx(CWD, folder, flags, StatxFlags::TYPE)?;
        let mount = rustix::fs::statvfs(folder)?;
        let refused = |why: &str| {
            Err(io::Error::other(format!(
                "compiled code in {} is not used: it is {why}",
                folder.display()
            )))
        };
        if !rustix::fs::FileType::from_raw_mode(found.stx_mode.into()).is_dir() {
            return refused("not a directory");
        }
        if !mount.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return refused("not mounted read-only");
        }
        // Kernels before 5.8 do not report it.
        if found
            .stx_attributes_mask
            .contains(StatxAttributes::MOUNT_ROOT)
            && !found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
        {
            return refused("not a mount of its own");
        }
        Ok(Self {
            folder: folder.to_owned(),
            max: None,
        })
    }

    /// A cache of at most `max` bytes, made where it is missing. Nobody else may write into its directory; entries that were in
    /// it while others could write there are removed.
    ///
    /// # Errors
    /// The directory cannot be made, its code cannot be run, or it belongs to another user.
    pub fn open(folder: &Path, max: u64) -> io::Result<Self> {
        if let Some(parent) = folder.parent() {
            fs::create_dir_all(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let metadata = fs::metadata(folder)?;
        if !metadata.is_dir() {
            return Err(io::Error::other(format!(
                "{} is not a directory",
                folder.display()
            )));
        }
        let mount = rustix::fs::statvfs(folder)?;
        if mount.f_flag.contains(StatVfsMountFlags::NOEXEC) {
            return Err(io::Error::other(format!(
                "code of {} cannot be run: its file system is mounted noexec",
                folder.display()
            )));
        }
        let owner = rustix::process::geteuid().as_raw();
        if metadata.uid() != owner {
            return Err(io::Error::other(format!(
                "{} belongs to user {}",
                folder.display(),
                metadata.uid()
            )));
        }
        let mode = metadata.permissions().mode();
        if mode & 0o077 != 0 {
            fs::set_permissions(folder, Permissions::from_mode(0o700))?;
        }
        if mode & OTHERS_WRITE != 0 {
            remove_entries(folder)?;
        }
        Ok(Self {
            folder: folder.to_owned(),
            max: Some(max),
        })
    }

    /// Its directory.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Path of an entry, which may be there or not.
    #[must_use]
    pub fn path(&self, key: &CodeKey) -> PathBuf {
        self.folder.join(key.file_name())
    }

    /// Whether there is a whole entry.
    #[must_use]
    pub fn has(&self, key: &CodeKey) -> bool {
        self.state(key) == EntryState::Whole
    }

    /// How it stands with an entry, which is used then.
    #[must_use]
    pub fn state(&self, key: &CodeKey) -> EntryState {
        let used = |file: File| check(&file).map(|()| self.touch(&file));
        match self.open_entry(key).and_then(used) {
            Ok(()) => EntryState::Whole,
            Err(error) if error.kind() == io::ErrorKind::NotFound => EntryState::Missing,
            Err(_) => EntryState::Damaged,
        }
    }

    /// Opens an entry: a regular file, which nobody but us can have written.
    fn open_entry(&self, key: &CodeKey) -> io::Result<File> {
        // A FIFO must not hold us up.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = File::options()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(self.path(key))?;
        let metadata = file.metadata()?;
        // In a container's user namespace the shim's entries belong to nobody: there it is the mount that counts.
        let ours = self.max.is_none()
            || (metadata.uid() == rustix::process::geteuid().as_raw()
                && metadata.permissions().mode() & OTHERS_WRITE == 0);
        if !metadata.is_file() || !ours {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "another user may have written it",
            ));
        }
        Ok(file)
    }

    pub(crate) fn load(&self, engine: &Engine, key: &CodeKey) -> Found {
        let file = match self.open_entry(key) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::Nothing,
            Err(error) => return Found::Damaged(error.to_string()),
        };
        // Of a store that is only read each entry was checked by who gave it: at this very start, outside of the container.
        if self.max.is_some()
            && let Err(error) = check(&file)
        {
            return Found::Damaged(error.to_string());
        }
        self.touch(&file);
        // SAFETY: the file must be code that wasmtime made, unchanged. The cache is a read-only mount of the shim's
        // (`read_only`), or a directory and an entry that no other user could write (`open`, `open_entry`), so we alone
        // have written the file; and it is whole, by its checksum.
        match unsafe { Module::deserialize_open_file(engine, file) } {
            Ok(module) => Found::Code(module),
            Err(error) => Found::Damaged(format!("{error:#}")),
        }
    }

    /// Which entries are used decides which are kept.
    fn touch(&self, file: &File) {
        if self.max.is_some() {
            let _ = file.set_modified(SystemTime::now());
        }
    }

    /// Stores an entry, and removes those that were not used for longest where there is no room.
    ///
    /// # Errors
    /// The store is read-only, the disk full, ...: nothing is stored then.
    pub fn store(&self, key: &CodeKey, code: &[u8]) -> io::Result<()> {
        let mut entry = self.write(key)?;
        entry.write_all(code)?;
        entry.finish()
    }

    /// Removes an entry.
    ///
    /// # Errors
    /// It is there and cannot be removed.
    pub fn remove(&self, key: &CodeKey) -> io::Result<()> {
        match fs::remove_file(self.path(key)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn make_room(&self, for_entries: u64) -> io::Result<()> {
        let mut entries = Vec::new();
        let mut total = 0;
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let (path, metadata) = match entry.metadata() {
                Ok(metadata) => (entry.path(), metadata),
                // Another process finished it, or made room.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.ends_with(UNFINISHED) && used.elapsed().is_ok_and(|age| age > ABANDONED) {
                let _ = fs::remove_file(&path);
            } else if name.ends_with(ENDING) {
                total += metadata.len();
                entries.push((used, metadata.len(), path));
            }
        }
        entries.sort();
        for (_, size, path) in entries {
            if total <= for_entries {
                break;
            }
            // Another process may have been faster.
            let _ = fs::remove_file(&path);
            total -= size;
        }
        Ok(())
    }
}

/// Removes what others may have written: finished and unfinished entries, and nothing that is not a cache's.
fn remove_entries(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(ENDING) || name.ends_with(UNFINISHED) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Reads the whole file once, through the page cache from which it is mapped later.
fn check(mut file: &File) -> io::Result<()> {
    let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    let len = file
        .metadata()?
        .len()
        .checked_sub(TRAILER)
        .ok_or_else(|| damaged("too short"))?;
    let mut sum = crc32fast::Hasher::new();
    let mut buffer = vec![0; 64 << 10];
    let mut left = len;
    while left > 0 {
        let part = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        file.read_exact(&mut buffer[..part])?;
        sum.update(&buffer[..part]);
        left -= part as u64;
    }
    let mut trailer = [0; TRAILER as usize];
    file.read_exact(&mut trailer)?;
    let (magic, rest) = trailer.split_at(8);
    let (length, crc) = rest.split_at(8);
    if magic != MAGIC || length != len.to_le_bytes() || crc != sum.finalize().to_le_bytes() {
        return Err(damaged("its checksum is wrong"));
    }
    Ok(())
}
