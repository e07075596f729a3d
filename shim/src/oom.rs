//! Notice of a container that ran out of memory: the kernel ended one of its processes.

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;

use crate::cgroup::Cgroup;
use crate::error::{Error, OnPath, Result};

/// Waits for the container to run out of memory.
#[derive(Debug)]
pub(crate) struct Watch {
    source: Source,
    counter: Counter,
    told: u64,
}

/// Where the kernel counts processes that it ended.
#[derive(Debug)]
struct Counter(PathBuf);

impl Counter {
    fn read(&self) -> Option<u64> {
        let text = fs::read_to_string(&self.0).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line?.trim().parse().ok()
    }
}

#[derive(Debug)]
enum Source {
    /// Version 1: a counter that the kernel raises. The file is what it is raised for, and stays open.
    Eventfd(AsyncFd<OwnedFd>, #[allow(dead_code)] fs::File),
    /// Version 2: notice of changes of a file.
    Inotify(AsyncFd<OwnedFd>),
}

impl Watch {
    /// Starts watching.
    ///
    /// # Errors
    /// The container has no memory controller, or the kernel refuses.
    pub(crate) fn new(cgroup: &Cgroup) -> Result<Self> {
        let set_up = |error: rustix::io::Errno| Error::io("watch the container's memory", error);
        let register = |fd: OwnedFd| {
            // SAFETY: an owned descriptor is open as long as it lives, and the same.
            unsafe { AsyncFd::register(fd) }
                .map_err(|error| Error::io("watch the container's memory", error))
        };
        let (source, counter) = match cgroup {
            Cgroup::V2(folder) => {
                let file = folder.join("memory.events");
                let fd =
                    inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
                        .map_err(set_up)?;
                inotify::add_watch(&fd, &file, inotify::WatchFlags::MODIFY).on("watch", &file)?;
                (Source::Inotify(register(fd)?), file)
            }
            Cgroup::V1(_) => {
                let folder = cgroup
                    .controller("memory")
                    .ok_or_else(|| Error::NotFound("there is no memory controller".to_owned()))?;
                let (fd, control) = eventfd_of(folder)?;
                (
                    Source::Eventfd(register(fd)?, control),
                    folder.join("memory.oom_control"),
                )
            }
        };
        let counter = Counter(counter);
        let told = counter.read().unwrap_or(0);
        Ok(Self {
            source,
            counter,
            told,
        })
    }

    /// Waits for the next time. `None`: the container is gone.
    pub(crate) async fn next(&mut self) -> Option<()> {
        loop {
            self.changed().await?;
            match (&self.source, self.counter.read()) {
                (_, None) => return None,
                // The kernel gives notice before it counts.
                (Source::Eventfd(..), Some(count)) => {
                    self.told = count.max(self.told + 1);
                    return Some(());
                }
                (Source::Inotify(_), Some(count)) if count > self.told => {
                    self.told = count;
                    return Some(());
                }
                (Source::Inotify(_), Some(_)) => {}
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

    async fn changed(&self) -> Option<()> {
        let fd = match &self.source {
            Source::Eventfd(fd, _) | Source::Inotify(fd) => fd,
        };
        loop {
            let mut ready = fd.readable().await.ok()?;
            let mut buffer = [MaybeUninit::uninit(); 1024];
            let read =
                ready.try_io(|fd| Ok(rustix::io::read(fd.as_fd(), &mut buffer[..])?.0.len()));
            match read {
                Ok(Ok(_)) => return Some(()),
                Ok(Err(error)) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Ok(Err(_)) => return None,
                Err(_not_ready) => {}
            }
        }
    }
}

/// A counter that the kernel raises when the group of `folder` is out of memory.
fn eventfd_of(folder: &Path) -> Result<(OwnedFd, fs::File)> {
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|error| Error::io("make an eventfd", error))?;
    let path = folder.join("memory.oom_control");
    let control = fs::File::open(&path).on("open", &path)?;
    let path = folder.join("cgroup.event_control");
    let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
    fs::write(&path, line).on("write", &path)?;
    Ok((event, control))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_raised_count_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let events = folder.path().join("memory.events");
        fs::write(&events, "low 0\noom 0\noom_kill 0\n").unwrap();
        let mut watch = Watch::new(&Cgroup::V2(folder.path().into())).unwrap();
        assert!(!watch.happened());
        fs::write(&events, "low 3\noom 0\noom_kill 0\n").unwrap();
        fs::write(&events, "low 3\noom 1\noom_kill 1\n").unwrap();
        assert_eq!(watch.next().await, Some(()));
        assert!(!watch.happened());
        fs::write(&events, "low 3\noom 2\noom_kill 2\n").unwrap();
        assert!(watch.happened());
    }

    #[tokio::test]
    async fn a_container_without_a_memory_controller_is_told() {
        assert!(Watch::new(&Cgroup::V1(Vec::new())).is_err());
    }
}
