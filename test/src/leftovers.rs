//! What a container left behind when it is gone.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::mark::Mark;
use crate::wait;

/// Where shims keep their sockets, whatever containerd's own directories are.
const SOCKETS: &str = "/run/containerd/s";

/// How long the last things may take to go after containerd said that the container is gone.
const LIMIT: Duration = Duration::from_secs(30);

/// What there was before.
#[derive(Clone, Debug)]
pub struct Before {
    sockets: BTreeSet<PathBuf>,
    devices: BTreeSet<PathBuf>,
}

impl Before {
    /// Takes down what is there now.
    #[must_use]
    pub fn now() -> Self {
        Self {
            sockets: listed(SOCKETS),
            devices: listed("/sys/class/net"),
        }
    }
}

/// Things that should be gone.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// Processes: shims, containers, runtimes.
    pub processes: Vec<String>,
    /// Mount points.
    pub mounts: Vec<PathBuf>,
    /// Cgroups.
    pub groups: Vec<PathBuf>,
    /// Bundles, runtime state, sockets.
    pub files: Vec<PathBuf>,
    /// Network devices.
    pub devices: Vec<PathBuf>,
}

impl Leftovers {
    /// Finds what carries `mark` (but for processes that `expected` accepts by their command line)
    /// or is new since `before`.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn find(mark: &Mark, before: &Before, expected: impl Fn(&str) -> bool) -> Result<Self> {
        let processes = mark
            .processes()?
            .into_iter()
            .map(|(_, command)| command)
            .filter(|command| !expected(command))
            .collect();
        let mut files = mark.files();
        // A socket that somebody listens on is another containerd's: our own shims are among the
        // processes.
        let listening = fs::read_to_string("/proc/net/unix")?;
        files.extend(
            listed(SOCKETS)
                .difference(&before.sockets)
                // By itself, or by a link.
                .filter(|path| {
                    let to = fs::read_link(path);
                    let socket = to.as_deref().unwrap_or(path);
                    !socket.to_str().is_some_and(|path| listening.contains(path))
                })
                .cloned(),
        );
        let devices = listed("/sys/class/net")
            .difference(&before.devices)
            .cloned()
            .collect();
        Ok(Self {
            processes,
            mounts: mark.mounts()?,
            groups: mark.groups(),
            files,
            devices,
        })
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
            && self.mounts.is_empty()
            && self.groups.is_empty()
            && self.files.is_empty()
            && self.devices.is_empty()
    }

    /// Waits until there is nothing.
    ///
    /// # Errors
    /// What is still there after a few seconds.
    pub fn expect_none(
        mark: &Mark,
        before: &Before,
        expected: impl Fn(&str) -> bool,
    ) -> Result<()> {
        let mut last = Self::default();
        let gone = wait::until("nothing left behind", LIMIT, || {
            last = Self::find(mark, before, &expected)?;
            Ok(last.is_empty().then_some(()))
        });
        if gone.is_err() {
            bail!("left behind:\n{last}");
        }
        Ok(())
    }
}

impl fmt::Display for Leftovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for process in &self.processes {
            writeln!(f, "  process {process}")?;
        }
        for (kind, paths) in [
            ("mount", &self.mounts),
            ("cgroup", &self.groups),
            ("file", &self.files),
            ("network device", &self.devices),
        ] {
            for path in paths {
                writeln!(f, "  {kind} {}", path.display())?;
            }
        }
        Ok(())
    }
}

fn listed(directory: &str) -> BTreeSet<PathBuf> {
    fs::read_dir(Path::new(directory))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}
