//! Precompiled code of containers.
//!
//! The host keeps one code cache for all containers. `wws precompile` adds what a project lacks, in
//! a process without rights, while the OCI runtime creates the container; the server waits for it.
//! A container sees, read-only, a directory of its own with links to the entries of its project.
//! Without a code cache, or without room in the cache, the server compiles the code itself.
//!
//! ```text
//! /var/lib/wws/code                               compiled code, written by `wws precompile`
//! /var/lib/wws/containers/BOOT/NAMESPACE/ID       the links of a container
//! ```
//!
//! Neither containers nor bundles survive a reboot, so no client deletes the links of earlier
//! boots. The boot ID tells them, and each removal removes some of them.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FlockOperation;

use crate::error::{PathContext, Result};
use crate::oci::view::ProjectDirectory;
use crate::sys::child::die_with_parent;
use crate::sys::log;
use crate::sys::reaper::{Child, Reaper};
use crate::sys::state;

/// The file with the boot ID.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The most containers of earlier boots whose links are removed with those of one container.
const MAX_STALE: usize = 100;

/// The file beside the links that is locked while code is compiled: the server waits for the lock.
const LOCK_FILE: &str = "compiling";

/// How long the compilation may take: a little longer than `wws precompile` allows itself.
const COMPILE_LIMIT: Duration = Duration::from_secs(630);

/// The exit code of `wws precompile` if a later run may compile what is missing.
const TRY_AGAIN: u32 = 75;

/// The memory of a compiler. A server of less may not be able to compile what is missing.
const COMPILER_MEMORY: u64 = 2 << 30;

/// The pause before the compiler runs again, which grows to the second after each run.
const AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

/// The most of the compiler's output that is logged, in bytes and lines.
const MAX_OUTPUT: u64 = 4096;
const MAX_LINES: usize = 8;

/// The precompiled code of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerCode {
    cache: PathBuf,
    /// The directory with the links, which the container sees.
    pub(crate) links: PathBuf,
}

/// What compiles the code of one container.
#[derive(Debug)]
pub(crate) struct ContainerCompiler {
    code: ContainerCode,
    /// The program `wws` on the host.
    server: PathBuf,
    project: ProjectDirectory,
    /// Whether the server of the container may lack the memory to compile what is missing.
    server_has_little_memory: bool,
}

/// A running compilation. When it is dropped, the compiler is killed, and the server stops waiting.
#[derive(Debug)]
pub(crate) struct Compilation {
    child: Option<Child>,
    /// What the compiler writes.
    output: Option<File>,
    /// Locked until this is dropped. The kernel unlocks it if the shim dies.
    _lock: Option<File>,
}

impl ContainerCode {
    /// Returns where the code of a container is; `None` without a code cache.
    pub(crate) fn for_container(namespace: &str, id: &str) -> Option<Self> {
        state::code_cache().map(|directory| Self::in_cache(&directory, namespace, id))
    }

    pub(super) fn in_cache(directory: &Path, namespace: &str, id: &str) -> Self {
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_default();
        let boot = Some(boot.trim()).filter(|boot| !boot.is_empty());
        let all = directory.join("containers");
        Self {
            cache: directory.join("code"),
            links: all.join(boot.unwrap_or("boot")).join(namespace).join(id),
        }
    }

    /// Returns the directory of all boots, and that of the current one.
    fn boots(&self) -> Option<(&Path, &Path)> {
        let boot = self.links.parent()?.parent()?;
        Some((boot.parent()?, boot))
    }

    /// Creates the directory of links, and empties it.
    ///
    /// # Errors
    /// The directory cannot be created, or code in it could not be executed.
    pub(crate) fn create_links(&self) -> Result<()> {
        self.remove_links()?;
        let mut builder = DirBuilder::new();
        if let Some((all, _)) = self.boots() {
            // Containers get their links by a bind mount: users of the host need no access.
            builder.recursive(true).mode(0o700);
            builder.create(all).with_path("create", all)?;
            let closed = fs::Permissions::from_mode(0o700);
            fs::set_permissions(all, closed).with_path("close", all)?;
        }
        // The container's user, who may be anybody, reads the links.
        builder.recursive(true).mode(0o755);
        builder
            .create(&self.links)
            .with_path("create", &self.links)?;
        let executable = state::require_executable(&self.links);
        if executable.is_err() {
            self.remove_links()?;
        }
        executable
    }

    /// Removes the links, and some of those of earlier boots. Missing links are no error.
    ///
    /// # Errors
    /// The links cannot be removed.
    pub(crate) fn remove(&self) -> Result<()> {
        self.remove_links()?;
        match self.boots() {
            Some((all, boot)) => remove_stale(all, boot).with_path("clean up", all),
            None => Ok(()),
        }
    }

    fn remove_links(&self) -> Result<()> {
        use io::ErrorKind::{NotADirectory, NotFound};
        match fs::remove_dir_all(&self.links) {
            Err(error) if !matches!(error.kind(), NotFound | NotADirectory) => {
                Err(error).with_path("remove", &self.links)
            }
            _ => Ok(()),
        }
    }

    /// Makes the server of the container wait until the returned file is dropped. The kernel
    /// unlocks the file of a shim that died, so that the server does not wait for nothing.
    fn lock(&self) -> Result<File> {
        let path = self.links.join(LOCK_FILE);
        let file = File::create(&path).with_path("create", &path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .with_path("lock", &path)?;
        Ok(file)
    }
}

impl ContainerCompiler {
    /// Plans to compile `project` with the program `server`. `memory` is the limit of the
    /// container, if it has one. Returns `None` if the links to the code cannot be created: then
    /// the server compiles.
    pub(crate) fn plan(
        code: ContainerCode,
        server: &Path,
        project: ProjectDirectory,
        memory: Option<u64>,
    ) -> Option<Self> {
        // A full or read-only disk, for example: it would fail for all containers.
        code.create_links()
            .inspect_err(|error| log::debug!("precompile: {error:#}"))
            .ok()?;
        Some(Self {
            code,
            server: server.to_owned(),
            project,
            server_has_little_memory: memory.is_some_and(|limit| limit < COMPILER_MEMORY),
        })
    }

    /// Returns the code that is compiled.
    pub(crate) fn code(&self) -> &ContainerCode {
        &self.code
    }

    /// Returns the command of a run; a `later` one waits for the modules of other containers.
    fn command(&self, later: bool) -> io::Result<Command> {
        let mut command = Command::new(&self.server);
        command
            .arg("precompile")
            .arg("--store")
            .arg(&self.code.cache);
        command.arg("--links").arg(&self.code.links);
        if self.project.is_root {
            command.arg("--container");
        }
        if let Some(file) = &self.project.file {
            let mut option = OsString::from("--file=");
            option.push(file);
            command.arg(option);
        }
        if later {
            command.arg("--patient");
        }
        // The handle is the program's standard input, as the path may name another directory by
        // now.
        command
            .args(["--", "/proc/self/fd/0"])
            .stdin(Stdio::from(self.project.directory.try_clone()?))
            .stdout(Stdio::null());
        Ok(command)
    }

    /// Starts to compile what the cache lacks. The server waits for it.
    pub(crate) fn start(&self, reaper: &Arc<Reaper>) -> Option<Compilation> {
        let lock = self
            .code
            .lock()
            .inspect_err(|error| log::warning!("the server will not wait for its code: {error:#}"))
            .ok();
        self.run(false, lock, reaper)
    }

    /// Starts a run of the compiler, during which the server waits if there is a `lock`.
    fn run(&self, later: bool, lock: Option<File>, reaper: &Arc<Reaper>) -> Option<Compilation> {
        let start = || -> io::Result<Compilation> {
            let mut command = self.command(later)?;
            let output = memory_file();
            command.stderr(match &output {
                Some((_, writer)) => Stdio::from(writer.try_clone()?),
                None => Stdio::null(),
            });
            die_with_parent(&mut command);
            Ok(Compilation {
                child: Some(reaper.spawn(&mut command)?),
                output: output.map(|(reader, _)| reader),
                _lock: lock,
            })
        };
        start()
            .inspect_err(|error| log::warning!("precompile: {error}"))
            .ok()
    }

    /// Waits for the first run of the compiler. Runs it again, with longer and longer pauses, as
    /// long as it leaves code for a reason of the machine that the server may not be able to
    /// compile.
    pub(crate) async fn finish(self, first: Option<Compilation>, id: &str, reaper: &Arc<Reaper>) {
        let (mut pause, longest) = AGAIN;
        let mut running = first;
        loop {
            let outcome = match running {
                Some(compilation) => compilation.finish(id).await,
                None => CompileOutcome::TryAgain,
            };
            if outcome == CompileOutcome::Done || !self.server_has_little_memory {
                return;
            }
            log::info!("precompile {id}: tried again in {} s", pause.as_secs());
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
            running = self.run(true, None, reaper);
        }
    }
}

/// How a run of the compiler ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CompileOutcome {
    /// Another run would not compile more.
    Done,
    /// Another run may compile what is missing.
    TryAgain,
}

impl Compilation {
    /// Waits for the compiler for a bounded time, and logs its output. The server compiles what is
    /// missing then, if it has the memory.
    async fn finish(mut self, id: &str) -> CompileOutcome {
        let Some(child) = &mut self.child else {
            return CompileOutcome::Done;
        };
        match tokio::time::timeout(COMPILE_LIMIT, child.exit.exited()).await {
            Ok(exit) => {
                self.child = None;
                if !matches!(exit.code, 0 | TRY_AGAIN) {
                    log::warning!("precompile {id}: exited with {}", exit.code);
                }
                for line in self.lines() {
                    log::warning!("precompile {id}: {line}");
                }
                match exit.code {
                    0 => CompileOutcome::Done,
                    // Whatever ended it, the machine may not the next time.
                    _ => CompileOutcome::TryAgain,
                }
            }
            Err(_) => {
                let limit = COMPILE_LIMIT.as_secs();
                log::warning!("precompile {id}: not done after {limit} s");
                CompileOutcome::TryAgain
            }
        }
    }

    /// Returns the first lines of the compiler's output.
    fn lines(&mut self) -> Vec<String> {
        let mut text = String::new();
        if let Some(output) = &mut self.output {
            // Output that cannot be read is not logged.
            let _ = output.take(MAX_OUTPUT).read_to_string(&mut text);
        }
        text.lines().take(MAX_LINES).map(str::to_owned).collect()
    }
}

impl Drop for Compilation {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill();
        }
    }
}

/// Removes links of containers of earlier boots: a bounded number, as the end of a container waits
/// for this.
fn remove_stale(all: &Path, boot: &Path) -> io::Result<()> {
    let mut left = MAX_STALE;
    for stale in entries(all)?.filter(|stale| stale != boot) {
        for namespace in entries(&stale).into_iter().flatten() {
            for container in entries(&namespace).into_iter().flatten() {
                if left == 0 {
                    return Ok(());
                }
                left -= 1;
                // Another shim may remove them at the same time.
                let _ = fs::remove_dir_all(container);
            }
            let _ = fs::remove_dir(namespace);
        }
        let _ = fs::remove_dir(stale);
    }
    Ok(())
}

/// Lists a directory; a missing one is empty.
fn entries(directory: &Path) -> io::Result<impl Iterator<Item = PathBuf>> {
    let read = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        read => Some(read?),
    };
    Ok(read
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path()))
}

/// Creates a file in memory: a reader and a writer with positions of their own.
fn memory_file() -> Option<(File, File)> {
    let writer = rustix::fs::memfd_create("wws-precompile", rustix::fs::MemfdFlags::CLOEXEC);
    let writer = File::from(writer.ok()?);
    let reader = File::open(format!("/proc/self/fd/{}", writer.as_raw_fd())).ok()?;
    Some((reader, writer))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::oci::rootfs;
    use std::os::unix::fs::symlink;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn creates_and_removes_the_links_of_one_container() {
        let directory = tempfile::tempdir().unwrap();
        let code = ContainerCode::in_cache(directory.path(), "default", "c1");
        assert_ne!(
            code.links,
            ContainerCode::in_cache(directory.path(), "default", "c2").links
        );
        code.remove().unwrap();
        code.create_links().unwrap();
        fs::write(code.links.join("left"), "").unwrap();
        // As left by an earlier container of this name.
        code.create_links().unwrap();
        assert_eq!(fs::read_dir(&code.links).unwrap().count(), 0);
        assert_eq!(mode(&code.links) & 0o022, 0);
        code.remove().unwrap();
        assert!(!code.links.exists());
    }

    #[test]
    fn closes_the_links_to_users_of_the_host() {
        let directory = tempfile::tempdir().unwrap();
        let all = directory.path().join("containers");
        // As an earlier version created it.
        fs::create_dir(&all).unwrap();
        fs::set_permissions(&all, fs::Permissions::from_mode(0o755)).unwrap();
        ContainerCode::in_cache(directory.path(), "default", "c1")
            .create_links()
            .unwrap();
        assert_eq!(mode(&all), 0o700);
    }

    #[test]
    fn removes_links_of_other_boots_bit_by_bit() {
        let directory = tempfile::tempdir().unwrap();
        let (ours, other) = ("ours", "other");
        let code = |id: &str| ContainerCode::in_cache(directory.path(), "default", id);
        code(ours).create_links().unwrap();
        code(other).create_links().unwrap();
        let all = directory.path().join("containers");
        for number in 0..MAX_STALE + 1 {
            let stale = all.join("before/k8s.io").join(number.to_string());
            fs::create_dir_all(&stale).unwrap();
            fs::write(stale.join("x.code"), "").unwrap();
        }
        // Of a version without boot IDs in the path.
        let old = all.join("default/c3");
        fs::create_dir_all(&old).unwrap();
        code(ours).remove().unwrap();
        assert!(all.join("before").exists() || old.exists());
        code(ours).remove().unwrap();
        assert!(!all.join("before").exists() && !old.exists());
        assert!(code(other).links.exists() && !code(ours).links.exists());
    }

    #[test]
    fn compiles_the_directory_that_was_opened() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("project")).unwrap();
        fs::write(at("project/ours"), "").unwrap();
        fs::create_dir(at("secret")).unwrap();
        fs::write(at("secret/theirs"), "").unwrap();
        let found = rootfs::open_in_root(directory.path(), Path::new("/project"));
        let project = ProjectDirectory {
            directory: found.unwrap().unwrap(),
            is_root: false,
            file: Some("-a b.wasm".into()),
        };
        // A process that writes the volume replaces the path.
        fs::rename(at("project"), at("gone")).unwrap();
        symlink("secret", at("project")).unwrap();
        let server = at("server");
        let script = format!(
            "#!/bin/sh\nfor word do case $word in --file=*) file=$word ;; esac; directory=$word; \
             done\n{{ ls $directory/; echo \"$file\"; }} >{}\n",
            at("seen").display()
        );
        fs::write(&server, script).unwrap();
        fs::set_permissions(&server, fs::Permissions::from_mode(0o755)).unwrap();
        let code = ContainerCode::in_cache(directory.path(), "default", "c1");
        let compiler = ContainerCompiler::plan(code, &server, project, None).unwrap();
        for later in [false, true] {
            assert!(compiler.command(later).unwrap().status().unwrap().success());
        }
        let seen = fs::read_to_string(at("seen")).unwrap();
        assert_eq!(seen, "ours\n--file=-a b.wasm\n");
    }

    #[test]
    fn holds_the_lock_during_the_compilation() {
        let directory = tempfile::tempdir().unwrap();
        let code = ContainerCode::in_cache(directory.path(), "default", "c1");
        code.create_links().unwrap();
        let lock = code.lock().unwrap();
        let path = code.links.join(LOCK_FILE);
        // The container's user may read the file only.
        assert_eq!(mode(&path) & 0o022, 0);
        assert_eq!(mode(&path) & 0o444, 0o444);
        let seen = File::open(&path).unwrap();
        let shared = || rustix::fs::flock(&seen, FlockOperation::NonBlockingLockShared);
        assert_eq!(shared(), Err(rustix::io::Errno::WOULDBLOCK));
        drop(lock);
        assert_eq!(shared(), Ok(()));
    }

    #[test]
    fn reports_a_cache_that_cannot_be_created() {
        let code = ContainerCode::in_cache(Path::new("/proc/self/no"), "default", "c1");
        assert!(code.create_links().is_err());
    }
}
