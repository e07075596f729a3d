//! Looking at a container's root file system from outside. Images are not trusted: no path leaves the root, whatever symbolic
//! links the image holds.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, open as open_path, openat2};
use rustix::io::Errno;

use crate::error::{Error, OnPath, Result};

/// What a path of a container names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A folder.
    Folder,
    /// A file, device or the like.
    File,
    /// Nothing.
    Missing,
}

/// How often a lookup is tried again that others' renames disturb.
const MAX_TRIES: usize = 16;

/// Opens what `path` means to a process whose root is `root`, as a mere handle (`O_PATH`). `None` is nothing there.
///
/// # Errors
/// The root cannot be opened, or the kernel is too old (before 5.6).
pub(crate) fn open(root: &Path, path: &Path) -> Result<Option<OwnedFd>> {
    lookup(root, path, OFlags::PATH | OFlags::CLOEXEC)
}

/// What `path` names for a process whose root is `root`.
///
/// # Errors
/// As of [`open`].
pub(crate) fn kind(root: &Path, path: &Path) -> Result<Kind> {
    let Some(file) = open(root, path)? else {
        return Ok(Kind::Missing);
    };
    let stat = fstat(&file).on("look at", path)?;
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Folder,
        _ => Kind::File,
    })
}

fn lookup(root: &Path, path: &Path, flags: OFlags) -> Result<Option<OwnedFd>> {
    let handle = open_path(
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .on("open the root file system", root)?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..MAX_TRIES {
        match openat2(&handle, path, flags, Mode::empty(), resolve) {
            Ok(file) => return Ok(Some(file)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // A link in a circle, a file taken for a folder: nothing there for whoever follows the path.
            Err(
                Errno::NOENT
                | Errno::NOTDIR
                | Errno::LOOP
                | Errno::NAMETOOLONG
                | Errno::ACCESS
                | Errno::NXIO,
            ) => return Ok(None),
            Err(Errno::NOSYS) => {
                return Err(Error::Other(
                    "the kernel has no openat2: Linux 5.6 or newer is needed".to_owned(),
                ));
            }
            Err(error) => return Err(Error::io(format_args!("open {}", path.display()), error)),
        }
    }
    Err(Error::Other(format!(
        "open {}: the files change all the time",
        path.display()
    )))
}

/// An absolute path without `.` and `..`, of `path` as seen from the folder `from`. Links are left as they are.
pub(crate) fn absolute(from: &Path, path: &Path) -> PathBuf {
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

/// What a path of the host names, links followed.
pub(crate) fn host_kind(path: &Path) -> Kind {
    match rustix::fs::statat(CWD, path, rustix::fs::AtFlags::empty()) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => Kind::Folder,
        Ok(_) => Kind::File,
        Err(_) => Kind::Missing,
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

    fn kind_in(root: &tempfile::TempDir, path: &str) -> Kind {
        kind(root.path(), Path::new(path)).unwrap()
    }

    #[test]
    fn paths_are_those_of_the_container() {
        let root = root();
        assert_eq!(kind_in(&root, "/"), Kind::Folder);
        assert_eq!(kind_in(&root, "/app/sub"), Kind::Folder);
        assert_eq!(kind_in(&root, "app"), Kind::Folder);
        assert_eq!(kind_in(&root, "/bin"), Kind::File);
        assert_eq!(kind_in(&root, "/nothing"), Kind::Missing);
        assert_eq!(kind_in(&root, "/bin/below-a-file"), Kind::Missing);
    }

    #[test]
    fn no_path_leaves_the_root() {
        let root = root();
        let outside = tempfile::tempdir().unwrap();
        let secret = outside.path().join("secret");
        fs::write(&secret, "x").unwrap();
        assert_eq!(
            kind_in(&root, &format!("/../../..{}", secret.display())),
            Kind::Missing
        );
        symlink(&secret, root.path().join("absolute")).unwrap();
        assert_eq!(kind_in(&root, "/absolute"), Kind::Missing);
        symlink(
            format!("../../../..{}", secret.display()),
            root.path().join("relative"),
        )
        .unwrap();
        assert_eq!(kind_in(&root, "/relative"), Kind::Missing);
    }

    #[test]
    fn links_within_the_root_are_followed() {
        let root = root();
        symlink("/app/sub", root.path().join("absolute")).unwrap();
        symlink("../bin", root.path().join("app/relative")).unwrap();
        symlink("circle", root.path().join("circle")).unwrap();
        assert_eq!(kind_in(&root, "/absolute"), Kind::Folder);
        assert_eq!(kind_in(&root, "/app/relative"), Kind::File);
        assert_eq!(kind_in(&root, "/circle"), Kind::Missing);
    }

    #[test]
    fn absolute_paths_have_no_dots() {
        let of = |from: &str, path: &str| absolute(Path::new(from), Path::new(path));
        assert_eq!(of("/app", "."), Path::new("/app"));
        assert_eq!(of("/", "."), Path::new("/"));
        assert_eq!(of("", ""), Path::new("/"));
        assert_eq!(of("/app", "/other/./x/.."), Path::new("/other"));
        assert_eq!(of("/app", "../../../x"), Path::new("/x"));
    }
}
