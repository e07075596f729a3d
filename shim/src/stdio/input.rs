//! Standard input: a FIFO that clients write, and that stays open while they come and go.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::error::{OnPath, Result};

/// What holds an input open.
#[derive(Debug, Default)]
pub(crate) struct Input(Mutex<Hold>);

#[derive(Debug, Default)]
enum Hold {
    /// There is no input, or not yet.
    #[default]
    None,
    /// Open for reading; to be held when the process starts.
    Later(OwnedFd, PathBuf),
    /// Held by its writing end.
    Now(#[allow(dead_code, reason = "what counts is that it is open")] OwnedFd),
    /// To end with its clients.
    Closed,
}

impl Input {
    /// Opens the FIFO at `path` and holds it open from now on.
    ///
    /// # Errors
    /// It is not there.
    pub(crate) fn open(&self, path: &str) -> Result<OwnedFd> {
        let read = open_input(Path::new(path))?;
        let mut hold = self.state();
        if !matches!(*hold, Hold::Closed) {
            *hold = Hold::Now(open_writing(Path::new(path))?);
        }
        Ok(read)
    }

    /// Opens the FIFO at `path`, to be held open from [`Self::hold`] on.
    ///
    /// # Errors
    /// It is not there.
    pub(crate) fn open_before_start(&self, path: &str) -> Result<OwnedFd> {
        let path = Path::new(path);
        let read = open_input(path)?;
        let copy = read.try_clone().on("open", path)?;
        *self.state() = Hold::Later(copy, path.to_path_buf());
        Ok(read)
    }

    /// Holds it open, unless its client has come and gone already: that one has said all there is to say, but cannot tell us,
    /// as it learns only now that there is a process.
    pub(crate) fn hold(&self) {
        let mut hold = self.state();
        let Hold::Later(read, path) = &*hold else {
            return;
        };
        let mut ready = [PollFd::new(read, PollFlags::IN)];
        let gone = poll(&mut ready, Some(&Timespec::default())).is_ok()
            && ready[0].revents().contains(PollFlags::HUP);
        let write = if gone { None } else { open_writing(path).ok() };
        *hold = write.map_or(Hold::Closed, Hold::Now);
    }

    /// Lets the reader see the end, once its other writers are gone.
    pub(crate) fn close(&self) {
        *self.state() = Hold::Closed;
    }

    fn state(&self) -> MutexGuard<'_, Hold> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_input(path: &Path) -> Result<OwnedFd> {
    // Without waiting for a writer, there or not.
    let read = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .on("open", path)?;
    block(&read).on("set up", path)?;
    Ok(read.into())
}

/// Does not wait: the reading end is open.
fn open_writing(path: &Path) -> Result<OwnedFd> {
    let file = OpenOptions::new().write(true).open(path).on("open", path)?;
    Ok(file.into())
}

fn block(file: &File) -> rustix::io::Result<()> {
    let flags = fcntl_getfl(file)?;
    fcntl_setfl(file, flags - OFlags::NONBLOCK)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use std::io::Write;

    fn fifo() -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        let path = path.to_str().unwrap().to_owned();
        (folder, path)
    }

    /// What a reader of the FIFO finds next, without waiting: `None` is nothing yet, 0 the end.
    fn read_now(read: &OwnedFd) -> Option<usize> {
        fcntl_setfl(read, OFlags::NONBLOCK).unwrap();
        match rustix::io::read(read, &mut [0; 8]) {
            Ok(count) => Some(count),
            Err(rustix::io::Errno::AGAIN) => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn client(path: &str) -> File {
        OpenOptions::new().write(true).open(path).unwrap()
    }

    #[test]
    fn an_input_stays_open_until_it_is_closed() {
        let (_folder, path) = fifo();
        let input = Input::default();
        let read = input.open(&path).unwrap();
        client(&path).write_all(b"one").unwrap();
        assert_eq!(read_now(&read), Some(3));
        assert_eq!(read_now(&read), None);
        input.close();
        assert_eq!(read_now(&read), Some(0));
    }

    #[test]
    fn an_input_whose_client_was_done_before_the_start_ends() {
        let (_folder, path) = fifo();
        let input = Input::default();
        let read = input.open_before_start(&path).unwrap();
        client(&path).write_all(b"one").unwrap();
        input.hold();
        assert_eq!(read_now(&read), Some(3));
        assert_eq!(read_now(&read), Some(0));
    }

    #[test]
    fn an_input_whose_client_is_to_come_stays_open() {
        let (_folder, path) = fifo();
        let input = Input::default();
        let read = input.open_before_start(&path).unwrap();
        input.hold();
        assert_eq!(read_now(&read), None);
        drop(client(&path));
        assert_eq!(read_now(&read), None);
    }

    #[test]
    fn an_input_that_is_closed_before_it_is_open_ends_with_its_client() {
        let (_folder, path) = fifo();
        let input = Input::default();
        input.close();
        let read = input.open(&path).unwrap();
        drop(client(&path));
        assert_eq!(read_now(&read), Some(0));
    }
}
