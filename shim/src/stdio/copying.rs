//! Copies between a pipe of the container and a stream of its client.
//!
//! One task copies one stream, and holds a buffer only while the reader of the other side is slow.
//! A reader that stops stops the copying, and with it the writer.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::ioctl_fionread;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::pipe::pipe;
use super::sink::OutputSink;
use crate::error::{Error, Result};
use crate::sys::log;

/// The most that is copied at once, in bytes.
const CHUNK: usize = 16 * 1024;

/// The most that an error quotes of the output of a failed program, in bytes.
const MAX_UNREAD: usize = 2048;

/// The output of a process that is about to be created: nothing is copied yet.
#[derive(Debug)]
pub(crate) struct OutputPipe(Pump);

impl OutputPipe {
    /// Creates the pipe for the output of a process, and returns the writing end.
    ///
    /// # Errors
    /// Too many files are open.
    pub(super) fn new(to: OutputSink) -> Result<(OwnedFd, Self)> {
        let (read, write) = pipe()?;
        let from =
            Receiver::from_owned_fd(read).map_err(|error| Error::io("read a pipe", error))?;
        Ok((write, Self(Pump::new(from, to))))
    }

    /// Returns the beginning of what was written, for a process that could not be created.
    pub(crate) fn unread(&self) -> Option<String> {
        let mut buffer = [0; MAX_UNREAD];
        let count = rustix::io::read(&self.0.from, &mut buffer).ok()?;
        let text = String::from_utf8_lossy(&buffer[..count]).trim().to_owned();
        (!text.is_empty()).then_some(text)
    }

    /// Starts copying.
    pub(crate) fn start(self) -> OutputCopy {
        let (end, ending) = oneshot::channel();
        let (drained, is_drained) = oneshot::channel();
        OutputCopy {
            task: tokio::spawn(copy(self.0, ending, drained)),
            end: Some(end),
            drained: is_drained,
        }
    }
}

/// The copying of the output of a process. It stops when this is dropped.
#[derive(Debug)]
pub(crate) struct OutputCopy {
    task: JoinHandle<()>,
    /// Dropped when the process is deleted.
    end: Option<oneshot::Sender<()>>,
    /// The task drops the sender when everything is copied.
    drained: oneshot::Receiver<()>,
}

impl OutputCopy {
    /// Notes that the process is deleted: from now on a vanished reader is not waited for.
    pub(crate) fn end(&mut self) {
        self.end = None;
    }

    /// Waits until everything that the process has written is copied, but not longer than until
    /// `deadline`, as the reader may have stopped.
    pub(crate) async fn drain(&mut self, deadline: Instant) {
        self.end();
        // Nothing is sent: the sender is dropped.
        let _ = timeout_at(deadline, &mut self.drained).await;
    }

    /// Copies for at most `limit` more for processes that outlive the deleted one and hold its
    /// streams. Then the streams are closed.
    pub(crate) fn linger(mut self, limit: Duration) {
        if !self.task.is_finished() {
            tokio::spawn(async move {
                // Finished or not, the task is dropped now.
                let _ = timeout(limit, &mut self.task).await;
            });
        }
    }
}

impl Drop for OutputCopy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn copy(mut pump: Pump, mut ending: oneshot::Receiver<()>, drained: oneshot::Sender<()>) {
    let mut ended = false;
    let mut drained = Some(drained);
    loop {
        if ended && pump.is_empty() {
            drained = None;
        }
        tokio::select! {
            biased;
            more = pump.step() => match more {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    log::debug!("read the output of a process: {error}");
                    break;
                }
            },
            _ = &mut ending, if !ended => {
                ended = true;
                pump.to.need_reader();
            }
        }
    }
    // The stream is closed before `drain` returns.
    drop(pump);
    drop(drained);
}

/// The copying of the input of a process. It stops when this is dropped.
#[derive(Debug)]
pub(super) struct InputCopy(JoinHandle<()>);

impl InputCopy {
    /// Starts copying. The pipe is closed when the input ends.
    pub(super) fn start(from: Receiver, to: Sender) -> Self {
        let mut pump = Pump::new(from, OutputSink::Pipe(to));
        Self(tokio::spawn(async move {
            while let Ok(true) = pump.step().await {
                // The process does not read: the client must see a broken pipe.
                if matches!(pump.to, OutputSink::Null) {
                    break;
                }
            }
        }))
    }
}

impl Drop for InputCopy {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Copies in one direction.
#[derive(Debug)]
struct Pump {
    from: Receiver,
    to: OutputSink,
    /// What was read and not written yet.
    rest: Vec<u8>,
}

impl Pump {
    fn new(from: Receiver, to: OutputSink) -> Self {
        Self {
            from,
            to,
            rest: Vec::new(),
        }
    }

    /// Waits for one side, and copies what it has or takes. Returns `false` at the end of the
    /// input. Can be cancelled at any time: what was read is written or kept.
    async fn step(&mut self) -> io::Result<bool> {
        if self.rest.is_empty() {
            self.from.readable().await?;
            return self.pass();
        }
        self.to.writable().await;
        let rest = std::mem::take(&mut self.rest);
        self.write(&rest);
        Ok(true)
    }

    fn pass(&mut self) -> io::Result<bool> {
        // On the stack, so that an idle stream holds no buffer.
        let mut buffer = [0; CHUNK];
        match self.from.try_read(&mut buffer) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.write(&buffer[..count]);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        let written = self.to.try_write(bytes);
        if written < bytes.len() {
            self.rest = bytes[written..].to_vec();
        }
    }

    /// Returns whether everything that was written so far has been copied.
    fn is_empty(&self) -> bool {
        self.rest.is_empty() && ioctl_fionread(&self.from).is_ok_and(|unread| unread == 0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::super::fixtures::fifo;
    use super::super::target::OutputTarget;
    use super::*;
    use rustix::fs::{Mode, OFlags, fchmod, fcntl_setfl, ftruncate};
    use std::fs::{File, OpenOptions};
    use std::io::{Read, Write};
    use std::os::unix::fs::OpenOptionsExt;

    /// Longer than any step of these tests takes.
    const LONG: Duration = Duration::from_secs(20);

    fn open(target: &OutputTarget) -> (File, OutputCopy) {
        let (write, output) = OutputPipe::new(OutputSink::open(target, None).unwrap()).unwrap();
        (write.into(), output.start())
    }

    fn to_fifo(path: &str) -> (File, OutputCopy) {
        open(&OutputTarget::Path(path.to_owned()))
    }

    /// Opens the FIFO as a client that does not wait for output.
    fn reader(path: &str) -> File {
        let mut options = OpenOptions::new();
        options.read(true);
        options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        options.open(path).unwrap()
    }

    /// Reads `count` bytes while the copying goes on.
    async fn read(reader: &mut File, count: usize) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buffer = [0; 8192];
        let reading = async {
            while all.len() < count {
                match reader.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(got) => all.extend_from_slice(&buffer[..got]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        };
        timeout(LONG, reading).await.unwrap();
        all
    }

    /// Writes until nothing more is taken, and returns how many bytes were taken.
    async fn fill(write: &mut File) -> usize {
        fcntl_setfl(&*write, OFlags::NONBLOCK).unwrap();
        let (mut taken, mut full) = (0, 0);
        while full < 20 {
            match write.write(&[b'x'; 1000]) {
                Ok(count) => (taken, full) = (taken + count, 0),
                Err(_) => {
                    full += 1;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        }
        taken
    }

    #[tokio::test]
    async fn writes_the_file_without_passing_it_to_the_process() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, "before\n").unwrap();
        let before = std::fs::metadata(&path).unwrap().permissions();
        let (mut write, mut copying) = open(&OutputTarget::Path(path.display().to_string()));
        assert!(ftruncate(&write, 0).is_err());
        fchmod(&write, Mode::from(0o777)).unwrap();
        // More than a pipe and the buffer hold.
        let text = "line\n".repeat(60_000);
        let all = text.clone();
        let writer = std::thread::spawn(move || write.write_all(all.as_bytes()));
        while !writer.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        copying.drain(Instant::now() + LONG).await;
        let copied = std::fs::read_to_string(&path).unwrap();
        assert!(copied == format!("before\n{text}"), "{}", copied.len());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions(), before);
    }

    #[tokio::test]
    async fn stops_the_writer_while_nobody_reads_and_loses_nothing() {
        let (_directory, path) = fifo();
        let (mut write, _copying) = to_fifo(&path);
        let taken = fill(&mut write).await;
        // The pipe, the FIFO and the buffer between them.
        assert!((100_000..200_000).contains(&taken), "{taken}");
        let mut reader = reader(&path);
        assert_eq!(read(&mut reader, taken).await.len(), taken);
        write.write_all(b"more").unwrap();
        assert_eq!(read(&mut reader, 4).await, b"more");
        drop(write);
        // The end of the stream.
        assert_eq!(read(&mut reader, 1).await, b"");
    }

    #[tokio::test]
    async fn drain_waits_until_everything_is_copied() {
        let (_directory, path) = fifo();
        for _ in 0..50 {
            let (mut write, mut copying) = to_fifo(&path);
            let mut reader = reader(&path);
            write.write_all(b"last words").unwrap();
            // A process that outlives the writer holds the pipe.
            copying.drain(Instant::now() + LONG).await;
            let mut text = [0; 10];
            assert_eq!(reader.read(&mut text).unwrap(), 10);
            assert_eq!(&text, b"last words");
        }
    }

    #[tokio::test]
    async fn closes_the_stream_a_while_after_the_deletion() {
        let (_directory, path) = fifo();
        let (mut write, mut copying) = to_fifo(&path);
        let mut reader = reader(&path);
        copying.drain(Instant::now() + LONG).await;
        copying.linger(Duration::from_millis(300));
        write.write_all(b"late").unwrap();
        assert_eq!(read(&mut reader, 4).await, b"late");
        // The end of the stream, although the pipe is open.
        assert_eq!(read(&mut reader, 1).await, b"");
        assert!(write.write_all(b"too late").is_err());
    }

    #[tokio::test]
    async fn drain_does_not_wait_for_a_vanished_reader() {
        let (_directory, path) = fifo();
        let (mut write, mut copying) = to_fifo(&path);
        fill(&mut write).await;
        let from = Instant::now();
        copying.drain(Instant::now() + LONG).await;
        assert!(from.elapsed() < LONG / 4, "{:?}", from.elapsed());
    }

    #[tokio::test]
    async fn drain_waits_for_a_stalled_reader_until_the_deadline() {
        let (_directory, path) = fifo();
        let (mut write, mut copying) = to_fifo(&path);
        let _stalled = reader(&path);
        fill(&mut write).await;
        let from = Instant::now();
        let limit = Duration::from_millis(300);
        copying.drain(Instant::now() + limit).await;
        assert!(
            (limit..LONG / 4).contains(&from.elapsed()),
            "{:?}",
            from.elapsed()
        );
    }
}
