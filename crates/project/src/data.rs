//! Directories that hold data: files stored there are not workers or assets at the next start.
//!
//! * Directories that `[[folders]]` of a worker names, because workers write there.
//! * Writable mounts of a container below its project, because others may write there.
//!
//! A worker can store a file *and* its TOML, and that TOML can name other directories, which would
//! stop serving their workers. So a file in such a directory has no influence. If a worker names a
//! directory below its own, the walk never enters that directory. If two workers name each other's
//! directories, it is unknown which one was stored by the other: neither is served.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    rc::Rc,
};

use crate::{
    directory::{Directory, DirectoryId},
    problem::Problem,
};

/// A directory that holds data because a worker is given it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DataDirectory {
    /// Relative to the root, as its worker names it.
    pub(crate) path: PathBuf,
    /// The worker's file.
    pub(crate) worker: PathBuf,
}

/// A file that may be a worker.
pub(crate) struct Candidate {
    pub(crate) path: PathBuf,
    /// The directory in which it was found.
    pub(crate) directory: Rc<Directory>,
    /// The directory of the file itself, if it is a symbolic link.
    pub(crate) real_directory: Option<Rc<Directory>>,
    /// The directories with data that it is given, except for those below its own.
    pub(crate) given: Vec<(DirectoryId, PathBuf)>,
}

impl Candidate {
    /// All directories that contain it.
    fn directories(&self) -> impl Iterator<Item = &DirectoryId> {
        let real = self.real_directory.iter();
        self.directory
            .above_and_own()
            .chain(real.flat_map(|directory| directory.above_and_own()))
    }
}

/// The result for the candidates.
#[derive(Default)]
pub(crate) struct SettledCandidates {
    pub(crate) served: Vec<PathBuf>,
    /// Those that are data, and why.
    pub(crate) held: Vec<(PathBuf, DataReason)>,
    /// Workers that are given a directory which holds their own file, and that directory.
    pub(crate) inside_own_data: Vec<(PathBuf, PathBuf)>,
}

/// The maximum length of a chain of workers each of which is given a directory that contains the
/// next. A longer chain is not a real project, but could delay a start.
const ROUNDS: usize = 64;

/// Separates workers from data. Adds to `data` the directories that workers name outside of their
/// own.
pub(crate) fn settle(
    candidates: Vec<Candidate>,
    data: &mut HashMap<DirectoryId, DataDirectory>,
) -> SettledCandidates {
    let mut settled = SettledCandidates::default();
    let mut live = candidates;
    for round in 0.. {
        // Files in directories with data have no influence.
        let before = live.len();
        live.retain(|candidate| {
            let holder = candidate.directories().find_map(|id| data.get(id));
            if let Some(holder) = holder {
                let because = DataReason::Given(holder.clone());
                settled.held.push((candidate.path.clone(), because));
            }
            holder.is_none()
        });
        // Up to two workers that name each directory: enough to know whether another one does.
        let mut named: HashMap<DirectoryId, HashSet<usize>> = HashMap::new();
        for (index, candidate) in live.iter().enumerate() {
            for (id, _) in &candidate.given {
                let by = named.entry(*id).or_default();
                if by.len() < 2 {
                    by.insert(index);
                }
            }
        }
        let is_doubted = |index: usize, candidate: &Candidate| {
            candidate.directories().any(|id| {
                let by = named.get(id);
                by.is_some_and(|by| by.iter().any(|other| *other != index))
            })
        };
        let trusted: Vec<usize> = live
            .iter()
            .enumerate()
            .filter(|(index, candidate)| {
                !candidate.given.is_empty() && !is_doubted(*index, candidate)
            })
            .map(|(index, _)| index)
            .collect();
        // Only workers that name each other's directories are left.
        let all_doubted = trusted.is_empty() || round >= ROUNDS;
        let speaking: Vec<usize> = if all_doubted {
            (0..live.len()).collect()
        } else {
            trusted
        };
        let mut has_spoken = false;
        for index in speaking {
            let candidate = &mut live[index];
            for (id, path) in std::mem::take(&mut candidate.given) {
                has_spoken = true;
                if !all_doubted && candidate.directories().any(|own| *own == id) {
                    let inside = (candidate.path.clone(), path);
                    settled.inside_own_data.push(inside);
                    continue;
                }
                data.entry(id).or_insert_with(|| DataDirectory {
                    path,
                    worker: candidate.path.clone(),
                });
            }
        }
        if !has_spoken && live.len() == before {
            break;
        }
    }
    settled.served = live.into_iter().map(|candidate| candidate.path).collect();
    settled
}

/// Why files count as data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DataReason {
    /// A worker is given the directory.
    Given(DataDirectory),
    /// The directory is a writable mount of the container.
    WritableMount(PathBuf),
}

/// Files that are not served because they are data.
#[derive(Debug)]
pub(crate) struct UnservedFiles {
    count: usize,
    first: PathBuf,
    because: DataReason,
}

impl UnservedFiles {
    pub(crate) fn new(count: usize, first: PathBuf, because: DataReason) -> Self {
        Self {
            count,
            first,
            because,
        }
    }

    pub(crate) fn one(file: PathBuf, because: DataReason) -> Self {
        Self::new(1, file, because)
    }

    /// Whether both are about the same directory.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.because == other.because
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.count += other.count;
        if other.first < self.first {
            self.first = other.first;
        }
    }

    fn directory(&self) -> &Path {
        match &self.because {
            DataReason::Given(data) => &data.path,
            DataReason::WritableMount(path) => path,
        }
    }

    fn because(&self) -> String {
        match &self.because {
            DataReason::Given(data) => format!(
                "it holds data: [[folders]] of {} names it",
                data.worker.display()
            ),
            DataReason::WritableMount(_) => {
                "it holds data: it is a mount that can be written to".into()
            }
        }
    }

    fn files(&self) -> String {
        let first = self.first.display();
        match self.count {
            1 => format!("{first} is"),
            2 => format!("{first} and another file are"),
            count => format!("{first} and {} other files are", count - 1),
        }
    }

    pub(crate) fn warning_of_workers(&self) -> Problem {
        let message = format!("{}; {} not served", self.because(), self.files());
        let help = match &self.because {
            DataReason::Given(_) => KEEP_WORKERS,
            DataReason::WritableMount(_) => {
                "to serve workers from it, mount it read-only (`:ro`, `readOnly: true`)"
            }
        };
        Problem::new(self.directory(), message).help(help)
    }

    pub(crate) fn warning_of_assets(&self) -> Problem {
        let message = format!("{}; {} no assets", self.because(), self.files());
        Problem::new(self.directory(), message).help(KEEP_ASSETS)
    }
}

const KEEP_WORKERS: &str = "to serve workers from it, move them to a directory that no worker is \
     given, or write `data = false` in that entry of [[folders]]: then a file that a worker stores \
     there is served at the next start";

const KEEP_ASSETS: &str = "to serve them, write `data = false` in that entry of [[folders]]: then \
     a file that a worker stores there is served at the next start, too";

/// The problem of a worker that is given the directory of its own file.
pub(crate) fn inside_own_data(worker: &Path, directory: &Path) -> Problem {
    let shown = if directory.as_os_str().is_empty() {
        Path::new(".")
    } else {
        directory
    };
    Problem::new(
        worker,
        format!(
            "[[folders]] gives it the directory `{}`, which holds the worker itself: directories \
             that workers are given hold data, and no workers",
            shown.display()
        ),
    )
    .help(
        "put the data into a directory of its own, as `from = \"./data\"`, or write `data = false` \
         in that entry of [[folders]]: then a file that the worker stores there is served at the \
         next start",
    )
}
