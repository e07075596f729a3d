//! Code compiled ahead. The host keeps one store for all containers; `wws precompile` fills it with what a project lacks, in a
//! process without rights, while the OCI runtime makes the container. A container sees, read-only, a folder of its own with links
//! to the entries of its project and no others. Without a store, or without room in it, the server compiles for itself.

use std::fs::{self, DirBuilder, File};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{OnPath, Result};
use crate::log;
use crate::reaper::{Child, Reaper};
use crate::runc::die_with_parent;

/// The folder of the store, unless [`VARIABLE`] names another.
const FOLDER: &str = "/var/lib/wws";

/// A variable of containerd's environment; empty for no store.
const VARIABLE: &str = "WWS_STORE";

/// How long a container's start waits for its code: a little longer than `wws precompile` allows itself.
const LIMIT: Duration = Duration::from_secs(70);

/// How much of what the compiler says is told: bytes and lines.
const MAX_SAID: u64 = 4096;
const MAX_LINES: usize = 8;

/// The code of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Code {
    store: PathBuf,
    /// The folder with links, which the container sees.
    pub(crate) links: PathBuf,
}

/// What is compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Project {
    /// The project's folder, on the host.
    pub(crate) folder: PathBuf,
    /// Whether that is the container's root.
    pub(crate) is_root: bool,
}

/// Code that is being compiled. Nobody wants it any more when this is dropped.
#[derive(Debug)]
pub(crate) struct Compiling {
    child: Option<Child>,
    /// What it says.
    said: Option<File>,
}

impl Code {
    /// Where the code of a container is; `None` without a store.
    pub(crate) fn of(namespace: &str, id: &str) -> Option<Self> {
        let folder =
            std::env::var_os(VARIABLE).map_or_else(|| PathBuf::from(FOLDER), PathBuf::from);
        folder
            .is_absolute()
            .then(|| Self::below(&folder, namespace, id))
    }

    fn below(folder: &Path, namespace: &str, id: &str) -> Self {
        Self {
            store: folder.join("code"),
            links: folder.join("containers").join(namespace).join(id),
        }
    }

    /// Makes the folder of links, anew.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn make(&self) -> Result<()> {
        self.remove();
        let mut builder = DirBuilder::new();
        // Readable by the container's user, whoever that is.
        let builder = builder.recursive(true).mode(0o755);
        builder.create(&self.links).on("create", &self.links)
    }

    /// Removes it. None is no error.
    pub(crate) fn remove(&self) {
        use std::io::ErrorKind::{NotADirectory, NotFound};
        if let Err(error) = fs::remove_dir_all(&self.links)
            && !matches!(error.kind(), NotFound | NotADirectory)
        {
            log::warning!("remove {}: {error}", self.links.display());
        }
    }

    /// Starts compiling what the store lacks, by `server`.
    pub(crate) fn compile(
        &self,
        server: &Path,
        project: &Project,
        reaper: &Arc<Reaper>,
    ) -> Option<Compiling> {
        let mut command = Command::new(server);
        command.arg("precompile").arg("--store").arg(&self.store);
        command.arg("--links").arg(&self.links);
        if project.is_root {
            command.arg("--container");
        }
        command
            .arg("--")
            .arg(&project.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let said = notes();
        command.stderr(match &said {
            Some((_, writer)) => Stdio::from(writer.try_clone().ok()?),
            None => Stdio::null(),
        });
        die_with_parent(&mut command);
        let child = reaper.spawn(&mut command);
        child
            .inspect_err(|error| log::warning!("compile ahead: {error}"))
            .ok()
            .map(|child| Compiling {
                child: Some(child),
                said: said.map(|(reader, _)| reader),
            })
    }
}

impl Compiling {
    /// Waits for it, but not for ever. What is missing then the server compiles for itself.
    pub(crate) async fn finish(mut self, id: &str) {
        let Some(child) = &mut self.child else { return };
        match tokio::time::timeout(LIMIT, child.exit.ended()).await {
            Ok(exit) => {
                self.child = None;
                if exit.code != 0 {
                    log::warning!("compile {id} ahead: ended with {}", exit.code);
                }
                for line in self.lines() {
                    log::warning!("compile {id} ahead: {line}");
                }
            }
            Err(_) => log::warning!("compile {id} ahead: not done in {} s", LIMIT.as_secs()),
        }
    }
}

impl Compiling {
    /// What it said, a few lines of it.
    fn lines(&mut self) -> Vec<String> {
        let mut text = String::new();
        if let Some(said) = &mut self.said {
            // What cannot be read is not told.
            let _ = said.take(MAX_SAID).read_to_string(&mut text);
        }
        text.lines().take(MAX_LINES).map(str::to_owned).collect()
    }
}

impl Drop for Compiling {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill();
        }
    }
}

/// A file in memory: two ends, whose places in it are their own.
fn notes() -> Option<(File, File)> {
    let writer = rustix::fs::memfd_create("wws-precompile", rustix::fs::MemfdFlags::CLOEXEC);
    let writer = File::from(writer.ok()?);
    let reader = File::open(format!("/proc/self/fd/{}", writer.as_raw_fd())).ok()?;
    Some((reader, writer))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_folder_of_a_container_is_its_own_and_comes_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let code = Code::below(folder.path(), "default", "c1");
        assert_ne!(
            code.links,
            Code::below(folder.path(), "default", "c2").links
        );
        code.remove();
        code.make().unwrap();
        fs::write(code.links.join("left"), "").unwrap();
        // Of a container of this name before.
        code.make().unwrap();
        assert_eq!(fs::read_dir(&code.links).unwrap().count(), 0);
        let mode = fs::metadata(&code.links).unwrap().permissions().mode();
        assert_eq!(mode & 0o022, 0);
        code.remove();
        assert!(!code.links.exists());
    }

    #[test]
    fn a_store_that_cannot_be_is_an_error_to_be_told() {
        let code = Code::below(Path::new("/proc/self/no"), "default", "c1");
        assert!(code.make().is_err());
    }
}
