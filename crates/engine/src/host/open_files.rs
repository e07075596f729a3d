//! Bounds the files that guests hold open, per call and for all calls together.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::host::readdir::DirectoryPath;

/// Files that all guests together may hold open. Cheap to clone.
#[derive(Clone)]
pub(crate) struct FileBudget(Arc<Semaphore>);

impl FileBudget {
    pub(crate) fn new(count: u32) -> Self {
        Self(Arc::new(Semaphore::new(count as usize)))
    }

    /// Reserves a file, until the reservation is dropped.
    pub(crate) fn reserve(&self) -> Option<FileReservation> {
        let permit = self.0.clone().try_acquire_owned();
        permit.map(FileReservation).ok()
    }
}

/// Why a file was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TooManyFiles {
    /// The call holds as many as it may (`limits.open_files`).
    OfCall,
    /// All calls together hold as many as they may.
    OfAll,
}

/// Files that one call holds open.
pub(crate) struct OpenFiles {
    all: FileBudget,
    limit: u32,
    open: Vec<OpenFile>,
}

struct OpenFile {
    /// The descriptor in the guest.
    fd: i32,
    /// `None` for a preopened directory that was renumbered.
    permit: Option<OwnedSemaphorePermit>,
    /// The file's path, in case it is a directory.
    path: Option<DirectoryPath>,
}

/// A reservation for a file that is about to be opened.
pub(crate) struct FileReservation(OwnedSemaphorePermit);

impl OpenFiles {
    pub(crate) fn new(all: FileBudget, limit: u32) -> Self {
        Self {
            all,
            limit,
            open: Vec::new(),
        }
    }

    /// Reserves one more file.
    pub(crate) fn reserve(&self) -> Result<FileReservation, TooManyFiles> {
        let open = self.open.iter().filter(|file| file.permit.is_some());
        if open.count() >= self.limit as usize {
            return Err(TooManyFiles::OfCall);
        }
        self.all.reserve().ok_or(TooManyFiles::OfAll)
    }

    /// Records the descriptor of an opened file.
    pub(crate) fn opened(
        &mut self,
        fd: i32,
        reservation: FileReservation,
        path: Option<DirectoryPath>,
    ) {
        self.closed(fd);
        self.open.push(OpenFile {
            fd,
            permit: Some(reservation.0),
            path,
        });
    }

    /// The path of a descriptor's file, in case it is a directory. The outer `None`: the call did
    /// not open the descriptor.
    pub(crate) fn path(&self, fd: i32) -> Option<Option<&DirectoryPath>> {
        let file = self.open.iter().find(|file| file.fd == fd)?;
        Some(file.path.as_ref())
    }

    /// Records that a descriptor was closed. Those of preopened directories are not counted.
    pub(crate) fn closed(&mut self, fd: i32) {
        self.open.retain(|file| file.fd != fd);
    }

    /// Records that the descriptor `from`, of a file at `path`, replaced `to`.
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
    fn bounds_open_files_per_call_and_for_all_calls() {
        let all = FileBudget::new(3);
        let mut first = OpenFiles::new(all.clone(), 2);
        for fd in [4, 5] {
            let reservation = first.reserve().unwrap();
            first.opened(fd, reservation, None);
        }
        assert_eq!(first.reserve().err(), Some(TooManyFiles::OfCall));
        let mut second = OpenFiles::new(all, 2);
        let reservation = second.reserve().unwrap();
        second.opened(4, reservation, None);
        assert_eq!(second.reserve().err(), Some(TooManyFiles::OfAll));
        first.closed(3);
        assert_eq!(
            second.reserve().err(),
            Some(TooManyFiles::OfAll),
            "a preopen"
        );
        first.closed(4);
        assert!(second.reserve().is_ok());
        first.renumbered(5, 9, None);
        first.closed(5);
        assert!(first.reserve().is_ok());
        drop(second);
        let _one = first.reserve().unwrap();
        let _two = first.reserve().unwrap();
        assert_eq!(first.reserve().err(), Some(TooManyFiles::OfAll));
        first.closed(9);
        assert!(first.reserve().is_ok());
    }
}
