//! Output for a file of the host's. The container gets a pipe and never the file itself, which it could empty or take from others.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::task::JoinHandle;

use crate::error::{Error, OnPath, Result};
use crate::log;

/// What is copied at once, in bytes.
const CHUNK: usize = 16 * 1024;

/// Output on its way into a file.
#[derive(Debug)]
pub(crate) struct Copying(JoinHandle<()>);

impl Copying {
    /// Starts copying what is written into the pipe that is returned.
    ///
    /// # Errors
    /// There are too many open files.
    pub(super) fn into(file: File, name: &str) -> Result<(OwnedFd, Self)> {
        let (read, write) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|error| Error::io("make a pipe", error))?;
        let read =
            Receiver::from_owned_fd(read).map_err(|error| Error::io("read a pipe", error))?;
        let copying = tokio::spawn(copy(read, file, name.to_owned()));
        Ok((write, Self(copying)))
    }

    /// Waits until all is copied, but no longer than `limit`: a process that outlives the container may keep the pipe open.
    pub(crate) async fn finish(mut self, limit: Duration) {
        // Stopped with the rest of it.
        let _ = tokio::time::timeout(limit, &mut self.0).await;
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn copy(mut read: Receiver, mut file: File, name: String) {
    let mut buffer = vec![0; CHUNK];
    let mut failing = false;
    while let Ok(count @ 1..) = read.read(&mut buffer).await {
        let written = file.write_all(&buffer[..count]);
        // Read on: the container must not wait for ever for a full disk, on which there may be room again.
        if let Err(error) = &written
            && !failing
        {
            log::warning!("output is lost: write {name}: {error}");
        }
        failing = written.is_err();
    }
}

/// Opens a file that is there, for output.
pub(crate) fn open_existing(path: &Path) -> Result<File> {
    OpenOptions::new()
        .append(true)
        // No device makes the shim wait.
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .on("open", path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rustix::fs::{Mode, ftruncate};

    #[tokio::test]
    async fn a_container_reaches_the_pipe_and_not_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "before\n").unwrap();
        let before = std::fs::metadata(&path).unwrap().permissions();
        let (write, copying) = Copying::into(open_existing(&path).unwrap(), "log").unwrap();
        assert!(ftruncate(&write, 0).is_err());
        rustix::fs::fchmod(&write, Mode::from(0o777)).unwrap();
        // More than a pipe and the buffer hold.
        let text = "line\n".repeat(60_000);
        let all = text.clone();
        let writer = std::thread::spawn(move || File::from(write).write_all(all.as_bytes()));
        copying.finish(Duration::from_secs(20)).await;
        writer.join().unwrap().unwrap();
        let copied = std::fs::read_to_string(&path).unwrap();
        assert!(copied == format!("before\n{text}"), "{}", copied.len());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions(), before);
    }

    #[tokio::test]
    async fn a_pipe_that_stays_open_is_not_waited_for_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let (write, copying) = Copying::into(File::create(&path).unwrap(), "log").unwrap();
        let limit = Duration::from_millis(50);
        let ended = tokio::time::timeout(Duration::from_secs(10), copying.finish(limit));
        assert!(ended.await.is_ok());
        drop(write);
    }
}
