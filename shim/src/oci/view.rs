//! A container's files as its processes will see them, looked up before there is a container: the
//! root file system with the mounts of the specification.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::rootfs::{self, FileKind};
use crate::error::Result;

/// A mount of the specification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountPoint {
    /// The path in the container.
    pub(crate) destination: PathBuf,
    /// The path on the host, if it is a bind mount.
    pub(crate) source: Option<PathBuf>,
}

impl MountPoint {
    /// Returns whether it is a bind mount.
    pub(crate) fn is_bind(&self) -> bool {
        self.source.is_some()
    }
}

/// The project whose code is compiled.
#[derive(Debug)]
pub(crate) struct ProjectDirectory {
    /// A handle of the project's directory on the host.
    pub(crate) directory: OwnedFd,
    /// Whether the directory is the container's root.
    pub(crate) is_root: bool,
    /// The file in it that is the whole project; `None` if that is the directory.
    pub(crate) file: Option<OsString>,
}

/// What a container's processes will see of files, and the init process of its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerView {
    /// The root file system on the host.
    pub(crate) root: PathBuf,
    /// The working directory in the container.
    pub(crate) working_directory: PathBuf,
    /// The arguments of the init process.
    pub(crate) arguments: Vec<String>,
    /// The value of PATH.
    pub(crate) search_path: String,
    /// The mounts, in order.
    pub(crate) mounts: Vec<MountPoint>,
}

impl ContainerView {
    /// Returns the absolute path in the container of `path`.
    pub(crate) fn absolute(&self, path: &Path) -> PathBuf {
        rootfs::normalize(&self.working_directory, path)
    }

    /// Returns whether there is a shell.
    ///
    /// # Errors
    /// The root file system cannot be read.
    pub(crate) fn has_shell(&self) -> Result<bool> {
        Ok(self.kind(Path::new("/bin/sh"))? == FileKind::File || self.has_command("sh")?)
    }

    /// Returns whether PATH leads to a program of this name, which has no slash.
    ///
    /// # Errors
    /// The root file system cannot be read.
    pub(crate) fn has_command(&self, name: &str) -> Result<bool> {
        for directory in self.search_path.split(':') {
            let file = self.absolute(&Path::new(directory).join(name));
            if self.kind(&file)? == FileKind::File {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Opens the directory of the project at `path`: the parent of a single worker, whose
    /// neighbours may be a few files of the same project. Returns `None` if there is none.
    pub(crate) fn open_project(&self, path: &Path) -> Option<ProjectDirectory> {
        let (directory, file) = match self.kind(path).ok()? {
            FileKind::Directory => (path, None),
            FileKind::File | FileKind::Missing => (path.parent()?, path.file_name()),
        };
        Some(ProjectDirectory {
            directory: self.open_directory(directory).ok().flatten()?,
            is_root: directory == Path::new("/"),
            file: file.map(OsStr::to_os_string),
        })
    }

    /// Opens a directory of the container on the host, in its root file system or in a volume.
    /// Returns a handle, as a process that writes the volume may replace the path later.
    ///
    /// # Errors
    /// The root file system cannot be read.
    fn open_directory(&self, path: &Path) -> Result<Option<OwnedFd>> {
        match self.mount_of(path) {
            None => rootfs::open_in_root(&self.root, path),
            Some((mount, below)) => match &mount.source {
                Some(source) => rootfs::open_in_root(source, &Path::new("/").join(below)),
                None => Ok(None),
            },
        }
    }

    /// Returns what a path of the container names, once everything is mounted.
    ///
    /// # Errors
    /// The root file system cannot be read.
    pub(crate) fn kind(&self, path: &Path) -> Result<FileKind> {
        let Some((mount, below)) = self.mount_of(path) else {
            return rootfs::kind_in_root(&self.root, path);
        };
        let is_mount_point = below.as_os_str().is_empty();
        match &mount.source {
            Some(source) => match rootfs::kind_on_host(source) {
                FileKind::Directory if !is_mount_point => rootfs::kind_in_root(source, below),
                kind => Ok(kind),
            },
            // A new file system contains the mount point only.
            None if is_mount_point => Ok(FileKind::Directory),
            None => Ok(FileKind::Missing),
        }
    }

    /// Returns the mount that a path is in, and the path below the mount.
    fn mount_of<'a>(&'a self, path: &'a Path) -> Option<(&'a MountPoint, &'a Path)> {
        self.mounts.iter().rev().find_map(|mount| {
            let below = path.strip_prefix(&mount.destination).ok()?;
            Some((mount, below))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;

    #[test]
    fn opens_directories_on_the_host() {
        let image = tempfile::tempdir().unwrap();
        fs::create_dir_all(image.path().join("app/sub")).unwrap();
        symlink("/app", image.path().join("link")).unwrap();
        let volume = tempfile::tempdir().unwrap();
        fs::create_dir(volume.path().join("inner")).unwrap();
        let view = ContainerView {
            root: image.path().to_path_buf(),
            working_directory: "/".into(),
            arguments: Vec::new(),
            search_path: String::new(),
            mounts: vec![MountPoint {
                destination: "/volume".into(),
                source: Some(volume.path().to_path_buf()),
            }],
        };
        let on_host = |path: &str| {
            let handle = view.open_directory(Path::new(path)).unwrap()?;
            let link = format!("/proc/self/fd/{}", handle.as_raw_fd());
            Some(fs::read_link(link).unwrap())
        };
        let real = |path: &Path| Some(fs::canonicalize(path).unwrap());
        assert_eq!(on_host("/"), real(image.path()));
        fs::write(image.path().join("app/one.wasm"), "").unwrap();
        let file = |path: &str| view.open_project(Path::new(path)).unwrap().file;
        assert_eq!(file("/app"), None);
        assert_eq!(file("/app/one.wasm"), Some("one.wasm".into()));
        assert_eq!(on_host("/link/sub"), real(&image.path().join("app/sub")));
        assert_eq!(on_host("/volume/inner"), real(&volume.path().join("inner")));
        assert_eq!(on_host("/nothing"), None);
    }
}
