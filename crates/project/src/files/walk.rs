//! Walks the directories of a project from the top down, one level after the other.

use std::{
    collections::{HashSet, VecDeque},
    ffi::OsStr,
    io,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    rc::Rc,
};

use rustix::fs::{AtFlags, Dir, FileType, statat};

use crate::data::UnservedFiles;
use crate::directory::Directory;
use crate::files::{Search, unreadable};
use crate::problem::Problem;

/// Files and directories that are visited, in the project and in each mount below it.
const MAX_FILES: usize = 1_000_000;

/// The maximum depth of directories.
const MAX_DEPTH: usize = 256;

/// Bytes of memory that a file takes while a project is loaded, besides its path.
const FILE_COST: u64 = 650;

/// How often its path is in memory: as an asset, as a route, and on the way there.
const PATH_COPIES: u64 = 8;

/// Divisor: at most this part of the memory is for the names of files.
const MEMORY_PART: u64 = 2;

/// There is room for so many bytes of them in any memory.
const MIN_NAMES: u64 = 4 << 20;

/// Bytes for the names of the files of a project whose server may use `memory` bytes.
pub(crate) fn memory_for_names(memory: Option<u64>) -> u64 {
    memory.map_or(u64::MAX, |memory| (memory / MEMORY_PART).max(MIN_NAMES))
}

/// What an entry with this path takes.
fn cost(path: &Path) -> u64 {
    FILE_COST + PATH_COPIES * path.as_os_str().len() as u64
}

/// An entry of a directory.
struct DirectoryEntry {
    path: PathBuf,
    kind: EntryKind,
    is_link: bool,
}

enum EntryKind {
    Directory,
    File,
    /// A symbolic link that would be a worker or an asset if it led to a file.
    Unreadable(Problem),
}

/// A directory that is still to be read.
struct PendingDirectory {
    path: PathBuf,
    depth: usize,
    directory: Rc<Directory>,
    /// The index of its mount.
    mount: usize,
}

/// A file that the visitor asked for.
pub(super) struct VisitedFile {
    pub(super) path: PathBuf,
    /// Why it cannot be read.
    pub(super) problem: Option<Problem>,
    pub(super) is_link: bool,
}

/// What is done with the files of a walk.
pub(super) trait Visitor {
    /// Whether a file is wanted, by its name.
    fn wants(&self, path: &Path) -> bool;
    /// Takes a file of `directory`.
    fn take(&mut self, file: VisitedFile, directory: &Rc<Directory>);
    /// Why a directory at `depth` is not entered: `Some(None)` if that is not reported.
    fn skips(
        &mut self,
        path: &Path,
        depth: usize,
        directory: &Directory,
    ) -> Option<Option<UnservedFiles>>;
}

impl Search<'_> {
    /// Passes all files below `top` to `visitor`, level by level.
    pub(super) fn walk(&self, top: &Path, visitor: &mut dyn Visitor) -> Vec<UnservedFiles> {
        let mut held = Vec::new();
        let first = self
            .root
            .directory(top)
            .and_then(|file| Directory::of_top(self.root, file));
        let first = match first {
            Ok(directory) => Rc::new(directory),
            Err(error) => {
                self.problems.add(unreadable(top, &error));
                return held;
            }
        };
        let mut pending = VecDeque::from([PendingDirectory {
            path: top.to_path_buf(),
            depth: 0,
            directory: first,
            mount: 0,
        }]);
        // Each link to a directory is followed once: two that lead into each other must not be a
        // loop.
        let mut links = HashSet::new();
        let mut counts = vec![0usize];
        while let Some(next) = pending.pop_front() {
            // A worker found meanwhile may have claimed it for data.
            if let Some(why) = visitor.skips(&next.path, next.depth, &next.directory) {
                held.extend(why);
                continue;
            }
            let entries = match self.entries(&next.path, &|path| visitor.wants(path)) {
                Ok(entries) => entries,
                Err(error) => {
                    self.not_searched(&next.path, &error);
                    continue;
                }
            };
            let mut below = Vec::new();
            for entry in entries {
                counts[next.mount] += 1;
                if counts[next.mount] > MAX_FILES {
                    break;
                }
                let problem = match entry.kind {
                    EntryKind::File => None,
                    EntryKind::Unreadable(problem) => Some(problem),
                    EntryKind::Directory => {
                        below.push(entry);
                        continue;
                    }
                };
                let file = VisitedFile {
                    path: entry.path,
                    problem,
                    is_link: entry.is_link,
                };
                visitor.take(file, &next.directory);
            }
            let is_memory_full = self.names.get().is_none();
            if counts[next.mount] > MAX_FILES || is_memory_full {
                let (too_many, more) = match is_memory_full {
                    true => (
                        "more files and directories than the server has memory for".to_owned(),
                        ", or give the server more memory",
                    ),
                    false => (format!("more than {MAX_FILES} files and directories"), ""),
                };
                let problem =
                    Problem::new(&next.path, format!("{too_many}: the rest is not served")).help(
                        format!(
                            "let `server.ignore` leave out what is no worker and no asset{more}"
                        ),
                    );
                match next.mount {
                    0 => self.problems.add(problem),
                    _ => self.warnings.add(problem),
                }
                pending.retain(|other| other.mount != next.mount);
                continue;
            }
            // After the files, which say which directories hold data.
            for entry in below {
                let Some(directory) = self.directory(&entry, &next.directory) else {
                    continue;
                };
                if entry.is_link && !links.insert(directory.id) {
                    continue;
                }
                let depth = next.depth + 1;
                if depth > MAX_DEPTH {
                    self.warnings.add(Problem::new(
                        &entry.path,
                        format!("not searched: it is more than {MAX_DEPTH} directories deep"),
                    ));
                    continue;
                }
                let mount = if self.container && directory.mount != next.directory.mount {
                    if directory.is_of_the_kernel {
                        continue;
                    }
                    counts.push(0);
                    counts.len() - 1
                } else {
                    next.mount
                };
                pending.push_back(PendingDirectory {
                    path: entry.path,
                    depth,
                    directory: Rc::new(directory),
                    mount,
                });
            }
        }
        held
    }

    /// Opens a directory found in `parent`. `None` if it cannot be opened, or leads to a directory
    /// above.
    fn directory(&self, entry: &DirectoryEntry, parent: &Rc<Directory>) -> Option<Directory> {
        let opened = match self.root.directory(&entry.path) {
            Ok(opened) => opened,
            Err(error) => {
                self.not_searched(&entry.path, &error);
                return None;
            }
        };
        let directory = if entry.is_link {
            Directory::of_link(self.root, opened)
        } else {
            Directory::of_child(parent, opened)
        };
        match directory {
            // A link to a directory above.
            Ok(directory) if entry.is_link && parent.is_in(directory.id) => None,
            Ok(directory) => Some(directory),
            Err(error) => {
                self.not_searched(&entry.path, &error);
                None
            }
        }
    }

    /// Warns of a directory that cannot be read.
    fn not_searched(&self, path: &Path, error: &io::Error) {
        // It was removed meanwhile.
        let is_gone = error.kind() == io::ErrorKind::NotFound;
        // A directory of the container that this user may not read holds none of its workers.
        let is_of_others = self.system && error.kind() == io::ErrorKind::PermissionDenied;
        if !is_gone && !is_of_others {
            self.warnings
                .add(Problem::new(path, format!("not searched: {error}")));
        }
    }

    fn entries(
        &self,
        directory: &Path,
        wanted: &dyn Fn(&Path) -> bool,
    ) -> io::Result<Vec<DirectoryEntry>> {
        let opened = self.root.directory(directory)?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(opened.as_fd())? {
            let entry = entry?;
            // The walk ends there.
            if entries.len() > MAX_FILES {
                break;
            }
            let name = entry.file_name();
            let path = directory.join(OsStr::from_bytes(name.to_bytes()));
            if matches!(name.to_bytes(), b"." | b"..") || self.is_left_out(&path) {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => match statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(_) => continue,
                },
                kind => kind,
            };
            let is_link = kind == FileType::Symlink;
            let kind = match kind {
                FileType::RegularFile if wanted(&path) => EntryKind::File,
                FileType::Directory => EntryKind::Directory,
                FileType::Symlink => match self.link(&path, wanted) {
                    Some(kind) => kind,
                    None => continue,
                },
                _ => continue,
            };
            let left = self.names.get();
            self.names
                .set(left.and_then(|left| left.checked_sub(cost(&path))));
            if self.names.get().is_none() {
                break;
            }
            entries.push(DirectoryEntry {
                path,
                kind,
                is_link,
            });
        }
        entries.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(entries)
    }

    /// What a symbolic link leads to.
    fn link(&self, path: &Path, wanted: &dyn Fn(&Path) -> bool) -> Option<EntryKind> {
        if self.root.directory(path).is_ok() {
            return Some(EntryKind::Directory);
        }
        // Other links are ignored.
        if !wanted(path) {
            return None;
        }
        match self.root.file(path) {
            Ok(_) => Some(EntryKind::File),
            // An editor's lock, or a link to a removed file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.warnings.add(Problem::new(
                    path,
                    "not served: a link to what is not there",
                ));
                None
            }
            Err(error) => Some(EntryKind::Unreadable(unreadable(path, &error))),
        }
    }
}
