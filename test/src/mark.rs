//! The mark of one private containerd, and all that carries it on this machine.
//!
//! The same word names its directory and its namespace, so it shows in the command line, the
//! cgroup, the mount point or the path of everything that belongs to it. Whatever does not
//! carry it belongs to somebody else and is never touched.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::{docker, groups, wait};

const PREFIX: &str = "wws-test";

/// The name of containerd's configuration in a mark's directory.
pub const CONFIG: &str = "config.toml";

/// The name of containerd's socket in a mark's directory.
pub const SOCKET: &str = "c.sock";

/// The namespace of the Kubernetes interface, whatever the mark.
const PODS: &str = "k8s.io";

/// How deep paths below the cgroups' and run directories are looked at.
const MAX_DEPTH: usize = 8;

/// The longest wait for killed processes to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Directories in which runtimes leave files by namespace.
const RUN_DIRECTORIES: [&str; 3] = ["/run/containerd", "/run/runc", "/run/wws"];

/// A word that nothing else on this machine contains.
#[derive(Clone, Debug)]
pub struct Mark(String);

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Mark {
    /// A new mark, and its new directory.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn new() -> Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let mark = Self(format!(
            "{PREFIX}-{}-{}",
            process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        ));
        // Left by a process that had this one's number.
        mark.clear()?;
        fs::create_dir(mark.directory())
            .with_context(|| format!("make {}", mark.directory().display()))?;
        Ok(mark)
    }

    /// The marks that processes left which ended before they could clear up.
    ///
    /// # Errors
    /// The directory of temporary files cannot be read.
    pub fn abandoned() -> Result<Vec<Self>> {
        let mut marks = Vec::new();
        for entry in fs::read_dir(std::env::temp_dir())? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let owner = name
                .strip_prefix(PREFIX)
                .and_then(|rest| rest.strip_prefix('-'))
                .and_then(|rest| rest.split('-').next());
            if owner.is_some_and(|pid| {
                pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()
            }) {
                marks.push(Self(name));
            }
        }
        Ok(marks)
    }

    /// The directory of that name. Short, because a socket's path has 107 bytes.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        std::env::temp_dir().join(&self.0)
    }

    /// Where cgroups of containers go: the directory of the mark's name, or the slice after
    /// `prefix` and it where systemd makes them.
    #[must_use]
    pub fn group(&self, prefix: &str) -> String {
        if groups::by_systemd() {
            format!("{prefix}{}.slice", self.0)
        } else {
            format!("/{}", self.0)
        }
    }

    /// Processes that belong to the mark, with their command lines.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn processes(&self) -> Result<Vec<(Pid, String)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let pid = name
                .to_str()
                .and_then(|name| name.parse().ok())
                .and_then(Pid::from_raw);
            if let Some(pid) = pid
                && let Some(command) = self.process(pid)
            {
                found.push((pid, command));
            }
        }
        Ok(found)
    }

    /// The command line of `pid`, if that process belongs to the mark: it is in a cgroup of
    /// the namespace, or an argument names the namespace (as those of shims, clients and runtimes
    /// do), containerd's configuration or its socket. Somebody who only looks at a log is left
    /// alone.
    fn process(&self, pid: Pid) -> Option<String> {
        let read = |file: &str| {
            let bytes = fs::read(format!("/proc/{}/{file}", pid.as_raw_nonzero())).ok()?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        };
        let command = read("cmdline")?;
        let named = |argument: &str| {
            let path = Path::new(argument);
            path.file_name() == Some(self.0.as_ref())
                || path.parent() == Some(&self.directory())
                    && [CONFIG, SOCKET, docker::CONFIG]
                        .iter()
                        .any(|config| path.ends_with(config))
        };
        let ours = command.split('\0').any(named)
            || read("cgroup").is_some_and(|groups| self.is_in(&groups));
        ours.then(|| format!("{} {}", pid.as_raw_nonzero(), command.replace('\0', " ")))
    }

    /// Mount points that carry the mark, innermost last.
    ///
    /// # Errors
    /// The table of mounts cannot be read.
    pub fn mounts(&self) -> Result<Vec<PathBuf>> {
        let table = fs::read_to_string("/proc/self/mountinfo")?;
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        Ok(points
            .filter(|point| self.is_in(point))
            .map(PathBuf::from)
            .collect())
    }

    /// Cgroups of containers. The namespace's own is left by every runtime, and a slice by
    /// systemd.
    #[must_use]
    pub fn groups(&self) -> Vec<PathBuf> {
        let mut groups = self.contents(&self.named_below(groups::TOP));
        groups.retain(|path| path.is_dir());
        groups
    }

    /// Files and directories of containers, of those that runtimes keep by namespace. The
    /// namespace's own directories are left by every runtime.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let mut directories: Vec<_> = RUN_DIRECTORIES
            .iter()
            .flat_map(|directory| self.named_below(directory))
            .collect();
        for kind in ["root", "state"] {
            directories.push(
                self.directory()
                    .join(kind)
                    .join("io.containerd.runtime.v2.task")
                    .join(&self.0),
            );
        }
        let mut files = self.contents(&directories);
        // Links to compiled code, by the machine's run.
        for run in entries(&self.directory().join("store/containers")) {
            for namespace in [&self.0, PODS] {
                files.extend(entries(&run.join(namespace)));
            }
        }
        for tasks in [
            "root/io.containerd.runtime.v2.task",
            "state/io.containerd.runtime.v2.task",
            "runc",
        ] {
            files.extend(entries(&self.directory().join(tasks).join(PODS)));
        }
        files
    }

    /// The contents of each of `directories` that is a slice or is named after the namespace; any
    /// other directory itself.
    fn contents(&self, directories: &[PathBuf]) -> Vec<PathBuf> {
        let mut contents = Vec::new();
        for directory in directories {
            if directory.file_name() == Some(self.0.as_ref()) || is_slice(directory) {
                contents.extend(entries(directory));
            } else {
                contents.push(directory.clone());
            }
        }
        contents
    }

    /// Ends, unmounts and removes everything that carries the mark.
    ///
    /// # Errors
    /// Something resists. Files below a mount that cannot be undone are not removed.
    pub fn clear(&self) -> Result<()> {
        wait::until("all processes of a test killed", KILL_LIMIT, || {
            let processes = self.processes()?;
            for (pid, _) in &processes {
                self.kill(*pid);
            }
            Ok(processes.is_empty().then_some(()))
        })?;
        for point in self.mounts()?.iter().rev() {
            unmount(point.as_path(), UnmountFlags::DETACH)
                .with_context(|| format!("unmount {}", point.display()))?;
        }
        if !self.mounts()?.is_empty() {
            bail!("still mounted: {:?}", self.mounts()?);
        }
        for group in self.named_below(groups::TOP) {
            if is_slice(&group) {
                groups::stop_slice(&group)?;
            }
            remove_group(&group, 0).with_context(|| format!("remove {}", group.display()))?;
        }
        for directory in RUN_DIRECTORIES
            .iter()
            .flat_map(|directory| self.named_below(directory))
        {
            absent(fs::remove_dir_all(&directory))
                .with_context(|| format!("remove {}", directory.display()))?;
        }
        absent(fs::remove_dir_all(self.directory()))
            .with_context(|| format!("remove {}", self.directory().display()))
    }

    fn kill(&self, pid: Pid) {
        // The number may have gone to another process meanwhile: look again once the descriptor
        // holds it.
        if let Ok(fd) = pidfd_open(pid, PidfdFlags::empty())
            && self.process(pid).is_some()
        {
            // It may have ended by itself.
            let _ = pidfd_send_signal(&fd, Signal::KILL);
        }
    }

    /// Directories below `top` that have the mark in their name.
    fn named_below(&self, top: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![(PathBuf::from(top), 0)];
        while let Some((directory, depth)) = open.pop() {
            if !directory.symlink_metadata().is_ok_and(|data| data.is_dir()) {
                continue;
            }
            if directory
                .file_name()
                .is_some_and(|name| self.is_in(&name.to_string_lossy()))
            {
                found.push(directory);
            } else if depth < MAX_DEPTH {
                open.extend(
                    entries(&directory)
                        .into_iter()
                        .map(|entry| (entry, depth + 1)),
                );
            }
        }
        found
    }

    /// Whether `text` has the mark as a whole: `wws-test-1-2` is not in `wws-test-1-20`.
    fn is_in(&self, text: &str) -> bool {
        text.match_indices(&self.0).any(|(at, found)| {
            !text[at + found.len()..].starts_with(|next: char| next.is_ascii_digit())
        })
    }
}

fn is_slice(group: &Path) -> bool {
    group.extension().is_some_and(|kind| kind == "slice")
}

/// Removes a cgroup and those below it. Its files go with it.
fn remove_group(group: &Path, depth: usize) -> std::io::Result<()> {
    if depth < MAX_DEPTH {
        for below in entries(group).iter().filter(|path| path.is_dir()) {
            remove_group(below, depth + 1)?;
        }
    }
    absent(fs::remove_dir(group))
}

/// The paths in `directory`; none, if it cannot be read: things vanish while they are looked at.
fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}

/// That something to be removed is not there is as good.
fn absent(result: std::io::Result<()>) -> std::io::Result<()> {
    result.or_else(|error| {
        if error.kind() == ErrorKind::NotFound {
            Ok(())
        } else {
            Err(error)
        }
    })
}
