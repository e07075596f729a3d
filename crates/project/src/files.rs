//! Finds the files of a project, beneath its root.

use std::{
    collections::HashSet,
    ffi::OsStr,
    io,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use globset::GlobSet;
use rustix::fs::{AtFlags, Dir, FileType, statat};

use crate::{
    beneath::{self, Root},
    problem::Problem,
    reader::Report,
    route::MAX_SEGMENTS,
};

/// Files and folders that are looked at.
const MAX_FILES: usize = 1_000_000;

/// Folders of the root of a container that are the system's.
const SYSTEM: [&str; 5] = ["proc", "sys", "dev", "etc", "run"];

/// Folder of the assets.
pub(crate) const PUBLIC: &str = "public";

/// What is searched.
pub(crate) struct Search<'s> {
    pub(crate) root: &'s Root,
    pub(crate) report: &'s Report,
    pub(crate) ignore: &'s GlobSet,
    /// Whether the root is that of a container.
    pub(crate) container: bool,
}

/// A file or folder that was met.
struct Entry {
    path: PathBuf,
    is_folder: bool,
    /// Device and inode of a folder that a link led to.
    link: Option<(u64, u64)>,
}

impl Search<'_> {
    /// Files that may be workers, relative to the root, sorted.
    pub(crate) fn workers(&self, is_worker: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
        self.walk(
            Path::new(""),
            &|path: &Path, name: &OsStr, depth: usize| {
                let name = name.as_bytes();
                let skipped = name.starts_with(b"_")
                    || matches!(name, b".wws" | b".git" | b"node_modules")
                    || (depth == 0 && name == PUBLIC.as_bytes())
                    || (depth == 0
                        && self.container
                        && SYSTEM.iter().any(|system| system.as_bytes() == name));
                !skipped && !self.ignore.is_match(path)
            },
            &is_worker,
        )
    }

    /// Files of `public/`, relative to the root, sorted.
    pub(crate) fn assets(&self) -> Vec<PathBuf> {
        match self.root.folder(Path::new(PUBLIC)) {
            Ok(_) => self.walk(
                Path::new(PUBLIC),
                &|path, _, _| !self.ignore.is_match(path),
                &|_| true,
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Vec::new(),
            Err(error) => {
                self.unreadable(Path::new(PUBLIC), &error);
                Vec::new()
            }
        }
    }

    fn unreadable(&self, path: &Path, error: &io::Error) {
        self.report.add(if beneath::leaves_root(error) {
            Problem::new(path, "a link that leads outside the project")
                .help("replace it by the file or folder itself, or let --ignore leave it out")
        } else {
            Problem::new(path, format!("cannot be read: {error}"))
        });
    }

    /// All files below `top` that are wanted, in folders that are entered.
    fn walk(
        &self,
        top: &Path,
        enter: &dyn Fn(&Path, &OsStr, usize) -> bool,
        wanted: &dyn Fn(&Path) -> bool,
    ) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![(top.to_path_buf(), 0)];
        // Links to folders are followed once each: two that lead into each other must not be a circle.
        let mut links = HashSet::new();
        let mut count = 0usize;
        while let Some((folder, depth)) = folders.pop() {
            let entries = match self.entries(&folder, wanted) {
                Ok(entries) => entries,
                // A folder of the container's that this user may not read holds none of its workers.
                Err(error) if self.container && error.kind() == io::ErrorKind::PermissionDenied => {
                    continue;
                }
                Err(error) => {
                    self.unreadable(&folder, &error);
                    continue;
                }
            };
            for entry in entries {
                count += 1;
                if count > MAX_FILES {
                    self.report.add(
                        Problem::new(
                            &folder,
                            format!("the project has more than {MAX_FILES} files"),
                        )
                        .help("let --ignore leave out what is no worker"),
                    );
                    return found;
                }
                let Some(name) = entry.path.file_name() else {
                    continue;
                };
                if !entry.is_folder {
                    if wanted(&entry.path) && !self.ignore.is_match(&entry.path) {
                        found.push(entry.path);
                    }
                } else if enter(&entry.path, name, depth)
                    && depth + 1 < MAX_SEGMENTS
                    && entry.link.is_none_or(|id| links.insert(id))
                {
                    folders.push((entry.path, depth + 1));
                }
            }
        }
        found.sort();
        found
    }

    fn entries(&self, folder: &Path, wanted: &dyn Fn(&Path) -> bool) -> io::Result<Vec<Entry>> {
        let opened = self.root.folder(folder)?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(opened.as_fd())? {
            let entry = entry?;
            // The walk ends at the last of them.
            if entries.len() > MAX_FILES {
                break;
            }
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let path = folder.join(OsStr::from_bytes(name.to_bytes()));
            let kind = match entry.file_type() {
                FileType::Unknown => match statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(_) => continue,
                },
                kind => kind,
            };
            match kind {
                FileType::RegularFile => entries.push(Entry {
                    path,
                    is_folder: false,
                    link: None,
                }),
                FileType::Directory => entries.push(Entry {
                    path,
                    is_folder: true,
                    link: None,
                }),
                FileType::Symlink => entries.extend(self.link(path, wanted)),
                _ => {}
            }
        }
        Ok(entries)
    }

    /// What a link leads to.
    fn link(&self, path: PathBuf, wanted: &dyn Fn(&Path) -> bool) -> Option<Entry> {
        match self.root.folder(&path) {
            Ok(folder) => {
                let stat = rustix::fs::fstat(&folder).ok()?;
                let id = id_of(&stat);
                let is_above = |above: &Path| {
                    self.root
                        .folder(above)
                        .ok()
                        .and_then(|folder| rustix::fs::fstat(folder).ok())
                        .is_some_and(|stat| id_of(&stat) == id)
                };
                let circle = path.ancestors().skip(1).any(is_above);
                (!circle).then_some(Entry {
                    path,
                    is_folder: true,
                    link: Some(id),
                })
            }
            Err(error) if beneath::leaves_root(&error) => {
                // A worker or asset is missed; any other link is nobody's business.
                if wanted(&path) {
                    self.unreadable(&path, &error);
                }
                None
            }
            Err(_) => match self.root.file(&path) {
                Ok(_) => Some(Entry {
                    path,
                    is_folder: false,
                    link: None,
                }),
                Err(error) => {
                    if wanted(&path) {
                        self.unreadable(&path, &error);
                    }
                    None
                }
            },
        }
    }
}

fn id_of(stat: &rustix::fs::Stat) -> (u64, u64) {
    #[allow(clippy::unnecessary_cast, reason = "the types differ among targets")]
    let id = (stat.st_dev as u64, stat.st_ino as u64);
    id
}
