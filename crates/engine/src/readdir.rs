//! What a directory holds, for guests: in pieces, as it lies in the guest's buffer.
//!
//! `wasmtime-wasi` reads all names of a directory, and what each of them is, for every call of `fd_readdir`: a million files are
//! hundreds of megabytes that nobody is charged for. Here an entry's cookie is the kernel's own position, which needs no state.

use std::{
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, SeekFrom},
    io::{Errno, Result},
};

/// Bytes of entries that are read at once, at most.
pub(crate) const PIECE: usize = 32 << 10;

/// Bytes of an entry before its name: `dirent` of `wasi_snapshot_preview1.witx`.
const HEAD: usize = 24;

/// A directory beneath one that a guest was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DirectoryPath {
    /// The number of the one that it was given.
    pub(crate) folder: usize,
    pub(crate) path: String,
}

impl DirectoryPath {
    /// A path that the guest names from here. The kernel looks at it once more, and lets none leave the folder.
    pub(crate) fn join(&self, path: &str) -> Self {
        let path = match &*self.path {
            "" => path.to_owned(),
            base => format!("{base}/{path}"),
        };
        Self {
            folder: self.folder,
            path,
        }
    }
}

/// Entries of a directory, and where those after them begin.
pub(crate) struct Entries {
    pub(crate) bytes: Vec<u8>,
    /// `None`: there are no more.
    pub(crate) next: Option<u64>,
}

/// Reads entries from `cookie` on, 0 for the first: as many as fit into `room` bytes, and a part of the next one where it is `cut`.
/// Blocks the thread.
pub(crate) fn read(
    folder: &OwnedFd,
    path: &str,
    cookie: u64,
    room: usize,
    cut: bool,
) -> Result<Entries> {
    let path = if path.is_empty() { "." } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let directory = rustix::fs::openat2(folder, path, flags, Mode::empty(), beneath)?;
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

/// File systems need not say it with the name.
fn type_of(directory: std::os::fd::BorrowedFd<'_>, name: &std::ffi::CStr) -> FileType {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
        .map_or(FileType::Unknown, |stat| {
            FileType::from_raw_mode(stat.st_mode)
        })
}

/// `filetype` of WASI.
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

/// `errno` of WASI.
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
        // It would leave the folder.
        Errno::PERM | Errno::XDEV => 63,
        _ => 29,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Names, with what they are, of whole entries.
    fn names(bytes: &[u8]) -> Vec<(String, u8)> {
        let (mut at, mut names) = (0, Vec::new());
        while at < bytes.len() {
            let len = u32::from_le_bytes(bytes[at + 16..at + 20].try_into().unwrap()) as usize;
            let name = &bytes[at + HEAD..at + HEAD + len];
            names.push((String::from_utf8_lossy(name).into_owned(), bytes[at + 20]));
            at += HEAD + len;
        }
        names
    }

    #[test]
    fn pieces_hold_every_entry_once() {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..1000 {
            std::fs::write(dir.path().join(format!("file-{i}")), "").unwrap();
        }
        std::fs::create_dir(dir.path().join("directory")).unwrap();
        std::os::unix::fs::symlink("x", dir.path().join("link")).unwrap();
        let folder: OwnedFd = std::fs::File::open(dir.path()).unwrap().into();
        let (mut all, mut cookie) = (Vec::new(), 0);
        loop {
            let entries = read(&folder, "", cookie, 500, false).unwrap();
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
        let cut = read(&folder, "", 0, 100, true).unwrap();
        assert_eq!(cut.bytes.len(), 100);
        assert!(cut.next.is_some());
    }

    #[test]
    fn no_path_leaves_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("in/link")).unwrap();
        let folder: OwnedFd = std::fs::File::open(dir.path().join("in")).unwrap().into();
        for path in ["..", "link", "/", "../in", "link/etc"] {
            assert!(read(&folder, path, 0, 100, true).is_err(), "{path}");
        }
        assert!(read(&folder, "../in/.", 7, 100, true).is_err());
    }
}
