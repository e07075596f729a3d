//! The directories of a project in which a change may matter to a server that loads it again.
//!
//! Unlike the search for workers, this needs no valid project, and it enters the directories whose
//! names begin with `_`: workers import files from there.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use globset::GlobSet;
use rustix::fs::{Dir, FileType};

use crate::beneath::Root;
use crate::files::{is_left_out, is_private, is_system};

/// Directories of dependencies, which are not edited by hand.
const DEPENDENCIES: &str = "node_modules";

/// Files that matter although their names begin with a dot: settings, variables, and the link that
/// the kubelet exchanges when a ConfigMap or a Secret has changed.
const DOT_FILES: [&str; 3] = [".wws.toml", ".env", "..data"];

/// What of a project is watched.
#[derive(Clone, Debug, Default)]
pub struct WatchOptions {
    /// Whether the project is in a container: system directories of `/` are left out.
    pub container: bool,
    /// Globs of files and directories that the project ignores.
    pub ignore: Vec<String>,
    /// Directories that hold data of workers, relative to the project.
    pub data: Vec<PathBuf>,
    /// The maximum number of directories.
    pub max: usize,
}

/// The directories of a project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchedDirectories {
    /// Their paths relative to the project, those next to the root first.
    pub directories: Vec<PathBuf>,
    /// Whether there are more than the maximum.
    pub is_cut: bool,
}

/// Finds the directories of the project at `root`. A file that is the project has that of its own.
/// What cannot be read is left out.
#[must_use]
pub fn watched_directories(root: &Path, options: &WatchOptions) -> WatchedDirectories {
    let mut found = WatchedDirectories::default();
    let Ok(opened) = Root::open(root) else {
        return found;
    };
    let ignore = globs(&options.ignore);
    let is_system_root = options.container && root == Path::new("/");
    // Links may lead to one directory by several paths.
    let mut seen = HashSet::new();
    let mut pending = VecDeque::from([PathBuf::new()]);
    while let Some(path) = pending.pop_front() {
        let Ok(directory) = opened.directory(&path) else {
            continue;
        };
        let id = directory
            .metadata()
            .map(|status| (status.dev(), status.ino()));
        if !id.is_ok_and(|id| seen.insert(id)) {
            continue;
        }
        if found.directories.len() == options.max {
            found.is_cut = true;
            break;
        }
        let entries = Dir::read_from(directory.as_fd()).into_iter().flatten();
        for entry in entries.flatten() {
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            let below = path.join(name);
            let is_directory = match entry.file_type() {
                FileType::Directory => true,
                FileType::Symlink | FileType::Unknown => opened.directory(&below).is_ok(),
                _ => false,
            };
            if !is_directory
                || name == DEPENDENCIES
                || is_left_out(&below, &ignore)
                || (is_system_root && is_system(&below))
                || options.data.contains(&below)
            {
                continue;
            }
            if pending.len() > options.max {
                found.is_cut = true;
                break;
            }
            pending.push_back(below);
        }
        found.directories.push(path);
    }
    found
}

/// Whether a change of a file with this name may matter.
#[must_use]
pub fn is_watched(name: &OsStr) -> bool {
    !is_private(name) || DOT_FILES.iter().any(|known| name == *known)
}

/// The globs that are valid.
fn globs(texts: &[String]) -> GlobSet {
    let mut set = globset::GlobSetBuilder::new();
    for text in texts {
        if let Ok(glob) = crate::load::ignore_glob(text) {
            set.add(glob);
        }
    }
    set.build().unwrap_or_else(|_| GlobSet::empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    #[test]
    fn finds_directories_in_which_a_change_matters() {
        let project = tempfile::tempdir().unwrap();
        let at = |path: &str| project.path().join(path);
        for directory in [
            "api/v1",
            "_lib",
            "public/img",
            "data/x",
            "draft",
            "node_modules/a",
            ".git/objects",
            ".wws/runtimes",
        ] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        std::os::unix::fs::symlink("..", at("api/loop")).unwrap();
        std::os::unix::fs::symlink("/", at("outside")).unwrap();
        let options = WatchOptions {
            ignore: vec!["./draft/**".into(), "[".into()],
            data: vec!["data".into()],
            max: 100,
            ..WatchOptions::default()
        };
        let names = |found: &WatchedDirectories| {
            let directories = found.directories.iter();
            let mut names: Vec<_> = directories.map(|path| path.display().to_string()).collect();
            names.sort();
            names.join(" ")
        };
        let found = watched_directories(project.path(), &options);
        assert_eq!(names(&found), " _lib api api/v1 public public/img");
        assert!(!found.is_cut);
        let few = watched_directories(project.path(), &WatchOptions { max: 3, ..options });
        assert_eq!((few.directories.len(), few.is_cut), (3, true));
        let none = watched_directories(&at("missing"), &WatchOptions::default());
        assert_eq!(none, WatchedDirectories::default());
    }

    #[test]
    fn changes_of_private_files_do_not_matter() {
        for (name, expected) in [
            ("index.js", true),
            (".wws.toml", true),
            (".env", true),
            ("..data", true),
            (".index.js.swp", false),
            ("index.js~", false),
            ("#index.js#", false),
        ] {
            assert_eq!(is_watched(OsStr::new(name)), expected, "{name}");
        }
    }
}
