//! Loads the project again when its files change: `wws --watch`, `[server] watch`.
//!
//! inotify reports changes in each directory of the project. When there has been none for a moment,
//! the directories are found anew, so that files of new ones are not missed, and then the project
//! is loaded.

use std::{
    ffi::OsStr,
    io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use wws_project::{WatchOptions, is_watched, watched_directories};

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
pub(crate) struct Watch {
    inotify: Arc<AsyncFd<OwnedFd>>,
    project: Arc<WatchedProject>,
}

/// Where a project is found.
struct WatchedProject {
    /// The project: a directory, or a file in one.
    path: PathBuf,
    /// What of it is watched now.
    options: Box<dyn Fn() -> WatchOptions + Send + Sync>,
}

impl Watch {
    /// Watches a project, of which `options` says what is watched. Needs a runtime; blocks the
    /// thread.
    ///
    /// # Errors
    /// The user has too many instances of inotify.
    pub(crate) fn start(
        path: &Path,
        options: impl Fn() -> WatchOptions + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        // SAFETY: an `OwnedFd` is one descriptor, which stays open until the `AsyncFd` drops it.
        let inotify = unsafe { AsyncFd::register(inotify) }?;
        let watch = Self {
            inotify: Arc::new(inotify),
            project: Arc::new(WatchedProject {
                path: path.to_owned(),
                options: Box::new(options),
            }),
        };
        watch.project.add(watch.inotify.get_ref());
        Ok(watch)
    }

    /// Asks for the project to be loaded after each change, until the future is dropped.
    pub(crate) async fn run(self, reload: Arc<Notify>) {
        loop {
            if let Err(error) = self.settled().await {
                tracing::warn!("changes of files are no longer noticed: {error}");
                return;
            }
            let (inotify, project) = (self.inotify.clone(), self.project.clone());
            let found = tokio::task::spawn_blocking(move || project.add(inotify.get_ref())).await;
            if found.is_err() {
                return;
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
            let read = ready.try_io(|inotify| read(inotify.get_ref()));
            match read {
                Ok(matters) => return matters,
                // There was nothing to read.
                Err(_) => continue,
            }
        }
    }
}

/// Reads the events that are ready. Returns whether one of them matters.
fn read(inotify: &OwnedFd) -> io::Result<bool> {
    let mut buffer = [MaybeUninit::uninit(); EVENTS];
    let mut events = Reader::new(inotify, &mut buffer);
    let mut matters = false;
    let mut has_read = false;
    loop {
        match events.next() {
            Ok(event) => {
                has_read = true;
                let name = event.file_name();
                let of_file =
                    name.is_none_or(|name| is_watched(OsStr::from_bytes(name.to_bytes())));
                // The kernel has removed a watch: its directory is gone, which was reported.
                matters |= of_file && event.events() != ReadFlags::IGNORED;
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

impl WatchedProject {
    /// Watches all directories; those that are watched already stay.
    fn add(&self, inotify: &OwnedFd) {
        let root = match self.path.is_file() {
            true => self.path.parent().unwrap_or(Path::new("")).to_owned(),
            false => self.path.clone(),
        };
        let root = root.canonicalize().unwrap_or(root);
        let options = WatchOptions {
            max: MAX_DIRECTORIES,
            ..(self.options)()
        };
        let found = watched_directories(&root, &options);
        if found.is_cut {
            tracing::warn!(
                "the project has more than {MAX_DIRECTORIES} directories: changes in the others \
                 are not noticed; let `server.ignore` leave some out"
            );
        }
        for directory in &found.directories {
            match inotify::add_watch(inotify, root.join(directory), CHANGES) {
                Ok(_) => {}
                Err(rustix::io::Errno::NOSPC) => {
                    tracing::warn!(
                        "this user may watch no more directories (fs.inotify.max_user_watches): \
                         changes in some are not noticed"
                    );
                    return;
                }
                // It was removed meanwhile, or this user may not read it.
                Err(error) => tracing::debug!("{}: {error}", directory.display()),
            }
        }
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
        let watch = Watch::start(project.path(), move || options.clone()).unwrap();
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
