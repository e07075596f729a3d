//! Loads the project again when its files change: `wws --watch`, `[server] watch`.
//!
//! inotify reports changes in each directory of the project. When there has been none for a moment,
//! the directories are found anew, so that files of new ones are not missed, and then the project
//! is loaded. Watching begins before the project is loaded for the first time, so that no change is
//! missed between the two.

use std::{
    collections::HashSet,
    ffi::OsStr,
    io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use wws_project::{WatchOptions, directory_and_file, is_watched, watched_directories};

/// The most directories that are watched.
const MAX_DIRECTORIES: usize = 4096;

/// The project is loaded when there has been no change for this long, and at the latest this long
/// after the first change.
const QUIET: Duration = Duration::from_millis(100);
const LATEST: Duration = Duration::from_secs(2);

/// Bytes of events that are read at once.
const EVENTS: usize = 4096;

/// What is reported: changes that are complete, and changes of the directories themselves.
const CHANGES: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::EXCL_UNLINK);

/// The directories of a project that are watched.
#[derive(Clone)]
pub(crate) struct Watch {
    inotify: Arc<AsyncFd<OwnedFd>>,
    project: Arc<WatchedProject>,
}

/// Where a project is found.
struct WatchedProject {
    /// The project: a directory, or a file in one.
    path: PathBuf,
    watched: Mutex<Watched>,
}

/// What of a project is watched now.
struct Watched {
    options: Box<dyn Fn() -> WatchOptions + Send>,
    /// The kernel's numbers of the directories.
    directories: HashSet<i32>,
}

impl Watch {
    /// Watches a project that is not loaded yet, of which `options` says what is watched. Needs a
    /// runtime; blocks the thread.
    ///
    /// # Errors
    /// The user has too many instances of inotify.
    pub(crate) fn start(path: &Path, options: WatchOptions) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        // SAFETY: an `OwnedFd` is one descriptor, which stays open until the `AsyncFd` drops it.
        let inotify = unsafe { AsyncFd::register(inotify) }?;
        let watch = Self {
            inotify: Arc::new(inotify),
            project: Arc::new(WatchedProject {
                path: path.to_owned(),
                watched: Mutex::new(Watched {
                    options: Box::new(move || options.clone()),
                    directories: HashSet::new(),
                }),
            }),
        };
        watch.project.find(watch.inotify.get_ref());
        Ok(watch)
    }

    /// Watches what the loaded project says, from now on. Blocks the thread.
    pub(crate) fn follow(&self, options: impl Fn() -> WatchOptions + Send + 'static) {
        self.project.lock().options = Box::new(options);
        self.project.find(self.inotify.get_ref()).warn();
    }

    /// Asks for the project to be loaded after each change, until the future is dropped.
    pub(crate) async fn run(self, reload: Arc<Notify>) {
        loop {
            if let Err(error) = self.settled().await {
                tracing::warn!("changes of files are no longer noticed: {error}");
                return;
            }
            let (inotify, project) = (self.inotify.clone(), self.project.clone());
            let find = move || project.find(inotify.get_ref());
            match tokio::task::spawn_blocking(find).await {
                Ok(found) => found.warn(),
                Err(_) => return,
            }
            reload.notify_one();
        }
    }

    /// Waits until something has changed, and nothing more does.
    async fn settled(&self) -> io::Result<()> {
        while !self.changes().await? {}
        let latest = Instant::now() + LATEST;
        let mut quiet = Instant::now() + QUIET;
        while let Ok(changed) = timeout_at(quiet.min(latest), self.changes()).await {
            if changed? {
                quiet = Instant::now() + QUIET;
            }
        }
        Ok(())
    }

    /// Waits for events. Returns whether one of them matters.
    async fn changes(&self) -> io::Result<bool> {
        loop {
            let mut ready = self.inotify.readable().await?;
            let read = ready.try_io(|inotify| self.project.read(inotify.get_ref()));
            match read {
                Ok(matters) => return matters,
                // There was nothing to read.
                Err(_) => continue,
            }
        }
    }
}

/// Directories that cannot be watched.
#[derive(Default)]
struct Unwatched {
    /// There are more than [`MAX_DIRECTORIES`].
    has_too_many: bool,
    /// There are more than this user may watch.
    over_limit_of_user: bool,
}

impl Unwatched {
    fn warn(&self) {
        if self.has_too_many {
            tracing::warn!(
                "the project has more than {MAX_DIRECTORIES} directories: changes in the others \
                 are not noticed; let `server.ignore` leave some out"
            );
        }
        if self.over_limit_of_user {
            tracing::warn!(
                "this user may watch no more directories (fs.inotify.max_user_watches): changes \
                 in some are not noticed"
            );
        }
    }
}

impl WatchedProject {
    fn lock(&self) -> MutexGuard<'_, Watched> {
        // It is whole between any two statements that change it.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the events that are ready. Returns whether one of them matters.
    fn read(&self, inotify: &OwnedFd) -> io::Result<bool> {
        let mut watched = self.lock();
        let mut buffer = [MaybeUninit::uninit(); EVENTS];
        let mut events = Reader::new(inotify, &mut buffer);
        let mut matters = false;
        let mut has_read = false;
        loop {
            match events.next() {
                Ok(event) => {
                    has_read = true;
                    if event.events().contains(ReadFlags::IGNORED) {
                        // The directory is gone, which was reported, or is watched no more.
                        watched.directories.remove(&event.wd());
                    } else {
                        let name = event.file_name();
                        let of_file =
                            name.is_none_or(|name| is_watched(OsStr::from_bytes(name.to_bytes())));
                        let is_lost = event.events().contains(ReadFlags::QUEUE_OVERFLOW);
                        let of_directory = watched.directories.contains(&event.wd());
                        matters |= is_lost || (of_directory && of_file);
                    }
                    // The rest is read the next time.
                    if events.is_buffer_empty() {
                        return Ok(matters);
                    }
                }
                Err(rustix::io::Errno::AGAIN) if has_read => return Ok(matters),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Watches all directories, and no others; those that are watched already stay.
    fn find(&self, inotify: &OwnedFd) -> Unwatched {
        let (root, _) = directory_and_file(&self.path);
        let root = root.canonicalize().unwrap_or(root.to_owned());
        let mut watched = self.lock();
        let options = WatchOptions {
            max: MAX_DIRECTORIES,
            ..(watched.options)()
        };
        let found = watched_directories(&root, &options);
        let mut unwatched = Unwatched {
            has_too_many: found.is_cut,
            ..Unwatched::default()
        };
        let mut directories = HashSet::with_capacity(found.directories.len());
        for directory in &found.directories {
            match inotify::add_watch(inotify, root.join(directory), CHANGES) {
                Ok(number) => drop(directories.insert(number)),
                Err(rustix::io::Errno::NOSPC) => {
                    unwatched.over_limit_of_user = true;
                    break;
                }
                // It was removed meanwhile, or this user may not read it.
                Err(error) => tracing::debug!("{}: {error}", directory.display()),
            }
        }
        if unwatched.over_limit_of_user {
            directories.extend(&watched.directories);
        }
        for number in watched.directories.difference(&directories) {
            // The kernel has removed it already if its directory is gone.
            let _ = inotify::remove_watch(inotify, *number);
        }
        watched.directories = directories;
        unwatched
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    /// Waits for the next request to load the project.
    async fn asked(reload: &Notify) {
        let limit = Duration::from_secs(30);
        tokio::time::timeout(limit, reload.notified())
            .await
            .unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn changes_are_noticed_in_old_and_new_directories() {
        let project = tempfile::tempdir().unwrap();
        let at = |path: &str| project.path().join(path);
        fs::create_dir(at("data")).unwrap();
        let options = WatchOptions {
            data: vec!["data".into()],
            ..WatchOptions::default()
        };
        let watch = Watch::start(project.path(), options).unwrap();
        let reload = Arc::new(Notify::new());
        let task = tokio::spawn(watch.run(reload.clone()));
        fs::write(at("a.js"), "1").unwrap();
        asked(&reload).await;
        fs::create_dir_all(at("new/deep")).unwrap();
        asked(&reload).await;
        fs::write(at("new/deep/b.js"), "1").unwrap();
        asked(&reload).await;
        fs::rename(at("a.js"), at("c.js")).unwrap();
        asked(&reload).await;
        fs::remove_file(at("c.js")).unwrap();
        asked(&reload).await;
        // As the kubelet exchanges the files of a ConfigMap.
        std::os::unix::fs::symlink("new", at("..tmp")).unwrap();
        fs::rename(at("..tmp"), at("..data")).unwrap();
        asked(&reload).await;
        // A change above may have been noticed in two parts.
        while tokio::time::timeout(QUIET * 5, reload.notified())
            .await
            .is_ok()
        {}
        // What workers store and what editors keep does not matter; the file after it does.
        fs::write(at("data/stored"), "1").unwrap();
        fs::write(at(".c.js.swp"), "1").unwrap();
        let quiet = tokio::time::timeout(QUIET * 5, reload.notified()).await;
        assert!(quiet.is_err(), "nothing that matters has changed");
        fs::write(at(".wws.toml"), "").unwrap();
        asked(&reload).await;
        task.abort();
    }
}
