//! Compiled code of workers: made once for a host, shared by all containers.
//!
//! Our server's `precompile` fills a store that no container can write or name, and links the entries that one container needs
//! into a folder of its own, which that container sees read-only. Compiling is the server's business; here are the folders, and the
//! helper that runs while the OCI runtime makes the container. Without it a container starts all the same: its server compiles.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::error::{OnPath, Result};
use crate::log;
use crate::reaper::{Child, Reaper};

/// Where the store is, unless containerd's environment says another place.
const PLACE: &str = "/var/lib/wws";

/// The variable of containerd's environment that says where; empty for nowhere.
const VARIABLE: &str = "WWS_STORE";

/// The longest that a start waits for the helper. What is not compiled then is the server's work.
const PATIENCE: Duration = Duration::from_secs(60);

/// The links of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Links {
    store: PathBuf,
    folder: PathBuf,
}

/// A helper at work.
#[derive(Debug)]
pub(crate) struct Filling(Child);

impl Links {
    /// Where the links of a container are, if there are any.
    pub(crate) fn of(namespace: &str, id: &str) -> Option<Self> {
        let place = std::env::var_os(VARIABLE).unwrap_or_else(|| PLACE.into());
        Self::at(&place, namespace, id)
    }

    fn at(place: &OsStr, namespace: &str, id: &str) -> Option<Self> {
        // containerd allows no other names; they become one folder's.
        let plain = |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains('/');
        let place = Path::new(place);
        (place.is_absolute() && plain(namespace) && plain(id)).then(|| Self {
            store: place.join("code"),
            folder: place.join("containers").join(format!("{namespace}:{id}")),
        })
    }

    /// The folder of the host that the container sees.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes the folder, empty.
    ///
    /// # Errors
    /// The place cannot be written.
    pub(crate) fn make(&self) -> Result<()> {
        self.remove()?;
        let make = |path: &Path, mode| {
            DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(path)
                .on("create", path)
        };
        if let Some(parent) = self.folder.parent() {
            make(parent, 0o700)?;
        }
        // Its user may be any.
        make(&self.folder, 0o755)
    }

    /// Removes the folder. What a process has mapped lives on.
    ///
    /// # Errors
    /// It is there and cannot be removed.
    pub(crate) fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).on("remove", &self.folder)
            }
            _ => Ok(()),
        }
    }

    /// Starts the helper for the project in `folder`, a path of the host.
    pub(crate) fn fill(
        &self,
        reaper: &Arc<Reaper>,
        server: &Path,
        folder: &Path,
        whole: bool,
    ) -> Option<Filling> {
        let mut command = Command::new(server);
        command
            .arg("precompile")
            .arg("--store")
            .arg(&self.store)
            .arg("--links")
            .arg(&self.folder);
        if whole {
            command.arg("--container");
        }
        command.arg("--").arg(folder).env_clear();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let started = reaper.spawn(&mut command);
        started
            .inspect_err(|error| log::warning!("{}: {error}", server.display()))
            .ok()
            .map(Filling)
    }
}

impl Filling {
    /// Waits until the helper has done its work, or has taken too long.
    pub(crate) async fn wait(self) {
        let Child { pid, exit } = self.0;
        match tokio::time::timeout(PATIENCE, exit.wait()).await {
            Ok(exit) if exit.code == 0 => {}
            Ok(exit) => log::warning!(
                "compiling ahead ended with {}; the server compiles",
                exit.code
            ),
            Err(_) => {
                log::warning!("compiling ahead takes too long; the server compiles");
                // Ours, and not collected: the number is still its own.
                if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_container_has_a_folder_of_its_own() {
        let place = tempfile::tempdir().unwrap();
        let links = Links::at(place.path().as_os_str(), "moby", "c1").unwrap();
        links.make().unwrap();
        fs::write(links.folder().join("x"), "").unwrap();
        links.make().unwrap();
        assert_eq!(fs::read_dir(links.folder()).unwrap().count(), 0);
        links.remove().unwrap();
        assert!(!links.folder().exists());
        links.remove().unwrap();
    }

    #[test]
    fn odd_names_and_places_have_none() {
        for (place, namespace, id) in [
            ("", "n", "i"),
            ("here", "n", "i"),
            ("/p", "..", "i"),
            ("/p", "n", "a/b"),
            ("/p", "n", ""),
        ] {
            assert_eq!(Links::at(OsStr::new(place), namespace, id), None);
        }
    }
}
