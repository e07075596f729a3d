//! Finds the files of a project, beneath its root.
//!
//! Data is never code: directories that hold data are not searched, see [`data`](crate::data). So
//! the walk goes from the top down, one level after the other, and looks at what the workers of a
//! level are given before it enters the next level.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ffi::OsStr,
    io,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    rc::Rc,
};

use globset::GlobSet;
use rustix::fs::{AtFlags, Dir, FileType, statat};

use crate::{
    beneath::{self, Root},
    data::{Candidate, DataDirectory, Held, HeldBecause, settle},
    directory::{Directory, DirectoryId},
    problem::Problem,
    reader::Report,
};

/// Files and directories that are looked at, in the project and in each mount below it.
const MAX_FILES: usize = 1_000_000;

/// Directories in directories that are entered.
const MAX_DEPTH: usize = 256;

/// Directories of the root of a container that are the system's.
const SYSTEM: [&str; 5] = ["proc", "sys", "dev", "etc", "run"];

/// Directory of the assets.
pub(crate) const PUBLIC: &str = "public";

/// What is searched.
pub(crate) struct Search<'s> {
    pub(crate) root: &'s Root,
    pub(crate) ignore: &'s GlobSet,
    /// Whether the root is that of a container, where some directories are the system's.
    pub(crate) system: bool,
    /// Whether the container runs: its writable mounts hold data.
    pub(crate) container: bool,
    /// What is odd, but stops nothing.
    pub(crate) warnings: Report,
    /// What stops the start.
    pub(crate) problems: Report,
}

/// What was found of a project's workers.
#[derive(Default)]
pub(crate) struct WorkerFiles {
    /// Files that may be workers, relative to the root, sorted; with what keeps one from being
    /// read.
    pub(crate) files: Vec<(PathBuf, Option<Problem>)>,
    /// Directories that hold data because a worker is given them.
    pub(crate) data: HashMap<DirectoryId, DataDirectory>,
    /// Workers that are given a directory which holds their own file, and that directory.
    pub(crate) inside_own_data: Vec<(PathBuf, PathBuf)>,
}

/// A file or directory that was met.
struct Entry {
    path: PathBuf,
    kind: EntryKind,
    is_link: bool,
}

enum EntryKind {
    Directory,
    File,
    /// A link that would be a worker or an asset, if it led to a file.
    Unreadable(Problem),
}

/// A directory that is to be read.
struct Pending {
    path: PathBuf,
    depth: usize,
    directory: Rc<Directory>,
    /// Index of its mount.
    mount: usize,
}

/// A file that was met and is wanted.
struct Met {
    path: PathBuf,
    /// What keeps it from being read.
    problem: Option<Problem>,
    is_link: bool,
}

/// What a walk does with what it meets.
trait Visitor {
    /// Whether a file is wanted, by its name.
    fn wants(&self, path: &Path) -> bool;
    /// Takes a file of `directory`.
    fn take(&mut self, file: Met, directory: &Rc<Directory>);
    /// Why a directory of `depth` is not entered: `Some(None)` where nobody needs to know.
    fn skips(&mut self, path: &Path, depth: usize, directory: &Directory) -> Option<Option<Held>>;
}

impl Search<'_> {
    /// Files that may be workers. `given` returns the directories for data that a worker is given,
    /// relative to the root.
    pub(crate) fn workers(
        &self,
        is_worker: &dyn Fn(&Path) -> bool,
        given: &mut dyn FnMut(&Path) -> Vec<PathBuf>,
    ) -> WorkerFiles {
        let mut visitor = Workers {
            search: self,
            is_worker,
            given,
            candidates: Vec::new(),
            problems: HashMap::new(),
            data: HashMap::new(),
        };
        let mut held = self.walk(Path::new(""), &mut visitor);
        let Workers {
            candidates,
            mut problems,
            mut data,
            ..
        } = visitor;
        let settled = settle(candidates, &mut data);
        for (path, because) in settled.held {
            held.push(Held::one(path, because));
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

    /// Files of `public/`, relative to the root, sorted. `data` is what no file is served from.
    pub(crate) fn assets(&self, data: &HashMap<DirectoryId, DataDirectory>) -> Vec<PathBuf> {
        let mut visitor = Assets {
            search: self,
            data,
            files: Vec::new(),
        };
        let held = match self.root.folder(Path::new(PUBLIC)) {
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
    fn warn_of_workers(&self, held: Vec<Held>) {
        let mut all: Vec<Held> = Vec::new();
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
        path.file_name().is_none_or(is_private) || self.ignore.is_match(path)
    }

    /// Shows `visitor` all files below `top`, the directories of one level after those of the level
    /// above.
    fn walk(&self, top: &Path, visitor: &mut dyn Visitor) -> Vec<Held> {
        let mut held = Vec::new();
        let first = self
            .root
            .folder(top)
            .and_then(|file| Directory::of_top(self.root, file));
        let first = match first {
            Ok(directory) => Rc::new(directory),
            Err(error) => {
                self.problems.add(unreadable(top, &error));
                return held;
            }
        };
        let mut pending = VecDeque::from([Pending {
            path: top.to_path_buf(),
            depth: 0,
            directory: first,
            mount: 0,
        }]);
        // Links to directories are followed once each: two that lead into each other must not be a
        // circle.
        let mut links = HashSet::new();
        let mut counts = vec![0usize];
        while let Some(next) = pending.pop_front() {
            // It may hold data by now.
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
                let met = Met {
                    path: entry.path,
                    problem,
                    is_link: entry.is_link,
                };
                visitor.take(met, &next.directory);
            }
            if counts[next.mount] > MAX_FILES {
                let problem = Problem::new(
                    &next.path,
                    format!("more than {MAX_FILES} files and directories: the rest is not served"),
                )
                .help("let `server.ignore` leave out what is no worker and no asset");
                match next.mount {
                    0 => self.problems.add(problem),
                    _ => self.warnings.add(problem),
                }
                pending.retain(|other| other.mount != next.mount);
                continue;
            }
            // Only after its files, which say which of them hold data.
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
                pending.push_back(Pending {
                    path: entry.path,
                    depth,
                    directory: Rc::new(directory),
                    mount,
                });
            }
        }
        held
    }

    /// A directory that was met in `parent`; none where there is no way in, or the way leads to
    /// where it began.
    fn directory(&self, entry: &Entry, parent: &Rc<Directory>) -> Option<Directory> {
        let opened = match self.root.folder(&entry.path) {
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

    /// A directory that cannot be read costs what is in it.
    fn not_searched(&self, path: &Path, error: &io::Error) {
        // It has gone since it was seen.
        let is_gone = error.kind() == io::ErrorKind::NotFound;
        // A directory of the container's that this user may not read holds none of its workers.
        let is_of_others = self.system && error.kind() == io::ErrorKind::PermissionDenied;
        if !is_gone && !is_of_others {
            self.warnings
                .add(Problem::new(path, format!("not searched: {error}")));
        }
    }

    fn entries(&self, directory: &Path, wanted: &dyn Fn(&Path) -> bool) -> io::Result<Vec<Entry>> {
        let opened = self.root.folder(directory)?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(opened.as_fd())? {
            let entry = entry?;
            // The walk ends at the last of them.
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
            entries.push(Entry {
                path,
                kind,
                is_link,
            });
        }
        entries.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(entries)
    }

    /// What a link leads to.
    fn link(&self, path: &Path, wanted: &dyn Fn(&Path) -> bool) -> Option<EntryKind> {
        if self.root.folder(path).is_ok() {
            return Some(EntryKind::Directory);
        }
        // A link that is no worker and no asset is nobody's business.
        if !wanted(path) {
            return None;
        }
        match self.root.file(path) {
            Ok(_) => Some(EntryKind::File),
            // An editor's lock, or what a removed file left behind.
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

    /// The directory that a file lies in, after its links.
    fn real_directory(&self, path: &Path) -> Option<Rc<Directory>> {
        let real = self.root.real_path(path)?;
        let parent = self.root.folder(real.parent()?).ok()?;
        Directory::of_link(self.root, parent).ok().map(Rc::new)
    }

    /// How many files of a directory would be workers, and the first of them. It looks at a bounded
    /// number of files.
    fn peek(&self, top: &Path, is_worker: &dyn Fn(&Path) -> bool) -> Option<(usize, PathBuf)> {
        const LOOKS: usize = 10_000;
        let mut found: Option<(usize, PathBuf)> = None;
        let mut pending = VecDeque::from([top.to_path_buf()]);
        let mut looks = 0;
        while let Some(directory) = pending.pop_front() {
            let Ok(opened) = self.root.folder(&directory) else {
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

/// Names of what programs leave behind or keep for themselves: editors, version control, and the
/// kubelet in volumes of ConfigMaps.
fn is_private(name: &OsStr) -> bool {
    let name = name.as_bytes();
    (name.starts_with(b".") && name != b".well-known")
        || name.ends_with(b"~")
        || (name.starts_with(b"#") && name.ends_with(b"#"))
}

/// Directories in which nobody looks for workers.
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

struct Workers<'w> {
    search: &'w Search<'w>,
    is_worker: &'w dyn Fn(&Path) -> bool,
    given: &'w mut dyn FnMut(&Path) -> Vec<PathBuf>,
    candidates: Vec<Candidate>,
    problems: HashMap<PathBuf, Problem>,
    data: HashMap<DirectoryId, DataDirectory>,
}

impl Visitor for Workers<'_> {
    fn wants(&self, path: &Path) -> bool {
        (self.is_worker)(path)
    }

    fn take(&mut self, file: Met, directory: &Rc<Directory>) {
        let Met {
            path,
            problem,
            is_link,
        } = file;
        let mut candidate = Candidate {
            path: path.clone(),
            directory: directory.clone(),
            real_directory: is_link.then(|| self.search.real_directory(&path)).flatten(),
            given: Vec::new(),
        };
        if let Some(problem) = problem {
            self.problems.insert(path.clone(), problem);
        }
        for given in (self.given)(&path) {
            let opened = self.search.root.folder(&given);
            let named = opened.and_then(|opened| Directory::of_link(self.search.root, opened));
            let Ok(named) = named else { continue };
            // Whoever names a directory below its own cannot be in it: it is not to be entered.
            if named.id != directory.id && named.is_in(directory.id) {
                self.data.entry(named.id).or_insert_with(|| DataDirectory {
                    path: given,
                    worker: path.clone(),
                });
            } else {
                candidate.given.push((named.id, given));
            }
        }
        self.candidates.push(candidate);
    }

    fn skips(&mut self, path: &Path, depth: usize, directory: &Directory) -> Option<Option<Held>> {
        let name = path.file_name()?;
        if holds_no_workers(name)
            || (depth == 1 && name == PUBLIC)
            || (depth == 1 && self.search.system && SYSTEM.iter().any(|system| name == *system))
        {
            return Some(None);
        }
        let because = match self.data.get(&directory.id) {
            Some(data) => HeldBecause::Given(data.clone()),
            None if self.search.container && directory.is_writable_mount => {
                HeldBecause::WritableMount(path.to_path_buf())
            }
            None => return None,
        };
        let found = self.search.peek(path, self.is_worker);
        Some(found.map(|(count, first)| Held::new(count, first, because)))
    }
}

struct Assets<'a> {
    search: &'a Search<'a>,
    data: &'a HashMap<DirectoryId, DataDirectory>,
    files: Vec<PathBuf>,
}

impl Visitor for Assets<'_> {
    fn wants(&self, _: &Path) -> bool {
        true
    }

    fn take(&mut self, file: Met, directory: &Rc<Directory>) {
        let Met {
            path,
            problem,
            is_link,
        } = file;
        let real = is_link.then(|| self.search.real_directory(&path)).flatten();
        let is_data = |directory: &Directory| {
            let mut ids = directory.above_and_own();
            ids.any(|id| self.data.contains_key(id))
        };
        if is_data(directory) || real.is_some_and(|real| is_data(&real)) {
            return;
        }
        match problem {
            Some(problem) => self.search.warnings.add(Problem {
                message: format!("not served: {}", problem.message),
                ..problem
            }),
            None => self.files.push(path),
        }
    }

    fn skips(&mut self, path: &Path, _: usize, directory: &Directory) -> Option<Option<Held>> {
        let data = self.data.get(&directory.id)?.clone();
        let found = self.search.peek(path, &|_| true);
        Some(found.map(|(count, first)| Held::new(count, first, HeldBecause::Given(data))))
    }
}
