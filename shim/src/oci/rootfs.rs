//! Lookups in a container's root file system from outside. Images are not trusted: no path leaves
//! the root, whatever symbolic links the image holds.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, open as open_path, openat2};
use rustix::io::Errno;

use crate::error::{Error, PathContext, Result};

/// What a path of a container names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// A directory.
    Directory,
    /// A file, a device or the like.
    File,
    /// Nothing.
    Missing,
}

/// How often a lookup is retried when concurrent renames disturb it.
const MAX_TRIES: usize = 16;

/// Opens what `path` names for a process whose root is `root`, as a handle (`O_PATH`). Returns
/// `None` if nothing is there.
///
/// # Errors
/// The root cannot be opened, or the kernel is too old (before 5.6).
pub(crate) fn open_in_root(root: &Path, path: &Path) -> Result<Option<OwnedFd>> {
    lookup(root, path, OFlags::PATH | OFlags::CLOEXEC)
}

/// Returns what `path` names for a process whose root is `root`.
///
/// # Errors
/// That of [`open_in_root`].
pub(crate) fn kind_in_root(root: &Path, path: &Path) -> Result<FileKind> {
    let Some(file) = open_in_root(root, path)? else {
        return Ok(FileKind::Missing);
    };
    let stat = fstat(&file).with_path("look at", path)?;
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => FileKind::Directory,
        _ => FileKind::File,
    })
}

fn lookup(root: &Path, path: &Path, flags: OFlags) -> Result<Option<OwnedFd>> {
    let handle = open_path(
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .with_path("open the root file system", root)?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..MAX_TRIES {
        match openat2(&handle, path, flags, Mode::empty(), resolve) {
            Ok(file) => return Ok(Some(file)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // A circle of links, or a file used as a directory: the path leads nowhere.
            Err(
                Errno::NOENT
                | Errno::NOTDIR
                | Errno::LOOP
                | Errno::NAMETOOLONG
                | Errno::ACCESS
                | Errno::NXIO,
            ) => return Ok(None),
            Err(Errno::NOSYS) => {
                return Err(Error::unknown(
                    "the kernel has no openat2: Linux 5.6 or newer is needed",
                ));
            }
            Err(error) => return Err(Error::io(format_args!("open {}", path.display()), error)),
        }
    }
    Err(Error::unknown(format!(
        "open {}: the files keep changing",
        path.display()
    )))
}

/// Returns the absolute path without `.` and `..` of `path` as seen from the directory `from`.
/// Symbolic links are not resolved.
pub(crate) fn normalize(from: &Path, path: &Path) -> PathBuf {
    let path = from.join(path);
    let mut parts: Vec<&std::ffi::OsStr> = Vec::new();
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => parts.push(name),
            std::path::Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    let mut absolute = PathBuf::from("/");
    absolute.extend(parts);
    absolute
}

/// Returns what a path of the host names. Symbolic links are followed.
pub(crate) fn kind_on_host(path: &Path) -> FileKind {
    match rustix::fs::statat(CWD, path, rustix::fs::AtFlags::empty()) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            FileKind::Directory
        }
        Ok(_) => FileKind::File,
        Err(_) => FileKind::Missing,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("app/sub")).unwrap();
        fs::write(root.path().join("bin"), b"\x7fELF....").unwrap();
        root
    }

    fn kind_in(root: &tempfile::TempDir, path: &str) -> FileKind {
        kind_in_root(root.path(), Path::new(path)).unwrap()
    }

    #[test]
    fn resolves_paths_within_the_container() {
        let root = root();
        assert_eq!(kind_in(&root, "/"), FileKind::Directory);
        assert_eq!(kind_in(&root, "/app/sub"), FileKind::Directory);
        assert_eq!(kind_in(&root, "app"), FileKind::Directory);
        assert_eq!(kind_in(&root, "/bin"), FileKind::File);
        assert_eq!(kind_in(&root, "/nothing"), FileKind::Missing);
        assert_eq!(kind_in(&root, "/bin/below-a-file"), FileKind::Missing);
    }

    #[test]
    fn rejects_paths_that_leave_the_root() {
        let root = root();
        let outside = tempfile::tempdir().unwrap();
        let secret = outside.path().join("secret");
        fs::write(&secret, "x").unwrap();
        assert_eq!(
            kind_in(&root, &format!("/../../..{}", secret.display())),
            FileKind::Missing
        );
        symlink(&secret, root.path().join("absolute")).unwrap();
        assert_eq!(kind_in(&root, "/absolute"), FileKind::Missing);
        symlink(
            format!("../../../..{}", secret.display()),
            root.path().join("relative"),
        )
        .unwrap();
        assert_eq!(kind_in(&root, "/relative"), FileKind::Missing);
    }

    #[test]
    fn follows_links_within_the_root() {
        let root = root();
        symlink("/app/sub", root.path().join("absolute")).unwrap();
        symlink("../bin", root.path().join("app/relative")).unwrap();
        symlink("circle", root.path().join("circle")).unwrap();
        assert_eq!(kind_in(&root, "/absolute"), FileKind::Directory);
        assert_eq!(kind_in(&root, "/app/relative"), FileKind::File);
        assert_eq!(kind_in(&root, "/circle"), FileKind::Missing);
    }

    #[test]
    fn normalizes_paths_without_dots() {
        let of = |from: &str, path: &str| normalize(Path::new(from), Path::new(path));
        assert_eq!(of("/app", "."), Path::new("/app"));
        assert_eq!(of("/", "."), Path::new("/"));
        assert_eq!(of("", ""), Path::new("/"));
        assert_eq!(of("/app", "/other/./x/.."), Path::new("/other"));
        assert_eq!(of("/app", "../../../x"), Path::new("/x"));
    }
}
