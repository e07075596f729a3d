//! Code compiled ahead. The host keeps one store for all containers; `wws precompile` fills it with what a project lacks, in a
//! process without rights, while the OCI runtime makes the container and the server starts, which waits for it. A container sees,
//! read-only, a directory of its own with links to the entries of its project and no others. Without a code cache, or without room
//! in it, the server compiles for itself.
//!
//! ```text
//! /var/lib/wws/code                               compiled code, of `wws precompile`
//! /var/lib/wws/containers/BOOT/NAMESPACE/ID       the links of a container
//! ```
//!
//! No container outlives the machine's run, and bundles don't either, so nobody asks to delete those of the run before: they are
//! known by its number and go bit by bit.

use std::fs::{self, DirBuilder, File};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, StatVfsMountFlags};

use crate::error::{Error, OnPath, Result};
use crate::sys::child::die_with_parent;
use crate::sys::log;
use crate::sys::reaper::{Child, Reaper};

/// The folder of the store, unless [`VARIABLE`] names another.
const FOLDER: &str = "/var/lib/wws";

/// A variable of containerd's environment; empty for no store.
const VARIABLE: &str = "WWS_STORE";

/// The number of the machine's run.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// How many containers of other runs are removed with one of this one.
const MAX_STALE: usize = 100;

/// The file among the links that is locked while code is compiled: the server in the container waits for it.
const COMPILING: &str = "compiling";

/// How long code is waited for: a little longer than `wws precompile` allows itself.
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
#[derive(Debug)]
pub(crate) struct Project {
    /// A handle of the project's folder, on the host.
    pub(crate) folder: OwnedFd,
    /// Whether that is the container's root.
    pub(crate) is_root: bool,
}

/// Code that is being compiled. Dropped, the compiler is killed, and the server waits no longer.
#[derive(Debug)]
pub(crate) struct Compiling {
    child: Option<Child>,
    /// What it says.
    said: Option<File>,
    /// Held locked until this is dropped; by the kernel's hand also if the shim dies.
    _lock: Option<File>,
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
        let boot = fs::read_to_string(BOOT).unwrap_or_default();
        let boot = Some(boot.trim()).filter(|boot| !boot.is_empty());
        let all = folder.join("containers");
        Self {
            store: folder.join("code"),
            links: all.join(boot.unwrap_or("boot")).join(namespace).join(id),
        }
    }

    /// The folder of all runs of the machine, and that of this one.
    fn runs(&self) -> Option<(&Path, &Path)> {
        let run = self.links.parent()?.parent()?;
        Some((run.parent()?, run))
    }

    /// Makes the folder of links, anew.
    ///
    /// # Errors
    /// The file system's, or code in it could not be run.
    pub(crate) fn make(&self) -> Result<()> {
        self.remove_links();
        let mut builder = DirBuilder::new();
        if let Some((all, _)) = self.runs() {
            // What a container needs is bound into it: no user of the machine has to come by here.
            builder.recursive(true).mode(0o700);
            builder.create(all).on("create", all)?;
            let closed = fs::Permissions::from_mode(0o700);
            fs::set_permissions(all, closed).on("close", all)?;
        }
        // Readable by the container's user, whoever that is.
        builder.recursive(true).mode(0o755);
        builder.create(&self.links).on("create", &self.links)?;
        let mount = rustix::fs::statvfs(&self.links).on("look at", &self.links)?;
        if mount.f_flag.contains(StatVfsMountFlags::NOEXEC) {
            self.remove_links();
            return Err(Error::Other(format!(
                "{} is mounted noexec",
                self.links.display()
            )));
        }
        Ok(())
    }

    /// Removes it, and some of what containers of the machine's runs before left. None is no error.
    pub(crate) fn remove(&self) {
        self.remove_links();
        if let Some((all, run)) = self.runs()
            && let Err(error) = remove_stale(all, run)
        {
            log::warning!("clear up {}: {error}", all.display());
        }
    }

    fn remove_links(&self) {
        use std::io::ErrorKind::{NotADirectory, NotFound};
        if let Err(error) = fs::remove_dir_all(&self.links)
            && !matches!(error.kind(), NotFound | NotADirectory)
        {
            log::warning!("remove {}: {error}", self.links.display());
        }
    }

    fn command(&self, server: &Path, project: Project) -> Command {
        let mut command = Command::new(server);
        command.arg("precompile").arg("--store").arg(&self.store);
        command.arg("--links").arg(&self.links);
        if project.is_root {
            command.arg("--container");
        }
        // The folder itself, whatever its path names by now: it is the program's standard input.
        command
            .args(["--", "/proc/self/fd/0"])
            .stdin(Stdio::from(project.folder))
            .stdout(Stdio::null());
        command
    }

    /// Starts compiling what the store lacks, by `server`.
    pub(crate) fn compile(
        &self,
        server: &Path,
        project: Project,
        reaper: &Arc<Reaper>,
    ) -> Option<Compiling> {
        let mut command = self.command(server, project);
        let said = notes();
        command.stderr(match &said {
            Some((_, writer)) => Stdio::from(writer.try_clone().ok()?),
            None => Stdio::null(),
        });
        die_with_parent(&mut command);
        let lock = self
            .lock()
            .inspect_err(|error| log::warning!("the server will not wait for its code: {error}"))
            .ok();
        let child = reaper.spawn(&mut command);
        child
            .inspect_err(|error| log::warning!("compile ahead: {error}"))
            .ok()
            .map(|child| Compiling {
                child: Some(child),
                said: said.map(|(reader, _)| reader),
                _lock: lock,
            })
    }

    /// Has the server of the container wait until the answer is dropped. A lock and not a mere file, so that nobody waits for a
    /// shim that has died.
    fn lock(&self) -> Result<File> {
        let path = self.links.join(COMPILING);
        let file = File::create(&path).on("create", &path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).on("lock", &path)?;
        Ok(file)
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

/// Removes containers of other runs of the machine: some, as a container's end should not wait for all.
fn remove_stale(all: &Path, run: &Path) -> std::io::Result<()> {
    let mut left = MAX_STALE;
    for stale in entries(all)?.filter(|stale| stale != run) {
        for namespace in entries(&stale).into_iter().flatten() {
            for container in entries(&namespace).into_iter().flatten() {
                if left == 0 {
                    return Ok(());
                }
                left -= 1;
                // Another shim may be at it.
                let _ = fs::remove_dir_all(container);
            }
            let _ = fs::remove_dir(namespace);
        }
        let _ = fs::remove_dir(stale);
    }
    Ok(())
}

/// The folders in a folder, which may not be there.
fn entries(folder: &Path) -> std::io::Result<impl Iterator<Item = PathBuf>> {
    let read = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        read => Some(read?),
    };
    Ok(read
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path()))
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
    use std::os::unix::fs::symlink;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

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
        assert_eq!(mode(&code.links) & 0o022, 0);
        code.remove();
        assert!(!code.links.exists());
    }

    #[test]
    fn users_of_the_machine_see_no_code() {
        let folder = tempfile::tempdir().unwrap();
        let all = folder.path().join("containers");
        // As it was made before.
        fs::create_dir(&all).unwrap();
        fs::set_permissions(&all, fs::Permissions::from_mode(0o755)).unwrap();
        Code::below(folder.path(), "default", "c1").make().unwrap();
        assert_eq!(mode(&all), 0o700);
    }

    #[test]
    fn containers_of_other_runs_of_the_machine_go_bit_by_bit() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, other) = ("ours", "other");
        let code = |id: &str| Code::below(folder.path(), "default", id);
        code(ours).make().unwrap();
        code(other).make().unwrap();
        let all = folder.path().join("containers");
        for number in 0..MAX_STALE + 1 {
            let stale = all.join("before/k8s.io").join(number.to_string());
            fs::create_dir_all(&stale).unwrap();
            fs::write(stale.join("x.code"), "").unwrap();
        }
        // Of a version that knew of no runs.
        let old = all.join("default/c3");
        fs::create_dir_all(&old).unwrap();
        code(ours).remove();
        assert!(all.join("before").exists() || old.exists());
        code(ours).remove();
        assert!(!all.join("before").exists() && !old.exists());
        assert!(code(other).links.exists() && !code(ours).links.exists());
    }

    #[test]
    fn what_is_compiled_is_the_folder_that_was_found() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("project")).unwrap();
        fs::write(at("project/ours"), "").unwrap();
        fs::create_dir(at("secret")).unwrap();
        fs::write(at("secret/theirs"), "").unwrap();
        let found = crate::oci::rootfs::open(folder.path(), Path::new("/project"));
        let project = Project {
            folder: found.unwrap().unwrap(),
            is_root: false,
        };
        // Who writes the volume leads its path elsewhere.
        fs::rename(at("project"), at("gone")).unwrap();
        symlink("secret", at("project")).unwrap();
        let server = at("server");
        let script = format!(
            "#!/bin/sh\nfor folder do :; done\nls $folder/ >{}\n",
            at("seen").display()
        );
        fs::write(&server, script).unwrap();
        fs::set_permissions(&server, fs::Permissions::from_mode(0o755)).unwrap();
        let code = Code::below(folder.path(), "default", "c1");
        assert!(code.command(&server, project).status().unwrap().success());
        assert_eq!(fs::read_to_string(at("seen")).unwrap(), "ours\n");
    }

    #[test]
    fn a_lock_is_held_while_code_is_compiled() {
        let folder = tempfile::tempdir().unwrap();
        let code = Code::below(folder.path(), "default", "c1");
        code.make().unwrap();
        let lock = code.lock().unwrap();
        let path = code.links.join(COMPILING);
        // By the container's user, who may read it and no more.
        assert_eq!(mode(&path) & 0o022, 0);
        assert_eq!(mode(&path) & 0o444, 0o444);
        let seen = File::open(&path).unwrap();
        let shared = || rustix::fs::flock(&seen, FlockOperation::NonBlockingLockShared);
        assert_eq!(shared(), Err(rustix::io::Errno::WOULDBLOCK));
        drop(lock);
        assert_eq!(shared(), Ok(()));
    }

    #[test]
    fn a_store_that_cannot_be_is_an_error_to_be_told() {
        let code = Code::below(Path::new("/proc/self/no"), "default", "c1");
        assert!(code.make().is_err());
    }
}
