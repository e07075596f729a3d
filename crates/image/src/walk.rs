//! Walks a directory of this machine. No symbolic link is followed, and nothing but regular files
//! and directories is opened.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::ImageError;

/// The most files and directories of an image.
pub(crate) const MAX_ENTRIES: usize = 500_000;

/// The most bytes of a path in an image, which is the longest that the kernel takes.
pub(crate) const MAX_PATH: usize = 4096;

/// A directory of this machine that is packed.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    fd: OwnedFd,
}

/// A file that a walk found.
#[derive(Debug)]
pub(crate) struct FoundFile {
    /// The path, relative to the directory.
    pub(crate) path: PathBuf,
    pub(crate) kind: FoundFileKind,
}

#[derive(Debug)]
pub(crate) enum FoundFileKind {
    Directory,
    File {
        size: u64,
        executable: bool,
    },
    Link {
        target: PathBuf,
    },
    /// A socket, a pipe or a device.
    Special,
}

impl Directory {
    pub(crate) fn open(path: &Path) -> Result<Self, ImageError> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| ImageError::file(path, error))?;
        let path = path.to_owned();
        Ok(Self { path, fd })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Visits everything in the directory. A directory is entered where `visit` returns true.
    pub(crate) fn walk(
        &self,
        visit: &mut dyn FnMut(&FoundFile) -> Result<bool, ImageError>,
    ) -> Result<(), ImageError> {
        let mut pending = vec![PathBuf::new()];
        let mut entries = 0;
        while let Some(directory) = pending.pop() {
            let named = |error: Errno| ImageError::file(&self.path.join(&directory), error);
            let flags = OFlags::DIRECTORY | OFlags::RDONLY;
            let opened = self.open_beneath(&directory, flags).map_err(named)?;
            for entry in Dir::read_from(&opened).map_err(named)? {
                let entry = entry.map_err(named)?;
                let name = OsStr::from_bytes(entry.file_name().to_bytes());
                if name == "." || name == ".." {
                    continue;
                }
                let path = directory.join(name);
                entries += 1;
                if entries > MAX_ENTRIES {
                    let what = self.path.display().to_string();
                    return Err(ImageError::too_large(what, format!("{MAX_ENTRIES} files")));
                }
                if path.as_os_str().len() > MAX_PATH {
                    let what = format!("the path {}", path.display());
                    return Err(ImageError::too_large(what, format!("{MAX_PATH} bytes")));
                }
                let kind = kind(opened.as_fd(), name)
                    .map_err(|error| ImageError::file(&self.path.join(&path), error))?;
                let found = FoundFile { path, kind };
                if visit(&found)? && matches!(found.kind, FoundFileKind::Directory) {
                    pending.push(found.path);
                }
            }
        }
        Ok(())
    }

    /// Opens a regular file that a walk found.
    pub(crate) fn file(&self, path: &Path) -> Result<File, ImageError> {
        let failed = |error: io::Error| ImageError::file(&self.path.join(path), error);
        // A pipe that took the file's place must not block.
        let opened = self
            .open_beneath(path, OFlags::RDONLY | OFlags::NONBLOCK)
            .map_err(|error| failed(error.into()))?;
        let file = File::from(opened);
        if file.metadata().map_err(failed)?.is_file() {
            Ok(file)
        } else {
            Err(ImageError::Changed)
        }
    }

    fn open_beneath(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        open_in(
            &self.fd,
            path,
            flags,
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )
    }

    /// Whether a symbolic link leads outside of the directory, or would if its target existed.
    pub(crate) fn escapes(&self, link: &Path, target: &Path) -> bool {
        if target.is_absolute() {
            return true;
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        match rustix::fs::openat2(&self.fd, link, flags, Mode::empty(), resolve) {
            Ok(_) => false,
            Err(Errno::XDEV) => true,
            Err(_) => leaves(link, target),
        }
    }
}

/// Whether a relative target leaves the root by its words.
fn leaves(link: &Path, target: &Path) -> bool {
    let mut depth = link.components().count().saturating_sub(1);
    for component in target.components() {
        match component {
            std::path::Component::ParentDir => match depth.checked_sub(1) {
                Some(above) => depth = above,
                None => return true,
            },
            std::path::Component::Normal(_) => depth += 1,
            _ => {}
        }
    }
    false
}

fn kind(directory: impl AsFd, name: &OsStr) -> Result<FoundFileKind, Errno> {
    let stat = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => FoundFileKind::Directory,
        FileType::RegularFile => FoundFileKind::File {
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            executable: stat.st_mode & 0o111 != 0,
        },
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(&directory, name, Vec::new())?;
            let target = std::ffi::OsString::from_vec(target.into_bytes());
            FoundFileKind::Link {
                target: target.into(),
            }
        }
        _ => FoundFileKind::Special,
    })
}

/// Opens a path of a directory, which is the directory itself if it is empty.
pub(crate) fn open_in(
    directory: &OwnedFd,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    rustix::fs::openat2(
        directory,
        path,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )
}
