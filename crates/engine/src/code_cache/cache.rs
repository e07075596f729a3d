//! The directory of a code cache: reads, checks and removes entries.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    hash::{Hash, Hasher},
    io::{self, Read, Write as _},
    os::fd::AsRawFd,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::fs::{AtFlags, CWD, OFlags, StatVfsMountFlags, StatxAttributes, StatxFlags, statx};
use sha2::{Digest, Sha256};
use wasmtime::component::Component;
use wasmtime::{Engine, Module};

use crate::error::{DamagedCode, LoadError, WasmError};

pub(super) const MAGIC: &[u8; 8] = b"wwscode1";
pub(super) const TRAILER: u64 = 20;

/// Version of how `module` changes modules before they are compiled; part of an entry's key.
const TRANSFORMATION: u32 = 3;

/// Suffix of an entry's name.
const ENDING: &str = ".code";

/// Suffix of a file that is being written.
pub(super) const UNFINISHED: &str = ".part";

/// Unfinished files, left by a crash, are removed after this time.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Write permission of the group and of all others.
const OTHERS_WRITE: u32 = 0o022;

/// A directory of compiled code.
#[derive(Clone, Debug)]
pub struct CodeCache {
    pub(super) directory: PathBuf,
    /// Bytes that all entries may have; `None` if the cache is read-only.
    pub(super) max: Option<u64>,
}

/// The state of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheEntryState {
    /// The entry can be used.
    Whole,
    /// The cache has no such entry.
    Missing,
    /// The entry is not what was written, or cannot be read.
    Damaged,
}

/// The name of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CodeKey(pub(super) String);

impl CodeKey {
    /// The key of a module with the SHA-256 `wasm`, compiled by `engine` as a `kind` of module.
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

    /// The name of the entry's file.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!("{}{ENDING}", self.0)
    }
}

/// What a cache had under a key.
enum CachedCode<T> {
    Code(T),
    Missing,
    Damaged(DamagedCode),
}

/// Where a module's code came from.
#[derive(Debug)]
pub enum CodeOrigin {
    /// The code cache.
    Cached,
    /// The code was compiled now.
    Compiled {
        /// Why the cache's entry could not be used, if it had one.
        damaged: Option<DamagedCode>,
    },
}

/// Code that wasmtime wrote.
pub(crate) trait CompiledCode: Sized {
    /// Loads the code of an open file.
    ///
    /// # Safety
    /// As of [`Module::deserialize_open_file`]: wasmtime wrote the file, and it is not changed.
    unsafe fn deserialize(engine: &Engine, file: File) -> wasmtime::Result<Self>;
}

impl CompiledCode for Module {
    unsafe fn deserialize(engine: &Engine, file: File) -> wasmtime::Result<Self> {
        // SAFETY: the caller's promise.
        unsafe { Self::deserialize_open_file(engine, file) }
    }
}

impl CompiledCode for Component {
    unsafe fn deserialize(engine: &Engine, file: File) -> wasmtime::Result<Self> {
        // The descriptor's own path names the very file that was checked.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        // SAFETY: the caller's promise.
        unsafe { Self::deserialize_file(engine, path) }
    }
}

impl CodeCache {
    /// Opens a cache that the shim mounted into the container after it had checked the entries.
    ///
    /// # Errors
    /// Returns an error if the directory is missing or not a read-only mount: its entries may have
    /// been written by others than the shim.
    pub fn read_only(directory: &Path) -> io::Result<Self> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let found = statx(CWD, directory, flags, StatxFlags::TYPE)?;
        let mount = rustix::fs::statvfs(directory)?;
        let refused = |why: &str| {
            Err(io::Error::other(format!(
                "compiled code in {} is not used: it is {why}",
                directory.display()
            )))
        };
        if !rustix::fs::FileType::from_raw_mode(found.stx_mode.into()).is_dir() {
            return refused("not a directory");
        }
        if !mount.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return refused("not mounted read-only");
        }
        // Kernels before 5.8 do not report mount roots.
        if found
            .stx_attributes_mask
            .contains(StatxAttributes::MOUNT_ROOT)
            && !found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
        {
            return refused("not a mount of its own");
        }
        Ok(Self {
            directory: directory.to_owned(),
            max: None,
        })
    }

    /// Opens a cache of at most `max` bytes, and creates its directory if that is missing. Takes
    /// write permission from other users; if they had it, removes all entries.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be created, is mounted noexec, or belongs to
    /// another user.
    pub fn open(directory: &Path, max: u64) -> io::Result<Self> {
        if let Some(parent) = directory.parent() {
            fs::create_dir_all(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let metadata = fs::metadata(directory)?;
        if !metadata.is_dir() {
            return Err(io::Error::other(format!(
                "{} is not a directory",
                directory.display()
            )));
        }
        let mount = rustix::fs::statvfs(directory)?;
        if mount.f_flag.contains(StatVfsMountFlags::NOEXEC) {
            return Err(io::Error::other(format!(
                "code of {} cannot be run: its file system is mounted noexec",
                directory.display()
            )));
        }
        let owner = rustix::process::geteuid().as_raw();
        if metadata.uid() != owner {
            return Err(io::Error::other(format!(
                "{} belongs to user {}",
                directory.display(),
                metadata.uid()
            )));
        }
        let mode = metadata.permissions().mode();
        if mode & 0o077 != 0 {
            fs::set_permissions(directory, Permissions::from_mode(0o700))?;
        }
        if mode & OTHERS_WRITE != 0 {
            remove_entries(directory)?;
        }
        Ok(Self {
            directory: directory.to_owned(),
            max: Some(max),
        })
    }

    /// The cache's directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The path of an entry, which need not exist.
    #[must_use]
    pub fn path(&self, key: &CodeKey) -> PathBuf {
        self.directory.join(key.file_name())
    }

    /// Whether the cache has an entry that can be used.
    #[must_use]
    pub fn has(&self, key: &CodeKey) -> bool {
        self.state(key) == CacheEntryState::Whole
    }

    /// Returns the state of an entry, and marks it as used.
    #[must_use]
    pub fn state(&self, key: &CodeKey) -> CacheEntryState {
        let used = |file: File| check(&file).map(|()| self.touch(&file));
        match self.open_entry(key).and_then(used) {
            Ok(()) => CacheEntryState::Whole,
            Err(error) if error.kind() == io::ErrorKind::NotFound => CacheEntryState::Missing,
            Err(_) => CacheEntryState::Damaged,
        }
    }

    /// Opens an entry: a regular file that no other user can have written.
    fn open_entry(&self, key: &CodeKey) -> io::Result<File> {
        // Opening a FIFO must not block.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = File::options()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(self.path(key))?;
        let metadata = file.metadata()?;
        // In a container's user namespace the owner of the shim's entries is not mapped; there, the
        // read-only mount was checked instead.
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

    fn load<T: CompiledCode>(&self, engine: &Engine, key: &CodeKey) -> CachedCode<T> {
        let file = match self.open_entry(key) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return CachedCode::Missing,
            Err(error) => return CachedCode::Damaged(DamagedCode::new(error)),
        };
        // The shim checked the entries of a read-only cache when it started the container.
        if self.max.is_some()
            && let Err(error) = check(&file)
        {
            return CachedCode::Damaged(DamagedCode::new(error));
        }
        self.touch(&file);
        // SAFETY: `deserialize` asks for an unchanged file that wasmtime compiled. The
        // cache is a read-only mount of the shim (`read_only`), or a directory and an entry that no
        // other user could write (`open`, `open_entry`), so only `wws` wrote the file; its checksum
        // is right.
        match unsafe { T::deserialize(engine, file) } {
            Ok(code) => CachedCode::Code(code),
            Err(error) => CachedCode::Damaged(DamagedCode::new(WasmError::in_order(error))),
        }
    }

    /// Loads code, or fills its entry with what `compile` returns and loads it from there, so that
    /// later processes find it. `None` if the cache keeps nothing: it is read-only, or its disk is
    /// full.
    pub(crate) fn load_or_fill<T: CompiledCode>(
        &self,
        engine: &Engine,
        key: &CodeKey,
        compile: impl FnOnce() -> Result<Vec<u8>, LoadError>,
    ) -> Result<(Option<T>, CodeOrigin), LoadError> {
        let damaged = match self.load(engine, key) {
            CachedCode::Code(code) => return Ok((Some(code), CodeOrigin::Cached)),
            CachedCode::Missing => None,
            CachedCode::Damaged(why) => Some(why),
        };
        let code = self.fill(engine, key, compile)?;
        Ok((code, CodeOrigin::Compiled { damaged }))
    }

    fn fill<T: CompiledCode>(
        &self,
        engine: &Engine,
        key: &CodeKey,
        compile: impl FnOnce() -> Result<Vec<u8>, LoadError>,
    ) -> Result<Option<T>, LoadError> {
        let Ok(mut entry) = self.write(key) else {
            return Ok(None);
        };
        let code = compile()?;
        let stored = entry.write_all(&code).and_then(|()| entry.finish());
        if let Err(error) = stored {
            tracing::debug!("compiled code is not kept: {error}");
            return Ok(None);
        }
        Ok(match self.load(engine, key) {
            CachedCode::Code(code) => Some(code),
            CachedCode::Missing | CachedCode::Damaged(_) => None,
        })
    }

    /// Marks an entry as used: `make_room` removes the others first.
    fn touch(&self, file: &File) {
        if self.max.is_some() {
            let _ = file.set_modified(SystemTime::now());
        }
    }

    /// Stores an entry. Removes the least recently used entries if there is no room.
    ///
    /// # Errors
    /// Returns an error, and stores nothing, if the cache is read-only, the disk is full, or the
    /// like.
    pub fn store(&self, key: &CodeKey, code: &[u8]) -> io::Result<()> {
        let mut entry = self.write(key)?;
        entry.write_all(code)?;
        entry.finish()
    }

    /// Removes an entry, if it exists.
    ///
    /// # Errors
    /// Returns an error if the entry cannot be removed.
    pub fn remove(&self, key: &CodeKey) -> io::Result<()> {
        match fs::remove_file(self.path(key)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    pub(super) fn make_room(&self, for_entries: u64) -> io::Result<()> {
        let mut entries = Vec::new();
        let mut total = 0;
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let (path, metadata) = match entry.metadata() {
                Ok(metadata) => (entry.path(), metadata),
                // Another process renamed or removed the file.
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
            // Another process may have removed the file.
            let _ = fs::remove_file(&path);
            total -= size;
        }
        Ok(())
    }
}

/// Removes all finished and unfinished entries, and no other file.
fn remove_entries(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(ENDING) || name.ends_with(UNFINISHED) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Checks an entry's trailer. Reading the file fills the page cache, from which it is mapped later.
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
