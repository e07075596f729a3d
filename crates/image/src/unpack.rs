//! Unpacks the layers of an image over one another, beneath one directory.
//!
//! Every path is resolved by the kernel with the directory as its root (`openat2`,
//! `RESOLVE_IN_ROOT`), so that no `..` and no symbolic link of the image leads out of it. Source:
//! OCI image specification, image-layout and layer (whiteouts); `openat2(2)`.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType, PaxExtensions};

use crate::error::ImageError;
use crate::layer::inside;
use crate::walk::{self, MAX_ENTRIES, MAX_PATH};

/// A file of this name removes one of the layers below.
const WHITEOUT: &[u8] = b".wh.";

/// A file of this name removes everything in its directory of the layers below.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// The most bytes of the extended header of one file.
const MAX_EXTENDED: u64 = 64 << 10;

/// Bounds of what is unpacked.
#[derive(Clone, Copy, Debug)]
pub struct UnpackLimits {
    /// Bytes of all layers, uncompressed.
    pub bytes: u64,
    /// Files, directories and links of all layers.
    pub entries: usize,
}

impl Default for UnpackLimits {
    fn default() -> Self {
        Self {
            bytes: 8 << 30,
            entries: MAX_ENTRIES,
        }
    }
}

pub(crate) struct Unpacker {
    path: PathBuf,
    root: OwnedFd,
    left: UnpackLimits,
}

/// A path that extended headers give to the next entry.
#[derive(Default)]
struct LongNames {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
}

impl Unpacker {
    pub(crate) fn new(to: &Path, limits: UnpackLimits) -> Result<Self, ImageError> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = rustix::fs::open(to, flags, Mode::empty())
            .map_err(|error| ImageError::file(to, error))?;
        Ok(Self {
            path: to.to_owned(),
            root,
            left: limits,
        })
    }

    /// Unpacks a layer over those before it.
    pub(crate) fn layer(
        &mut self,
        digest: &str,
        layer: impl Read,
        zipped: bool,
    ) -> Result<(), ImageError> {
        let layer = BufReader::new(layer);
        let limit = self.left.bytes;
        if zipped {
            self.tar(digest, MultiGzDecoder::new(layer).take(limit))
        } else {
            self.tar(digest, layer.take(limit))
        }
    }

    fn tar(&mut self, digest: &str, tar: io::Take<impl Read>) -> Result<(), ImageError> {
        let mut archive = Archive::new(tar);
        let result = self.entries(digest, &mut archive);
        let left = archive.into_inner().limit();
        self.left.bytes = left;
        match result {
            // What was cut off by the limit is no archive.
            Err(ImageError::Unreadable { .. }) if left == 0 => Err(ImageError::too_large(
                digest,
                "the bytes that an image may have",
            )),
            result => result,
        }
    }

    fn entries(
        &mut self,
        digest: &str,
        archive: &mut Archive<io::Take<impl Read>>,
    ) -> Result<(), ImageError> {
        let broken = |error: io::Error| {
            ImageError::unreadable(digest, format!("cannot be unpacked: {error}"))
        };
        let mut long = LongNames::default();
        let mut made = HashSet::new();
        // Raw: otherwise headers of any size would be read into memory.
        for entry in archive.entries().map_err(broken)?.raw(true) {
            let mut entry = entry.map_err(broken)?;
            let Some(left) = self.left.entries.checked_sub(1) else {
                return Err(ImageError::too_large(
                    digest,
                    "the files that an image may have",
                ));
            };
            self.left.entries = left;
            match entry.header().entry_type() {
                EntryType::GNULongName => {
                    long.path = Some(read_name(&mut entry).map_err(broken)?);
                }
                EntryType::GNULongLink => {
                    long.target = Some(read_name(&mut entry).map_err(broken)?);
                }
                EntryType::XHeader => long.read_pax(&mut entry).map_err(broken)?,
                EntryType::XGlobalHeader => {}
                _ => {
                    let names = std::mem::take(&mut long);
                    self.entry(digest, entry, names, &mut made)?;
                }
            }
        }
        Ok(())
    }

    fn entry(
        &self,
        digest: &str,
        mut entry: Entry<'_, io::Take<impl Read>>,
        names: LongNames,
        made: &mut HashSet<PathBuf>,
    ) -> Result<(), ImageError> {
        let header = entry.header();
        let raw = names
            .path
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let path = self.checked(&raw)?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            // The root itself.
            return Ok(());
        };
        let parent_path = path.parent().unwrap_or(Path::new("")).to_owned();
        let failed = |error: io::Error| ImageError::file(&self.path.join(&path), error);
        if name.as_bytes() == OPAQUE {
            return self.remove_others(&parent_path, made);
        }
        if let Some(removed) = name.as_bytes().strip_prefix(WHITEOUT) {
            // `.wh...` would be the directory above.
            let removed = self.checked(removed)?;
            return match removed.components().count() {
                1 => self.remove(&parent_path.join(removed)),
                _ => Ok(()),
            };
        }
        let parent = self.make_directories(&parent_path)?;
        let mode = header.mode().map_err(failed)?;
        let kind = header.entry_type();
        match kind {
            EntryType::Directory => {
                let mode = Mode::from_raw_mode(mode & 0o777 | 0o700);
                match rustix::fs::mkdirat(&parent, &name, mode) {
                    Err(Errno::EXIST) if self.is_directory(&parent, &name) => {}
                    Err(Errno::EXIST) => {
                        self.remove(&path)?;
                        rustix::fs::mkdirat(&parent, &name, mode).map_err(|e| failed(e.into()))?;
                    }
                    other => other.map_err(|error| failed(error.into()))?,
                }
            }
            EntryType::Regular | EntryType::Continuous => {
                self.remove(&path)?;
                let flags = OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::WRONLY
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let mode = Mode::from_raw_mode(mode & 0o755 | 0o600);
                let file = rustix::fs::openat(&parent, &name, flags, mode)
                    .map_err(|error| failed(error.into()))?;
                copy(&mut entry, File::from(file)).map_err(|error| match error {
                    CopyError::Read(error) => {
                        ImageError::unreadable(digest, format!("cannot be unpacked: {error}"))
                    }
                    CopyError::Write(error) => failed(error),
                })?;
            }
            EntryType::Symlink | EntryType::Link => {
                let target = match (names.target, header.link_name_bytes()) {
                    (Some(target), _) => target,
                    (None, Some(target)) => target.into_owned(),
                    (None, None) => Vec::new(),
                };
                if target.is_empty() || target.len() > MAX_PATH {
                    let why = format!("{} is a link to nothing", path.display());
                    return Err(ImageError::unreadable(digest, why));
                }
                if kind == EntryType::Symlink {
                    self.remove(&path)?;
                    rustix::fs::symlinkat(OsString::from_vec(target), &parent, &name)
                        .map_err(|error| failed(error.into()))?;
                } else {
                    let target = self.checked(&target)?;
                    if target != path {
                        self.remove(&path)?;
                        self.hard_link(&target, &parent, &name).map_err(failed)?;
                    }
                }
            }
            // A server needs no devices and pipes.
            EntryType::Char | EntryType::Block | EntryType::Fifo => return Ok(()),
            other => {
                let why = format!("{} has the unsupported type {other:?}", path.display());
                return Err(ImageError::unreadable(digest, why));
            }
        }
        made.insert(path);
        Ok(())
    }

    /// A path of an image, cleaned.
    fn checked(&self, raw: &[u8]) -> Result<PathBuf, ImageError> {
        if raw.len() > MAX_PATH || raw.contains(&0) {
            let what = String::from_utf8_lossy(&raw[..raw.len().min(100)]).into_owned();
            return Err(ImageError::unreadable(what, "is no path"));
        }
        inside(Path::new(OsStr::from_bytes(raw)))
    }

    fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        walk::open_in(
            &self.root,
            path,
            flags,
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    }

    /// Opens a directory; what of it is missing is made.
    fn make_directories(&self, path: &Path) -> Result<OwnedFd, ImageError> {
        let failed = |error: Errno| ImageError::file(&self.path.join(path), error);
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.open(path, flags) {
            Err(Errno::NOENT) => {}
            other => return other.map_err(failed),
        }
        let mut at = PathBuf::new();
        let mut opened = self.open(&at, flags).map_err(failed)?;
        for name in path {
            at.push(name);
            opened = match self.open(&at, flags) {
                Err(Errno::NOENT) => {
                    let mode = Mode::from_raw_mode(0o755);
                    rustix::fs::mkdirat(&opened, name, mode).map_err(failed)?;
                    self.open(&at, flags).map_err(failed)?
                }
                other => other.map_err(failed)?,
            };
        }
        Ok(opened)
    }

    fn is_directory(&self, parent: &OwnedFd, name: &OsStr) -> bool {
        rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    }

    fn hard_link(&self, target: &Path, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
        let of = target.parent().unwrap_or(Path::new(""));
        let of = self.open(of, OFlags::PATH | OFlags::DIRECTORY)?;
        let target = target.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        Ok(rustix::fs::linkat(
            &of,
            target,
            parent,
            name,
            AtFlags::empty(),
        )?)
    }

    /// Removes a file, or a directory with everything in it, if it exists.
    fn remove(&self, path: &Path) -> Result<(), ImageError> {
        self.remove_unless(path, &|_| false)
    }

    /// Removes what layers below put into a directory.
    fn remove_others(&self, directory: &Path, made: &HashSet<PathBuf>) -> Result<(), ImageError> {
        // A directory above what this layer made is kept, too.
        let mut kept: HashSet<&Path> = HashSet::from([directory]);
        for path in made {
            kept.extend(
                path.ancestors()
                    .take_while(|path| path.starts_with(directory)),
            );
        }
        self.remove_unless(directory, &|path| kept.contains(path))
    }

    fn remove_unless(&self, path: &Path, kept: &dyn Fn(&Path) -> bool) -> Result<(), ImageError> {
        let failed = |path: &Path, error: Errno| ImageError::file(&self.path.join(path), error);
        // Directories before what lies in them.
        let mut found = vec![path.to_owned()];
        let mut at = 0;
        let mut directories = HashSet::new();
        while let Some(path) = found.get(at).cloned() {
            at += 1;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let opened = match self.open(&path, flags) {
                Ok(opened) => opened,
                Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => continue,
                Err(error) => return Err(failed(&path, error)),
            };
            for entry in Dir::read_from(&opened).map_err(|error| failed(&path, error))? {
                let entry = entry.map_err(|error| failed(&path, error))?;
                let name = OsStr::from_bytes(entry.file_name().to_bytes());
                if name != "." && name != ".." {
                    found.push(path.join(name));
                }
            }
            directories.insert(path);
        }
        for path in found.iter().rev().filter(|path| !kept(path)) {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                continue;
            };
            let flags = if directories.contains(path) {
                AtFlags::REMOVEDIR
            } else {
                AtFlags::empty()
            };
            let removed = self
                .open(parent, OFlags::PATH | OFlags::DIRECTORY)
                .and_then(|parent| rustix::fs::unlinkat(&parent, name, flags));
            match removed {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(failed(path, error)),
            }
        }
        Ok(())
    }
}

impl LongNames {
    fn read_pax(&mut self, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
        if entry.size() > MAX_EXTENDED {
            return Err(io::Error::other("an extended header is too large"));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        for extension in PaxExtensions::new(&bytes) {
            let extension = extension?;
            let value = || extension.value_bytes().to_owned();
            match extension.key_bytes() {
                b"path" => self.path = Some(value()),
                b"linkpath" => self.target = Some(value()),
                b"size" => return Err(io::Error::other("a file of 8 GiB or more")),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The name that an entry of its own gives to the next one.
fn read_name(entry: &mut Entry<'_, impl Read>) -> io::Result<Vec<u8>> {
    if entry.size() > MAX_PATH as u64 + 1 {
        return Err(io::Error::other("a path is too long"));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes)?;
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes)
}

enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

/// Copies an entry, whole.
fn copy(entry: &mut Entry<'_, impl Read>, mut file: File) -> Result<(), CopyError> {
    use std::io::Write;
    let mut buffer = vec![0; 64 << 10];
    let mut left = entry.size();
    while left > 0 {
        match entry.read(&mut buffer) {
            Ok(0) => return Err(CopyError::Read(io::ErrorKind::UnexpectedEof.into())),
            Ok(read) => {
                file.write_all(&buffer[..read]).map_err(CopyError::Write)?;
                left = left.saturating_sub(read as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(CopyError::Read(error)),
        }
    }
    Ok(())
}
