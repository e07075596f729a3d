//! Finds the files of a project, beneath its root.
//!
//! Data is never code: directories that hold data are not searched, see [`data`](crate::data). The
//! walk visits level by level, and evaluates what the workers of a level are given before it enters
//! the next level.

mod visitors;
mod walk;

use std::{
    cell::Cell,
    collections::{HashMap, VecDeque},
    ffi::OsStr,
    io,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    rc::Rc,
};

use globset::GlobSet;
use rustix::fs::{Dir, FileType};

use crate::beneath::{self, Root};
use crate::data::{DataDirectory, UnservedFiles, settle};
use crate::directory::{Directory, DirectoryId};
use crate::problem::Problem;
use crate::reader::Report;

pub(crate) use walk::memory_for_names;

use visitors::{AssetVisitor, WorkerVisitor};

/// System directories at the root of a container.
const SYSTEM: [&str; 5] = ["proc", "sys", "dev", "etc", "run"];

/// Whether a path relative to the root of a container is a system directory.
pub(crate) fn is_system(path: &Path) -> bool {
    SYSTEM.iter().any(|system| path == *system)
}

/// The directory of assets.
pub(crate) const PUBLIC: &str = "public";

/// A search for the files of a project.
pub(crate) struct Search<'s> {
    pub(crate) root: &'s Root,
    pub(crate) ignore: &'s GlobSet,
    /// Whether the root is that of a container, which has system directories.
    pub(crate) system: bool,
    /// Whether the container runs: its writable mounts hold data.
    pub(crate) container: bool,
    /// Bytes of memory that are left for the names of files; `None` if they did not suffice.
    pub(crate) names: Cell<Option<u64>>,
    /// Problems that do not prevent the start.
    pub(crate) warnings: Report,
    /// Problems that prevent the start.
    pub(crate) problems: Report,
}

/// The workers of a project.
#[derive(Default)]
pub(crate) struct WorkerFiles {
    /// Files that may be workers, relative to the root, sorted; with the reason why one cannot be
    /// read.
    pub(crate) files: Vec<(PathBuf, Option<Problem>)>,
    /// Directories that hold data because a worker is given them.
    pub(crate) data: HashMap<DirectoryId, DataDirectory>,
    /// Workers that are given a directory which holds their own file, and that directory.
    pub(crate) inside_own_data: Vec<(PathBuf, PathBuf)>,
}

impl Search<'_> {
    /// Finds files that may be workers. `given` returns the directories with data that a worker is
    /// given, relative to the root.
    pub(crate) fn workers(
        &self,
        is_worker: &dyn Fn(&Path) -> bool,
        given: &mut dyn FnMut(&Path) -> Vec<PathBuf>,
    ) -> WorkerFiles {
        let mut visitor = WorkerVisitor {
            search: self,
            is_worker,
            given,
            candidates: Vec::new(),
            problems: HashMap::new(),
            data: HashMap::new(),
        };
        let mut held = self.walk(Path::new(""), &mut visitor);
        let WorkerVisitor {
            candidates,
            mut problems,
            mut data,
            ..
        } = visitor;
        let settled = settle(candidates, &mut data);
        for (path, because) in settled.held {
            held.push(UnservedFiles::one(path, because));
        }
        self.warn_of_workers(held);
        let mut files: Vec<_> = settled
            .served
            .into_iter()
            .map(|path| {
                let problem = problems.remove(&path);
                (path, problem)
            })
            .collect();
        files.sort_by(|one, other| one.0.cmp(&other.0));
        WorkerFiles {
            files,
            data,
            inside_own_data: settled.inside_own_data,
        }
    }

    /// Finds the files of `public/`, relative to the root, sorted. No file in `data` is served.
    pub(crate) fn assets(&self, data: &HashMap<DirectoryId, DataDirectory>) -> Vec<PathBuf> {
        let mut visitor = AssetVisitor {
            search: self,
            data,
            files: Vec::new(),
        };
        let held = match self.root.directory(Path::new(PUBLIC)) {
            Ok(_) => self.walk(Path::new(PUBLIC), &mut visitor),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Vec::new()
            }
            Err(error) => {
                self.problems.add(unreadable(Path::new(PUBLIC), &error));
                Vec::new()
            }
        };
        for held in held {
            self.warnings.add(held.warning_of_assets());
        }
        let mut files = visitor.files;
        files.sort();
        files
    }

    /// One warning for each directory.
    fn warn_of_workers(&self, held: Vec<UnservedFiles>) {
        let mut all: Vec<UnservedFiles> = Vec::new();
        for held in held {
            match all.iter_mut().find(|other| other.is_same(&held)) {
                Some(other) => other.add(held),
                None => all.push(held),
            }
        }
        for held in all {
            self.warnings.add(held.warning_of_workers());
        }
    }

    fn is_left_out(&self, path: &Path) -> bool {
        is_left_out(path, self.ignore)
    }

    /// The directory of a file, after symbolic links.
    fn real_directory(&self, path: &Path) -> Option<Rc<Directory>> {
        let real = self.root.real_path(path)?;
        let parent = self.root.directory(real.parent()?).ok()?;
        Directory::of_link(self.root, parent).ok().map(Rc::new)
    }

    /// Counts the files of a directory that would be workers, and returns the first. It visits a
    /// bounded number of files.
    fn peek(&self, top: &Path, is_worker: &dyn Fn(&Path) -> bool) -> Option<(usize, PathBuf)> {
        const LOOKS: usize = 10_000;
        let mut found: Option<(usize, PathBuf)> = None;
        let mut pending = VecDeque::from([top.to_path_buf()]);
        let mut looks = 0;
        while let Some(directory) = pending.pop_front() {
            let Ok(opened) = self.root.directory(&directory) else {
                continue;
            };
            let Ok(entries) = Dir::read_from(opened.as_fd()) else {
                continue;
            };
            for entry in entries.flatten() {
                looks += 1;
                if looks > LOOKS {
                    return found;
                }
                let name = OsStr::from_bytes(entry.file_name().to_bytes());
                let path = directory.join(name);
                if name == "." || name == ".." || self.is_left_out(&path) {
                    continue;
                }
                match entry.file_type() {
                    FileType::Directory if !holds_no_workers(name) => pending.push_back(path),
                    FileType::RegularFile if is_worker(&path) => match &mut found {
                        Some((count, first)) => {
                            *count += 1;
                            if path < *first {
                                *first = path;
                            }
                        }
                        None => found = Some((1, path)),
                    },
                    _ => {}
                }
            }
        }
        found
    }
}

/// Whether a file or directory is no part of the project.
pub(crate) fn is_left_out(path: &Path, ignore: &GlobSet) -> bool {
    path.file_name().is_none_or(is_private) || ignore.is_match(path)
}

/// Whether a file is private to a program: an editor, version control, or the kubelet in volumes of
/// ConfigMaps.
pub(crate) fn is_private(name: &OsStr) -> bool {
    let name = name.as_bytes();
    (name.starts_with(b".") && name != b".well-known")
        || name.ends_with(b"~")
        || (name.starts_with(b"#") && name.ends_with(b"#"))
}

/// Whether a directory is never searched for workers.
fn holds_no_workers(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"_") || name == "node_modules"
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    if beneath::leaves_root(error) {
        Problem::new(path, "a link that leads outside the project")
            .help("replace it by the file or directory itself, or let `server.ignore` leave it out")
    } else {
        Problem::new(path, format!("cannot be read: {error}"))
    }
}
