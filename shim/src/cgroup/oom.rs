//! Notifications of a container that ran out of memory: the kernel killed one of its processes.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::event::{EventfdFlags, eventfd};
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};

use crate::cgroup::Cgroup;
use crate::error::{Error, PathContext, Result};
use crate::sys::log;

/// The most that is read of a file with counts, in bytes.
const MAX_COUNTS: usize = 4096;

/// The field that counts the processes which the kernel killed for lack of memory.
const OOM_KILL_FIELD: &str = "oom_kill ";

/// Waits until the container runs out of memory.
#[derive(Debug)]
pub(crate) struct OomWatch {
    /// Without notifications, only the count is read at the end.
    notification: Option<OomNotification>,
    counter: OomCounter,
    reported: u64,
}

/// The file in which the kernel counts.
#[derive(Debug)]
struct OomCounter {
    file: File,
    name: &'static str,
}

impl OomCounter {
    fn open(path: &Path, name: &'static str) -> Result<Self> {
        let file = File::open(path).with_path("open", path)?;
        Ok(Self { file, name })
    }

    /// Returns the count; `None` if the cgroup is removed.
    fn read(&self) -> Option<u64> {
        let mut bytes = [0; MAX_COUNTS];
        let length = self.file.read_at(&mut bytes, 0).ok()?;
        let text = String::from_utf8_lossy(&bytes[..length]);
        let line = text.lines().find_map(|line| line.strip_prefix(self.name));
        line?.trim().parse().ok()
    }
}

#[derive(Debug)]
enum OomNotification {
    /// cgroup v1: an eventfd that the kernel signals.
    Raised(AsyncFd<OwnedFd>),
    /// cgroup v2: a change makes the file of counts itself ready. This takes no inotify instance,
    /// of which a user has only 128.
    Changed(AsyncFd<OwnedFd>),
}

impl OomWatch {
    /// Starts watching. If the kernel sends no notifications, the count remains.
    ///
    /// # Errors
    /// The container has no memory controller.
    pub(crate) fn new(cgroup: &Cgroup) -> Result<Self> {
        match cgroup {
            Cgroup::V2(directory) => {
                Self::of_file(&directory.join("memory.events"), OOM_KILL_FIELD)
            }
            Cgroup::V1(_) => {
                let directory = cgroup
                    .controller("memory")
                    .ok_or_else(|| Error::not_found("there is no memory controller"))?;
                let counter =
                    OomCounter::open(&directory.join("memory.oom_control"), OOM_KILL_FIELD)?;
                let notification = register_eventfd(directory, &counter.file);
                Ok(Self::with(
                    notification.map(OomNotification::Raised),
                    counter,
                ))
            }
        }
    }

    fn of_file(path: &Path, name: &'static str) -> Result<Self> {
        let counter = OomCounter::open(path, name)?;
        let copy = counter.file.try_clone().map(OwnedFd::from);
        let notification = copy.and_then(|fd| register(fd, Interest::PRIORITY));
        let notification = notification
            .with_path("watch", path)
            .map(OomNotification::Changed);
        Ok(Self::with(notification, counter))
    }

    fn with(notification: Result<OomNotification>, counter: OomCounter) -> Self {
        let notification =
            notification.inspect_err(|error| log::debug!("memory notifications: {error:#}"));
        let reported = counter.read().unwrap_or(0);
        Self {
            notification: notification.ok(),
            counter,
            reported,
        }
    }

    /// Waits for the next kill. Returns `None` if the container's cgroup is removed.
    pub(crate) async fn next(&mut self) -> Option<()> {
        loop {
            let Some(notification) = &self.notification else {
                return std::future::pending().await;
            };
            notification.received().await?;
            match (notification, self.counter.read()) {
                (_, None) => return None,
                // The kernel notifies before it counts.
                (OomNotification::Raised(_), Some(count)) => {
                    self.reported = count.max(self.reported + 1);
                    return Some(());
                }
                (OomNotification::Changed(_), Some(count)) if count > self.reported => {
                    self.reported = count;
                    return Some(());
                }
                (OomNotification::Changed(_), Some(_)) => {}
            }
        }
    }

    /// Returns whether there was a kill since the last report. This is called when a process exits,
    /// as the notification may come late.
    pub(crate) fn has_new_kill(&mut self) -> bool {
        let count = self.counter.read().unwrap_or(0);
        let happened = count > self.reported;
        self.reported = self.reported.max(count);
        happened
    }
}

impl OomNotification {
    /// Waits for a notification. Returns `None` if there will be none.
    async fn received(&self) -> Option<()> {
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
                // The counts are read next, which makes the file wait for the next change.
                ready.clear_ready_matching(Ready::PRIORITY);
                Some(())
            }
        }
    }
}

fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: `register_with_interest` requires a descriptor that stays open and the same while it
    // is registered: the `AsyncFd` owns it.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}

/// Creates an eventfd that the kernel signals when the cgroup at `directory` is out of memory;
/// `control` is the cgroup's `memory.oom_control`.
fn register_eventfd(directory: &Path, control: &File) -> Result<AsyncFd<OwnedFd>> {
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|error| Error::io("create an eventfd", error))?;
    let path = directory.join("cgroup.event_control");
    let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
    fs::write(&path, line).with_path("write", &path)?;
    register(event, Interest::READABLE).map_err(|error| Error::io("watch an eventfd", error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::path::PathBuf;
    use std::process::Command;
    use std::time::Duration;

    /// Creates a cgroup v2, if the machine allows it.
    fn group() -> Option<PathBuf> {
        let places = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let top = places
            .into_iter()
            .find(|place| place.join("cgroup.controllers").exists())?;
        let group = top.join(format!("wws-oom-{}", std::process::id()));
        fs::create_dir(&group).ok().map(|()| group)
    }

    #[tokio::test]
    async fn finds_a_kill_at_the_end_without_notifications() {
        let directory = tempfile::tempdir().unwrap();
        let events = directory.path().join("memory.events");
        fs::write(&events, "low 0\noom 0\noom_kill 0\n").unwrap();
        // There are no notifications of changes of a file on disk.
        let mut watch = OomWatch::new(&Cgroup::V2(directory.path().into())).unwrap();
        assert!(watch.notification.is_none());
        assert!(!watch.has_new_kill());
        fs::write(&events, "low 3\noom 0\noom_kill 0\n").unwrap();
        assert!(!watch.has_new_kill());
        fs::write(&events, "low 3\noom 1\noom_kill 1\n").unwrap();
        let next = tokio::time::timeout(Duration::from_millis(50), watch.next());
        assert!(next.await.is_err(), "it waits forever");
        assert!(watch.has_new_kill());
        assert!(!watch.has_new_kill());
    }

    #[tokio::test]
    async fn notifies_once_of_a_change() {
        let Some(group) = group() else {
            eprintln!("!!! NOT TESTED: no cgroup v2 can be created here");
            return;
        };
        // A file with counts that a test can change without harm: whether the cgroup has processes.
        let mut watch = OomWatch::of_file(&group.join("cgroup.events"), "populated ").unwrap();
        let limit = Duration::from_secs(10);
        let early = tokio::time::timeout(Duration::from_millis(50), watch.next()).await;
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        fs::write(group.join("cgroup.procs"), child.id().to_string()).unwrap();
        let reported = tokio::time::timeout(limit, watch.next()).await;
        let again = watch.has_new_kill();
        child.kill().unwrap();
        child.wait().unwrap();
        fs::remove_dir(&group).unwrap();
        assert!(early.is_err(), "{early:?}");
        assert_eq!((reported, again), (Ok(Some(())), false));
        assert!(!watch.has_new_kill(), "a removed cgroup has no count");
    }

    #[tokio::test]
    async fn rejects_a_container_without_a_memory_controller() {
        assert!(OomWatch::new(&Cgroup::V1(Vec::new())).is_err());
    }
}
