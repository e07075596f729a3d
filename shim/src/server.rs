//! The program `wws` on the host: beside the shim, or carried in the shim's own file.
//!
//! A shim that is installed as one file has `wws` at its end, compressed ([`payload`]). The first
//! container of workers unpacks it below a directory that only root can enter ([`unpack`]).

mod payload;
mod unpack;

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use self::payload::Payload;
use self::unpack::{PROGRAM, Unpacked};
use crate::error::{Error, Result};
use crate::sys::state;

/// This very program, also when its file has been replaced or removed since it started.
const OWN_FILE: &str = "/proc/self/exe";

/// The directory of the unpacked program below that of the shim's state.
const DIRECTORY: &str = "server";

/// Where the program is unpacked if it cannot be there: in memory, for hosts whose disk is full or
/// read-only.
const DIRECTORY_IN_MEMORY: &str = "/run/wws/server";

/// The program `wws` that containers of workers run.
#[derive(Debug)]
pub(crate) struct ServerProgram {
    /// The path beside the shim, whose file is preferred.
    beside: PathBuf,
    /// The file that carries the program.
    carrier: PathBuf,
    directories: Vec<PathBuf>,
    /// The unpacked program, which is in use until this is dropped.
    unpacked: Mutex<Option<Unpacked>>,
}

impl ServerProgram {
    /// Returns the program of the running shim.
    ///
    /// # Errors
    /// The path of the shim is not known.
    pub(crate) fn of_this_shim() -> Result<Self> {
        let own = std::env::current_exe().map_err(|error| Error::io("find this program", error))?;
        Ok(Self::new(
            own.with_file_name(PROGRAM),
            PathBuf::from(OWN_FILE),
            vec![
                state::directory().join(DIRECTORY),
                PathBuf::from(DIRECTORY_IN_MEMORY),
            ],
        ))
    }

    fn new(beside: PathBuf, carrier: PathBuf, directories: Vec<PathBuf>) -> Self {
        Self {
            beside,
            carrier,
            directories,
            unpacked: Mutex::new(None),
        }
    }

    /// Returns the path of the program, which is unpacked first if the shim carries it.
    /// Blocks: unpacking takes up to a second.
    ///
    /// # Errors
    /// There is neither a file beside the shim nor one in it, or it cannot be unpacked.
    pub(crate) fn path(&self) -> Result<PathBuf> {
        if self.beside.is_file() {
            return Ok(self.beside.clone());
        }
        let mut unpacked = self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(unpacked) = unpacked.as_ref().filter(|unpacked| unpacked.is_current()) {
            return Ok(unpacked.path().to_owned());
        }
        let new = self.unpack()?;
        let path = new.path().to_owned();
        *unpacked = Some(new);
        Ok(path)
    }

    fn unpack(&self) -> Result<Unpacked> {
        let beside = self.beside.display();
        let carrier = File::open(&self.carrier)
            .map_err(|error| Error::io(format_args!("open {}", self.carrier.display()), error))?;
        let Some(payload) = Payload::find(carrier)? else {
            return Err(Error::unknown(format!(
                "the server {beside} is missing: install `wws` beside containerd-shim-wws-v1, \
                 or the shim that carries it"
            )));
        };
        let mut failures = Vec::new();
        for directory in &self.directories {
            match Unpacked::new(&payload, directory) {
                Ok(unpacked) => return Ok(unpacked),
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        Err(Error::unknown(format!(
            "unpack the server: {}; make room, or install `wws` as {beside}",
            failures.join("; ")
        )))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::ffi::CString;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change, mount_remount};
    use rustix::thread::UnshareFlags;
    use tempfile::TempDir;

    use super::payload::tests::carrier;
    use super::*;

    /// Returns the program of a shim in `directory` that carries `content`.
    fn program(directory: &TempDir, content: Option<&[u8]>) -> ServerProgram {
        let shim = directory.path().join("shim");
        let file = content.map_or_else(|| b"the shim".to_vec(), carrier);
        fs::write(&shim, file).unwrap();
        ServerProgram::new(
            directory.path().join("wws"),
            shim,
            vec![
                directory.path().join("server"),
                directory.path().join("other"),
            ],
        )
    }

    #[test]
    fn prefers_the_program_beside_the_shim() {
        let directory = tempfile::tempdir().unwrap();
        let program = program(&directory, Some(b"carried"));
        let beside = directory.path().join("wws");
        fs::write(&beside, "beside").unwrap();
        assert_eq!(program.path().unwrap(), beside);
        assert!(!directory.path().join("server").exists());
        // It was removed since: the carried one is used from then on.
        fs::remove_file(beside).unwrap();
        assert_eq!(fs::read(program.path().unwrap()).unwrap(), b"carried");
    }

    #[test]
    fn unpacks_once() {
        let directory = tempfile::tempdir().unwrap();
        let program = program(&directory, Some(b"carried"));
        let path = program.path().unwrap();
        let first = fs::metadata(&path).unwrap();
        assert_eq!(first.permissions().mode() & 0o7777, 0o755);
        let closed = path.parent().unwrap().parent().unwrap();
        assert_eq!(
            fs::metadata(closed).unwrap().permissions().mode() & 0o777,
            0o700
        );
        assert_eq!(program.path().unwrap(), path);
        let second = fs::metadata(&path).unwrap();
        assert_eq!(first.modified().unwrap(), second.modified().unwrap());
        // A file that somebody removed comes back.
        fs::remove_file(&path).unwrap();
        assert_eq!(program.path().unwrap(), path);
        assert_eq!(fs::read(path).unwrap(), b"carried");
    }

    #[test]
    fn starts_at_once_share_one_file() {
        let directory = tempfile::tempdir().unwrap();
        let content = vec![7; 3 << 20];
        let programs: Vec<_> = (0..8)
            .map(|_| program(&directory, Some(&content)))
            .collect();
        std::thread::scope(|scope| {
            for program in &programs {
                scope.spawn(|| assert_eq!(fs::read(program.path().unwrap()).unwrap(), content));
            }
        });
        let files = fs::read_dir(directory.path().join("server"))
            .unwrap()
            .count();
        assert_eq!(files, 2, "the lock and one version");
    }

    #[test]
    fn unpacks_elsewhere_if_the_first_directory_fails() {
        let directory = tempfile::tempdir().unwrap();
        let program = program(&directory, Some(b"carried"));
        fs::write(directory.path().join("server"), "a file").unwrap();
        let path = program.path().unwrap();
        assert!(path.starts_with(directory.path().join("other")), "{path:?}");
    }

    /// Runs `test` in a mount namespace of its own, whose mounts end with it. Needs root.
    fn with_own_mounts(test: impl FnOnce() + Send) {
        if !rustix::process::geteuid().is_root() {
            eprintln!("does not apply: this user mounts nothing");
            return;
        }
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                // SAFETY: `unshare_unsafe` requires that nothing relies on the thread sharing what
                // is unshared. CLONE_NEWNS and CLONE_FS concern mounts, the working directory, the
                // root and the umask, and this thread ends with the test.
                unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }
                    .unwrap();
                let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
                mount_change("/", private).unwrap();
                test();
            });
            thread.join().unwrap();
        });
    }

    /// Mounts an empty file system of `size` bytes.
    fn mount_small(at: &Path, size: u64) {
        fs::create_dir_all(at).unwrap();
        let options = CString::new(format!("size={size},mode=700")).unwrap();
        mount("tmpfs", at, "tmpfs", MountFlags::empty(), Some(&*options)).unwrap();
    }

    fn remount(at: &Path, flags: MountFlags) {
        mount_remount(at, flags, "").unwrap();
    }

    #[test]
    fn unpacks_elsewhere_on_a_full_disk() {
        with_own_mounts(|| {
            let directory = tempfile::tempdir().unwrap();
            let (full, other) = (
                directory.path().join("server"),
                directory.path().join("other"),
            );
            mount_small(&full, 1 << 20);
            let content = vec![7; 3 << 20];
            let path = program(&directory, Some(&content)).path().unwrap();
            assert!(path.starts_with(&other), "{path:?}");
            assert_eq!(fs::read(&path).unwrap(), content);
            // No part of it takes the room of others.
            for version in fs::read_dir(&full).unwrap() {
                let version = version.unwrap().path();
                assert!(version.ends_with("lock") || fs::read_dir(version).unwrap().count() == 0);
            }
            // A smaller version has room.
            let small = program(&directory, Some(b"small")).path().unwrap();
            assert!(small.starts_with(&full), "{small:?}");
            fs::remove_dir_all(&other).unwrap();
            mount_small(&other, 1 << 20);
            let error = program(&directory, Some(&content)).path().unwrap_err();
            let message = format!("{error:#}");
            assert_eq!(message.matches("No space left").count(), 2, "{message}");
            assert!(message.contains("make room"), "{message}");
        });
    }

    #[test]
    fn unpacks_elsewhere_on_a_read_only_disk() {
        with_own_mounts(|| {
            let directory = tempfile::tempdir().unwrap();
            let (disk, other) = (
                directory.path().join("server"),
                directory.path().join("other"),
            );
            mount_small(&disk, 1 << 20);
            remount(&disk, MountFlags::RDONLY);
            let path = program(&directory, Some(b"carried")).path().unwrap();
            assert!(path.starts_with(&other), "{path:?}");
            // A version that is there already cannot be locked, and is not used.
            remount(&disk, MountFlags::empty());
            drop(program(&directory, Some(b"carried")).path().unwrap());
            remount(&disk, MountFlags::RDONLY);
            let path = program(&directory, Some(b"carried")).path().unwrap();
            assert!(path.starts_with(&other), "{path:?}");
            mount_small(&other, 1 << 20);
            remount(&other, MountFlags::RDONLY);
            let error = program(&directory, Some(b"carried")).path().unwrap_err();
            let message = format!("{error:#}");
            assert_eq!(message.matches("Read-only").count(), 2, "{message}");
        });
    }

    #[test]
    fn reports_why_nothing_could_be_unpacked() {
        let directory = tempfile::tempdir().unwrap();
        let broken = program(&directory, Some(b"carried"));
        for name in ["server", "other"] {
            fs::write(directory.path().join(name), "a file").unwrap();
        }
        let error = broken.path().unwrap_err().to_string();
        for part in ["unpack the server", "/server", "/other", "install `wws` as"] {
            assert!(error.contains(part), "{error}");
        }
        let error = program(&directory, None).path().unwrap_err().to_string();
        assert!(
            error.contains("wws is missing: install `wws` beside"),
            "{error}"
        );
    }

    #[test]
    fn removes_versions_that_no_shim_uses() {
        let directory = tempfile::tempdir().unwrap();
        let old = program(&directory, Some(b"version 1"));
        let old_path = old.path().unwrap();
        let new = program(&directory, Some(b"version 2"));
        let new_path = new.path().unwrap();
        assert!(old_path.exists(), "a running shim uses it");
        drop(old);
        let newest = program(&directory, Some(b"version 3"));
        newest.path().unwrap();
        assert!(!old_path.exists() && new_path.exists());
    }
}
