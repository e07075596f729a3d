//! Files that guests hold open: bounded for a call, and for all calls together.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::readdir::DirectoryPath;

/// Files that all guests together may hold open. Cheap to clone.
#[derive(Clone)]
pub(crate) struct AllFiles(Arc<Semaphore>);

impl AllFiles {
    pub(crate) fn new(count: u32) -> Self {
        Self(Arc::new(Semaphore::new(count as usize)))
    }
}

/// Why a file was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TooMany {
    /// Files of this call (`limits.open_files`).
    OfCall,
    /// Files of all calls.
    OfAll,
}

/// Files that one call holds open.
pub(crate) struct OpenFiles {
    all: AllFiles,
    limit: u32,
    open: Vec<OpenFile>,
}

struct OpenFile {
    /// The descriptor in the guest.
    fd: i32,
    /// `None`: a preopened directory that got another descriptor.
    permit: Option<OwnedSemaphorePermit>,
    /// Where it is, should it be a directory.
    path: Option<DirectoryPath>,
}

/// A place for a file that is about to be opened.
pub(crate) struct FilePlace(OwnedSemaphorePermit);

impl OpenFiles {
    pub(crate) fn new(all: AllFiles, limit: u32) -> Self {
        Self {
            all,
            limit,
            open: Vec::new(),
        }
    }

    /// A place for one more file.
    pub(crate) fn place(&self) -> Result<FilePlace, TooMany> {
        let open = self.open.iter().filter(|file| file.permit.is_some());
        if open.count() >= self.limit as usize {
            return Err(TooMany::OfCall);
        }
        let permit = self.all.0.clone().try_acquire_owned();
        permit.map(FilePlace).map_err(|_| TooMany::OfAll)
    }

    /// The file was opened.
    pub(crate) fn opened(&mut self, fd: i32, place: FilePlace, path: Option<DirectoryPath>) {
        self.closed(fd);
        self.open.push(OpenFile {
            fd,
            permit: Some(place.0),
            path,
        });
    }

    /// What is known of where a descriptor's file is, which need not be a directory. `None`: it was not opened since the start.
    pub(crate) fn path(&self, fd: i32) -> Option<Option<&DirectoryPath>> {
        let file = self.open.iter().find(|file| file.fd == fd)?;
        Some(file.path.as_ref())
    }

    /// A descriptor was closed. Those of preopened directories are not counted.
    pub(crate) fn closed(&mut self, fd: i32) {
        self.open.retain(|file| file.fd != fd);
    }

    /// The descriptor `from` became `to`, in place of what that was; `path` is where it is.
    pub(crate) fn renumbered(&mut self, from: i32, to: i32, path: Option<DirectoryPath>) {
        if from == to {
            return;
        }
        self.closed(to);
        match self.open.iter_mut().find(|file| file.fd == from) {
            Some(file) => file.fd = to,
            None => self.open.push(OpenFile {
                fd: to,
                permit: None,
                path,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_call_opens_no_more_than_its_limit_and_all_calls_no_more_than_theirs() {
        let all = AllFiles::new(3);
        let mut first = OpenFiles::new(all.clone(), 2);
        for fd in [4, 5] {
            let place = first.place().unwrap();
            first.opened(fd, place, None);
        }
        assert_eq!(first.place().err(), Some(TooMany::OfCall));
        let mut second = OpenFiles::new(all, 2);
        let place = second.place().unwrap();
        second.opened(4, place, None);
        assert_eq!(second.place().err(), Some(TooMany::OfAll));
        first.closed(3);
        assert_eq!(second.place().err(), Some(TooMany::OfAll), "a preopen");
        first.closed(4);
        assert!(second.place().is_ok());
        first.renumbered(5, 9, None);
        first.closed(5);
        assert!(first.place().is_ok());
        drop(second);
        let _one = first.place().unwrap();
        let _two = first.place().unwrap();
        assert_eq!(first.place().err(), Some(TooMany::OfAll));
        first.closed(9);
        assert!(first.place().is_ok());
    }
}
