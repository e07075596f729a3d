//! Reads the entries of a directory in pieces, in the form in which guests read them.
//!
//! For every call of `fd_readdir`, `wasmtime-wasi` reads all names and types of a directory: for a
//! million files, hundreds of megabytes that no call is charged for. Here, the cookie of an entry
//! is the kernel's own position, which needs no state.

use std::{mem::MaybeUninit, os::fd::AsFd};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RawDir, SeekFrom},
    io::{Errno, Result},
};

use crate::host::beneath::open_beneath;

/// Most bytes of entries that are read at once.
pub(crate) const PIECE: usize = 32 << 10;

/// Bytes of an entry before its name: `dirent` of `wasi_snapshot_preview1.witx`.
const HEAD: usize = 24;

/// A directory beneath one that a guest was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DirectoryPath {
    /// The index of the given directory.
    pub(crate) directory: usize,
    pub(crate) path: String,
}

impl DirectoryPath {
    /// Appends a path that the guest names from here. The kernel checks later that it does not
    /// leave the directory.
    pub(crate) fn join(&self, path: &str) -> Self {
        let path = match &*self.path {
            "" => path.to_owned(),
            base => format!("{base}/{path}"),
        };
        Self {
            directory: self.directory,
            path,
        }
    }
}

/// Entries of a directory, and the position of the next one.
pub(crate) struct Entries {
    pub(crate) bytes: Vec<u8>,
    /// `None` if there are no more.
    pub(crate) next: Option<u64>,
}

/// The name and the type of an entry, from the bytes of whole ones.
pub(crate) struct DirectoryEntryHead {
    pub(crate) name: Vec<u8>,
    /// A `filetype` of WASI.
    pub(crate) file_type: u8,
}

/// The entries in `bytes`, which end with a whole one.
pub(crate) fn heads(mut bytes: &[u8]) -> impl Iterator<Item = DirectoryEntryHead> {
    std::iter::from_fn(move || {
        let (head, rest) = bytes.split_at_checked(HEAD)?;
        let len = u32::from_le_bytes(head.get(16..20)?.try_into().ok()?);
        let (name, rest) = rest.split_at_checked(len as usize)?;
        bytes = rest;
        Some(DirectoryEntryHead {
            name: name.to_vec(),
            file_type: head[20],
        })
    })
}

/// Reads entries from `cookie` on (0 for the first): as many as fit into `room` bytes, and, if
/// `cut`, a part of the next one. Blocks the thread.
pub(crate) fn read(
    given: impl AsFd,
    path: &str,
    cookie: u64,
    room: usize,
    cut: bool,
) -> Result<Entries> {
    let path = if path.is_empty() { "." } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let directory = open_beneath(given, path, flags, Mode::empty())?;
    if cookie != 0 {
        rustix::fs::seek(&directory, SeekFrom::Start(cookie))?;
    }
    let mut buffer = [MaybeUninit::uninit(); 8 << 10];
    let mut entries = RawDir::new(&directory, &mut buffer);
    let mut bytes = Vec::with_capacity(room);
    let mut next = cookie;
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let left = room - bytes.len();
        if left == 0 || !cut && left < HEAD + name.len() {
            return Ok(Entries {
                bytes,
                next: Some(next),
            });
        }
        next = entry.next_entry_cookie();
        let file_type = match entry.file_type() {
            FileType::Unknown => type_of(directory.as_fd(), entry.file_name()),
            known => known,
        };
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(&next.to_le_bytes());
        head[8..16].copy_from_slice(&entry.ino().to_le_bytes());
        let len = u32::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
        head[16..20].copy_from_slice(&len.to_le_bytes());
        head[20] = code(file_type);
        bytes.extend_from_slice(&head[..HEAD.min(left)]);
        bytes.extend_from_slice(&name[..name.len().min(left.saturating_sub(HEAD))]);
    }
    Ok(Entries { bytes, next: None })
}

/// The type of a file whose file system does not report it with the name.
fn type_of(directory: std::os::fd::BorrowedFd<'_>, name: &std::ffi::CStr) -> FileType {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
        .map_or(FileType::Unknown, |stat| {
            FileType::from_raw_mode(stat.st_mode)
        })
}

/// A `filetype` of WASI.
fn code(file_type: FileType) -> u8 {
    match file_type {
        FileType::BlockDevice => 1,
        FileType::CharacterDevice => 2,
        FileType::Directory => 3,
        FileType::RegularFile => 4,
        FileType::Socket => 6,
        FileType::Symlink => 7,
        FileType::Fifo | FileType::Unknown => 0,
    }
}

/// An `errno` of WASI.
pub(crate) fn errno(error: Errno) -> i32 {
    match error {
        Errno::ACCESS => 2,
        Errno::BADF => 8,
        Errno::INVAL | Errno::OVERFLOW => 28,
        Errno::LOOP => 32,
        Errno::MFILE => 33,
        Errno::NAMETOOLONG => 37,
        Errno::NFILE => 41,
        Errno::NOENT => 44,
        Errno::NOMEM => 48,
        Errno::NOTDIR => 54,
        // The path leaves the directory.
        Errno::PERM | Errno::XDEV => 63,
        _ => 29,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::fd::OwnedFd;

    /// The names and types of whole entries.
    fn names(bytes: &[u8]) -> Vec<(String, u8)> {
        heads(bytes)
            .map(|entry| {
                let name = String::from_utf8_lossy(&entry.name).into_owned();
                (name, entry.file_type)
            })
            .collect()
    }

    #[test]
    fn pieces_have_every_entry_once() {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..1000 {
            std::fs::write(dir.path().join(format!("file-{i}")), "").unwrap();
        }
        std::fs::create_dir(dir.path().join("directory")).unwrap();
        std::os::unix::fs::symlink("x", dir.path().join("link")).unwrap();
        let given: OwnedFd = std::fs::File::open(dir.path()).unwrap().into();
        let (mut all, mut cookie) = (Vec::new(), 0);
        loop {
            let entries = read(&given, "", cookie, 500, false).unwrap();
            assert!(entries.bytes.len() <= 500);
            all.extend(names(&entries.bytes));
            match entries.next {
                Some(next) => cookie = next,
                None => break,
            }
        }
        assert_eq!(all.len(), 1004, "with `.` and `..`");
        assert!(all.contains(&("directory".into(), 3)) && all.contains(&("link".into(), 7)));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 1004);
        let cut = read(&given, "", 0, 100, true).unwrap();
        assert_eq!(cut.bytes.len(), 100);
        assert!(cut.next.is_some());
    }

    #[test]
    fn rejects_paths_that_leave_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("in/link")).unwrap();
        let given: OwnedFd = std::fs::File::open(dir.path().join("in")).unwrap().into();
        for path in ["..", "link", "/", "../in", "link/etc"] {
            assert!(read(&given, path, 0, 100, true).is_err(), "{path}");
        }
        assert!(read(&given, "../in/.", 7, 100, true).is_err());
    }
}
