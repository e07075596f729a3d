//! Standard input: a FIFO that clients write, and that stays open while they come and go. The process reads a pipe of its own:
//! opened by name (`/dev/stdin`), a FIFO without a writer would make it wait for ever.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::net::unix::pipe::{self, Receiver, Sender};

use super::copying::Feeding;
use super::pipe::{is_abandoned, pipe as new_pipe};
use super::sink::is_fifo;
use crate::error::{Error, OnPath, Result};

/// The input of a process.
#[derive(Debug, Default)]
pub(crate) struct Input(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// To end with its clients.
    closed: bool,
    /// The writing end of the FIFO, which keeps it open.
    held: Option<OwnedFd>,
    /// What is copied from the start of the process on.
    waiting: Option<Waiting>,
    feeding: Option<Feeding>,
}

#[derive(Debug)]
struct Waiting {
    path: PathBuf,
    fifo: Receiver,
    pipe: Sender,
}

impl Input {
    /// Opens the FIFO at `path` itself, for a terminal, and holds it open from now on.
    ///
    /// # Errors
    /// It is not there.
    pub(crate) fn open(&self, path: &str) -> Result<OwnedFd> {
        let path = Path::new(path);
        let read = open_input(path)?;
        self.hold(path)?;
        Ok(read)
    }

    /// Opens the FIFO at `path` for a process that is about to be made, and returns the pipe that it gets. Nothing is copied before
    /// [`Self::start`].
    ///
    /// # Errors
    /// It is not there.
    pub(crate) fn connect(&self, path: &str) -> Result<OwnedFd> {
        let path = Path::new(path);
        if !is_fifo(path)? {
            return open_input(path);
        }
        let fifo = pipe::OpenOptions::new()
            .open_receiver(path)
            .on("open", path)?;
        let (read, write) = new_pipe()?;
        let pipe =
            Sender::from_owned_fd(write).map_err(|error| Error::io("write a pipe", error))?;
        self.state().waiting = Some(Waiting {
            path: path.to_path_buf(),
            fifo,
            pipe,
        });
        Ok(read)
    }

    /// Holds the FIFO at `path` open, unless the input is closed.
    ///
    /// # Errors
    /// It is not there.
    pub(crate) fn hold(&self, path: &Path) -> Result<()> {
        let mut state = self.state();
        if !state.closed && is_fifo(path)? {
            state.held = Some(open_writing(path)?);
        }
        Ok(())
    }

    /// Starts copying for a process that starts. The FIFO is held open, unless its client has come and gone already: that one has
    /// said all there is to say, but cannot tell us, as it learns only now that there is a process.
    pub(crate) fn start(&self) {
        let mut state = self.state();
        let Some(Waiting { path, fifo, pipe }) = state.waiting.take() else {
            return;
        };
        if state.held.is_none() && !state.closed && !is_abandoned(&fifo) {
            state.held = open_writing(&path).ok();
        }
        state.feeding = Some(Feeding::start(fifo, pipe));
    }

    /// Lets the reader see the end, once its other writers are gone.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.held = None;
    }

    /// Closes everything: the process is deleted.
    pub(crate) fn release(&self) {
        *self.state() = State {
            closed: true,
            ..State::default()
        };
    }

    fn state(&self) -> MutexGuard<'_, State> {
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
    use super::super::fixtures::fifo;
    use super::*;
    use std::io::Write;
    use std::time::Duration;

    /// What the process finds next: `None` is nothing for a while, 0 the end.
    async fn read(pipe: &OwnedFd) -> Option<usize> {
        fcntl_setfl(pipe, OFlags::NONBLOCK).unwrap();
        for _ in 0..100 {
            match rustix::io::read(pipe, &mut [0; 8]) {
                Ok(count) => return Some(count),
                Err(rustix::io::Errno::AGAIN) => tokio::time::sleep(Duration::from_millis(2)).await,
                Err(error) => panic!("{error}"),
            }
        }
        None
    }

    fn client(path: &str) -> File {
        OpenOptions::new().write(true).open(path).unwrap()
    }

    #[tokio::test]
    async fn stays_open_until_it_is_closed() {
        let (_directory, path) = fifo();
        let input = Input::default();
        let pipe = input.connect(&path).unwrap();
        input.start();
        client(&path).write_all(b"one").unwrap();
        assert_eq!(read(&pipe).await, Some(3));
        assert_eq!(read(&pipe).await, None);
        client(&path).write_all(b"two").unwrap();
        input.close();
        assert_eq!(read(&pipe).await, Some(3));
        assert_eq!(read(&pipe).await, Some(0));
    }

    #[tokio::test]
    async fn ends_where_the_client_was_done_before_the_start() {
        let (_directory, path) = fifo();
        let input = Input::default();
        let pipe = input.connect(&path).unwrap();
        client(&path).write_all(b"one").unwrap();
        assert_eq!(read(&pipe).await, None, "before the start");
        input.start();
        assert_eq!(read(&pipe).await, Some(3));
        assert_eq!(read(&pipe).await, Some(0));
    }

    #[tokio::test]
    async fn stays_open_for_a_client_that_is_to_come() {
        let (_directory, path) = fifo();
        let input = Input::default();
        let pipe = input.connect(&path).unwrap();
        input.start();
        assert_eq!(read(&pipe).await, None);
        drop(client(&path));
        assert_eq!(read(&pipe).await, None);
    }

    #[tokio::test]
    async fn ends_with_its_client_where_it_is_closed_before_it_is_open() {
        let (_directory, path) = fifo();
        let input = Input::default();
        input.close();
        let pipe = input.connect(&path).unwrap();
        input.hold(Path::new(&path)).unwrap();
        let mut client = client(&path);
        input.start();
        assert_eq!(read(&pipe).await, None);
        client.write_all(b"one").unwrap();
        drop(client);
        assert_eq!(read(&pipe).await, Some(3));
        assert_eq!(read(&pipe).await, Some(0));
    }

    #[tokio::test]
    async fn can_be_opened_by_name_without_a_writer() {
        let (_directory, path) = fifo();
        let input = Input::default();
        let pipe = input.connect(&path).unwrap();
        input.start();
        input.release();
        // The writing end goes with the task.
        tokio::time::sleep(Duration::from_millis(20)).await;
        // The client's FIFO would make this wait for ever.
        let mut again = File::open(super::super::pipe::path_of(&pipe)).unwrap();
        assert_eq!(std::io::Read::read(&mut again, &mut [0; 8]).unwrap(), 0);
    }

    #[tokio::test]
    async fn shows_its_client_that_the_process_does_not_read() {
        let (_directory, path) = fifo();
        let input = Input::default();
        let pipe = input.connect(&path).unwrap();
        let mut client = client(&path);
        input.start();
        drop(pipe);
        client.write_all(b"one").unwrap();
        input.close();
        for _ in 0..100 {
            if client.write_all(b"two").is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("the client can still write");
    }

    #[tokio::test]
    async fn takes_no_more_than_there_is_room_for() {
        let (_directory, path) = fifo();
        let input = Input::default();
        let _pipe = input.connect(&path).unwrap();
        let mut client = client(&path);
        input.start();
        fcntl_setfl(&client, OFlags::NONBLOCK).unwrap();
        let (mut taken, mut full) = (0, 0);
        while full < 20 {
            match client.write(&[0; 1000]) {
                Ok(count) => (taken, full) = (taken + count, 0),
                Err(_) => {
                    full += 1;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        }
        assert!((100_000..200_000).contains(&taken), "{taken}");
    }
}
