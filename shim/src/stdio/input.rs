//! Standard input: a FIFO that clients write, and that stays open while clients come and go.
//!
//! The process reads a pipe: a process that opened a FIFO without a writer by name (`/dev/stdin`)
//! would wait forever.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::net::unix::pipe::{self, Receiver, Sender};

use super::copying::InputCopy;
use super::pipe::{has_lost_writers, pipe as new_pipe};
use super::sink::is_fifo;
use crate::error::{Error, PathContext, Result};

/// The standard input of a process.
#[derive(Debug, Default)]
pub(crate) struct Input(Mutex<InputState>);

#[derive(Debug, Default)]
struct InputState {
    /// Whether the input ends with its last writer.
    closed: bool,
    /// The writing end of the FIFO, which keeps it open.
    held: Option<OwnedFd>,
    /// The FIFO and the pipe that are connected when the process starts.
    waiting: Option<WaitingInput>,
    feeding: Option<InputCopy>,
}

#[derive(Debug)]
struct WaitingInput {
    path: PathBuf,
    fifo: Receiver,
    pipe: Sender,
}

impl Input {
    /// Opens the FIFO at `path` itself, for a terminal, and holds it open from now on.
    ///
    /// # Errors
    /// The file is missing.
    pub(crate) fn open(&self, path: &str) -> Result<OwnedFd> {
        let path = Path::new(path);
        let read = open_input(path)?;
        self.hold(path)?;
        Ok(read)
    }

    /// Opens the FIFO at `path` for a process that is about to be created, and returns the pipe for
    /// the process. Nothing is copied before [`Self::start`].
    ///
    /// # Errors
    /// The file is missing.
    pub(crate) fn connect(&self, path: &str) -> Result<OwnedFd> {
        let path = Path::new(path);
        if !is_fifo(path)? {
            return open_input(path);
        }
        let fifo = pipe::OpenOptions::new()
            .open_receiver(path)
            .with_path("open", path)?;
        let (read, write) = new_pipe()?;
        let pipe =
            Sender::from_owned_fd(write).map_err(|error| Error::io("write a pipe", error))?;
        self.state().waiting = Some(WaitingInput {
            path: path.to_path_buf(),
            fifo,
            pipe,
        });
        Ok(read)
    }

    /// Holds the FIFO at `path` open, unless the input is closed.
    ///
    /// # Errors
    /// The file is missing.
    pub(crate) fn hold(&self, path: &Path) -> Result<()> {
        let mut state = self.state();
        if !state.closed && is_fifo(path)? {
            state.held = Some(open_writing(path)?);
        }
        Ok(())
    }

    /// Starts copying when the process starts. The FIFO is held open, unless its client has come
    /// and gone: that client has written everything, and cannot close the input of a process that
    /// it does not know yet.
    pub(crate) fn start(&self) {
        let mut state = self.state();
        let Some(WaitingInput { path, fifo, pipe }) = state.waiting.take() else {
            return;
        };
        if state.held.is_none() && !state.closed && !has_lost_writers(&fifo) {
            state.held = open_writing(&path).ok();
        }
        state.feeding = Some(InputCopy::start(fifo, pipe));
    }

    /// Lets the process see the end of the input once the FIFO has no other writers.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.held = None;
    }

    /// Closes everything, because the process is deleted.
    pub(crate) fn release(&self) {
        *self.state() = InputState {
            closed: true,
            ..InputState::default()
        };
    }

    fn state(&self) -> MutexGuard<'_, InputState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_input(path: &Path) -> Result<OwnedFd> {
    // Does not wait for a writer.
    let read = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .with_path("open", path)?;
    block(&read).with_path("set up", path)?;
    Ok(read.into())
}

/// Opens a FIFO for writing. Does not wait, as the reading end is open.
fn open_writing(path: &Path) -> Result<OwnedFd> {
    let file = OpenOptions::new()
        .write(true)
        .open(path)
        .with_path("open", path)?;
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

    /// Returns how much the process can read next: `None` is nothing for a while, 0 the end.
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
    async fn ends_when_the_client_has_finished_before_the_start() {
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
    async fn stays_open_for_a_client_that_comes_later() {
        let (_directory, path) = fifo();
        let input = Input::default();
        let pipe = input.connect(&path).unwrap();
        input.start();
        assert_eq!(read(&pipe).await, None);
        drop(client(&path));
        assert_eq!(read(&pipe).await, None);
    }

    #[tokio::test]
    async fn ends_with_its_client_when_it_is_closed_before_the_start() {
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
        // The task closes the writing end.
        tokio::time::sleep(Duration::from_millis(20)).await;
        // The client's FIFO would make this wait forever.
        let mut again = File::open(super::super::pipe::descriptor_path(&pipe)).unwrap();
        assert_eq!(std::io::Read::read(&mut again, &mut [0; 8]).unwrap(), 0);
    }

    #[tokio::test]
    async fn shows_the_client_that_the_process_does_not_read() {
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
