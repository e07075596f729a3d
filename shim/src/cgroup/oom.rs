//! Notice of a container that ran out of memory: the kernel ended one of its processes.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::event::{EventfdFlags, eventfd};
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};

use crate::cgroup::Cgroup;
use crate::error::{Error, OnPath, Result};
use crate::sys::log;

/// The most that is read of a file with counts, in bytes.
const MAX_COUNTS: usize = 4096;

/// What the kernel calls processes that it ended for want of memory.
const KILLED: &str = "oom_kill ";

/// Waits for the container to run out of memory.
#[derive(Debug)]
pub(crate) struct Watch {
    /// Without one, only the count is left to be looked at.
    notice: Option<Notice>,
    counter: Counter,
    told: u64,
}

/// Where the kernel counts.
#[derive(Debug)]
struct Counter {
    file: File,
    name: &'static str,
}

impl Counter {
    fn open(path: &Path, name: &'static str) -> Result<Self> {
        let file = File::open(path).on("open", path)?;
        Ok(Self { file, name })
    }

    /// `None`: the group is gone.
    fn read(&self) -> Option<u64> {
        let mut bytes = [0; MAX_COUNTS];
        let length = self.file.read_at(&mut bytes, 0).ok()?;
        let text = String::from_utf8_lossy(&bytes[..length]);
        let line = text.lines().find_map(|line| line.strip_prefix(self.name));
        line?.trim().parse().ok()
    }
}

#[derive(Debug)]
enum Notice {
    /// Version 1: a counter that the kernel raises.
    Raised(AsyncFd<OwnedFd>),
    /// Version 2: a change makes the file of counts itself ready. It takes no inotify, of which a user has only 128.
    Changed(AsyncFd<OwnedFd>),
}

impl Watch {
    /// Starts watching. Where the kernel gives no notice, the count remains.
    ///
    /// # Errors
    /// The container has no memory controller.
    pub(crate) fn new(cgroup: &Cgroup) -> Result<Self> {
        match cgroup {
            Cgroup::V2(folder) => Self::of_file(&folder.join("memory.events"), KILLED),
            Cgroup::V1(_) => {
                let folder = cgroup
                    .controller("memory")
                    .ok_or_else(|| Error::NotFound("there is no memory controller".to_owned()))?;
                let counter = Counter::open(&folder.join("memory.oom_control"), KILLED)?;
                let notice = raised(folder, &counter.file);
                Ok(Self::with(notice.map(Notice::Raised), counter))
            }
        }
    }

    fn of_file(path: &Path, name: &'static str) -> Result<Self> {
        let counter = Counter::open(path, name)?;
        let copy = counter.file.try_clone().map(OwnedFd::from);
        let notice = copy.and_then(|fd| register(fd, Interest::PRIORITY));
        let notice = notice.on("watch", path).map(Notice::Changed);
        Ok(Self::with(notice, counter))
    }

    fn with(notice: Result<Notice>, counter: Counter) -> Self {
        let notice = notice.inspect_err(|error| log::debug!("notice of memory: {error}"));
        let told = counter.read().unwrap_or(0);
        Self {
            notice: notice.ok(),
            counter,
            told,
        }
    }

    /// Waits for the next time. `None`: the container is gone.
    pub(crate) async fn next(&mut self) -> Option<()> {
        loop {
            let Some(notice) = &self.notice else {
                return std::future::pending().await;
            };
            notice.given().await?;
            match (notice, self.counter.read()) {
                (_, None) => return None,
                // The kernel gives notice before it counts.
                (Notice::Raised(_), Some(count)) => {
                    self.told = count.max(self.told + 1);
                    return Some(());
                }
                (Notice::Changed(_), Some(count)) if count > self.told => {
                    self.told = count;
                    return Some(());
                }
                (Notice::Changed(_), Some(_)) => {}
            }
        }
    }

    /// Whether it happened since it was last told: asked when a process ended, as notice may come late.
    pub(crate) fn happened(&mut self) -> bool {
        let count = self.counter.read().unwrap_or(0);
        let happened = count > self.told;
        self.told = self.told.max(count);
        happened
    }
}

impl Notice {
    /// Waits for one. `None`: there will be none.
    async fn given(&self) -> Option<()> {
        match self {
            Self::Raised(fd) => loop {
                let mut ready = fd.readable().await.ok()?;
                let mut count = [0; 8];
                match ready.try_io(|fd| Ok(rustix::io::read(fd.as_fd(), &mut count)?)) {
                    Ok(Ok(_)) => return Some(()),
                    Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                    Ok(Err(_)) => return None,
                    Err(_not_ready) => {}
                }
            },
            Self::Changed(fd) => {
                let mut ready = fd.ready(Interest::PRIORITY).await.ok()?;
                // Reading the counts, which follows, makes the file wait for the next change.
                ready.clear_ready_matching(Ready::PRIORITY);
                Some(())
            }
        }
    }
}

fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor is open as long as it lives, and the same.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}

/// A counter that the kernel raises when the group of `folder` is out of memory; `control` is the group's `memory.oom_control`.
fn raised(folder: &Path, control: &File) -> Result<AsyncFd<OwnedFd>> {
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|error| Error::io("make an eventfd", error))?;
    let path = folder.join("cgroup.event_control");
    let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
    fs::write(&path, line).on("write", &path)?;
    register(event, Interest::READABLE).map_err(|error| Error::io("watch an eventfd", error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::path::PathBuf;
    use std::process::Command;
    use std::time::Duration;

    /// A new control group of version 2, where we may make one.
    fn group() -> Option<PathBuf> {
        let places = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let top = places
            .into_iter()
            .find(|place| place.join("cgroup.controllers").exists())?;
        let group = top.join(format!("wws-oom-{}", std::process::id()));
        fs::create_dir(&group).ok().map(|()| group)
    }

    #[tokio::test]
    async fn a_raised_count_is_seen_at_last_where_there_is_no_notice() {
        let folder = tempfile::tempdir().unwrap();
        let events = folder.path().join("memory.events");
        fs::write(&events, "low 0\noom 0\noom_kill 0\n").unwrap();
        // No notice of changes of a file on a disk.
        let mut watch = Watch::new(&Cgroup::V2(folder.path().into())).unwrap();
        assert!(watch.notice.is_none());
        assert!(!watch.happened());
        fs::write(&events, "low 3\noom 0\noom_kill 0\n").unwrap();
        assert!(!watch.happened());
        fs::write(&events, "low 3\noom 1\noom_kill 1\n").unwrap();
        let next = tokio::time::timeout(Duration::from_millis(50), watch.next());
        assert!(next.await.is_err(), "it waits for ever");
        assert!(watch.happened());
        assert!(!watch.happened());
    }

    #[tokio::test]
    async fn the_kernel_gives_notice_of_a_change_once() {
        let Some(group) = group() else {
            eprintln!("!!! NOT TESTED: no control group of version 2 can be made here");
            return;
        };
        // Of files with counts, one that a test can change without harm: whether there are processes in the group.
        let mut watch = Watch::of_file(&group.join("cgroup.events"), "populated ").unwrap();
        let limit = Duration::from_secs(10);
        let early = tokio::time::timeout(Duration::from_millis(50), watch.next()).await;
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        fs::write(group.join("cgroup.procs"), child.id().to_string()).unwrap();
        let told = tokio::time::timeout(limit, watch.next()).await;
        let again = watch.happened();
        child.kill().unwrap();
        child.wait().unwrap();
        fs::remove_dir(&group).unwrap();
        assert!(early.is_err(), "{early:?}");
        assert_eq!((told, again), (Ok(Some(())), false));
        assert!(
            !watch.happened(),
            "of a group that is gone nothing is known"
        );
    }

    #[tokio::test]
    async fn a_container_without_a_memory_controller_is_told() {
        assert!(Watch::new(&Cgroup::V1(Vec::new())).is_err());
    }
}
